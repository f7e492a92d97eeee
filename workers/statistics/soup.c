/* Soups scored on data: averages of candidates made in memory, piece by piece, and never written. */
#include "workers/statistics/soup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/convert.h"
#include "workers/statistics/score.h"

/* A candidate as a file. */
typedef struct candidate {
  ingot_source *source;
  int          *tensor; /* [n_param] */
} candidate;

/* One rank's search. */
typedef struct kitchen {
  const ingot_soup_plan *plan;
  ingot_gather           g;
  ingot_scorer           scorer;
  ingot_score           *scores;         /* [evaluations][n_data] */
  int                    n_kept, n_done; /* evaluations of an earlier run; so far */
  const char            *state;          /* path */
  candidate             *candidates;
  float                 *sum; /* of the members, in memory order; NULL: not kept */
  int                    n_summed;
  const int             *members; /* of the average that is being made; the last one is on trial */
  int                    n_member;
  void                  *stored; /* a piece as in a file */
  float                 *wide;
  int64_t                capacity;
} kitchen;

uint64_t ingot_soup_buffer_bytes(int64_t n_elem, ingot_dtype dtype, ingot_compute compute)
{
  uint64_t n = (uint64_t)(n_elem < INGOT_MODEL_PIECE ? n_elem : INGOT_MODEL_PIECE);
  uint64_t narrow = compute == INGOT_COMPUTE_BF16 ? ingot_dtype_size(INGOT_DTYPE_BF16) : 0;
  return n * (ingot_dtype_size(dtype) + 2 * sizeof(float) +
              narrow); /* as stored, a member's, the average's, as the model has it */
}

uint64_t ingot_soup_sum_bytes(int64_t n_elem)
{
  return (uint64_t)n_elem * sizeof(float);
}

/* ---- averages ---- */

static ingot_status read_piece(kitchen *k, int model, int param, int64_t first, int64_t n, float *values)
{
  const candidate         *c = &k->candidates[model];
  const ingot_tensor_info *info = ingot_source_tensor(c->source, c->tensor[param]);
  size_t                   size = ingot_dtype_size(info->dtype);
  ingot_status st = ingot_source_read(c->source, c->tensor[param], (uint64_t)first * size, (size_t)n * size, k->stored);
  if (st == INGOT_OK) ingot_widen(info->dtype, k->stored, values, n);
  k->g.timing->bytes_read += (uint64_t)n * size;
  return st;
}

static void add(float *sum, const float *values, int64_t n)
{
  for (int64_t i = 0; i < n; i++) sum[i] += values[i];
}

static ingot_status reserve(kitchen *k, int64_t n)
{
  ingot_status st = INGOT_OK;
  if (n <= k->capacity) goto done;
  free(k->stored);
  free(k->wide);
  k->stored = malloc((size_t)n * sizeof(double));
  k->wide = malloc((size_t)n * sizeof *k->wide);
  k->capacity = k->stored && k->wide ? n : 0;
  INGOT_CHECK(k->capacity, INGOT_ERR_NOMEM, "no memory for a piece of %lld weights", (long long)n);
done:
  return st;
}

/* The sum of members [0, n_member - 1) of one piece, in their order; those that the kept sum has are not read again. */
static ingot_status sum_piece(kitchen *k, int param, int64_t first, int64_t n, float *sum)
{
  ingot_status st = INGOT_OK;
  for (int m = k->sum ? k->n_summed : 0; m < k->n_member - 1; m++) {
    INGOT_TRY(read_piece(k, k->members[m], param, first, n, m == 0 ? sum : k->wide));
    if (m > 0) add(sum, k->wide, n);
  }
done:
  return st;
}

/* As ingot_weight_source.read. The operations of method linear with weights of 1: sum, one division, one rounding. */
static ingot_status read_average(void *context, int param, int64_t first, int64_t n, float *values)
{
  ingot_status             st = INGOT_OK;
  kitchen                 *k = context;
  const ingot_soup_plan   *plan = k->plan;
  const ingot_tensor_info *lead = ingot_source_tensor(k->candidates[0].source, k->candidates[0].tensor[param]);
  ingot_dtype              dtype = plan->keep_dtype ? lead->dtype : plan->dtype;
  float                   *sum = k->sum ? k->sum + k->g.model->layout.params[param].offset + first : values;
  float                    divisor = (float)k->n_member;
  INGOT_TRY(reserve(k, n));
  INGOT_TRY(sum_piece(k, param, first, n, sum));
  INGOT_TRY(read_piece(k, k->members[k->n_member - 1], param, first, n, k->wide));
  for (int64_t i = 0; i < n; i++) values[i] = (sum[i] + k->wide[i]) / divisor;
  if (dtype == INGOT_DTYPE_F32 || dtype == INGOT_DTYPE_F64) goto done;
  ingot_narrow(dtype, values, k->stored, n);
  ingot_widen(dtype, k->stored, values, n);
done:
  return st;
}

