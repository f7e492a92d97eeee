/** Counting values that cannot be used, in device memory. Without CUDA: INGOT_ERR_DEVICE. */
#ifndef INGOT_KERNELS_COUNT_BAD_H
#define INGOT_KERNELS_COUNT_BAD_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Add to *count how many of n stored elements are below zero when widened, as ingot_count_negative does. src (256-byte
 * aligned) and count are device memory; enqueued on `stream`.
 */
ingot_status ingot_device_count_negative(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream);
/** The same of NaN and infinities, as ingot_widen_counting does: for inputs that a kernel has no use for. */
ingot_status ingot_device_count_nonfinite(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream);

#ifdef __cplusplus
}
#endif
#endif
