#include "kernels/philox_block.h"

#include "base/philox.h"

/*
 * Three versions of one loop. Compilers do not find the fast form of 32 x 32 -> 64 bit products by themselves, so the
 * x86 versions are written out: every 32-bit word of the state sits in the lower half of a 64-bit lane, where vpmuludq
 * wants it, and what gathers in the upper halves is ignored by the next product and cut off at the end.
 */
#define MUL0 0xD2511F53u
#define MUL1 0xCD9E8D57u
#define WEYL0 0x9E3779B9u
#define WEYL1 0xBB67AE85u

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_X86 1
#include <immintrin.h>

/*
 * Two words of the counter are 0 and its upper half is the same for 16 counters in a row from a multiple of 16. So in round
 * 0 one product is 0, and in round 1 one product is the same for all: this one.
 */
static inline uint64_t first_product(uint64_t key, uint64_t counter)
{
  return (uint64_t)((uint32_t)(counter >> 32) ^ (uint32_t)key) * MUL0;
}

/* 16 counters, 64 words at a time, in two independent halves to keep the multipliers busy. */
__attribute__((target("avx512f"))) static void block_avx512(uint64_t key, uint64_t counter, int64_t n, uint32_t *word)
{
  const __m512i m0 = _mm512_set1_epi64(MUL0), m1 = _mm512_set1_epi64(MUL1);
  const __m512i low_half = _mm512_set1_epi64(0xffffffff);
  const __m512i step = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  /* Pairs (w0, w1) of counters a, b, ... and pairs (w2, w3) of the same, laid side by side. */
  const __m512i first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), second = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);

  for (int64_t i = 0; i < n; i += 64, counter += 16) {
    __m512i  c[2][4];
    uint32_t k0 = (uint32_t)key + WEYL0, k1 = (uint32_t)(key >> 32) + WEYL1;
    uint64_t same = first_product(key, counter);
    for (int h = 0; h < 2; h++) { /* the first two rounds, of which little is left: see first_product */
      __m512i low = _mm512_add_epi64(_mm512_set1_epi64((long long)counter + 8 * h), step);
      __m512i p0 = _mm512_mul_epu32(low, m0);
      __m512i p1 = _mm512_mul_epu32(_mm512_xor_si512(_mm512_srli_epi64(p0, 32), _mm512_set1_epi64((long long)(key >> 32))), m1);
      c[h][0] = _mm512_xor_si512(_mm512_srli_epi64(p1, 32), _mm512_set1_epi64(k0));
      c[h][1] = p1;
      c[h][2] = _mm512_xor_si512(p0, _mm512_set1_epi64((long long)(same >> 32 ^ k1)));
      c[h][3] = _mm512_set1_epi64((long long)same);
    }
    k0 += WEYL0;
    k1 += WEYL1;
#pragma GCC unroll 8
    for (int round = 2; round < 10; round++) {
      const __m512i key0 = _mm512_set1_epi64(k0), key1 = _mm512_set1_epi64(k1);
      for (int h = 0; h < 2; h++) {
        __m512i p0 = _mm512_mul_epu32(c[h][0], m0), p1 = _mm512_mul_epu32(c[h][2], m1);
        c[h][0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p1, 32), c[h][1], key0, 0x96);
        c[h][2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(p0, 32), c[h][3], key1, 0x96);
        c[h][1] = p1;
        c[h][3] = p0;
      }
      k0 += WEYL0;
      k1 += WEYL1;
    }
    for (int h = 0; h < 2; h++) {
      __m512i w01 = _mm512_or_si512(_mm512_and_si512(c[h][0], low_half), _mm512_slli_epi64(c[h][1], 32));
      __m512i w23 = _mm512_or_si512(_mm512_and_si512(c[h][2], low_half), _mm512_slli_epi64(c[h][3], 32));
      _mm512_storeu_si512(word + i + 32 * h, _mm512_permutex2var_epi64(w01, first, w23));
      _mm512_storeu_si512(word + i + 32 * h + 16, _mm512_permutex2var_epi64(w01, second, w23));
    }
  }
}

