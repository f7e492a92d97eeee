/**
 * The numbers behind slerp, shared by CPU and GPU: three float64 sums over a tensor give two coefficients.
 *
 * Slot of a tile: double sum[3] = { v0.v0, v1.v1, v0.v1 }, added up over blocks (ingot_block_dot) in block order. Input
 * 0 (v0) is the base, input 1 the model. The state is an ingot_sum_state with two coefficients.
 */
#ifndef INGOT_KERNELS_FAMILIES_SLERP_H
#define INGOT_KERNELS_FAMILIES_SLERP_H

#include "kernels/families/sum.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_PASS_SLERP = 1, INGOT_SLERP_SUMS = 3 };

/** Coefficients of v0 and v1 from the sums of squares and the dot product. */
void ingot_slerp_coefficients(const double sum[INGOT_SLERP_SUMS], double t, double coef[2]);
/** tensor.next of slerp, for the CPU and the GPU: one pass with the slots above. */
ingot_status ingot_slerp_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                              ingot_scan_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
