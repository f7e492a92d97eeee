/** The upper triangle of a matrix on a GPU as the elements of a statistics file. Without CUDA: INGOT_ERR_DEVICE. */
#ifndef INGOT_KERNELS_GRAM_PACK_H
#define INGOT_KERNELS_GRAM_PACK_H

#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * packed [n] = elements first .. first + n - 1 of the upper triangle by rows of sum [width][width], each times scale in
 * float64 and then rounded to float32. Device memory; enqueued on `stream`.
 */
ingot_status ingot_gram_pack(int64_t width, const double *sum, double scale, int64_t first, int64_t n, float *packed,
                             void *stream);

#ifdef __cplusplus
}
#endif
#endif
