/* Scores of an ensemble and its members; what is kept between runs. */
#include "workers/ensemble/ensemble.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "workers/ensemble/run.h"

static const char *const kind_names[] = {"linear", "log_linear", "max", "vote", "posterior"};

const char *ingot_ensemble_kind_name(ingot_ensemble_kind kind)
{
  return kind_names[kind];
}

int ingot_ensemble_kind_find(const char *name)
{
  for (int i = 0; i < INGOT_ENSEMBLE_KIND_COUNT; i++)
    if (strcmp(kind_names[i], name) == 0) return i;
  return -1;
}

ingot_status ingot_ensemble_result_init(ingot_ensemble_result *result, const ingot_ensemble_plan *plan)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)plan->gather.n_model, rows = (size_t)plan->n_row;
  *result = (ingot_ensemble_result){0};
  result->weights = calloc(rows * n + 1, sizeof *result->weights);
  result->learning = calloc(rows + 1, sizeof *result->learning);
  result->scores = calloc((n + 1) * (size_t)plan->n_score + 1, sizeof *result->scores);
  result->kept = calloc((size_t)plan->n_score + 1, sizeof *result->kept);
  INGOT_CHECK(result->weights && result->learning && result->scores && result->kept, INGOT_ERR_NOMEM,
              "no memory for the scores of %zu models", n);
  memcpy(result->weights, plan->weights, rows * n * sizeof *result->weights);
done:
  return st;
}

void ingot_ensemble_result_release(ingot_ensemble_result *result)
{
  free(result->weights);
  free(result->learning);
  free(result->scores);
  free(result->kept);
  *result = (ingot_ensemble_result){0};
}

ingot_ensemble_memory ingot_ensemble_bytes(const ingot_ensemble_plan *plan, const ingot_model_spec *specs, int n_rank)
{
  ingot_ensemble_memory    memory = ingot_combine_bytes(plan, specs, n_rank);
  const ingot_gather_plan *g = &plan->gather;
  uint64_t                 most = 0, n = (uint64_t)g->n_model;
  for (int i = 0; plan->learn && i < g->n_data; i++) {
    uint64_t tokens = (uint64_t)g->data[i].n_window * (uint64_t)g->window.length;
    if (i >= plan->n_score && plan->n_row == 1) most += tokens;
    else if (i >= plan->n_score && tokens > most) most = tokens;
  }
  if (plan->kind == INGOT_ENSEMBLE_LINEAR) memory.host_bytes += most * n * sizeof(float);
  return memory;
}

/* ---- state ---- */

enum { N_PART = 6 };

static void list_parts(ingot_ensemble_job *job, ingot_state_part parts[N_PART])
{
  const ingot_ensemble_plan *plan = job->plan;
  size_t n = (size_t)plan->gather.n_model, rows = (size_t)plan->n_row, n_score = (size_t)plan->n_score;
  parts[0] = (ingot_state_part){&job->state, sizeof job->state};
  parts[1] = (ingot_state_part){job->result->weights, rows * n * sizeof *job->result->weights};
  parts[2] = (ingot_state_part){job->result->learning, rows * sizeof *job->result->learning};
  parts[3] = (ingot_state_part){job->result->scores, (n + 1) * n_score * sizeof *job->result->scores};
  parts[4] = (ingot_state_part){job->result->kept, n_score * sizeof *job->result->kept};
  parts[5] = (ingot_state_part){job->scored, n_score * sizeof *job->scored};
}

ingot_status ingot_ensemble_save(ingot_ensemble_job *job)
{
  ingot_state_part parts[N_PART];
  ingot_status     st = INGOT_OK;
  list_parts(job, parts);
  int64_t n_done = 1 + job->state.n_learnt;
  for (int d = 0; d < job->plan->n_score; d++) n_done += job->scored[d];
  if (ingot_comm_rank(job->g.comm) == 0)
    st = ingot_state_save(job->path, job->plan->gather.fingerprint, n_done, NULL, parts, N_PART);
  return ingot_comm_agree(job->g.comm, st);
}

static ingot_status take_up(ingot_ensemble_job *job)
{
  ingot_status     st = INGOT_OK;
  ingot_state_part parts[N_PART];
  int64_t          n_done = 0;
  const char      *why = NULL;
  list_parts(job, parts);
  if (ingot_comm_rank(job->g.comm) == 0 && !job->g.options->fresh)
    st = ingot_state_load(job->path, job->plan->gather.fingerprint, &n_done, NULL, parts, N_PART, &why);
  INGOT_TRY(ingot_comm_agree(job->g.comm, st));
  if (why) ingot_log_info("%s: not taken up, because %s", job->path, why);
  if (n_done > 0) ingot_log_info("%s: goes on with what an earlier run has learnt and scored", job->path);
  for (int i = 0; i < N_PART; i++) INGOT_TRY(ingot_comm_bcast(job->g.comm, parts[i].memory, parts[i].bytes, 0));
done:
  return st;
}

