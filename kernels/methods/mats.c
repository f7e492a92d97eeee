/** mats: match task subspaces: solve sum C_i X = sum C_i W_i for a metric C_i of every model by conjugate gradients. */
#include <math.h>
#include <stdlib.h>

#include "kernels/families/device_ops.h"
#include "kernels/families/fisher.h"
#include "kernels/families/gram.h"
#include "kernels/families/sum.h"

enum { GLOBAL_METRIC, GLOBAL_START, GLOBAL_ALPHA, GLOBAL_ITERATIONS, GLOBAL_TOLERANCE, GLOBAL_REST };
enum { METRIC_GRAM, METRIC_KFAC, METRIC_FISHER };
enum { START_MEAN, START_ZEROS, START_BASE };
enum { REST_MEAN, REST_START };

static const char *const metrics[] = {"gram", "kfac", "fisher", NULL};
static const char *const starts[] = {"mean", "zeros", "base", NULL};
static const char *const rests[] = {"mean", "start", NULL};

static const ingot_param_spec params[] = {
    {.name = "metric",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = METRIC_GRAM,
     .choices = metrics,
     .help = "Gram matrices of inputs, those of inputs and of output gradients, or the diagonal Fisher information"},
    {.name = "start",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = START_MEAN,
     .choices = starts,
     .help = "where the iteration starts; base: the step's base, which may be an earlier step's output"},
    {.name = "alpha",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1,
     .min = 0,
     .max = 1,
     .help = "factor of the matrices' off-diagonal elements"},
    {.name = "iterations",
     .type = INGOT_PARAM_INT,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 100,
     .min = 0,
     .max = 1e6,
     .help = "iterations at most; reaching them is no error"},
    {.name = "tolerance",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1e-5,
     .min = 0,
     .max = 1,
     .help = "end when the residual's norm is at most this part of the right-hand side's"},
    {.name = "rest",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = REST_MEAN,
     .choices = rests,
     .help = "tensors without a metric: the mean of the models, or what the base has (start = \"base\")"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = 0,
     .max = INFINITY,
     .help = "factor of the model's metric, and of the model in means"},
};

static int metric_of(const ingot_method_tensor *t)
{
  return (int)t->global[GLOBAL_METRIC];
}

static unsigned wants(const ingot_method_tensor *t)
{
  if (metric_of(t) == METRIC_FISHER) return INGOT_NEED_FISHER;
  if (t->shape.n_dim != 2 || t->n_elem == 0) return 0;
  return metric_of(t) == METRIC_KFAC ? INGOT_NEED_GRAM | INGOT_NEED_OUTPUT_GRAM : INGOT_NEED_GRAM;
}

static ingot_grain grain(const ingot_method_tensor *t)
{
  return t->n_statistic > 0 && metric_of(t) != METRIC_FISHER ? INGOT_GRAIN_MATRIX : INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return t->n_model + 1;
}

static ingot_status check(const ingot_method_tensor *t)
{
  if (t->global[GLOBAL_START] == START_BASE && !t->has_base)
    return ingot_fail(INGOT_ERR_JOB, "%s: start = \"base\" needs the step to have a base", t->name);
  if (t->has_base && t->global[GLOBAL_START] != START_BASE)
    return ingot_fail(INGOT_ERR_JOB,
                      "%s: the step's base is where start = \"base\" starts; this start has no use for one", t->name);
  if (t->global[GLOBAL_REST] == REST_START && !t->has_base)
    return ingot_fail(INGOT_ERR_JOB, "%s: rest = \"start\" takes what the base has, and needs start = \"base\"",
                      t->name);
  return ingot_fisher_check(t, 1);
}

/* A tensor that stays as the base has it. */
static bool is_kept(const ingot_method_tensor *t)
{
  return t->n_statistic == 0 && t->has_base && t->global[GLOBAL_REST] == REST_START;
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  if (t->n_statistic > 0) return ingot_fisher_state_bytes(t->n_model);
  return is_kept(t) ? ingot_sum_state_bytes(1) : ingot_gram_mean_state_bytes(t);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  if (t->n_statistic > 0) {
    ingot_fisher_begin(t, 1, 0, INGOT_FISHER_MAX_ALL, state);
  } else if (is_kept(t)) {
    ingot_sum_state *s = state;
    *s = (ingot_sum_state){.n_input = 1}; /* the base comes first */
    ingot_sum_coef(s)[0] = 1;
  } else {
    ingot_gram_mean_begin(t, 1, state);
  }
  return INGOT_OK;
}

