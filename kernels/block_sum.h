/**
 * Float64 sums over a block of at most INGOT_BLOCK float32 elements, with one fixed order that a GPU can follow:
 *
 *   lane j (0 .. 31) adds up the terms of elements j, j + 32, j + 64, ... in this order, starting from 0;
 *   then lane j += lane j + 16 for j < 16, lane j += lane j + 8 for j < 8, and so with 4, 2 and 1; lane 0 is the sum.
 *
 * Sums of magnitudes first add four of a lane's terms in float32: elements i, i + 32, i + 64 and i + 96, in this order,
 * with i % 128 < 32. A quarter of the conversions to float64 is left, and an error below that of the float32 result.
 *
 * A short block has fewer terms; nothing stands in for the missing ones. (Adding +0 for them would not change a bit.)
 * Sums over a tile add block sums in block order, sums over a tensor add tile sums in tile order.
 */
#ifndef INGOT_KERNELS_BLOCK_SUM_H
#define INGOT_KERNELS_BLOCK_SUM_H

#include <stdint.h>

#include "kernels/x86.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_SUM_LANES = 32, INGOT_SUM_FIRST = 4 /* magnitudes that are added in float32 */ };

/** Sum of |x|. */
double ingot_block_sum_abs(const float *x, int64_t n);
/** Sum of (double)a * (double)b, each product exact. */
double ingot_block_dot(const float *a, const float *b, int64_t n);

/**
 * Two sums of |x - base| (the difference in float32): *whole over all elements, *kept over those whose `keep` is
 * 0xffff, not 0, the others adding +0.
 */
void ingot_block_sum_masked(const float *x, const float *base, const uint16_t *keep, int64_t n, double *whole,
                            double *kept);
/** The same two sums, bit for bit, of elements stored as bfloat16, in any alignment and all finite. */
void ingot_block_sum_masked_bf16(const void *x, const void *base, const uint16_t *keep, int64_t n, double *whole,
                                 double *kept);

#if INGOT_HAVE_AVX512
/**
 * The same with masks that are drawn on the way (kernels/random_mask.h): `first`, the flat index of the block, is a
 * multiple of INGOT_MASK_ROUND. bits: NULL, or room for the masks as ingot_random_mask_bits leaves them. False, and the
 * sums undefined, when an element is NaN or infinite, or a sum of four magnitudes.
 */
bool ingot_block_sum_drawn_avx512(const void *x, const void *base, uint64_t stream, uint64_t threshold, int64_t first,
                                  int64_t n, unsigned char *bits, double *whole, double *kept);
/**
 * The ingot_block_dot of a with a, b with b and a with b, of elements stored as bfloat16 in any alignment; false, and
 * the sums undefined, when one is NaN or infinite.
 */
bool ingot_block_dots_avx512(const void *a, const void *b, int64_t n, double sum[3]);
#endif

#ifdef __cplusplus
}
#endif
#endif