/* ---- scores ---- */

typedef struct scorer {
  ingot_ensemble_job *job;
  const double       *weights;
  float              *nll, *host_nll; /* of the mixture: back end, host: [rows of a batch] */
  int32_t            *top1, *host_top1;
  double             *window_nll; /* [n_model + 1][n_window]: own ones filled */
  int64_t             n_window, first;
  int64_t            *counts; /* predicted tokens; right ones, [n_model + 1]; tokens that the ensemble rules out */
} scorer;

static ingot_status open_scorer(scorer *s, ingot_ensemble_job *job)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = job->g.nn;
  int64_t      most = 0;
  size_t       rows = (size_t)(job->plan->gather.batch * job->plan->gather.window.length);
  size_t       n = (size_t)job->plan->gather.n_model + 1;
  for (int d = 0; d < job->plan->n_score; d++)
    if (job->plan->gather.data[d].n_window > most) most = job->plan->gather.data[d].n_window;
  s->job = job;
  s->host_nll = calloc(rows, sizeof *s->host_nll);
  s->host_top1 = calloc(rows, sizeof *s->host_top1);
  s->window_nll = calloc(n * (size_t)most, sizeof *s->window_nll);
  s->counts = calloc(n + 2, sizeof *s->counts);
  INGOT_CHECK(s->host_nll && s->host_top1 && s->window_nll && s->counts, INGOT_ERR_NOMEM,
              "no memory for the scores of %lld windows", (long long)most);
  INGOT_TRY(nn->ops->alloc(nn, rows * sizeof(float), (void **)&s->nll));
  INGOT_TRY(nn->ops->alloc(nn, rows * sizeof(int32_t), (void **)&s->top1));
done:
  return st;
}

static void close_scorer(scorer *s)
{
  if (s->job && s->job->g.nn) {
    s->job->g.nn->ops->free(s->job->g.nn, s->nll);
    s->job->g.nn->ops->free(s->job->g.nn, s->top1);
  }
  free(s->host_nll);
  free(s->host_top1);
  free(s->window_nll);
  free(s->counts);
}

static ingot_status score_rows(void *context, const ingot_batch *batch, int64_t first, int64_t first_row,
                               const ingot_nn_logits *mixed, const int32_t *labels)
{
  scorer   *s = context;
  ingot_nn *nn = s->job->g.nn;
  (void)batch;
  (void)first;
  return nn->ops->cross_entropy(nn, mixed, labels, 0.0f, s->nll + first_row, s->top1 + first_row, NULL);
}

/* The token that the members with most weight together call likeliest; equal ones: the smallest id. */
static int32_t vote(const scorer *s, const int32_t *top1, int64_t stride, int64_t row)
{
  int     n = s->job->plan->gather.n_model;
  int32_t best = -1;
  double  most = -1.0;
  for (int m = 0; m < n; m++) {
    int32_t id = top1[m * stride + row];
    double  sum = 0.0;
    for (int k = 0; k < n; k++) sum += top1[k * stride + row] == id ? s->weights[k] : 0.0;
    if (sum < most || (!(sum > most) && id >= best)) continue;
    most = sum;
    best = id;
  }
  return best;
}

static ingot_status score_end(void *context, const ingot_batch *batch, int64_t first, const float *nll,
                              const int32_t *top1, int64_t stride)
{
  ingot_status st = INGOT_OK;
  scorer      *s = context;
  ingot_nn    *nn = s->job->g.nn;
  ingot_text   place = {0};
  int          n_model = s->job->plan->gather.n_model;
  int64_t      n = batch->n_batch * batch->n_time;
  bool         votes = s->job->plan->kind == INGOT_ENSEMBLE_VOTE;
  if (!votes) {
    INGOT_TRY(nn->ops->copy_out(nn, s->host_nll, s->nll, (size_t)n * sizeof(float)));
    INGOT_TRY(nn->ops->copy_out(nn, s->host_top1, s->top1, (size_t)n * sizeof(int32_t)));
  }
  for (int64_t i = 0; i < n; i++) {
    int64_t window = first + i / batch->n_time;
    double *sum = s->window_nll + window - s->first;
    if (batch->labels[i] == INGOT_NN_IGNORE) continue;
    s->counts[0]++;
    for (int m = 0; m < n_model; m++) {
      sum[m * s->n_window] += (double)nll[m * stride + i];
      s->counts[1 + m] += top1[m * stride + i] == batch->labels[i];
    }
    s->counts[1 + n_model] += (votes ? vote(s, top1, stride, i) : s->host_top1[i]) == batch->labels[i];
    if (votes) continue;
    if (s->job->plan->plausibility > 0.0 && isinf(s->host_nll[i]) && s->host_nll[i] > 0) {
      s->counts[2 + n_model]++;
      continue;
    }
    sum[n_model * s->n_window] += (double)s->host_nll[i];
    if (isfinite(s->host_nll[i])) continue;
    INGOT_TRY(ingot_gather_place(&s->job->g, window, &place));
    st = ingot_fail(INGOT_ERR_NUMERIC, "%s: the loss of the ensemble is not finite", ingot_text_string(&place));
    goto done;
  }
done:
  ingot_text_release(&place);
  return st;
}

