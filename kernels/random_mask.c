#include "kernels/random_mask.h"

#include <string.h>

#include "base/philox.h"
#include "kernels/random_words.h"

/* Three versions of one loop: AVX-512's is in random_words.h. */
#if INGOT_HAVE_X86
/* Element i of a group equals the top of the threshold when bit i of `equal` is set: draw again. */
static void settle(uint64_t stream, uint64_t threshold, int64_t first, uint64_t equal, uint16_t *keep)
{
  for (; equal; equal &= equal - 1) {
    int i = __builtin_ctzll(equal);
    keep[i] = ingot_philox_keep_second(stream, threshold, first + i) ? 0xffff : 0;
  }
}
#endif

#if INGOT_HAVE_AVX512
INGOT_AVX512 static void mask_avx512(uint64_t key, uint64_t threshold, int64_t start, int64_t n, uint16_t *keep)
{
  ingot_draws draws;
  ingot_draws_begin(&draws, key, threshold, start);
  for (int64_t i = 0; i < n; i += 128) {
    uint64_t kept[2];
    ingot_draw_avx512(&draws, start + i, kept);
    for (int q = 0; q < 4; q++)
      _mm512_storeu_si512(keep + i + 32 * q, _mm512_movm_epi16((uint32_t)(kept[q / 2] >> (q % 2 * 32))));
  }
}

INGOT_AVX512 static void bits_avx512(uint64_t key, uint64_t threshold, int64_t start, int64_t n, unsigned char *bits)
{
  ingot_draws draws;
  ingot_draws_begin(&draws, key, threshold, start);
  for (int64_t i = 0; i < n; i += 128) {
    uint64_t kept[2];
    ingot_draw_avx512(&draws, start + i, kept);
    memcpy(bits + i / 8, kept, sizeof kept);
  }
}
#endif

#if INGOT_HAVE_X86
__attribute__((target("avx2"))) static void mask_avx2(uint64_t key, uint64_t threshold, int64_t start, int64_t n,
                                                      uint16_t *keep)
{
  const __m256i top = _mm256_set1_epi16((short)(threshold >> 32)), sign = _mm256_set1_epi16(INT16_MIN);
  const __m256i signed_top = _mm256_xor_si256(top, sign); /* there are signed compares only */
  uint64_t      counter = (uint64_t)start / 8;
  const __m256i m0 = _mm256_set1_epi64x(INGOT_PHILOX_MUL0), m1 = _mm256_set1_epi64x(INGOT_PHILOX_MUL1);
  const __m256i low_half = _mm256_set1_epi64x(0xffffffff);
  const __m256i step = _mm256_set_epi64x(3, 2, 1, 0);

  for (int64_t i = 0; i < n; i += 64, counter += 8) {
    __m256i  c[2][4];
    uint32_t k0 = (uint32_t)key + INGOT_PHILOX_WEYL0, k1 = (uint32_t)(key >> 32) + INGOT_PHILOX_WEYL1;
    uint64_t same = ingot_first_product(key, counter);
    for (int h = 0; h < 2; h++) { /* the first two rounds, of which little is left */
      __m256i low = _mm256_add_epi64(_mm256_set1_epi64x((long long)counter + 4 * h), step);
      __m256i p0 = _mm256_mul_epu32(low, m0);
      __m256i p1 =
          _mm256_mul_epu32(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_set1_epi64x((long long)(key >> 32))), m1);
      c[h][0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_set1_epi64x(k0));
      c[h][1] = p1;
      c[h][2] = _mm256_xor_si256(p0, _mm256_set1_epi64x((long long)(same >> 32 ^ k1)));
      c[h][3] = _mm256_set1_epi64x((long long)same);
    }
    k0 += INGOT_PHILOX_WEYL0;
    k1 += INGOT_PHILOX_WEYL1;
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
      k0 += INGOT_PHILOX_WEYL0;
      k1 += INGOT_PHILOX_WEYL1;
    }
    for (int h = 0; h < 2; h++) {
      __m256i w01 = _mm256_or_si256(_mm256_and_si256(c[h][0], low_half), _mm256_slli_epi64(c[h][1], 32));
      __m256i w23 = _mm256_or_si256(_mm256_and_si256(c[h][2], low_half), _mm256_slli_epi64(c[h][3], 32));
      __m256i even = _mm256_unpacklo_epi64(w01, w23), odd = _mm256_unpackhi_epi64(w01, w23); /* counters 0 2, 1 3 */
      for (int q = 0; q < 2; q++) {
        int64_t at = i + 32 * h + 16 * q;
        __m256i half = q ? _mm256_permute2x128_si256(even, odd, 0x31) : _mm256_permute2x128_si256(even, odd, 0x20);
        __m256i equal = _mm256_cmpeq_epi16(half, top);
        _mm256_storeu_si256((__m256i *)(keep + at), _mm256_cmpgt_epi16(signed_top, _mm256_xor_si256(half, sign)));
        if (!_mm256_testz_si256(equal, equal)) {
          __m128i flags = _mm_packs_epi16(_mm256_castsi256_si128(equal), _mm256_extracti128_si256(equal, 1));
          settle(key, threshold, start + at, (uint64_t)_mm_movemask_epi8(flags), keep + at);
        }
      }
    }
  }
}
#endif

