/*
 * The sums of block_sum.c from bfloat16, for AVX-512. A vector holds 32 elements as 16 pairs: lanes 0, 2, ... of the
 * sums lie in the pairs' lower elements, lanes 1, 3, ... in the upper ones.
 */
#include "kernels/block_sum.h"

#include <math.h>
#include <string.h>

#include "base/tile.h"
#include "kernels/bf16_pairs.h"
#include "kernels/random_mask.h"
#include "kernels/random_words.h"

#if INGOT_HAVE_AVX512
enum { VECTOR = 32, ROW = INGOT_SUM_LANES * INGOT_SUM_FIRST };
_Static_assert((int)ROW == (int)INGOT_MASK_ROUND, "a row's masks are drawn together");

typedef unsigned char byte;

/*
 * a + b and a - b by the multiplier, which is idle while additions, conversions and shifts wait for each other. The
 * product is exact, so the result is that of an addition.
 */
INGOT_AVX512_INLINE __m512 plus(__m512 a, __m512 b)
{
  return _mm512_fmadd_ps(a, _mm512_set1_ps(1), b);
}

INGOT_AVX512_INLINE __m512 minus(__m512 a, __m512 b)
{
  return _mm512_fmsub_ps(a, _mm512_set1_ps(1), b);
}

/* 16 float64 sums: of the lower elements, or of the upper ones. */
typedef struct sums {
  __m512d half[2];
} sums;

INGOT_AVX512_INLINE __m512d half_of(__m512 v, int second)
{
  return _mm512_cvtps_pd(second ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v));
}

INGOT_AVX512_INLINE void add(sums *s, __m512 v)
{
  for (int q = 0; q < 2; q++) s->half[q] = _mm512_fmadd_pd(half_of(v, q), _mm512_set1_pd(1), s->half[q]);
}

/* low and high hold lanes 0, 2, ... and 1, 3, ...; adds as the header of block_sum.h has it. */
INGOT_AVX512_INLINE double fold(const sums *low, const sums *high)
{
  double even[16], odd[16], lane[INGOT_SUM_LANES];
  for (int q = 0; q < 2; q++) {
    _mm512_storeu_pd(even + 8 * q, low->half[q]);
    _mm512_storeu_pd(odd + 8 * q, high->half[q]);
  }
  for (int j = 0; j < 16; j++) lane[2 * j] = even[j], lane[2 * j + 1] = odd[j];
  for (int width = INGOT_SUM_LANES / 2; width > 0; width /= 2)
    for (int j = 0; j < width; j++) lane[j] += lane[j + width];
  return lane[0];
}

INGOT_AVX512_INLINE bool is_nan(__m512 a)
{
  return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0;
}

/* Masks of 128 elements: of the lower and of the upper ones of 16 pairs each. */
typedef struct row_masks {
  uint16_t half[2][ROW / VECTOR];
} row_masks;

INGOT_AVX512_INLINE void set_masks(const uint64_t kept[2], row_masks *m)
{
  for (int h = 0; h < 2; h++) {
    uint64_t which = (uint64_t)0x5555555555555555u << h, all = _pext_u64(kept[0], which) | _pext_u64(kept[1], which)
                                                                                               << 32;
    memcpy(m->half[h], &all, sizeof all);
  }
}

/* Magnitudes of 128 differences, in fours, added to the sums: all of them, and those that are kept. */
INGOT_AVX512_INLINE __m512 add_row(const byte *x, const byte *base, const row_masks *m, sums whole[2], sums kept[2])
{
  const __m512 magnitude = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff));
  __m512       all[2], some[2];
  for (int q = 0; q < ROW / VECTOR; q++) {
    __m512i own = _mm512_loadu_si512(x + q * VECTOR * 2), from = _mm512_loadu_si512(base + q * VECTOR * 2);
    for (int h = 0; h < 2; h++) {
      __m512 v = _mm512_and_ps(minus(ingot_pairs_widen(own, h), ingot_pairs_widen(from, h)), magnitude);
      all[h] = q == 0 ? v : plus(all[h], v);
      some[h] = q == 0 ? _mm512_maskz_mov_ps(m->half[h][q], v) : _mm512_mask_add_ps(some[h], m->half[h][q], some[h], v);
    }
  }
  for (int h = 0; h < 2; h++) {
    add(&whole[h], all[h]);
    add(&kept[h], some[h]);
  }
  return plus(all[0], all[1]);
}

