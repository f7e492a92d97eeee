/** What dare_linear and dare_ties share: random masks and their rescaling. */
#ifndef INGOT_KERNELS_FAMILIES_DARE_H
#define INGOT_KERNELS_FAMILIES_DARE_H

#include "kernels/families/delta.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The parameter table of both; indices below. */
enum { INGOT_DARE_NORMALIZE, INGOT_DARE_LAMBDA, INGOT_DARE_RESCALE, INGOT_DARE_N_GLOBAL };
enum { INGOT_DARE_WEIGHT, INGOT_DARE_DENSITY, INGOT_DARE_N_PER_MODEL };
enum { INGOT_DARE_N_PARAM = INGOT_DARE_N_GLOBAL + INGOT_DARE_N_PER_MODEL };
extern const ingot_param_spec ingot_dare_params[INGOT_DARE_N_PARAM];

ingot_grain  ingot_dare_grain(const ingot_method_tensor *t);
double       ingot_dare_cost(const ingot_method_tensor *t);
ingot_status ingot_dare_check(const ingot_method_tensor *t);
size_t       ingot_dare_state_bytes(const ingot_method_tensor *t);
ingot_status ingot_dare_begin_sum(const ingot_method_tensor *t, void *state);
ingot_status ingot_dare_begin_vote(const ingot_method_tensor *t, void *state);
/**
 * tensor.next and scan_bf16: the L1 pass. Drawing the masks is most of its work, and merging needs the same ones: of up
 * to 8 models they stay in the pass's slots as bits, where a tensor's take no more than INGOT_DARE_MASK_BYTES.
 */
enum { INGOT_DARE_MASK_BYTES = 32 << 20 };
ingot_status ingot_dare_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                             ingot_scan_plan *plan);
bool ingot_dare_scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, int64_t first,
                          int64_t n, const void *const *in, void *slot, int64_t *sums);

/** All of a descriptor but its name and summary; the file that uses it includes families/device_ops.h. */
#define INGOT_DARE_METHOD(begin_function)                                                                             \
  .source = "Yu et al. 2023, arXiv 2311.03099; mergekit", .params = ingot_dare_params, .n_param = INGOT_DARE_N_PARAM, \
  .base = INGOT_BASE_TASK_VECTOR, .min_models = 1, .grain = ingot_dare_grain, .cost = ingot_dare_cost,                \
  .check = ingot_dare_check, .state_bytes = ingot_dare_state_bytes, .begin = begin_function,                          \
  .tensor = {ingot_dare_next, ingot_delta_l1_method_scan, ingot_dare_scan_bf16}, .apply = ingot_delta_apply,          \
  .apply_bf16 = ingot_delta_apply_bf16, .device = INGOT_DEVICE_OPS(dare)

#ifdef __cplusplus
}
#endif
#endif
