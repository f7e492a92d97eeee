/**
 * Two neighbouring bfloat16 elements as one 32-bit word, for loops whose floats never leave the registers: each half is
 * the upper half of a float32, so nothing moves between vector lanes, and halves go back where they came from, in
 * either byte order. Arrays need no alignment; `i` counts pairs.
 */
#ifndef INGOT_KERNELS_BF16_PAIRS_H
#define INGOT_KERNELS_BF16_PAIRS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/clones.h"
#include "kernels/convert_scalar.h"
#include "kernels/x86.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_pair {
  float low, high;
} ingot_pair;

/** Bits of ingot_pair_nonfinite_bits that are set when an element was NaN or infinite. */
static const uint32_t ingot_pair_nonfinite_mask = 0x80008000u;

INGOT_INLINE uint32_t ingot_pair_load(const unsigned char *from, int64_t i)
{
  uint32_t word;
  memcpy(&word, from + i * (int64_t)sizeof word, sizeof word);
  return word;
}

/** To be gathered by `or`: an exponent of all ones carries into the place of the sign. */
INGOT_INLINE uint32_t ingot_pair_nonfinite_bits(uint32_t word)
{
  return (word & 0x7f807f80u) + 0x00800080u;
}

INGOT_INLINE ingot_pair ingot_pair_widen(uint32_t word)
{
  ingot_pair pair = {ingot_f32_of_bits(word << 16), ingot_f32_of_bits(word & 0xffff0000u)};
  return pair;
}

INGOT_INLINE void ingot_pair_store(unsigned char *to, int64_t i, ingot_pair v)
{
  uint32_t low = ingot_bf16_from_f32(v.low), high = ingot_bf16_from_f32(v.high), word = low | high << 16;
  memcpy(to + i * (int64_t)sizeof word, &word, sizeof word);
}

/** Rounded as numbers. A NaN that came of bfloat16 elements stays one, but not always the one that is written. */
INGOT_INLINE uint32_t ingot_pair_round_finite(ingot_pair v)
{
  uint32_t low = ingot_bits_of_f32(v.low), high = ingot_bits_of_f32(v.high);
  low = (low + 0x7fffu + ((low >> 16) & 1u)) >> 16;
  high = (high + 0x7fffu + ((high >> 16) & 1u)) & 0xffff0000u;
  return low | high;
}

/** Store the same, and return its ingot_pair_nonfinite_bits. */
INGOT_INLINE uint32_t ingot_pair_store_seen(unsigned char *to, int64_t i, ingot_pair v)
{
  uint32_t word = ingot_pair_round_finite(v);
  memcpy(to + i * (int64_t)sizeof word, &word, sizeof word);
  return ingot_pair_nonfinite_bits(word);
}

#if INGOT_HAVE_AVX512
/** The lower or the higher elements of 16 pairs. */
INGOT_AVX512_INLINE __m512 ingot_pairs_widen(__m512i words, int high)
{
  return _mm512_castsi512_ps(high ? _mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u))
                                  : _mm512_slli_epi32(words, 16));
}
#endif

/** Whether none of n elements is NaN or infinite. */
bool ingot_pairs_finite(const void *x, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
