/* Learning the weights of a mixture on data of its own. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "workers/ensemble/run.h"

enum { EM_MAX = 200 };
static const double EM_TOLERANCE = 1e-7; /* of the mean log-likelihood */

int64_t ingot_ensemble_first_window(const ingot_ensemble_plan *plan, int data)
{
  int64_t first = 0;
  for (int i = 0; i < data; i++) first += plan->gather.data[i].n_window;
  return first;
}

/* The windows that a row of weights is learnt on. */
static void learn_windows(const ingot_ensemble_plan *plan, int row, int64_t *first, int64_t *end)
{
  int begin = plan->n_score + (plan->n_row > 1 ? row : 0);
  *first = ingot_ensemble_first_window(plan, begin);
  *end = ingot_ensemble_first_window(plan, plan->n_row > 1 ? begin + 1 : plan->gather.n_data);
}

/* ---- linear: expectation maximisation on the log-probabilities of the labels ---- */

typedef struct gathered {
  int      n_model;
  int64_t  first; /* window of the range */
  float   *logp;  /* [n_token][n_model] of this rank's windows */
  int64_t  n_token, capacity;
  int64_t *n_before; /* [windows of the range + 1]: tokens before a window; own ones filled */
  int64_t  own_begin, own_end;
} gathered;

static ingot_status reserve(gathered *t, int64_t n)
{
  ingot_status st = INGOT_OK;
  if (t->n_token + n <= t->capacity) return INGOT_OK;
  int64_t capacity = 2 * t->capacity + n;
  float  *grown = realloc(t->logp, (size_t)(capacity * t->n_model) * sizeof *grown);
  INGOT_CHECK(grown, INGOT_ERR_NOMEM, "no memory for the log-probabilities of %lld tokens", (long long)capacity);
  t->logp = grown;
  t->capacity = capacity;
done:
  return st;
}

static ingot_status gather_end(void *context, const ingot_batch *batch, int64_t first, const float *nll,
                               const int32_t *top1, int64_t stride)
{
  ingot_status st = INGOT_OK;
  gathered    *t = context;
  (void)top1;
  INGOT_TRY(reserve(t, batch->n_batch * batch->n_time));
  for (int64_t b = 0; b < batch->n_batch; b++) {
    t->n_before[first + b - t->first] = t->n_token;
    for (int64_t i = b * batch->n_time; i < (b + 1) * batch->n_time; i++) {
      if (batch->labels[i] == INGOT_NN_IGNORE) continue;
      for (int m = 0; m < t->n_model; m++) t->logp[t->n_token * t->n_model + m] = -nll[m * stride + i];
      t->n_token++;
    }
    t->n_before[first + b - t->first + 1] = t->n_token;
  }
done:
  return st;
}

/* Sums over all ranks at weights w, window by window, so that their order is that of the windows: [n_model]
 * responsibilities, log-likelihood, tokens. */
static ingot_status expect(ingot_ensemble_job *job, const gathered *t, const double *w, int64_t n_window,
                           double *windows, double *sums)
{
  ingot_status st = INGOT_OK;
  int          width = t->n_model + 2;
  memset(windows, 0, (size_t)(n_window * width) * sizeof *windows);
  for (int64_t i = t->own_begin; i < t->own_end; i++) {
    double *row = windows + i * width;
    row[width - 1] = (double)ingot_em_expect(t->n_model, w, t->n_before[i + 1] - t->n_before[i],
                                             t->logp + t->n_before[i] * t->n_model, row, row + t->n_model);
  }
  INGOT_TRY(ingot_comm_sum_f64(job->g.comm, windows, n_window * width));
  memset(sums, 0, (size_t)width * sizeof *sums);
  for (int64_t i = 0; i < n_window; i++)
    for (int k = 0; k < width; k++) sums[k] += windows[i * width + k];
done:
  return st;
}

