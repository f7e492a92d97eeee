#include "kernels/block_sum.h"

#include <math.h>
#include <string.h>

#include "kernels/bf16_pairs.h"
#include "kernels/clones.h"

/*
 * Lane arithmetic is left to the vectoriser: the inner loops have a fixed length and independent iterations. Loops over
 * magnitudes take whole rows; what remains is filled up with zeros, which change no sum.
 */
enum { LANES = INGOT_SUM_LANES, ROW = INGOT_SUM_LANES * INGOT_SUM_FIRST, PAIRS = INGOT_SUM_LANES / 2 };

INGOT_INLINE double fold(double lane[LANES])
{
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int j = 0; j < width; j++) lane[j] += lane[j + width];
  return lane[0];
}

static INGOT_CLONES void add_rows(const float *restrict x, int64_t n_row, double *restrict lane)
{
  double sum[LANES];
  memcpy(sum, lane, sizeof sum);
  for (int64_t row = 0; row < n_row; row++, x += ROW) {
    float first[LANES];
    for (int j = 0; j < LANES; j++)
      first[j] = fabsf(x[j]) + fabsf(x[LANES + j]) + fabsf(x[2 * LANES + j]) + fabsf(x[3 * LANES + j]);
    for (int j = 0; j < LANES; j++) sum[j] += (double)first[j];
  }
  memcpy(lane, sum, sizeof sum);
}

double ingot_block_sum_abs(const float *x, int64_t n)
{
  double  lane[LANES] = {0};
  int64_t n_row = n / ROW;
  add_rows(x, n_row, lane);
  if (n % ROW) {
    float last[ROW] = {0};
    memcpy(last, x + n_row * ROW, (size_t)(n % ROW) * sizeof *x);
    add_rows(last, 1, lane);
  }
  return fold(lane);
}

INGOT_CLONES double ingot_block_dot(const float *restrict a, const float *restrict b, int64_t n)
{
  double  lane[LANES] = {0};
  int64_t whole = n - n % LANES;
  for (int64_t i = 0; i < whole; i += LANES)
    for (int j = 0; j < LANES; j++) lane[j] += (double)a[i + j] * (double)b[i + j];
  for (int64_t i = whole; i < n; i++) lane[i - whole] += (double)a[i] * (double)b[i];
  return fold(lane);
}

/* |difference| with all bits of `keep` that are not 0: no branch, no select. */
INGOT_INLINE float masked(float magnitude, int32_t keep)
{
  return ingot_f32_of_bits(ingot_bits_of_f32(magnitude) & (uint32_t)keep);
}

static INGOT_CLONES void add_masked_rows(const float *restrict x, const float *restrict base,
                                         const uint16_t *restrict keep, int64_t n_row, double *restrict whole,
                                         double *restrict kept)
{
  double all[LANES], some[LANES];
  memcpy(all, whole, sizeof all);
  memcpy(some, kept, sizeof some);
  for (int64_t row = 0; row < n_row; row++, x += ROW, base += ROW, keep += ROW) {
    float first[LANES] = {0}, part[LANES] = {0};
    for (int q = 0; q < ROW; q += LANES) {
      for (int j = 0; j < LANES; j++) {
        float magnitude = fabsf(x[q + j] - base[q + j]);
        first[j] += magnitude;
        part[j] += masked(magnitude, (int16_t)keep[q + j]);
      }
    }
    for (int j = 0; j < LANES; j++) all[j] += (double)first[j];
    for (int j = 0; j < LANES; j++) some[j] += (double)part[j];
  }
  memcpy(whole, all, sizeof all);
  memcpy(kept, some, sizeof some);
}

void ingot_block_sum_masked(const float *x, const float *base, const uint16_t *keep, int64_t n, double *whole,
                            double *kept)
{
  double  all[LANES] = {0}, some[LANES] = {0};
  int64_t n_row = n / ROW, at = n_row * ROW;
  add_masked_rows(x, base, keep, n_row, all, some);
  if (at < n) {
    float    last[2][ROW] = {{0}};
    uint16_t flag[ROW] = {0};
    memcpy(last[0], x + at, (size_t)(n - at) * sizeof *x);
    memcpy(last[1], base + at, (size_t)(n - at) * sizeof *base);
    memcpy(flag, keep + at, (size_t)(n - at) * sizeof *keep);
    add_masked_rows(last[0], last[1], flag, 1, all, some);
  }
  *whole = fold(all);
  *kept = fold(some);
}

/* Lanes of the pairs' lower elements, then those of the upper ones. */
static INGOT_CLONES void add_masked_pairs(const unsigned char *restrict x, const unsigned char *restrict base,
                                          const unsigned char *restrict keep, int64_t n_row, double *restrict whole,
                                          double *restrict kept)
{
  double all[LANES], some[LANES];
  memcpy(all, whole, sizeof all);
  memcpy(some, kept, sizeof some);
  for (int64_t i = 0; i < n_row * (ROW / 2); i += ROW / 2) {
    float first[LANES] = {0}, part[LANES] = {0};
    for (int q = 0; q < ROW / 2; q += PAIRS) {
      for (int j = 0; j < PAIRS; j++) {
        ingot_pair a = ingot_pair_widen(ingot_pair_load(x, i + q + j)),
                   b = ingot_pair_widen(ingot_pair_load(base, i + q + j));
        uint32_t mask = ingot_pair_load(keep, i + q + j);
        float    low = fabsf(a.low - b.low), high = fabsf(a.high - b.high);
        first[j] += low;
        first[PAIRS + j] += high;
        part[j] += masked(low, (int32_t)(mask << 16) >> 16);
        part[PAIRS + j] += masked(high, (int32_t)mask >> 16);
      }
    }
    for (int j = 0; j < LANES; j++) all[j] += (double)first[j];
    for (int j = 0; j < LANES; j++) some[j] += (double)part[j];
  }
  memcpy(whole, all, sizeof all);
  memcpy(kept, some, sizeof some);
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
enum { LOW = 1, HIGH = 0 }; /* which element of a pair lies in the lower half of the word */
#else
enum { LOW = 0, HIGH = 1 };
#endif

static double fold_pairs(const double sum[LANES])
{
  double lane[LANES];
  for (int j = 0; j < PAIRS; j++) lane[2 * j + LOW] = sum[j], lane[2 * j + HIGH] = sum[PAIRS + j];
  return fold(lane);
}

void ingot_block_sum_masked_bf16(const void *x, const void *base, const uint16_t *keep, int64_t n, double *whole,
                                 double *kept)
{
  double  all[LANES] = {0}, some[LANES] = {0};
  int64_t n_row = n / ROW, at = n_row * ROW;
  add_masked_pairs(x, base, (const unsigned char *)keep, n_row, all, some);
  if (at < n) {
    uint16_t last[3][ROW] = {{0}};
    size_t   bytes = (size_t)(n - at) * sizeof last[0][0];
    memcpy(last[0], (const unsigned char *)x + at * 2, bytes);
    memcpy(last[1], (const unsigned char *)base + at * 2, bytes);
    memcpy(last[2], keep + at, bytes);
    add_masked_pairs((const unsigned char *)last[0], (const unsigned char *)last[1], (const unsigned char *)last[2], 1,
                     all, some);
  }
  *whole = fold_pairs(all);
  *kept = fold_pairs(some);
}
