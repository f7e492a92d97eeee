/**
 * Float64 block sums on the GPU, in the order of kernels/block_sum.h: one warp a block, a lane for each of its lanes.
 * CUDA sources only.
 */
#ifndef INGOT_KERNELS_FAMILIES_BLOCK_SUMS_CUH
#define INGOT_KERNELS_FAMILIES_BLOCK_SUMS_CUH

#include "kernels/block_sum.h"
#include "kernels/families/launch.cuh"

enum {
  INGOT_SUM_THREADS = 128,
  INGOT_SUM_WARPS = INGOT_SUM_THREADS / INGOT_SUM_LANES,
  INGOT_TILE_BLOCKS = INGOT_TILE / INGOT_BLOCK
};

/** Lane 0's return value is the sum of the block. All lanes of the warp call it. */
static __device__ __forceinline__ double ingot_fold_lanes(double sum)
{
#pragma unroll
  for (int distance = INGOT_SUM_LANES / 2; distance > 0; distance /= 2) {
    sum += __shfl_down_sync(0xffffffffu, sum, distance);
  }
  return sum;
}

/** Element i of the chunk of one input, widened; bad values are counted (when `count`) and replaced as asked. */
template <int CAPACITY>
static __device__ __forceinline__ float ingot_take_one(const ingot_inputs<CAPACITY> &a, int input, int64_t i,
                                                       bool count)
{
  float v = ingot_widen_one(a.in[input], a.dtype_of(input), i);
  if (a.look && ingot_f32_nonfinite(v)) {
    if (count && a.finite.count != nullptr) atomicAdd(&a.finite.count[input], 1ull);
    if (a.finite.zero) {
      float fill = a.has_base && input > 0 ? ingot_widen_one(a.in[0], a.dtype_of(0), i) : 0.0f;
      v = ingot_f32_nonfinite(fill) ? 0.0f : fill;
    }
  }
  return v;
}

/**
 * A lane's next N elements of one input: i, i + 32, ...; those from `end` on read as 0. All loads are made before the
 * first value is looked at.
 */
template <int N, int CAPACITY>
static __device__ __forceinline__ void ingot_take_strided(const ingot_inputs<CAPACITY> &a, int input, int64_t i,
                                                          int64_t end, bool count, float v[N])
{
  const ingot_dtype dtype = a.dtype_of(input);
  if (dtype == INGOT_DTYPE_BF16) {
    uint16_t        raw[N];
    const uint16_t *p = static_cast<const uint16_t *>(a.in[input]) + i;
#pragma unroll
    for (int k = 0; k < N; k++)
      raw[k] = i + k * INGOT_SUM_LANES < end ? p[k * INGOT_SUM_LANES] : static_cast<uint16_t>(0);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = ingot_f32_from_bf16(raw[k]);
  } else {
#pragma unroll
    for (int k = 0; k < N; k++) {
      int64_t at = i + k * INGOT_SUM_LANES;
      v[k] = at < end ? ingot_widen_one(a.in[input], dtype, at) : 0.0f;
    }
  }
  if (!a.look) return;
  uint32_t bad = 0;
#pragma unroll
  for (int k = 0; k < N; k++) bad |= ingot_f32_nonfinite(v[k]);
  if (bad == 0) return;
#pragma unroll
  for (int k = 0; k < N; k++) {
    if (ingot_f32_nonfinite(v[k])) v[k] = ingot_take_one(a, input, i + k * INGOT_SUM_LANES, count);
  }
}

/** Blocks of a chunk. */
static inline int64_t ingot_block_count(int64_t n)
{
  return (n + INGOT_BLOCK - 1) / INGOT_BLOCK;
}

/** Enqueue slot[k] += block[b][k] for b = 0 .. n_block - 1 in this order, k = 0 .. n_sum - 1. */
ingot_status ingot_add_block_sums(const double *block, int64_t n_block, int n_sum, double *slot, void *stream);

#endif