/* The files of all candidates, the model that averages are put into, and the sum. Not collective. */
static ingot_status open_averages(kitchen *k)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *plan = k->plan->gather;
  ingot_gather            *g = &k->g;
  st = ingot_gather_load(g, 0, false); /* whose config the soup will have */
  if (st == INGOT_ERR_NUMERIC)
    st = ingot_gather_load(g, k->members[0], false); /* rejected: its weights are not finite */
  INGOT_TRY(st);
  for (int i = 0; i < plan->n_model; i++) {
    candidate *c = &k->candidates[i];
    INGOT_TRY(ingot_source_open(plan->models[i].path, &c->source));
    c->tensor = malloc((size_t)g->model->layout.n_param * sizeof *c->tensor);
    INGOT_CHECK(c->tensor, INGOT_ERR_NOMEM, "no memory for a model");
    INGOT_TRY(ingot_model_layout_bind(&g->model->layout, &g->model->spec, c->source, c->tensor));
  }
  if (!k->plan->keep_sum || k->plan->kind == INGOT_SOUP_UNIFORM) goto done;
  k->sum = malloc((size_t)ingot_soup_sum_bytes(g->model->layout.n_elem));
  INGOT_CHECK(k->sum, INGOT_ERR_NOMEM, "no memory for the sum of %lld weights", (long long)g->model->layout.n_elem);
done:
  return st;
}

/* The model of the pass becomes a candidate, or the average of the members. */
static ingot_status make_model(kitchen *k, const int *members, int n_member)
{
  ingot_status        st = INGOT_OK;
  ingot_weight_source weights = {k, read_average};
  if (n_member == 1) {
    st = ingot_gather_load(&k->g, members[0], false);
    goto done;
  }
  k->members = members;
  k->n_member = n_member;
  if (!k->candidates[0].source) INGOT_TRY(open_averages(k));
  INGOT_TRY(ingot_model_fill(k->g.model, &weights));
  k->n_summed = n_member - 1;
done:
  return st;
}

/* ---- scores ---- */

static double score_of(const kitchen *k, const ingot_score *scores)
{
  double sum = 0.0;
  int    n_data = k->plan->gather->n_data;
  for (int d = 0; d < n_data; d++) {
    double n = (double)scores[d].n_token;
    if (!(n > 0) || !isfinite(scores[d].nll)) return NAN;
    sum += (k->plan->metric == INGOT_SOUP_LOSS ? -scores[d].nll : (double)scores[d].n_right) / n;
  }
  return sum / n_data;
}

static ingot_status evaluate(kitchen *k, const int *members, int n_member, ingot_score *scores)
{
  ingot_status  st = make_model(k, members, n_member);
  ingot_gather *g = &k->g;
  if (st == INGOT_OK && !k->scorer.g) st = ingot_scorer_open(&k->scorer, g);
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  for (int d = 0; d < g->plan->n_data; d++) INGOT_TRY(ingot_scorer_run(&k->scorer, d, &scores[d]));
done:
  return st;
}

static const char *name_of(const kitchen *k, const int *members, int n_member)
{
  return k->plan->gather->models[members[n_member - 1]].id;
}

/* A loss that is not finite is a score like any other: the worst. */
static ingot_status reject(kitchen *k, const int *members, int n_member, ingot_score *scores, ingot_status st)
{
  if (st != INGOT_ERR_NUMERIC) return st;
  ingot_log_warning("rejected: \"%s\"%s: %s", name_of(k, members, n_member),
                    n_member > 1 ? " with the soup so far" : "", ingot_error_message());
  ingot_error_clear();
  for (int d = 0; d < k->plan->gather->n_data; d++) scores[d] = (ingot_score){.nll = NAN};
  return INGOT_OK;
}