static ingot_status maximise(ingot_ensemble_job *job, const gathered *t, int64_t n_window, double *w,
                             ingot_ensemble_learning *how)
{
  ingot_status st = INGOT_OK;
  int          n = t->n_model;
  double       before = -INFINITY;
  double *windows = calloc((size_t)(n_window * (n + 2)), sizeof *windows), *sums = calloc((size_t)n + 2, sizeof *sums);
  st = windows && sums ? INGOT_OK
                       : ingot_fail(INGOT_ERR_NOMEM, "no memory for the sums of %lld windows", (long long)n_window);
  INGOT_TRY(ingot_comm_agree(job->g.comm, st));
  for (how->n_iteration = 0;; how->n_iteration++) {
    INGOT_TRY(expect(job, t, w, n_window, windows, sums));
    double mean = sums[n] / sums[n + 1];
    INGOT_CHECK(isfinite(mean), INGOT_ERR_NUMERIC,
                "the weights cannot be learnt: no model gives the tokens any probability");
    if (how->n_iteration == 0) how->start_nll = -mean;
    how->end_nll = -mean;
    how->n_token = (int64_t)sums[n + 1];
    how->converged = mean - before < EM_TOLERANCE;
    before = mean;
    if (how->converged || how->n_iteration == EM_MAX) break;
    for (int m = 0; m < n; m++) w[m] = sums[m] / sums[n + 1];
  }
done:
  free(windows);
  free(sums);
  return st;
}

static ingot_status learn_linear(ingot_ensemble_job *job, int row)
{
  ingot_status       st = INGOT_OK;
  int                n = job->plan->gather.n_model;
  double            *w = job->result->weights + row * n;
  gathered           t = {.n_model = n};
  ingot_combine_user user = {.context = &t, .mix = false, .end = gather_end};
  int64_t            end, part_end;
  learn_windows(job->plan, row, &t.first, &end);
  ingot_gather_part(job->g.comm, t.first, end, &t.own_begin, &part_end);
  t.n_before = calloc((size_t)(end - t.first) + 1, sizeof *t.n_before);
  st = t.n_before ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %lld windows", (long long)(end - t.first));
  INGOT_TRY(ingot_comm_agree(job->g.comm, st));
  INGOT_TRY(ingot_combine_windows(&job->combine, t.first, end, w, &user));
  t.own_begin -= t.first;
  t.own_end = part_end - t.first;
  INGOT_TRY(maximise(job, &t, end - t.first, w, &job->result->learning[row]));
done:
  free(t.logp);
  free(t.n_before);
  return st;
}

/* ---- log-linear: Newton on moments of whole distributions ---- */

typedef struct moments {
  ingot_ensemble_job *job;
  int64_t             first;
  int                 width;   /* of a window's sums: nll, tokens, gradient [n], Hessian [n][n] */
  double             *windows; /* [windows of the range][width]; own ones filled */
  float              *members[INGOT_ENSEMBLE_LEARN_MAX]; /* back end: [rows][ld] */
  float              *out; /* back end: [rows][1 + 2 n + n n]: nll, mean, label, product, each for all rows */
  float              *host;
} moments;

static ingot_status open_moments(moments *a, ingot_ensemble_job *job, int64_t n_window)
{
  ingot_status   st = INGOT_OK;
  ingot_combine *c = &job->combine;
  ingot_nn      *nn = job->g.nn;
  int            n = job->plan->gather.n_model;
  size_t         out = (size_t)c->rows * (size_t)(1 + 2 * n + n * n) * sizeof(float);
  a->job = job;
  a->width = 2 + n + n * n;
  a->windows = calloc((size_t)(n_window * a->width), sizeof *a->windows);
  a->host = malloc(out);
  INGOT_CHECK(a->windows && a->host, INGOT_ERR_NOMEM, "no memory for the sums of %lld windows", (long long)n_window);
  for (int m = 0; m < n; m++)
    INGOT_TRY(nn->ops->alloc(nn, (size_t)c->rows * (size_t)c->ld * sizeof(float), (void **)&a->members[m]));
  INGOT_TRY(nn->ops->alloc(nn, out, (void **)&a->out));
done:
  return st;
}

static void close_moments(moments *a)
{
  ingot_nn *nn = a->job ? a->job->g.nn : NULL;
  for (int m = 0; nn && m < INGOT_ENSEMBLE_LEARN_MAX; m++) nn->ops->free(nn, a->members[m]);
  if (nn) nn->ops->free(nn, a->out);
  free(a->windows);
  free(a->host);
}

