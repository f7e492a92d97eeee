/** The weighted sum on the GPU, for methods whose state is an ingot_sum_state. CUDA sources only. */
#ifndef INGOT_KERNELS_FAMILIES_SUM_APPLY_CUH
#define INGOT_KERNELS_FAMILIES_SUM_APPLY_CUH

#include "kernels/method.h"

/** ingot_device_ops.apply of the family. */
ingot_status ingot_device_sum_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c);

#endif
