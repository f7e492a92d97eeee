/* Scores of models on data: negative log-likelihood and top-1 accuracy of the predicted tokens. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "workers/statistics/score.h"

/* One model on one data set, as it is kept between runs. */
typedef struct saved_score {
  ingot_score score;
  int64_t     done;
} saved_score;

uint64_t ingot_evaluate_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec)
{
  ingot_dtype        dtype = ingot_compute_dtype(plan->compute);
  ingot_pass_options pass = {.n_batch = plan->batch, .n_time = plan->window.length};
  return ingot_model_bytes(spec, dtype) + ingot_pass_bytes(spec, dtype, &pass) +
         (uint64_t)plan->batch * (uint64_t)plan->window.length * (sizeof(float) + sizeof(int32_t));
}

uint64_t ingot_evaluate_host_bytes(const ingot_gather_plan *plan)
{
  int64_t most = 0;
  for (int i = 0; i < plan->n_data; i++)
    if (plan->data[i].n_window > most) most = plan->data[i].n_window;
  return ingot_gather_batch_bytes(plan) +
         (uint64_t)plan->batch * (uint64_t)plan->window.length * (sizeof(float) + sizeof(int32_t)) +
         (uint64_t)most * sizeof(double);
}

static ingot_status score_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                                const int32_t *labels, void *d_logits)
{
  ingot_scorer *s = context;
  (void)d_logits;
  return nn->ops->cross_entropy(nn, z, labels, 0.0f, (float *)s->nll + first_row, (int32_t *)s->top1 + first_row, NULL);
}

static ingot_status score_batch(void *context, ingot_batch *batch, int64_t first)
{
  ingot_status  st = INGOT_OK;
  ingot_scorer *s = context;
  ingot_nn     *nn = s->g->nn;
  size_t        n = (size_t)batch->n_batch * (size_t)batch->n_time;
  ingot_head    head = {.context = s, .chunk = score_chunk};
  INGOT_TRY(ingot_pass_run(s->g->pass, batch, &head, NULL, NULL));
  INGOT_TRY(nn->ops->copy_out(nn, s->host_nll, s->nll, n * sizeof *s->host_nll));
  INGOT_TRY(nn->ops->copy_out(nn, s->host_top1, s->top1, n * sizeof *s->host_top1));
  for (int64_t b = 0; b < batch->n_batch;
       b++) { /* window by window: the sum over windows has one order for all ranks */
    ingot_batch one = *batch;
    int64_t     at = b * batch->n_time;
    one.n_batch = 1;
    one.labels = batch->labels + at;
    INGOT_TRY(
        ingot_gather_loss(s->g, &one, first + b, s->host_nll + at, &s->window_nll[first + b - s->first], &s->n_token));
  }
  for (size_t i = 0; i < n; i++)
    s->n_right += batch->labels[i] != INGOT_NN_IGNORE && batch->labels[i] == s->host_top1[i];
done:
  return st;
}

ingot_status ingot_scorer_open(ingot_scorer *s, ingot_gather *g)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)g->plan->batch * (size_t)g->plan->window.length;
  int64_t      most = 0;
  for (int i = 0; i < g->plan->n_data; i++)
    if (g->plan->data[i].n_window > most) most = g->plan->data[i].n_window;
  *s = (ingot_scorer){.g = g};
  s->host_nll = calloc(n, sizeof *s->host_nll);
  s->host_top1 = calloc(n, sizeof *s->host_top1);
  s->window_nll = calloc((size_t)most + 1, sizeof *s->window_nll);
  INGOT_CHECK(s->host_nll && s->host_top1 && s->window_nll, INGOT_ERR_NOMEM, "no memory for the scores of %lld windows",
              (long long)most);
  INGOT_TRY(g->nn->ops->alloc(g->nn, n * sizeof(float), &s->nll));
  INGOT_TRY(g->nn->ops->alloc(g->nn, n * sizeof(int32_t), &s->top1));
done:
  return st;
}

void ingot_scorer_close(ingot_scorer *s)
{
  if (s->g && s->g->nn) {
    s->g->nn->ops->free(s->g->nn, s->nll);
    s->g->nn->ops->free(s->g->nn, s->top1);
  }
  free(s->host_nll);
  free(s->host_top1);
  free(s->window_nll);
}

