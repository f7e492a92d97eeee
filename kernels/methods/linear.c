/** linear: the weighted average of models. */
#include <math.h>

#include "kernels/families/delta.h"
#include "kernels/families/device_ops.h"
#include "kernels/families/sum.h"

enum { GLOBAL_NORMALIZE };

static const ingot_param_spec params[] = {
    {.name = "normalize",
     .type = INGOT_PARAM_BOOL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1,
     .help = "divide by the sum of the weights"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .required = true,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the model"},
};

static ingot_grain grain(const ingot_method_tensor *t)
{
  (void)t;
  return INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return t->n_model + 1;
}

static ingot_status check(const ingot_method_tensor *t)
{
  return ingot_delta_check_weights(t, 1, t->global[GLOBAL_NORMALIZE] != 0, 1e-12);
}

/* One model, normalized, is that model. */
static bool is_alone(const ingot_method_tensor *t)
{
  return t->n_model == 1 && t->global[GLOBAL_NORMALIZE] != 0;
}

static bool is_copy(const ingot_method_tensor *t)
{
  return is_alone(t) || (t->n_model == 1 && t->per_model[0] == 1);
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  return ingot_sum_state_bytes(t->n_model);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_sum_state *s = state;
  double           sum = 0;
  for (int i = 0; i < t->n_model; i++) {
    ingot_sum_coef(s)[i] = is_alone(t) ? 1.0f : (float)t->per_model[i];
    sum += t->per_model[i];
  }
  s->n_input = t->n_model;
  s->divide = t->global[GLOBAL_NORMALIZE] != 0 && !is_alone(t);
  s->divisor = s->divide ? (float)sum : 1.0f;
  return INGOT_OK;
}

const ingot_method ingot_method_linear = {
    .name = "linear",
    .summary = "weighted average of the models",
    .source = "Wortsman et al. 2022, arXiv 2203.05482; mergekit",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_UNUSED,
    .min_models = 1,
    .grain = grain,
    .cost = cost,
    .check = check,
    .is_copy = is_copy,
    .state_bytes = state_bytes,
    .begin = begin,
    .apply = ingot_sum_apply,
    .apply_bf16 = ingot_sum_apply_bf16,
    .device = INGOT_DEVICE_OPS(sum),
};