static void apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out)
{
  if (t->n_statistic > 0) ingot_fisher_apply(t, state, c, out);
  else ingot_sum_apply(t, state, c, out);
}

static uint64_t matrix_bytes(const ingot_method_tensor *t, int64_t n_out, int64_t n_in)
{
  uint64_t m = (uint64_t)n_out, n = (uint64_t)n_in;
  if (metric_of(t) == METRIC_GRAM) return 8 * (2 * n * n + 4 * m * n);
  return 8 * (n * n + m * m + 5 * m * n);
}

static double matrix_flops(const ingot_method_tensor *t, int64_t n_out, int64_t n_in)
{
  double m = (double)n_out, n = (double)n_in, applications = t->global[GLOBAL_ITERATIONS] + 1;
  if (metric_of(t) == METRIC_GRAM) return 2 * m * n * n * (applications + t->n_model);
  return 2 * m * n * (m + n) * t->n_model * (applications + 1);
}

/* A system that is being solved. */
typedef struct mats {
  ingot_gram_job     j;
  bool               kfac;
  ingot_linalg_array s;          /* gram: the sum; kfac: room for a model's input matrix */
  ingot_linalg_array b, between; /* kfac: room for a model's output matrix, and for X A */
  ingot_linalg_array x, r, p, q; /* [m][n] */
} mats;

/* y = (factor of model i) B_i v A_i + keep * y */
static ingot_status add_kfac(mats *s, int i, const ingot_linalg_array *v, double keep, ingot_linalg_array *y)
{
  ingot_status            st = INGOT_OK;
  const ingot_gram_job   *j = &s->j;
  const ingot_linalg_ops *ops = j->l->ops;
  INGOT_TRY(ingot_gram_load(j, i, &s->s));
  INGOT_TRY(ops->multiply(j->l, j->m, j->n, j->n, 1, v, &s->s, 0, &s->between));
  INGOT_TRY(ingot_gram_load(j, j->t->n_model + i, &s->b));
  INGOT_TRY(ops->multiply(j->l, j->m, j->n, j->m, ingot_gram_weight(j, i), &s->b, &s->between, keep, y));
done:
  return st;
}

/* y = sum of C_i v */
static ingot_status operate(mats *s, const ingot_linalg_array *v, ingot_linalg_array *y)
{
  const ingot_gram_job *j = &s->j;
  ingot_status          st = INGOT_OK;
  if (!s->kfac) return j->l->ops->multiply(j->l, j->m, j->n, j->n, 1, v, &s->s, 0, y);
  for (int i = 0; i < j->t->n_model; i++) INGOT_TRY(add_kfac(s, i, v, i > 0 ? 1 : 0, y));
done:
  return st;
}

/* r = sum of C_i W_i; p and q are room. */
static ingot_status right_hand_side(mats *s)
{
  const ingot_gram_job *j = &s->j;
  ingot_status          st = INGOT_OK;
  ingot_linalg_array    g = {0};
  int                   base = j->t->has_base ? 1 : 0;
  if (!s->kfac) {
    INGOT_TRY(j->l->ops->alloc(j->l, j->n * j->n, &g));
    INGOT_TRY(ingot_gram_sums(j, &g, &s->q, &s->s, &s->r));
    goto done;
  }
  for (int i = 0; i < j->t->n_model; i++) {
    INGOT_TRY(ingot_gram_load_weight(j, base + i, &s->q));
    INGOT_TRY(add_kfac(s, i, &s->q, i > 0 ? 1 : 0, &s->r));
  }
done:
  j->l->ops->free(j->l, &g);
  return st;
}

static ingot_status make_start(mats *s)
{
  const ingot_gram_job *j = &s->j;
  if (j->t->global[GLOBAL_START] == START_MEAN) return ingot_gram_mean(j, &s->q, &s->x);
  if (j->t->global[GLOBAL_START] == START_BASE) return ingot_gram_load_weight(j, 0, &s->x);
  return INGOT_OK; /* zeros, as allocated */
}

/* As a part of the largest curvature seen: what sums of squares that are stored in float32 never have below zero. */
#define NEGATIVE 1e-3

