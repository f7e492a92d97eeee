/** regmean: every linear layer by the regression that its inputs' Gram matrices pose; the mean for everything else. */
#include <math.h>
#include <stdlib.h>

#include "kernels/families/device_ops.h"
#include "kernels/families/fisher.h"
#include "kernels/families/gram.h"
#include "kernels/families/sum.h"

enum { GLOBAL_ALPHA, GLOBAL_RIDGE };

static const ingot_param_spec params[] = {
    {.name = "alpha",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 0.9,
     .min = 0,
     .max = 1,
     .help = "factor of the Gram matrices' off-diagonal elements; 0: their diagonals alone"},
    {.name = "ridge",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 0,
     .min = 0,
     .max = 1,
     .help = "added to the diagonal of the sum, in units of its mean; grows from 1e-6 where the sum is not positive "
             "definite"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = 0,
     .max = INFINITY,
     .help = "factor of the model's Gram matrices, and of the model in means"},
};

static unsigned wants(const ingot_method_tensor *t)
{
  return t->shape.n_dim == 2 && t->n_elem > 0 ? INGOT_NEED_GRAM : 0;
}

static ingot_grain grain(const ingot_method_tensor *t)
{
  return t->n_statistic > 0 ? INGOT_GRAIN_MATRIX : INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return t->n_model + 1;
}

static ingot_status check(const ingot_method_tensor *t)
{
  return ingot_fisher_check(t, 1);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_gram_mean_begin(t, 1, state);
  return INGOT_OK;
}

static uint64_t matrix_bytes(const ingot_method_tensor *t, int64_t n_out, int64_t n_in)
{
  (void)t;
  uint64_t m = (uint64_t)n_out, n = (uint64_t)n_in;
  return 8 * (2 * n * n + 2 * m * n) + 40 * n;
}

static double matrix_flops(const ingot_method_tensor *t, int64_t n_out, int64_t n_in)
{
  double m = (double)n_out, n = (double)n_in;
  return n * n * n / 3 + 2 * m * n * n * (t->n_model + 1);
}

/* Features that are 0 in every model have no equation: they get the mean of the weights. */
static ingot_status fill_dead(const ingot_gram_job *j, const double *diagonal, ingot_linalg_array *w,
                              ingot_linalg_array *mean, ingot_linalg_array *x)
{
  ingot_status st = INGOT_OK;
  double      *column = malloc(((size_t)j->m + 1) * sizeof *column);
  INGOT_CHECK(column, INGOT_ERR_NOMEM, "no memory for a column of %lld", (long long)j->m);
  INGOT_TRY(ingot_gram_mean(j, w, mean));
  for (int64_t i = 0; i < j->n; i++) {
    if (diagonal[i] != 0) continue;
    INGOT_TRY(j->l->ops->get_column(j->l, j->m, j->n, i, mean, column));
    INGOT_TRY(j->l->ops->set_column(j->l, j->m, j->n, i, column, x));
  }
done:
  free(column);
  return st;
}

/* Dead features get a diagonal element of the size of the others, so that the sum can be factored; true when all are
 * dead. */
static bool revive(int64_t n, const double *diagonal, double *revived, int64_t *n_dead)
{
  double sum = 0;
  *n_dead = 0;
  for (int64_t i = 0; i < n; i++) {
    sum += diagonal[i];
    *n_dead += diagonal[i] == 0;
  }
  for (int64_t i = 0; i < n; i++) revived[i] = diagonal[i] == 0 ? sum / (double)(n - *n_dead) : diagonal[i];
  return *n_dead == n;
}

static ingot_status matrix_solve(const ingot_method_tensor *t, int64_t n_out, int64_t n_in, ingot_linalg *l,
                                 const ingot_matrix_feed *feed, ingot_matrix_report *report)
{
  ingot_status            st = INGOT_OK;
  const ingot_linalg_ops *ops = l->ops;
  ingot_linalg_array      s = {0}, g = {0}, r = {0}, w = {0};
  ingot_gram_job j = {.t = t, .step = 1, .m = n_out, .n = n_in, .l = l, .feed = feed, .alpha = t->global[GLOBAL_ALPHA]};
  double        *diagonal = malloc((size_t)n_in * sizeof *diagonal), *revived = malloc((size_t)n_in * sizeof *revived);
  *report = (ingot_matrix_report){0};
  INGOT_CHECK(diagonal && revived, INGOT_ERR_NOMEM, "no memory for a diagonal of %lld", (long long)n_in);
  INGOT_TRY(ops->alloc(l, n_in * n_in, &s));
  INGOT_TRY(ops->alloc(l, n_in * n_in, &g));
  INGOT_TRY(ops->alloc(l, n_out * n_in, &r));
  INGOT_TRY(ops->alloc(l, n_out * n_in, &w));
  INGOT_TRY(ingot_gram_sums(&j, &g, &w, &s, &r));
  ops->free(l, &g);

  INGOT_TRY(ops->get_diagonal(l, n_in, &s, diagonal));
  if (revive(n_in, diagonal, revived, &report->n_dead)) {
    INGOT_TRY(ingot_gram_mean(&j, &w, &r));
    INGOT_TRY(ingot_gram_give(&j, &r));
    goto done;
  }
  INGOT_TRY(ops->set_diagonal(l, n_in, revived, &s));
  report->ridge = t->global[GLOBAL_RIDGE];
  INGOT_TRY(ingot_linalg_factor_ridge(l, t->name, n_in, &s, &report->ridge));
  INGOT_TRY(ops->solve(l, n_out, n_in, &s, &r));
  ops->free(l, &s);
  if (report->n_dead > 0) {
    INGOT_TRY(ops->alloc(l, n_out * n_in, &g));
    INGOT_TRY(fill_dead(&j, diagonal, &w, &g, &r));
  }
  INGOT_TRY(ingot_gram_give(&j, &r));
done:
  ops->free(l, &s);
  ops->free(l, &g);
  ops->free(l, &r);
  ops->free(l, &w);
  free(diagonal);
  free(revived);
  return st;
}

static const ingot_matrix_ops matrix = {.bytes = matrix_bytes, .flops = matrix_flops, .solve = matrix_solve};

const ingot_method ingot_method_regmean = {
    .name = "regmean",
    .summary = "regression mean: linear layers by their inputs' Gram matrices, the mean for the rest",
    .source = "Jin et al. 2022, arXiv 2212.09849",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_UNUSED,
    .min_models = 1,
    .needs = INGOT_NEED_GRAM,
    .wants = wants,
    .grain = grain,
    .cost = cost,
    .check = check,
    .state_bytes = ingot_gram_mean_state_bytes,
    .begin = begin,
    .apply = ingot_sum_apply,
    .apply_bf16 = ingot_sum_apply_bf16,
    .device = INGOT_DEVICE_OPS(sum),
    .matrix = &matrix,
};
