/**
 * Conversion between storage dtypes and float32, on the CPU. Widening is exact except for F64 (rounded to nearest
 * even); narrowing rounds to nearest even once. Overflow on narrowing gives infinity, or NaN for F8_E4M3, which has
 * none (as PyTorch does). NaN stays NaN.
 */
#ifndef INGOT_KERNELS_CONVERT_H
#define INGOT_KERNELS_CONVERT_H

#include <stdint.h>

#include "base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Widen n elements of a floating-point dtype. src needs no alignment; dst must not overlap it. */
void ingot_widen(ingot_dtype d, const void *src, float *dst, int64_t n);
/** As ingot_widen; returns how many of the values are NaN or infinite. */
int64_t ingot_widen_counting(ingot_dtype d, const void *src, float *dst, int64_t n);
/** Round n float32 values to a floating-point dtype. dst needs no alignment. */
void ingot_narrow(ingot_dtype d, const float *src, void *dst, int64_t n);
/** Replace NaN and infinities in v by fill[i], or by 0 when fill is NULL. */
void ingot_replace_nonfinite(float *v, const float *fill, int64_t n);
/** Index of the first NaN or infinity among n stored elements, or -1. *is_nan tells which it is. */
int64_t ingot_first_nonfinite(ingot_dtype d, const void *src, int64_t n, bool *is_nan);
/** How many of n values are below zero: neither -0.0 nor NaN is. */
int64_t ingot_count_negative(const float *v, int64_t n);
/** Index of the first of n stored elements that is below zero when widened, or -1. */
int64_t ingot_first_negative(ingot_dtype d, const void *src, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