__attribute__((target("avx2"))) static void block_avx2(uint64_t key, uint64_t counter, int64_t n, uint32_t *word)
{
  const __m256i m0 = _mm256_set1_epi64x(MUL0), m1 = _mm256_set1_epi64x(MUL1);
  const __m256i low_half = _mm256_set1_epi64x(0xffffffff);
  const __m256i step = _mm256_set_epi64x(3, 2, 1, 0);

  for (int64_t i = 0; i < n; i += 32, counter += 8) {
    __m256i  c[2][4];
    uint32_t k0 = (uint32_t)key + WEYL0, k1 = (uint32_t)(key >> 32) + WEYL1;
    uint64_t same = first_product(key, counter);
    for (int h = 0; h < 2; h++) { /* the first two rounds, of which little is left */
      __m256i low = _mm256_add_epi64(_mm256_set1_epi64x((long long)counter + 4 * h), step);
      __m256i p0 = _mm256_mul_epu32(low, m0);
      __m256i p1 = _mm256_mul_epu32(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_set1_epi64x((long long)(key >> 32))), m1);
      c[h][0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_set1_epi64x(k0));
      c[h][1] = p1;
      c[h][2] = _mm256_xor_si256(p0, _mm256_set1_epi64x((long long)(same >> 32 ^ k1)));
      c[h][3] = _mm256_set1_epi64x((long long)same);
    }
    k0 += WEYL0;
    k1 += WEYL1;
#pragma GCC unroll 8
    for (int round = 2; round < 10; round++) {
      const __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
      for (int h = 0; h < 2; h++) {
        __m256i p0 = _mm256_mul_epu32(c[h][0], m0), p1 = _mm256_mul_epu32(c[h][2], m1);
        c[h][0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c[h][1]), key0);
        c[h][2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c[h][3]), key1);
        c[h][1] = p1;
        c[h][3] = p0;
      }
      k0 += WEYL0;
      k1 += WEYL1;
    }
    for (int h = 0; h < 2; h++) {
      __m256i w01 = _mm256_or_si256(_mm256_and_si256(c[h][0], low_half), _mm256_slli_epi64(c[h][1], 32));
      __m256i w23 = _mm256_or_si256(_mm256_and_si256(c[h][2], low_half), _mm256_slli_epi64(c[h][3], 32));
      __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23); /* counters 0 2, 1 3 */
      _mm256_storeu_si256((__m256i *)(word + i + 16 * h), _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256((__m256i *)(word + i + 16 * h + 8), _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
}
#else
#define HAVE_X86 0
#endif

static void block_plain(uint64_t key, uint64_t counter, int64_t n, uint32_t *word)
{
  for (int64_t i = 0; i < n; i += 4) ingot_philox4x32(key, counter + (uint64_t)i / 4, word + i);
}

bool ingot_philox_block_version(ingot_philox_version version, uint64_t key, int64_t first, int64_t n, uint32_t *word)
{
  uint64_t counter = (uint64_t)first / 4;
#if HAVE_X86
  if (version == INGOT_PHILOX_AVX512 && counter % 16 == 0 && __builtin_cpu_supports("avx512f")) {
    block_avx512(key, counter, n, word);
    return true;
  }
  if (version == INGOT_PHILOX_AVX2 && counter % 16 == 0 && __builtin_cpu_supports("avx2")) {
    block_avx2(key, counter, n, word);
    return true;
  }
#endif
  if (version != INGOT_PHILOX_PLAIN) return false;
  block_plain(key, counter, n, word);
  return true;
}

void ingot_philox_block(uint64_t key, int64_t first, int64_t n, uint32_t *word)
{
  if (ingot_philox_block_version(INGOT_PHILOX_AVX512, key, first, n, word)) return;
  if (ingot_philox_block_version(INGOT_PHILOX_AVX2, key, first, n, word)) return;
  ingot_philox_block_version(INGOT_PHILOX_PLAIN, key, first, n, word);
}
