/* The counting of select_scan.c from bfloat16, for AVX-512: a comparison gives 16 flags, which count or mark elements
 * at once. */
#include "kernels/bf16_pairs.h"
#include "kernels/families/select_state.h"

#if INGOT_HAVE_AVX512
enum { VECTOR = 32 }; /* elements: two halves of 16 pairs, the lower and the upper ones */

typedef unsigned char byte;

typedef struct tallies {
  __m512i above, at_hi, at_lo;
} tallies;

INGOT_AVX512_INLINE __m512i count(__m512i tally, __mmask16 flags)
{
  return _mm512_mask_add_epi32(tally, flags, tally, _mm512_set1_epi32(1));
}

/*
 * 32 elements: counts them, and returns which lie strictly between, in element order. `point` is a constant in every
 * use: lo is hi, and nothing lies between.
 */
INGOT_AVX512_INLINE uint32_t count_vector(__m512i own, __m512i from, __m512i lo, __m512i hi, int point, tallies *t,
                                          __m512 *seen)
{
  __mmask16 between[2] = {0, 0};
  for (int h = 0; h < 2; h++) {
    __m512  tau = _mm512_sub_ps(ingot_pairs_widen(own, h), ingot_pairs_widen(from, h));
    __m512i key = _mm512_and_si512(_mm512_castps_si512(tau), _mm512_set1_epi32(0x7fffffff));
    *seen = _mm512_fmadd_ps(tau, _mm512_setzero_ps(), *seen); /* NaN where an element is not finite */
    t->above = count(t->above, _mm512_cmpgt_epi32_mask(key, hi));
    t->at_hi = count(t->at_hi, _mm512_cmpeq_epi32_mask(key, hi));
    if (point) continue;
    t->at_lo = count(t->at_lo, _mm512_cmpeq_epi32_mask(key, lo));
    between[h] = _mm512_mask_cmplt_epi32_mask(_mm512_cmpgt_epi32_mask(key, lo), key, hi);
  }
  if (!(between[0] | between[1])) return 0;
  return _pdep_u32(between[0], 0x55555555u) | _pdep_u32(between[1], 0xaaaaaaaau);
}

INGOT_AVX512_INLINE bool narrow(const byte *x, const byte *base, int64_t n, uint32_t lo_key, uint32_t hi_key, int point,
                                narrow_counts *counts, uint32_t *between)
{
  const __m512i lo = _mm512_set1_epi32((int)lo_key), hi = _mm512_set1_epi32((int)hi_key);
  __m512        seen = _mm512_setzero_ps();
  tallies       t = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  int64_t       whole = n - n % VECTOR, padded = whole < n ? VECTOR - n % VECTOR : 0;
  for (int64_t i = 0; i < whole; i += VECTOR)
    between[i / VECTOR] =
        count_vector(_mm512_loadu_si512(x + 2 * i), _mm512_loadu_si512(base + 2 * i), lo, hi, point, &t, &seen);
  if (whole < n) { /* what is missing has key 0, and is taken off again */
    __mmask32 valid = ((__mmask32)1 << (n - whole)) - 1;
    __m512i   own = _mm512_maskz_loadu_epi16(valid, x + 2 * whole),
            from = _mm512_maskz_loadu_epi16(valid, base + 2 * whole);
    between[whole / VECTOR] = count_vector(own, from, lo, hi, point, &t, &seen);
  }
  counts->above = (uint32_t)_mm512_reduce_add_epi32(t.above);
  counts->at_hi = (uint32_t)_mm512_reduce_add_epi32(t.at_hi) - (hi_key == 0 ? (uint32_t)padded : 0);
  counts->at_lo =
      point ? counts->at_hi : (uint32_t)_mm512_reduce_add_epi32(t.at_lo) - (lo_key == 0 ? (uint32_t)padded : 0);
  return _mm512_cmp_ps_mask(seen, seen, _CMP_UNORD_Q) == 0;
}

INGOT_AVX512 bool ingot_select_narrow_avx512(const void *x, const void *base, int64_t n, uint32_t lo, uint32_t hi,
                                             narrow_counts *counts, uint32_t *between)
{
  if (lo == hi) return narrow(x, base, n, lo, hi, 1, counts, between);
  return narrow(x, base, n, lo, hi, 0, counts, between);
}
#endif