/* The masks of at most a block. bits: NULL, or where they are left as ingot_random_mask_bits leaves them. */
INGOT_AVX512_INLINE void draw_block(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, row_masks *masks,
                                    byte *bits)
{
  ingot_draws draws;
  ingot_draws_begin(&draws, stream, threshold, first);
  for (int64_t i = 0; i < n; i += ROW) {
    uint64_t kept[2];
    ingot_draw_avx512(&draws, first + i, kept);
    set_masks(kept, &masks[i / ROW]);
    if (bits) memcpy(bits + i / 8, kept, sizeof kept);
  }
}

INGOT_AVX512 bool ingot_block_sum_drawn_avx512(const void *x, const void *base, uint64_t stream, uint64_t threshold,
                                               int64_t first, int64_t n, unsigned char *bits, double *whole,
                                               double *kept)
{
  const byte *own = x, *from = base;
  byte        last[2][ROW * 2];
  row_masks   masks[INGOT_BLOCK / ROW];
  sums        all[2], some[2];
  __m512      seen = _mm512_setzero_ps();
  for (int h = 0; h < 2; h++)
    for (int q = 0; q < 2; q++) all[h].half[q] = some[h].half[q] = _mm512_setzero_pd();
  draw_block(stream, threshold, first, n, masks, bits);
  for (int64_t i = 0; i < n; i += ROW, own += 2 * ROW, from += 2 * ROW) {
    if (n - i < ROW) { /* filled up with zeros, which change no sum */
      memset(last, 0, sizeof last);
      memcpy(last[0], own, (size_t)(n - i) * 2);
      memcpy(last[1], from, (size_t)(n - i) * 2);
      own = last[0], from = last[1];
    }
    seen = _mm512_fmadd_ps(add_row(own, from, &masks[i / ROW], all, some), _mm512_setzero_ps(), seen);
  }
  *whole = fold(&all[0], &all[1]);
  *kept = fold(&some[0], &some[1]);
  return !is_nan(seen);
}

/* The product of two float32 is exact in float64, so fusing it with the addition changes nothing. */
INGOT_AVX512_INLINE void add_products(sums *s, __m512 a, __m512 b)
{
  for (int q = 0; q < 2; q++) s->half[q] = _mm512_fmadd_pd(half_of(a, q), half_of(b, q), s->half[q]);
}

INGOT_AVX512 bool ingot_block_dots_avx512(const void *a, const void *b, int64_t n, double sum[3])
{
  sums aa[2], bb[2], ab[2];
  for (int h = 0; h < 2; h++)
    for (int q = 0; q < 2; q++) aa[h].half[q] = bb[h].half[q] = ab[h].half[q] = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += VECTOR) {
    __mmask32 valid = n - i < VECTOR ? ((__mmask32)1 << (n - i)) - 1 : (__mmask32)-1;
    __m512i   x = _mm512_maskz_loadu_epi16(valid, (const byte *)a + 2 * i);
    __m512i   y = _mm512_maskz_loadu_epi16(valid, (const byte *)b + 2 * i);
    for (int h = 0; h < 2; h++) {
      __m512 v = ingot_pairs_widen(x, h), w = ingot_pairs_widen(y, h);
      add_products(&aa[h], v, v);
      add_products(&bb[h], w, w);
      add_products(&ab[h], v, w);
    }
  }
  sum[0] = fold(&aa[0], &aa[1]);
  sum[1] = fold(&bb[0], &bb[1]);
  sum[2] = fold(&ab[0], &ab[1]);
  return sum[0] < INFINITY && sum[1] < INFINITY; /* squares of finite elements cannot overflow; NaN is not below */
}
#endif
