/**
 * The weighted sum of tensors: out = sum over inputs of coef_i x_i, divided by `divisor` when `divide` is set.
 * Serves linear, passthrough and the second half of slerp.
 *
 * Order of the float32 operations, the same on CPU and GPU, none fused:
 *   acc = coef_0 * x_0
 *   acc = acc + coef_i * x_i          for i = 1 .. n_input - 1
 *   acc = acc / divisor               when divide is 1
 */
#ifndef INGOT_KERNELS_FAMILIES_SUM_H
#define INGOT_KERNELS_FAMILIES_SUM_H

#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Plain memory: this header, then float coef[n_input]. */
typedef struct ingot_sum_state {
  int32_t n_input; /* inputs 0 .. n_input - 1 of the tensor, at least 1 */
  int32_t divide;  /* 0 or 1 */
  float   divisor; /* never 0 when divide is 1 */
  int32_t reserved;
} ingot_sum_state;

static inline float *ingot_sum_coef(ingot_sum_state *s)
{
  return (float *)(s + 1);
}

static inline const float *ingot_sum_coef_const(const ingot_sum_state *s)
{
  return (const float *)(s + 1);
}

/** Bytes of a state for n_input inputs; a multiple of 16. */
size_t ingot_sum_state_bytes(int n_input);
/** ingot_method.apply of the family. */
void ingot_sum_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out);
/** ingot_method.apply_bf16 of the family. */
bool ingot_sum_apply_bf16(const ingot_method_tensor *t, const void *state, int64_t first, int64_t n,
                          const void *const *in, void *out);

#ifdef __cplusplus
}
#endif
#endif
