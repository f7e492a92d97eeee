/** passthrough: one model's tensor, perhaps scaled. */
#include <math.h>

#include "kernels/families/device_ops.h"
#include "kernels/families/sum.h"

static const ingot_param_spec params[] = {
    {.name = "scale",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor; 1 copies the stored bytes when the dtypes agree"},
};

static ingot_grain grain(const ingot_method_tensor *t)
{
  (void)t;
  return INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  (void)t;
  return 1;
}

static bool is_copy(const ingot_method_tensor *t)
{
  return t->per_model[0] == 1;
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  (void)t;
  return ingot_sum_state_bytes(1);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_sum_state *s = state;
  s->n_input = 1;
  s->divisor = 1.0f;
  ingot_sum_coef(s)[0] = (float)t->per_model[0];
  return INGOT_OK;
}

const ingot_method ingot_method_passthrough = {
    .name = "passthrough",
    .summary = "one model as it is, perhaps scaled",
    .source = "mergekit",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_UNUSED,
    .min_models = 1,
    .max_models = 1,
    .grain = grain,
    .cost = cost,
    .is_copy = is_copy,
    .state_bytes = state_bytes,
    .begin = begin,
    .apply = ingot_sum_apply,
    .apply_bf16 = ingot_sum_apply_bf16,
    .device = INGOT_DEVICE_OPS(sum),
};
