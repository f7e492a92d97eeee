/** task_arithmetic: the base plus a weighted sum of task vectors. */
#include <math.h>

#include "kernels/families/delta.h"
#include "kernels/families/device_ops.h"

enum { GLOBAL_NORMALIZE, GLOBAL_LAMBDA };

static const ingot_param_spec params[] = {
    {.name = "normalize",
     .type = INGOT_PARAM_BOOL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 0,
     .help = "divide by the sum of the weights"},
    {.name = "lambda",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the combined task vector"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .required = true,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the model's task vector; negative to forget a task"},
};

static ingot_grain grain(const ingot_method_tensor *t)
{
  (void)t;
  return INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return 2.0 * t->n_model + 2;
}

static ingot_status check(const ingot_method_tensor *t)
{
  return ingot_delta_check_weights(t, 1, t->global[GLOBAL_NORMALIZE] != 0, 1e-8);
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  return ingot_delta_state_bytes(t->n_model);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_delta_begin(t, 1, false, t->global[GLOBAL_NORMALIZE] != 0, t->global[GLOBAL_LAMBDA], state);
  return INGOT_OK;
}

const ingot_method ingot_method_task_arithmetic = {
    .name = "task_arithmetic",
    .summary = "base plus the weighted sum of task vectors",
    .source = "Ilharco et al. 2022, arXiv 2212.04089; mergekit",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_TASK_VECTOR,
    .min_models = 1,
    .grain = grain,
    .cost = cost,
    .check = check,
    .state_bytes = state_bytes,
    .begin = begin,
    .apply = ingot_delta_apply,
    .apply_bf16 = ingot_delta_apply_bf16,
    .device = INGOT_DEVICE_OPS(delta),
};