static void mask_plain(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, uint16_t *keep)
{
  uint32_t top = (uint32_t)(threshold >> 32);
  for (int64_t i = 0; i < n; i += 8) {
    uint32_t word[4];
    ingot_philox4x32(stream, (uint64_t)(first + i) / 8, word);
    for (int k = 0; k < 8; k++) {
      uint32_t half = word[k / 2] >> (k % 2 * 16) & 0xffffu;
      int      kept = half == top ? ingot_philox_keep_second(stream, threshold, first + i + k) : half < top;
      keep[i + k] = kept ? 0xffff : 0;
    }
  }
}

bool ingot_random_mask_version(ingot_mask_version version, uint64_t stream, uint64_t threshold, int64_t first,
                               int64_t n, uint16_t *keep)
{
  bool whole = first % INGOT_MASK_ROUND == 0;
#if INGOT_HAVE_AVX512
  if (version == INGOT_MASK_AVX512 && whole && ingot_has_avx512()) {
    mask_avx512(stream, threshold, first, n, keep);
    return true;
  }
#endif
#if INGOT_HAVE_X86
  if (version == INGOT_MASK_AVX2 && whole && __builtin_cpu_supports("avx2")) {
    mask_avx2(stream, threshold, first, n, keep);
    return true;
  }
#endif
  (void)whole;
  if (version != INGOT_MASK_PLAIN) return false;
  mask_plain(stream, threshold, first, n, keep);
  return true;
}

void ingot_random_mask(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, uint16_t *keep)
{
  if (ingot_random_mask_version(INGOT_MASK_AVX512, stream, threshold, first, n, keep)) return;
  if (ingot_random_mask_version(INGOT_MASK_AVX2, stream, threshold, first, n, keep)) return;
  ingot_random_mask_version(INGOT_MASK_PLAIN, stream, threshold, first, n, keep);
}

void ingot_random_mask_bits(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, unsigned char *bits)
{
  enum { PIECE = 1024 };
#if INGOT_HAVE_AVX512
  if (first % INGOT_MASK_ROUND == 0 && ingot_has_avx512()) {
    bits_avx512(stream, threshold, first, n, bits);
    return;
  }
#endif
  for (int64_t i = 0; i < n; i += PIECE) {
    uint16_t keep[PIECE];
    int64_t  count = n - i < PIECE ? n - i : PIECE;
    ingot_random_mask(stream, threshold, first + i, count, keep);
    ingot_mask_pack(keep, count, bits + i / 8);
  }
}

void ingot_mask_pack(const uint16_t *keep, int64_t n, unsigned char *bits)
{
#if INGOT_HAVE_X86
  for (int64_t i = 0; i < n; i += 16) { /* SSE2, which every x86-64 has */
    __m128i  a = _mm_loadu_si128((const __m128i *)(keep + i)), b = _mm_loadu_si128((const __m128i *)(keep + i + 8));
    uint16_t word = (uint16_t)_mm_movemask_epi8(_mm_packs_epi16(a, b));
    memcpy(bits + i / 8, &word, sizeof word);
  }
#else
  for (int64_t i = 0; i < n; i += 8) {
    unsigned byte = 0;
    for (int j = 0; j < 8; j++) byte |= (keep[i + j] & 1u) << j;
    bits[i / 8] = (unsigned char)byte;
  }
#endif
}

void ingot_mask_unpack(const unsigned char *bits, int64_t n, uint16_t *keep)
{
#if INGOT_HAVE_X86
  const __m128i low = _mm_set_epi16(128, 64, 32, 16, 8, 4, 2, 1), high = _mm_slli_epi16(low, 8);
  for (int64_t i = 0; i < n; i += 16) {
    uint16_t word;
    memcpy(&word, bits + i / 8, sizeof word);
    __m128i all = _mm_set1_epi16((short)word);
    _mm_storeu_si128((__m128i *)(keep + i), _mm_cmpeq_epi16(_mm_and_si128(all, low), low));
    _mm_storeu_si128((__m128i *)(keep + i + 8), _mm_cmpeq_epi16(_mm_and_si128(all, high), high));
  }
#else
  for (int64_t i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) keep[i + j] = bits[i / 8] >> j & 1 ? 0xffff : 0;
#endif
}