static ingot_status iterate(mats *s, ingot_matrix_report *report)
{
  ingot_status            st = INGOT_OK;
  ingot_linalg           *l = s->j.l;
  const ingot_linalg_ops *ops = l->ops;
  const double           *global = s->j.t->global;
  int64_t                 size = s->j.m * s->j.n;
  double                  bb, rr, pp, pq, qq, next, largest = 0;
  INGOT_TRY(ops->dot(l, size, &s->r, &s->r, &bb));
  INGOT_TRY(operate(s, &s->x, &s->q));
  INGOT_TRY(ops->axpby(l, size, -1, &s->q, 1, &s->r));
  INGOT_TRY(ops->copy(l, &s->r, size, &s->p));
  INGOT_TRY(ops->dot(l, size, &s->r, &s->r, &rr));
  INGOT_CHECK(isfinite(bb) && isfinite(rr), INGOT_ERR_NUMERIC, "%s: the right-hand side is not finite", s->j.t->name);
  double enough = global[GLOBAL_TOLERANCE] * sqrt(bb);
  while (sqrt(rr) > enough && (double)report->n_iteration < global[GLOBAL_ITERATIONS]) {
    INGOT_TRY(operate(s, &s->p, &s->q));
    INGOT_TRY(ops->dot(l, size, &s->p, &s->q, &pq));
    INGOT_TRY(ops->dot(l, size, &s->p, &s->p, &pp));
    INGOT_TRY(ops->dot(l, size, &s->q, &s->q, &qq));
    largest = fmax(largest, sqrt(qq / pp));
    INGOT_CHECK(
        !(pq < -NEGATIVE * largest * pp), INGOT_ERR_NUMERIC,
        "%s: the sum of the models' matrices is not positive: a direction has the curvature %g, others up to %g",
        s->j.t->name, pq / pp, largest);
    if (!(pq > 0)) break; /* a null direction, but for rounding: no step along it */
    INGOT_TRY(ops->axpby(l, size, rr / pq, &s->p, 1, &s->x));
    INGOT_TRY(ops->axpby(l, size, -rr / pq, &s->q, 1, &s->r));
    INGOT_TRY(ops->dot(l, size, &s->r, &s->r, &next));
    INGOT_TRY(ops->axpby(l, size, 1, &s->r, next / rr, &s->p));
    rr = next;
    report->n_iteration++;
  }
  report->residual = bb > 0 ? sqrt(rr / bb) : sqrt(rr);
  report->unfinished = sqrt(rr) > enough;
done:
  return st;
}

static ingot_status matrix_solve(const ingot_method_tensor *t, int64_t n_out, int64_t n_in, ingot_linalg *l,
                                 const ingot_matrix_feed *feed, ingot_matrix_report *report)
{
  ingot_status              st = INGOT_OK;
  mats                      s = {.kfac = metric_of(t) == METRIC_KFAC,
                                 .j = {.t = t, .step = 1, .m = n_out, .n = n_in, .l = l, .feed = feed, .alpha = t->global[GLOBAL_ALPHA]}};
  ingot_linalg_array *const vectors[] = {&s.x, &s.r, &s.p, &s.q};
  *report = (ingot_matrix_report){0};
  INGOT_TRY(l->ops->alloc(l, n_in * n_in, &s.s));
  for (int i = 0; i < 4; i++) INGOT_TRY(l->ops->alloc(l, n_out * n_in, vectors[i]));
  if (s.kfac) {
    INGOT_TRY(l->ops->alloc(l, n_out * n_out, &s.b));
    INGOT_TRY(l->ops->alloc(l, n_out * n_in, &s.between));
  }
  INGOT_TRY(right_hand_side(&s));
  INGOT_TRY(make_start(&s));
  INGOT_TRY(iterate(&s, report));
  INGOT_TRY(ingot_gram_give(&s.j, &s.x));
done:
  for (int i = 0; i < 4; i++) l->ops->free(l, vectors[i]);
  l->ops->free(l, &s.s);
  l->ops->free(l, &s.b);
  l->ops->free(l, &s.between);
  return st;
}

static const ingot_matrix_ops matrix = {.bytes = matrix_bytes, .flops = matrix_flops, .solve = matrix_solve};

const ingot_method ingot_method_mats = {
    .name = "mats",
    .summary = "matching task subspaces: conjugate gradients on a metric of every model, from any start",
    .source = "Tam, Bansal and Raffel 2023, arXiv 2312.04339",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_START,
    .min_models = 1,
    .needs = INGOT_NEED_FISHER | INGOT_NEED_GRAM | INGOT_NEED_OUTPUT_GRAM,
    .wants = wants,
    .grain = grain,
    .cost = cost,
    .check = check,
    .state_bytes = state_bytes,
    .begin = begin,
    .apply = apply,
    .device = INGOT_DEVICE_OPS(mats),
    .matrix = &matrix,
};
