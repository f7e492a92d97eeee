/** slerp: spherical interpolation between the base and one model. */
#include <math.h>

#include "kernels/block_sum.h"
#include "kernels/families/device_ops.h"
#include "kernels/families/slerp.h"

enum { GLOBAL_T };

static const ingot_param_spec params[] = {
    {.name = "t",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .required = true,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "position between the base (0) and the model (1)"},
};

/* mergekit's constants: shorter vectors count as zero, and nearly parallel ones are interpolated on the straight
 * line. */
static const double shortest_norm = 1e-8, parallel = 0.9995;

void ingot_slerp_coefficients(const double sum[INGOT_SLERP_SUMS], double t, double coef[2])
{
  double norm0 = sqrt(sum[0]), norm1 = sqrt(sum[1]), cosine = sum[2];
  cosine /= norm0 > shortest_norm ? norm0 : 1;
  cosine /= norm1 > shortest_norm ? norm1 : 1;
  if (fabs(cosine) > parallel) {
    coef[0] = 1 - t;
    coef[1] = t;
    return;
  }
  double angle = acos(cosine), sine = sin(angle);
  coef[0] = sin((1 - t) * angle) / sine;
  coef[1] = sin(t * angle) / sine;
}

ingot_status ingot_slerp_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                              ingot_scan_plan *plan)
{
  *plan = (ingot_scan_plan){.pass = INGOT_PASS_SLERP, .slot_bytes = INGOT_SLERP_SUMS * sizeof(double)};
  if (!result) return INGOT_OK;
  ingot_sum_state *s = state;
  const double    *slot = result->slots;
  double           sum[INGOT_SLERP_SUMS] = {0}, coef[2];
  for (int64_t tile = 0; tile < result->n_slot; tile++)
    for (int i = 0; i < INGOT_SLERP_SUMS; i++) sum[i] += slot[tile * INGOT_SLERP_SUMS + i];
  ingot_slerp_coefficients(sum, t->global[GLOBAL_T], coef);
  ingot_sum_coef(s)[0] = (float)coef[0];
  ingot_sum_coef(s)[1] = (float)coef[1];
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  return INGOT_OK;
}

static void scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, const ingot_chunk *c,
                 void *slot, int64_t *sums)
{
  (void)t, (void)state, (void)plan, (void)sums;
  double *sum = slot;
  sum[0] += ingot_block_dot(c->in[0], c->in[0], c->n);
  sum[1] += ingot_block_dot(c->in[1], c->in[1], c->n);
  sum[2] += ingot_block_dot(c->in[0], c->in[1], c->n);
}

static bool scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, int64_t first,
                      int64_t n, const void *const *in, void *slot, int64_t *sums)
{
  (void)t, (void)state, (void)plan, (void)first, (void)sums;
#if INGOT_HAVE_AVX512
  double block[INGOT_SLERP_SUMS], *sum = slot;
  if (!ingot_has_avx512() || !ingot_block_dots_avx512(in[0], in[1], n, block)) return false;
  for (int i = 0; i < INGOT_SLERP_SUMS; i++) sum[i] += block[i];
  return true;
#else
  (void)n, (void)in, (void)slot;
  return false;
#endif
}

static ingot_grain grain(const ingot_method_tensor *t)
{
  (void)t;
  return INGOT_GRAIN_TENSOR;
}

static double cost(const ingot_method_tensor *t)
{
  (void)t;
  return 9;
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  (void)t;
  return ingot_sum_state_bytes(2);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  (void)t;
  ingot_sum_state *s = state;
  s->n_input = 2;
  s->divisor = 1.0f;
  return INGOT_OK;
}

const ingot_method ingot_method_slerp = {
    .name = "slerp",
    .summary = "spherical interpolation between the base and one model",
    .source = "Shoemake 1985; mergekit",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_ENDPOINT,
    .min_models = 1,
    .max_models = 1,
    .grain = grain,
    .cost = cost,
    .state_bytes = state_bytes,
    .begin = begin,
    .tensor = {ingot_slerp_next, scan, scan_bf16},
    .apply = ingot_sum_apply,
    .apply_bf16 = ingot_sum_apply_bf16,
    .device = INGOT_DEVICE_OPS(slerp),
};