static ingot_status score_data(scorer *s, int d)
{
  ingot_status               st = INGOT_OK;
  ingot_ensemble_job        *job = s->job;
  const ingot_ensemble_plan *plan = job->plan;
  ingot_combine_user         user = {.context = s, .mix = true, .rows = score_rows, .end = score_end};
  int                        n = plan->gather.n_model;
  s->first = ingot_ensemble_first_window(plan, d);
  s->n_window = plan->gather.data[d].n_window;
  s->weights = job->result->weights + (plan->n_row > 1 ? d : 0) * n;
  memset(s->window_nll, 0, (size_t)((n + 1) * s->n_window) * sizeof *s->window_nll);
  memset(s->counts, 0, (size_t)(n + 3) * sizeof *s->counts);
  INGOT_TRY(ingot_combine_windows(&job->combine, s->first, s->first + s->n_window, s->weights, &user));
  INGOT_TRY(ingot_comm_sum_f64(job->g.comm, s->window_nll, (n + 1) * s->n_window));
  INGOT_TRY(ingot_comm_sum_i64(job->g.comm, s->counts, n + 3));
  for (int m = 0; m <= n; m++) {
    ingot_score *score = &job->result->scores[m * plan->n_score + d];
    *score = (ingot_score){.n_token = s->counts[0], .n_right = s->counts[1 + m]};
    for (int64_t i = 0; i < s->n_window; i++) score->nll += s->window_nll[m * s->n_window + i];
    if (m == n && plan->kind == INGOT_ENSEMBLE_VOTE) score->nll = NAN;
  }
  ingot_score *all = &job->result->scores[n * plan->n_score + d], *kept = &job->result->kept[d];
  *kept = *all;
  kept->n_token -= s->counts[2 + n];
  if (kept->n_token < all->n_token) all->nll = INFINITY; /* their probability is 0 */
  job->scored[d] = 1;
  st = ingot_ensemble_save(job);
done:
  return st;
}

/* Windows that models run through, for the progress line. */
static int64_t work_windows(const ingot_ensemble_plan *plan)
{
  int64_t scored = ingot_ensemble_first_window(plan, plan->n_score), n = 0;
  int64_t each = plan->one_by_one ? plan->gather.n_model : 1;
  n = scored * each * (plan->one_by_one && plan->kind == INGOT_ENSEMBLE_POSTERIOR ? 2 : 1);
  if (plan->learn && plan->kind == INGOT_ENSEMBLE_LINEAR)
    n += (ingot_gather_window_count(&plan->gather) - scored) * each;
  return n;
}

static ingot_status run_job(ingot_ensemble_job *job)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *plan = job->plan;
  scorer                     s = {0};
  INGOT_TRY(take_up(job));
  bool needed = plan->learn && job->state.n_learnt < plan->n_row;
  for (int d = 0; d < plan->n_score; d++) needed = needed || !job->scored[d];
  if (!needed) goto done;
  INGOT_TRY(ingot_combine_open(&job->combine, &job->g, plan));
  INGOT_TRY(ingot_comm_agree(job->g.comm, open_scorer(&s, job)));
  if (plan->learn) INGOT_TRY(ingot_ensemble_learn(job));
  for (int d = 0; d < plan->n_score; d++)
    if (!job->scored[d]) INGOT_TRY(score_data(&s, d));
done:
  close_scorer(&s);
  ingot_combine_close(&job->combine);
  return st;
}

ingot_status ingot_ensemble_run(ingot_comm *comm, const ingot_ensemble_plan *plan, const ingot_gather_options *options,
                                ingot_ensemble_result *result, ingot_merge_timing *timing)
{
  double             start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  ingot_ensemble_job job = {.g = {.plan = &plan->gather}, .plan = plan, .result = result};
  ingot_text         path = {0};
  ingot_status       st = ingot_gather_init(&job.g, comm, &plan->gather, options, timing);
  job.scored = calloc((size_t)plan->n_score + 1, sizeof *job.scored);
  if (st == INGOT_OK && !job.scored) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the scores");
  if (st == INGOT_OK) st = ingot_state_path(plan->gather.output, 0, 1, &path);
  INGOT_TRY(ingot_comm_agree(comm, st));
  job.path = ingot_text_string(&path);
  job.g.n_window = work_windows(plan);
  INGOT_TRY(run_job(&job));
done:
  ingot_gather_release(&job.g);
  ingot_text_release(&path);
  free(job.scored);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
