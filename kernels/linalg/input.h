/** What the back ends of kernels/linalg share about inputs: where their elements belong. On the CPU and in CUDA
 * kernels. */
#ifndef INGOT_KERNELS_LINALG_INPUT_H
#define INGOT_KERNELS_LINALG_INPUT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/philox.h" /* INGOT_HOST_DEVICE */

/** Where row i begins among the elements of a packed upper triangle of width n. */
static inline INGOT_HOST_DEVICE int64_t ingot_packed_row_start(int64_t n, int64_t i)
{
  return i * n - i * (i - 1) / 2;
}

/** The row of element e of a packed upper triangle: from the root of a quadratic, then put right. */
static inline INGOT_HOST_DEVICE int64_t ingot_packed_row(int64_t n, int64_t e)
{
  double  b = (double)n + 0.5, under = b * b - 2.0 * (double)e;
  int64_t i = (int64_t)(b - sqrt(under > 0.0 ? under : 0.0));
  if (i < 0) i = 0;
  if (i > n - 1) i = n - 1;
  while (i > 0 && ingot_packed_row_start(n, i) > e) i--;
  while (i + 1 < n && ingot_packed_row_start(n, i + 1) <= e) i++;
  return i;
}

/**
 * Whether element (i, j) below the diagonal is the image of (j, i) but for rounding: 1e-3 of the larger of both and of
 * the diagonal element (j, j).
 */
static inline INGOT_HOST_DEVICE bool ingot_symmetric_alike(float above, float below, float diagonal)
{
  float larger = fabsf(above) > fabsf(below) ? fabsf(above) : fabsf(below);
  if (diagonal > larger) larger = diagonal;
  return !(fabsf(above - below) > 1e-3f * larger);
}

/** The mean of an element and its image; no overflow. */
static inline INGOT_HOST_DEVICE float ingot_symmetric_mean(float above, float below)
{
  return 0.5f * above + 0.5f * below;
}

#endif