ingot_status ingot_scorer_run(ingot_scorer *s, int d, ingot_score *score)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = s->g->plan;
  int64_t                  n = plan->data[d].n_window, counts[2];
  ingot_gather_work        work = {.context = s, .batch = score_batch};
  s->first = 0;
  for (int i = 0; i < d; i++) s->first += plan->data[i].n_window;
  memset(s->window_nll, 0, (size_t)n * sizeof *s->window_nll);
  s->n_token = s->n_right = 0;
  INGOT_TRY(ingot_gather_windows(s->g, s->first, s->first + n, 0, &work));
  INGOT_TRY(ingot_comm_sum_f64(s->g->comm, s->window_nll, n)); /* of each window one rank has a value, the others 0 */
  counts[0] = s->n_token;
  counts[1] = s->n_right;
  INGOT_TRY(ingot_comm_sum_i64(s->g->comm, counts, 2));
  *score = (ingot_score){.n_token = counts[0], .n_right = counts[1]};
  for (int64_t i = 0; i < n; i++) score->nll += s->window_nll[i];
done:
  return st;
}

static ingot_status load_scores(ingot_gather *g, const char *path, saved_score *saved, int n)
{
  ingot_status     st = INGOT_OK;
  ingot_state_part part = {saved, (size_t)n * sizeof *saved};
  int64_t          n_done = 0;
  const char      *why = NULL;
  if (ingot_comm_rank(g->comm) == 0 && !g->options->fresh)
    st = ingot_state_load(path, g->plan->fingerprint, &n_done, NULL, &part, 1, &why);
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  if (why) ingot_log_info("%s: not taken up, because %s", path, why);
  if (n_done > 0) ingot_log_info("%s: %lld of %d scores are there already", path, (long long)n_done, n);
  INGOT_TRY(ingot_comm_bcast(g->comm, saved, part.bytes, 0));
done:
  return st;
}

/* All data sets of one model that are not done yet. */
static ingot_status score_model(ingot_gather *g, int model, saved_score *saved, const char *path)
{
  ingot_status             st = INGOT_OK;
  ingot_scorer             s = {0};
  const ingot_gather_plan *plan = g->plan;
  int                      n = plan->n_model * plan->n_data;
  saved_score             *own = saved + model * plan->n_data;
  bool                     needed = false;
  for (int d = 0; d < plan->n_data; d++) {
    needed = needed || !own[d].done;
    if (own[d].done) g->windows_before += plan->data[d].n_window;
    if (own[d].done) g->timing->tiles_resumed += plan->data[d].n_window;
  }
  if (!needed) goto done;
  st = ingot_gather_load(g, model, false);
  if (st == INGOT_OK) st = ingot_scorer_open(&s, g);
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  for (int d = 0; d < plan->n_data; d++) {
    if (own[d].done) continue;
    INGOT_TRY(ingot_scorer_run(&s, d, &own[d].score));
    own[d].done = 1;
    int64_t n_done = 0;
    for (int i = 0; i < n; i++) n_done += saved[i].done;
    ingot_state_part part = {saved, (size_t)n * sizeof *saved};
    st = ingot_comm_rank(g->comm) == 0 ? ingot_state_save(path, plan->fingerprint, n_done, NULL, &part, 1) : INGOT_OK;
    INGOT_TRY(ingot_comm_agree(g->comm, st));
  }
done:
  ingot_scorer_close(&s);
  return st;
}

ingot_status ingot_evaluate_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                                ingot_score *scores, ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  int          n = plan->n_model * plan->n_data;
  ingot_gather g = {.plan = plan};
  ingot_text   path = {0};
  saved_score *saved = calloc((size_t)n + 1, sizeof *saved);
  ingot_status st = saved ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d scores", n);
  if (st == INGOT_OK) st = ingot_gather_init(&g, comm, plan, options, timing);
  if (st == INGOT_OK) st = ingot_state_path(plan->output, 0, 1, &path);
  INGOT_TRY(ingot_comm_agree(comm, st));
  g.n_window = ingot_gather_window_count(plan) * plan->n_model;
  INGOT_TRY(load_scores(&g, ingot_text_string(&path), saved, n));
  for (int m = 0; m < plan->n_model; m++) INGOT_TRY(score_model(&g, m, saved, ingot_text_string(&path)));
  for (int i = 0; i < n; i++) scores[i] = saved[i].score;
done:
  ingot_gather_release(&g);
  ingot_text_release(&path);
  free(saved);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
