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
size_t ingot_device_delta_l1_workspace_bytes(const ingot_method_tensor *t);

/** A model as kernels see it: words to be compared with `threshold` are not shifted first. */
static inline ingot_delta_model ingot_device_delta_model(const ingot_delta_model *m)
{
  ingot_delta_model out = *m;
  if (m->mask == INGOT_MASK_RANDOM) out.threshold = m->threshold << 8;
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

/**
 * Put 0 in place of what a model's mask drops. v holds values that belong to the task-vector elements tau (and may be
 * tau itself); `first` is the flat index of the first, a multiple of 8.
 */
static __device__ __forceinline__ void ingot_delta_mask(const ingot_delta_model &m, int64_t first,
                                                        const float tau[INGOT_VECTOR], float v[INGOT_VECTOR])
{
  if (m.mask == INGOT_MASK_RANDOM) {
    uint32_t word[INGOT_VECTOR];
    uint64_t counter = static_cast<uint64_t>(first) / 4;
    ingot_philox_rounds key = ingot_philox_rounds_of(m.stream);
    ingot_device_philox(key, counter, word);
    ingot_device_philox(key, counter + 1, word + 4);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) v[k] = word[k] < m.threshold ? v[k] : 0.0f;
  } else if (m.mask == INGOT_MASK_CUT) {
    int64_t below = m.cut - first; /* elements of the vector that lie before the cut */
    int     n_below = below <= 0 ? 0 : below >= INGOT_VECTOR ? INGOT_VECTOR : static_cast<int>(below);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) {
      /* key > T, or key == T before the cut: key + 1 > T there. Keys stay far below 2^32. */
      uint32_t key = ingot_delta_key(tau[k]) + (k < n_below ? 1u : 0u);
      v[k] = key > m.threshold ? v[k] : 0.0f;
    }
  }
}

#endif