/* The host's numbers of one chunk into the sums of their windows. */
static void add_rows(moments *a, const ingot_batch *batch, int64_t first, int64_t at, int64_t rows)
{
  int          n = a->job->plan->gather.n_model;
  const float *nll = a->host, *mean = nll + rows, *label = mean + rows * n, *product = label + rows * n;
  for (int64_t i = 0; i < rows; i++) {
    if (batch->labels[at + i] == INGOT_NN_IGNORE) continue;
    double *sum = a->windows + (first - a->first + (at + i) / batch->n_time) * a->width;
    sum[0] += (double)nll[i];
    sum[1] += 1.0;
    for (int m = 0; m < n; m++) {
      sum[2 + m] += (double)mean[i * n + m] - (double)label[i * n + m];
      for (int k = 0; k < n; k++)
        sum[2 + n + m * n + k] +=
            (double)product[(i * n + m) * n + k] - (double)mean[i * n + m] * (double)mean[i * n + k];
    }
  }
}

static ingot_status moments_chunk(moments *a, const ingot_batch *batch, int64_t first, int64_t at, int64_t rows)
{
  ingot_status        st = INGOT_OK;
  ingot_combine      *c = &a->job->combine;
  ingot_nn           *nn = c->g->nn;
  int                 n = a->job->plan->gather.n_model;
  int64_t             stride = a->job->plan->gather.batch * a->job->plan->gather.window.length;
  float              *nll = a->out, *mean = nll + rows, *label = mean + rows * n, *product = label + rows * n;
  const float *const *members = (const float *const *)a->members;
  ingot_nn_logits     z;
  INGOT_TRY(ingot_members_rows(&c->members, at, rows, NULL));
  for (int m = 0; m < n; m++) {
    INGOT_TRY(ingot_members_logits(&c->members, m, at, rows, &z));
    INGOT_TRY(nn->ops->log_softmax(nn, &z, a->members[m]));
    z.data = a->members[m];
    INGOT_TRY(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &z, c->weight + m * stride + at, (float)a->job->plan->floor,
                           m == 0, c->mixed));
  }
  z.data = c->mixed;
  INGOT_TRY(nn->ops->cross_entropy(nn, &z, c->labels + at, 0.0f, nll, NULL, NULL));
  INGOT_TRY(nn->ops->moments(nn, &z, n, members, c->labels + at, mean, product, label));
  INGOT_TRY(nn->ops->copy_out(nn, a->host, a->out, (size_t)(rows * (1 + 2 * n + n * n)) * sizeof(float)));
  add_rows(a, batch, first, at, rows);
done:
  return st;
}

static ingot_status moments_windows(moments *a, ingot_batch *batch, int64_t first)
{
  ingot_status   st = INGOT_OK;
  ingot_combine *c = &a->job->combine;
  ingot_nn      *nn = c->g->nn;
  int64_t        n = batch->n_batch * batch->n_time;
  INGOT_TRY(nn->ops->copy_in(nn, c->labels, batch->labels, (size_t)n * sizeof(int32_t)));
  INGOT_TRY(ingot_members_run(&c->members, batch));
  for (int64_t at = 0; at < n; at += c->rows)
    INGOT_TRY(moments_chunk(a, batch, first, at, n - at < c->rows ? n - at : c->rows));
done:
  return st;
}

static ingot_status moments_batch(void *context, ingot_batch *batch, int64_t first)
{
  moments     *a = context;
  ingot_status st = batch->n_batch > 0 ? moments_windows(a, batch, first) : INGOT_OK;
  return ingot_members_end(&a->job->combine.members, st);
}

