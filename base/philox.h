/**
 * Philox4x32-10, a counter-based random generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). The same (key, counter) gives the same four words on every machine, CPU or GPU.
 *
 * Random masks of merge methods: ingot_philox_keep below is their definition; kernels/random_mask.h makes them fast.
 */
#ifndef INGOT_BASE_PHILOX_H
#define INGOT_BASE_PHILOX_H

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define INGOT_HOST_DEVICE __host__ __device__
#else
#define INGOT_HOST_DEVICE
#endif

static inline INGOT_HOST_DEVICE uint32_t ingot_philox_mul_high(uint32_t a, uint32_t b)
{
  return (uint32_t)(((uint64_t)a * b) >> 32);
}

/** Four random words for a 64-bit key and a counter of 128 bits, of which `domain` is the third word and the last is
 * 0. */
static inline INGOT_HOST_DEVICE void ingot_philox4x32_of(uint64_t key, uint64_t counter, uint32_t domain,
                                                         uint32_t word[4])
{
  uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = domain, c3 = 0;
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint32_t high0 = ingot_philox_mul_high(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    uint32_t high1 = ingot_philox_mul_high(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  word[0] = c0;
  word[1] = c1;
  word[2] = c2;
  word[3] = c3;
}

/** Four random words for a 64-bit key and a 64-bit counter. */
static inline INGOT_HOST_DEVICE void ingot_philox4x32(uint64_t key, uint64_t counter, uint32_t word[4])
{
  ingot_philox4x32_of(key, counter, 0, word);
}

/** The key of one model's stream for one tensor; `tensor_key` is ingot_hash_string of the output tensor's name. */
static inline uint64_t ingot_philox_key(uint64_t seed, uint64_t tensor_key, uint32_t model)
{
  uint32_t word[4];
  ingot_philox4x32(seed, tensor_key, word);
  uint64_t stream = (uint64_t)word[0] | (uint64_t)word[1] << 32;
  ingot_philox4x32(stream, model, word);
  return (uint64_t)word[0] | (uint64_t)word[1] << 32;
}

/** The threshold T of a probability p in [0, 1): kept with probability T / 2^48, which is p rounded down. */
static inline uint64_t ingot_philox_threshold(double p)
{
  return (uint64_t)floor(p * 0x1p48);
}

/** The second draw for element i, when its first one equals the top 16 bits of T. */
static inline INGOT_HOST_DEVICE int ingot_philox_keep_second(uint64_t stream, uint64_t threshold, int64_t i)
{
  uint32_t word[4];
  ingot_philox4x32_of(stream, (uint64_t)i, 1, word);
  return word[0] < (uint32_t)threshold;
}

/**
 * Whether element i is kept: a number of 48 bits is below T. Its top 16 bits are half i % 8 of the words of counter
 * i / 8 (the lower half of a word comes before the upper one); they decide in all but one case of 65536. The lower 32
 * bits, of a call of their own, are drawn only then.
 */
static inline INGOT_HOST_DEVICE int ingot_philox_keep(uint64_t stream, uint64_t threshold, int64_t i)
{
  uint32_t word[4], top = (uint32_t)(threshold >> 32);
  ingot_philox4x32(stream, (uint64_t)i / 8, word);
  uint32_t bits = word[i % 8 / 2] >> (i % 2 * 16) & 0xffffu;
  return bits == top ? ingot_philox_keep_second(stream, threshold, i) : bits < top;
}

#endif
