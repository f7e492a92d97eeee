/**
 * Philox written out for x86-64, for the loops of random_mask.c and those that draw as they go. Compilers do not find
 * the fast form of 32 x 32 -> 64 bit products: every 32-bit word of the state sits in the lower half of a 64-bit lane,
 * where vpmuludq wants it, and what gathers in the upper halves is ignored by the next product and cut off at the end.
 */
#ifndef INGOT_KERNELS_RANDOM_WORDS_H
#define INGOT_KERNELS_RANDOM_WORDS_H

#include <stdint.h>

#include "base/philox.h"
#include "kernels/x86.h"

#define INGOT_PHILOX_MUL0 0xD2511F53u
#define INGOT_PHILOX_MUL1 0xCD9E8D57u
#define INGOT_PHILOX_WEYL0 0x9E3779B9u
#define INGOT_PHILOX_WEYL1 0xBB67AE85u

/*
 * Two words of the counter are 0 and its upper half is the same for 16 counters in a row from a multiple of 16. So in
 * round 0 one product is 0, and in round 1 one product is the same for all: this one.
 */
static inline uint64_t ingot_first_product(uint64_t key, uint64_t counter)
{
  return (uint64_t)((uint32_t)(counter >> 32) ^ (uint32_t)key) * INGOT_PHILOX_MUL0;
}

#if INGOT_HAVE_AVX512
/** What a stream's draws have in common, in every lane. Stays in memory: registers are for what is worked on. */
typedef struct ingot_draws {
  uint64_t key, threshold;
  __m512i  keys[8][2]; /* of rounds 2 to 9 */
  __m512i  early[2];   /* the keys of rounds 0 and 1 that are looked at: of word 1, of word 0 */
  uint64_t upper;      /* half of the counters, for which the following are right */
  __m512i  same;       /* ingot_first_product */
  __m512i  third;      /* what becomes word 2 in round 1 by exclusive or with a product */
} ingot_draws;

INGOT_AVX512_INLINE void ingot_draws_set_upper(ingot_draws *d, uint64_t counter)
{
  uint64_t same = ingot_first_product(d->key, counter);
  d->upper = counter >> 32;
  d->same = _mm512_set1_epi64((long long)same);
  d->third = _mm512_set1_epi64((long long)(same >> 32 ^ ((uint32_t)(d->key >> 32) + INGOT_PHILOX_WEYL1)));
}

INGOT_AVX512_INLINE void ingot_draws_begin(ingot_draws *d, uint64_t key, uint64_t threshold, int64_t first)
{
  d->key = key;
  d->threshold = threshold;
  for (uint32_t r = 0; r < 8; r++) {
    d->keys[r][0] = _mm512_set1_epi64((uint32_t)key + (r + 2) * INGOT_PHILOX_WEYL0);
    d->keys[r][1] = _mm512_set1_epi64((uint32_t)(key >> 32) + (r + 2) * INGOT_PHILOX_WEYL1);
  }
  d->early[0] = _mm512_set1_epi64((long long)(key >> 32));
  d->early[1] = _mm512_set1_epi64((uint32_t)key + INGOT_PHILOX_WEYL0);
  ingot_draws_set_upper(d, (uint64_t)first / 8);
}

INGOT_AVX512_INLINE uint64_t ingot_interleave_fours(uint32_t first_four, uint32_t last_four)
{
  return _pdep_u64(first_four, 0x0f0f0f0f0f0f0f0fu) | _pdep_u64(last_four, 0xf0f0f0f0f0f0f0f0u);
}

/** Elements with a bit in `equal`, whose halves equal the top of the threshold: draw again. */
static inline void ingot_draw_again(const ingot_draws *d, int64_t first, uint64_t equal, uint64_t *kept)
{
  for (; equal; equal &= equal - 1) {
    int i = __builtin_ctzll(equal);
    *kept &= ~((uint64_t)1 << i);
    *kept |= (uint64_t)(ingot_philox_keep_second(d->key, d->threshold, first + i) != 0) << i;
  }
}

/**
 * The masks of 128 elements (INGOT_MASK_ROUND) from `first`, a multiple of 128: bit i of kept[h] is that of element
 * 64 * h + i. 16 counters, in two halves that are independent of each other, which keeps the multipliers busy.
 */
INGOT_AVX512_INLINE void ingot_draw_avx512(ingot_draws *d, int64_t first, uint64_t kept[2])
{
  uint64_t counter = (uint64_t)first / 8;
  __asm__ volatile("" : "+r"(d));
  if (counter >> 32 != d->upper) ingot_draws_set_upper(d, counter);
  const __m512i top = _mm512_set1_epi16((short)(d->threshold >> 32));
  const __m512i m0 = _mm512_set1_epi64(INGOT_PHILOX_MUL0), m1 = _mm512_set1_epi64(INGOT_PHILOX_MUL1);
  const __m512i start =
      _mm512_add_epi64(_mm512_set1_epi64((long long)counter), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  __m512i c[2][4];
  for (int h = 0; h < 2; h++) { /* the first two rounds, of which little is left: see ingot_first_product */
    __m512i p0 = _mm512_mul_epu32(h ? _mm512_add_epi64(start, _mm512_set1_epi64(8)) : start, m0);
    __m512i p1 = _mm512_mul_epu32(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), d->early[0]), m1);
    c[h][0] = _mm512_xor_si512(_mm512_srli_epi64(p1, 32), d->early[1]);
    c[h][1] = p1;
    c[h][2] = _mm512_xor_si512(p0, d->third);
    c[h][3] = d->same;
  }
#pragma GCC unroll 8
  for (int round = 0; round < 8; round++) {
    for (int h = 0; h < 2; h++) {
      __m512i p0 = _mm512_mul_epu32(c[h][0], m0), p1 = _mm512_mul_epu32(c[h][2], m1);
      c[h][0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c[h][1], d->keys[round][0], 0x96);
      c[h][2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c[h][3], d->keys[round][1], 0x96);
      c[h][1] = p1;
      c[h][3] = p0;
    }
  }
  __m512i   half[4]; /* words 0 and 1 of a counter are the halves of elements 0 to 3 of 8, words 2 and 3 of 4 to 7 */
  __mmask32 equal[4];
  for (int q = 0; q < 4; q++) {
    const __m512i *w = &c[q / 2][q % 2 * 2];
    half[q] = _mm512_mask_shuffle_epi32(w[0], 0xaaaa, w[1], _MM_PERM_CCAA);
    equal[q] = _mm512_cmpeq_epu16_mask(half[q], top);
  }
  for (int h = 0; h < 2; h++)
    kept[h] = ingot_interleave_fours(_mm512_cmplt_epu16_mask(half[2 * h], top),
                                     _mm512_cmplt_epu16_mask(half[2 * h + 1], top));
  if (!_kortestz_mask32_u8(_kor_mask32(equal[0], equal[1]), _kor_mask32(equal[2], equal[3])))
    for (int h = 0; h < 2; h++)
      ingot_draw_again(d, first + 64 * h, ingot_interleave_fours(equal[2 * h], equal[2 * h + 1]), &kept[h]);
}
#endif

#endif
