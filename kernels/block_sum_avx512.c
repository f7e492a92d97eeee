/*
 * The sums of block_sum.c from bfloat16, for AVX-512. A vector holds 32 elements as 16 pairs: lanes 0, 2, ... of the sums lie
 * in the pairs' lower elements, lanes 1, 3, ... in the upper ones.
 */
#include "kernels/block_sum.h"

#include <math.h>
#include <string.h>

#include "kernels/x86.h"

#if INGOT_HAVE_AVX512
enum { VECTOR = 32, ROW = INGOT_SUM_LANES * INGOT_SUM_FIRST };

typedef unsigned char byte;

/* 16 float64 sums: of the lower elements, or of the upper ones. */
typedef struct sums {
  __m512d half[2];
} sums;

INGOT_AVX512_INLINE __m512 widen(__m512i words, int high)
{
  return _mm512_castsi512_ps(high ? _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)) : _mm512_slli_epi32(words, 16));
}

INGOT_AVX512_INLINE __m512d half_of(__m512 v, int second)
{
  return _mm512_cvtps_pd(second ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v));
}

INGOT_AVX512_INLINE void add(sums *s, __m512 v)
{
  for (int q = 0; q < 2; q++) s->half[q] = _mm512_add_pd(s->half[q], half_of(v, q));
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

/* Magnitudes of 128 differences, in fours, added to the sums: all of them, and those with a bit in `keep`. */
INGOT_AVX512_INLINE __m512 add_row(const byte *x, const byte *base, const uint64_t keep[2], int high, sums *whole, sums *kept)
{
  const __m512 magnitude = _mm512_castsi512_ps(_mm512_set1_epi32(0x7fffffff));
  __m512       all = _mm512_setzero_ps(), some = all;
  for (int q = 0; q < ROW / VECTOR; q++) {
    __m512i   own = _mm512_loadu_si512(x + q * VECTOR * 2), from = _mm512_loadu_si512(base + q * VECTOR * 2);
    __m512    v = _mm512_and_ps(_mm512_sub_ps(widen(own, high), widen(from, high)), magnitude);
    __mmask16 mask = (__mmask16)(keep[high] >> 16 * q);
    all = q == 0 ? v : _mm512_add_ps(all, v);
    some = q == 0 ? _mm512_maskz_mov_ps(mask, v) : _mm512_mask_add_ps(some, mask, some, v);
  }
  add(whole, all);
  add(kept, some);
  return all;
}

INGOT_AVX512 bool ingot_block_sum_masked_avx512(const void *x, const void *base, const unsigned char *bits, int64_t n,
                                                double *whole, double *kept)
{
  const byte *own = x, *from = base;
  byte        last[3][ROW * 2] = {{0}};
  sums        all[2], some[2];
  __m512      seen = _mm512_setzero_ps();
  for (int h = 0; h < 2; h++)
    for (int q = 0; q < 2; q++) all[h].half[q] = some[h].half[q] = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += ROW, own += 2 * ROW, from += 2 * ROW, bits += ROW / 8) {
    uint64_t word[2], keep[2];
    if (n - i < ROW) { /* filled up with zeros, which change no sum */
      memcpy(last[0], own, (size_t)(n - i) * 2);
      memcpy(last[1], from, (size_t)(n - i) * 2);
      own = last[0], from = last[1];
    }
    memcpy(word, bits, sizeof word);
    for (int h = 0; h < 2; h++) { /* bits of lower and upper elements apart */
      uint64_t every_other = (uint64_t)0x5555555555555555u << h;
      keep[h] = _pext_u64(word[0], every_other) | _pext_u64(word[1], every_other) << 32;
    }
    for (int h = 0; h < 2; h++)
      seen = _mm512_fmadd_ps(add_row(own, from, keep, h, &all[h], &some[h]), _mm512_setzero_ps(), seen);
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
  sums   aa[2], bb[2], ab[2];
  for (int h = 0; h < 2; h++)
    for (int q = 0; q < 2; q++) aa[h].half[q] = bb[h].half[q] = ab[h].half[q] = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += VECTOR) {
    __mmask32 valid = n - i < VECTOR ? ((__mmask32)1 << (n - i)) - 1 : (__mmask32)-1;
    __m512i   x = _mm512_maskz_loadu_epi16(valid, (const byte *)a + 2 * i);
    __m512i   y = _mm512_maskz_loadu_epi16(valid, (const byte *)b + 2 * i);
    for (int h = 0; h < 2; h++) {
      __m512 v = widen(x, h), w = widen(y, h);
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
