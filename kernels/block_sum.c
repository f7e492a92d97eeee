#include "kernels/block_sum.h"

#include <math.h>

#include "kernels/clones.h"
#include "kernels/convert_scalar.h"

/* Lane arithmetic is left to the vectoriser: the inner loops have a fixed length and independent iterations. */

INGOT_INLINE double fold(double lane[INGOT_SUM_LANES])
{
  for (int width = INGOT_SUM_LANES / 2; width > 0; width /= 2)
    for (int j = 0; j < width; j++) lane[j] += lane[j + width];
  return lane[0];
}

INGOT_CLONES double ingot_block_sum_abs(const float *restrict x, int64_t n)
{
  double  lane[INGOT_SUM_LANES] = {0};
  int64_t whole = n - n % INGOT_SUM_LANES;
  for (int64_t i = 0; i < whole; i += INGOT_SUM_LANES)
    for (int j = 0; j < INGOT_SUM_LANES; j++) lane[j] += (double)fabsf(x[i + j]);
  for (int64_t i = whole; i < n; i++) lane[i - whole] += (double)fabsf(x[i]);
  return fold(lane);
}

INGOT_CLONES double ingot_block_dot(const float *restrict a, const float *restrict b, int64_t n)
{
  double  lane[INGOT_SUM_LANES] = {0};
  int64_t whole = n - n % INGOT_SUM_LANES;
  for (int64_t i = 0; i < whole; i += INGOT_SUM_LANES)
    for (int j = 0; j < INGOT_SUM_LANES; j++) lane[j] += (double)a[i + j] * (double)b[i + j];
  for (int64_t i = whole; i < n; i++) lane[i - whole] += (double)a[i] * (double)b[i];
  return fold(lane);
}

/* |x - base| with all bits of `keep` that are not 0: no branch, no select. */
INGOT_INLINE double masked(float magnitude, uint16_t keep)
{
  return (double)ingot_f32_of_bits(ingot_bits_of_f32(magnitude) & (uint32_t)(int32_t)(int16_t)keep);
}

INGOT_CLONES void ingot_block_sum_masked(const float *restrict x, const float *restrict base,
                                         const uint16_t *restrict keep, int64_t n, double *whole, double *kept)
{
  double  all[INGOT_SUM_LANES] = {0}, some[INGOT_SUM_LANES] = {0};
  int64_t full = n - n % INGOT_SUM_LANES;
  for (int64_t i = 0; i < full; i += INGOT_SUM_LANES) {
    float magnitude[INGOT_SUM_LANES];
    for (int j = 0; j < INGOT_SUM_LANES; j++) magnitude[j] = fabsf(x[i + j] - base[i + j]);
    for (int j = 0; j < INGOT_SUM_LANES; j++) all[j] += (double)magnitude[j];
    for (int j = 0; j < INGOT_SUM_LANES; j++) some[j] += masked(magnitude[j], keep[i + j]);
  }
  for (int64_t i = full; i < n; i++) {
    float magnitude = fabsf(x[i] - base[i]);
    all[i - full] += (double)magnitude;
    some[i - full] += masked(magnitude, keep[i]);
  }
  *whole = fold(all);
  *kept = fold(some);
}