/* As ingot_soup_scorer. */
static ingot_status score(void *context, const int *members, int n_member, double *score)
{
  ingot_status st = INGOT_OK;
  kitchen     *k = context;
  int          n_data = k->plan->gather->n_data;
  int64_t      n_window = ingot_gather_window_count(k->plan->gather);
  ingot_score *own = k->scores + (size_t)k->n_done * (size_t)n_data;
  if (k->n_done < k->n_kept) {
    k->g.windows_before += n_window;
    k->g.timing->tiles_resumed += n_window;
  } else {
    int64_t before = k->g.windows_before;
    st = evaluate(k, members, n_member, own);
    INGOT_TRY(reject(k, members, n_member, own, st));
    k->g.windows_before = before + n_window;
    int              n = ingot_soup_evaluations(k->plan->gather->n_model, k->plan->kind) * n_data;
    ingot_state_part part = {k->scores, (size_t)n * sizeof *k->scores};
    if (ingot_comm_rank(k->g.comm) == 0)
      st = ingot_state_save(k->state, k->plan->gather->fingerprint, k->n_done + 1, NULL, &part, 1);
    INGOT_TRY(ingot_comm_agree(k->g.comm, st));
  }
  k->n_done++;
  *score = score_of(k, own);
  if (n_member == 1) ingot_log_info("\"%s\": score %.9g", name_of(k, members, n_member), *score);
  else ingot_log_info("average of %d, with \"%s\": score %.9g", n_member, name_of(k, members, n_member), *score);
done:
  return st;
}

/* Evaluations that an earlier run has finished. Collective. */
static ingot_status take_up(kitchen *k, int n_evaluation)
{
  ingot_status     st = INGOT_OK;
  ingot_gather    *g = &k->g;
  int64_t          n_done = 0;
  const char      *why = NULL;
  ingot_state_part part = {k->scores, (size_t)n_evaluation * (size_t)g->plan->n_data * sizeof *k->scores};
  if (ingot_comm_rank(g->comm) == 0 && !g->options->fresh)
    st = ingot_state_load(k->state, g->plan->fingerprint, &n_done, NULL, &part, 1, &why);
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  if (why) ingot_log_info("%s: not taken up, because %s", k->state, why);
  if (n_done > 0) ingot_log_info("%s: %lld evaluations are there already", k->state, (long long)n_done);
  INGOT_TRY(ingot_comm_bcast(g->comm, &n_done, sizeof n_done, 0));
  INGOT_TRY(ingot_comm_bcast(g->comm, k->scores, part.bytes, 0));
  k->n_kept = (int)n_done;
done:
  return st;
}

static void release(kitchen *k)
{
  ingot_scorer_close(&k->scorer);
  for (int i = 0; k->candidates && i < k->plan->gather->n_model; i++) {
    if (k->candidates[i].source) ingot_source_close(&k->candidates[i].source);
    free(k->candidates[i].tensor);
  }
  free(k->candidates);
  free(k->sum);
  free(k->stored);
  free(k->wide);
  ingot_gather_release(&k->g);
}

ingot_status ingot_soup_run(ingot_comm *comm, const ingot_soup_plan *plan, const ingot_gather_options *options,
                            ingot_soup *soup, ingot_score *scores, ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  int          n_model = plan->gather->n_model, n = ingot_soup_evaluations(n_model, plan->kind);
  kitchen      k = {.plan = plan, .scores = scores};
  ingot_text   path = {0};
  const char **names = calloc((size_t)n_model, sizeof *names);
  ingot_status st = ingot_gather_init(&k.g, comm, plan->gather, options, timing);
  if (st == INGOT_OK) st = ingot_soup_init(n_model, soup);
  k.candidates = calloc((size_t)n_model, sizeof *k.candidates);
  if (st == INGOT_OK && !(names && k.candidates))
    st = ingot_fail(INGOT_ERR_NOMEM, "no memory for %d candidates", n_model);
  if (st == INGOT_OK) st = ingot_state_path(plan->gather->output, 0, 1, &path);
  INGOT_TRY(ingot_comm_agree(comm, st));
  k.state = ingot_text_string(&path);
  k.g.n_window = ingot_gather_window_count(plan->gather) * n;
  INGOT_TRY(take_up(&k, n));
  for (int i = 0; i < n_model; i++) names[i] = plan->gather->models[i].id;
  INGOT_TRY(ingot_soup_search(names, plan->kind, plan->accept, score, &k, soup));
done:
  release(&k);
  free(names);
  ingot_text_release(&path);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