/* Mean loss, gradient and Hessian at w over windows [first, end) of all ranks. sums: [width]. */
static ingot_status measure(moments *a, const double *w, int64_t first, int64_t end, double *sums)
{
  ingot_status      st = INGOT_OK;
  ingot_combine    *c = &a->job->combine;
  ingot_nn         *nn = c->g->nn;
  ingot_gather_work work = {.context = a,
                            .batch = moments_batch,
                            .in_rounds = a->job->plan->placement == INGOT_PLACEMENT_SPREAD};
  int64_t           stride = a->job->plan->gather.batch * a->job->plan->gather.window.length;
  for (int m = 0; m < a->job->plan->gather.n_model; m++) {
    for (int64_t i = 0; i < stride; i++) c->host_weight[i] = (float)w[m];
    st = nn->ops->copy_in(nn, c->weight + m * stride, c->host_weight, (size_t)stride * sizeof(float));
    INGOT_TRY(ingot_comm_agree(c->g->comm, st));
  }
  a->first = first;
  memset(a->windows, 0, (size_t)((end - first) * a->width) * sizeof *a->windows);
  INGOT_TRY(ingot_gather_windows(c->g, first, end, 0, &work));
  INGOT_TRY(ingot_comm_sum_f64(c->g->comm, a->windows, (end - first) * a->width));
  memset(sums, 0, (size_t)a->width * sizeof *sums);
  for (int64_t i = 0; i < end - first; i++)
    for (int k = 0; k < a->width; k++) sums[k] += a->windows[i * a->width + k];
  for (int k = 0; k < a->width; k++)
    if (k != 1) sums[k] /= sums[1];
done:
  return st;
}

static ingot_status learn_log_linear(ingot_ensemble_job *job, int row)
{
  enum { WIDTH_MAX = 2 + INGOT_ENSEMBLE_LEARN_MAX + INGOT_ENSEMBLE_LEARN_MAX * INGOT_ENSEMBLE_LEARN_MAX };
  ingot_status             st = INGOT_OK;
  int                      n = job->plan->gather.n_model;
  double                  *w = job->result->weights + row * n, sums[WIDTH_MAX];
  moments                  a = {0};
  ingot_newton            *s = &job->state.newton;
  ingot_ensemble_learning *how = &job->result->learning[row];
  int64_t                  first, end;
  learn_windows(job->plan, row, &first, &end);
  INGOT_TRY(ingot_comm_agree(job->g.comm, open_moments(&a, job, end - first)));
  if (!job->state.newton_on) ingot_newton_begin(s, n, w, job->plan->l2);
  job->state.newton_on = 1;
  while (!s->done) {
    job->g.n_window += end - first;
    INGOT_TRY(measure(&a, s->trial, first, end, sums));
    INGOT_CHECK(s->n_eval > 0 || isfinite(sums[0]), INGOT_ERR_NUMERIC,
                "the weights cannot be learnt: the mixture's loss is not finite where learning begins");
    ingot_newton_tell(s, sums[0], sums + 2, sums + 2 + n);
    if (s->n_eval == 1) how->start_nll = sums[0];
    how->n_token = (int64_t)sums[1];
    INGOT_TRY(ingot_ensemble_save(job));
  }
  double norm = 0.0;
  for (int m = 0; m < n; m++) norm += s->at[m] * s->at[m];
  memcpy(w, s->at, (size_t)n * sizeof *w);
  how->end_nll = s->value - 0.5 * s->l2 * norm;
  how->n_iteration = s->n_eval;
  how->converged = s->converged;
  job->state.newton_on = 0;
done:
  close_moments(&a);
  return st;
}

ingot_status ingot_ensemble_learn(ingot_ensemble_job *job)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *plan = job->plan;
  for (int row = (int)job->state.n_learnt; row < plan->n_row; row++) {
    INGOT_TRY(plan->kind == INGOT_ENSEMBLE_LOG_LINEAR ? learn_log_linear(job, row) : learn_linear(job, row));
    const ingot_ensemble_learning *how = &job->result->learning[row];
    job->state.n_learnt = row + 1;
    if (ingot_comm_rank(job->g.comm) == 0)
      ingot_log_info("weights%s%s: learnt in %lld step%s, mean loss %.6f, from %.6f%s", plan->n_row > 1 ? " for " : "",
                     plan->n_row > 1 ? plan->gather.data[row].name : "", (long long)how->n_iteration,
                     how->n_iteration == 1 ? "" : "s", how->end_nll, how->start_nll,
                     how->converged ? "" : "; not converged");
    INGOT_TRY(ingot_ensemble_save(job));
  }
done:
  return st;
}
