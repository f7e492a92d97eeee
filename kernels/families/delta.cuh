/** Task vectors on the GPU, for methods whose state begins with an ingot_delta_state. CUDA sources only. */
#ifndef INGOT_KERNELS_FAMILIES_DELTA_CUH
#define INGOT_KERNELS_FAMILIES_DELTA_CUH

#include "kernels/families/delta.h"
#include "kernels/families/launch.cuh"

/** ingot_device_ops.apply of the family. */
ingot_status ingot_device_delta_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c);
/** The L1 pass: ingot_device_ops.scan, with the slot of families/delta.h. Needs the workspace below. */
ingot_status ingot_device_delta_l1_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                        const ingot_device_chunk *c, void *slot, int64_t *sums);
size_t       ingot_device_delta_l1_workspace_bytes(const ingot_method_tensor *t);

/**
 * A model as kernels see it. RANDOM: `threshold` holds, in its upper half, the largest 16-bit number that may be kept,
 * and ones below, so that both halves of a word of random bits can be compared with it as they lie in a register.
 */
static inline ingot_delta_model ingot_device_delta_model(const ingot_delta_model *m)
{
  ingot_delta_model out = *m;
  if (m->mask == INGOT_MASK_RANDOM) {
    uint32_t top = static_cast<uint32_t>(m->keep_below >> 32);
    bool     drawn_again = static_cast<uint32_t>(m->keep_below) != 0 || top == 0;
    out.threshold = (drawn_again ? top : top - 1) << 16 | 0xffffu; /* else the equal ones are dropped, all of them */
  }
  return out;
}

/** The product as two halves of one multiplication; compilers make two of the plain expression. */
static __device__ __forceinline__ void ingot_multiply_wide(uint32_t a, uint32_t b, uint32_t *low, uint32_t *high)
{
  asm("{ .reg .u64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p; }" : "=r"(*low), "=r"(*high) : "r"(a), "r"(b));
}

/** The keys of the ten rounds of Philox. */
struct ingot_philox_rounds {
  uint32_t k0[10], k1[10];
};

static inline __host__ __device__ ingot_philox_rounds ingot_philox_rounds_of(uint64_t key)
{
  ingot_philox_rounds rounds;
  for (int round = 0; round < 10; round++) {
    rounds.k0[round] = static_cast<uint32_t>(key) + static_cast<uint32_t>(round) * 0x9E3779B9u;
    rounds.k1[round] = static_cast<uint32_t>(key >> 32) + static_cast<uint32_t>(round) * 0xBB67AE85u;
  }
  return rounds;
}

/** The words of ingot_philox4x32, see base/philox.h. */
static __device__ __forceinline__ void ingot_device_philox(const ingot_philox_rounds &key, uint64_t counter,
                                                           uint32_t word[4])
{
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32), c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    uint32_t low0, high0, low1, high1;
    ingot_multiply_wide(c0, 0xD2511F53u, &low0, &high0);
    ingot_multiply_wide(c2, 0xCD9E8D57u, &low1, &high1);
    c0 = high1 ^ c1 ^ key.k0[round];
    c1 = low1;
    c2 = high0 ^ c3 ^ key.k1[round];
    c3 = low0;
  }
  word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

/** Bits of those of the four elements from `flat`, with the random halves w0 and w1, that a second draw drops. */
static __device__ __noinline__ uint32_t ingot_drawn_again(uint64_t stream, uint64_t keep_below, int64_t flat,
                                                          uint32_t w0, uint32_t w1)
{
  const uint32_t top = static_cast<uint32_t>(keep_below >> 32);
  const uint32_t half[4] = {w0 & 0xffffu, w0 >> 16, w1 & 0xffffu, w1 >> 16};
  uint32_t       drop = 0;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (half[k] == top && !ingot_philox_keep_second(stream, keep_below, flat + k)) drop |= 1u << k;
  }
  return drop;
}

/** Whether a half of w0 or w1 equals the top of a model's threshold, so that the element has a second draw. */
static __device__ __forceinline__ bool ingot_needs_second(const ingot_delta_model &m, uint32_t w0, uint32_t w1)
{
  uint32_t top = m.threshold >> 16, both = top | top << 16;
  if (top != static_cast<uint32_t>(m.keep_below >> 32)) return false; /* the same for all threads */
  uint32_t a = w0 ^ both, b = w1 ^ both;                              /* a half of 0 borrows from its top bit */
  return ((((a - 0x00010001u) & ~a) | ((b - 0x00010001u) & ~b)) & 0x80008000u) != 0;
}

/** The random mask of four elements from `flat`, a multiple of 4: 0 in place of what is dropped. w0, w1: their
 * halves. */
static __device__ __forceinline__ void ingot_mask_random(const ingot_delta_model &m, int64_t flat, uint32_t w0,
                                                         uint32_t w1, float v[4])
{
  v[0] = w0 << 16 <= m.threshold ? v[0] : 0.0f;
  v[1] = w0 <= m.threshold ? v[1] : 0.0f;
  v[2] = w1 << 16 <= m.threshold ? v[2] : 0.0f;
  v[3] = w1 <= m.threshold ? v[3] : 0.0f;
  if (ingot_needs_second(m, w0, w1)) {
    uint32_t drop = ingot_drawn_again(m.stream, m.keep_below, flat, w0, w1);
#pragma unroll
    for (int k = 0; k < 4; k++) v[k] = (drop >> k & 1u) != 0 ? 0.0f : v[k];
  }
}

/** Put 0 in place of what a model's mask drops of eight task-vector elements; `first` is the flat index of the
 * first. */
static __device__ __forceinline__ void ingot_delta_mask(const ingot_delta_model &m, int64_t first,
                                                        float tau[INGOT_VECTOR])
{
  if (m.mask == INGOT_MASK_RANDOM) {
    uint32_t word[4];
    ingot_device_philox(ingot_philox_rounds_of(m.stream), static_cast<uint64_t>(first) / INGOT_VECTOR, word);
    ingot_mask_random(m, first, word[0], word[1], tau);
    ingot_mask_random(m, first + 4, word[2], word[3], tau + 4);
  } else if (m.mask == INGOT_MASK_CUT) {
    int64_t below = m.cut - first; /* elements of the vector that lie before the cut */
    int     n_below = below <= 0 ? 0 : below >= INGOT_VECTOR ? INGOT_VECTOR : static_cast<int>(below);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) {
      /* key > T, or key == T before the cut: key + 1 > T there. Keys stay far below 2^32. */
      uint32_t key = ingot_delta_key(tau[k]) + (k < n_below ? 1u : 0u);
      tau[k] = key > m.threshold ? tau[k] : 0.0f;
    }
  }
}

#endif
