/** dare_linear: random masks over the task vectors, then the rest as task_arithmetic. */
#include "kernels/families/dare.h"
#include "kernels/families/device_ops.h"

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_dare_begin(t, false, state);
  return INGOT_OK;
}

const ingot_method ingot_method_dare_linear = {
  .name = "dare_linear",
  .summary = "task vectors thinned out at random, then summed",
  .source = "Yu et al. 2023, arXiv 2311.03099; mergekit",
  .params = ingot_dare_params,
  .n_param = INGOT_DARE_N_PARAM,
  .base = INGOT_BASE_TASK_VECTOR,
  .min_models = 1,
  .grain = ingot_dare_grain,
  .cost = ingot_dare_cost,
  .check = ingot_dare_check,
  .state_bytes = ingot_dare_state_bytes,
  .begin = begin,
  .tensor = {ingot_delta_l1_next, ingot_delta_l1_method_scan, ingot_delta_l1_method_scan_bf16},
  .apply = ingot_delta_apply,
  .apply_bf16 = ingot_delta_apply_bf16,
  .device = INGOT_DEVICE_OPS(dare),
};
