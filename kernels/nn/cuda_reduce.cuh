/** Sums and maxima over the threads of a group (part of a warp) or of a block, in a fixed order. CUDA sources only. */
#ifndef INGOT_KERNELS_NN_CUDA_REDUCE_CUH
#define INGOT_KERNELS_NN_CUDA_REDUCE_CUH

#include <stdint.h>

/** Sum over THREADS neighbouring lanes (a power of two up to 32); every lane gets it. All 32 lanes must call. */
template <int THREADS> static __device__ __forceinline__ float ingot_nn_sum_lanes(float v)
{
#pragma unroll
  for (int d = THREADS / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}

/**
 * Two sums over THREADS threads that work on one row: part of a warp, or the whole block, which then gives shared
 * memory for a pair each warp. Every thread gets both.
 */
template <int THREADS> static __device__ __forceinline__ float2 ingot_nn_sum_pair(float2 v, float2 *shared)
{
  v.x = ingot_nn_sum_lanes<(THREADS < 32 ? THREADS : 32)>(v.x);
  v.y = ingot_nn_sum_lanes<(THREADS < 32 ? THREADS : 32)>(v.y);
  if constexpr (THREADS > 32) {
    __syncthreads(); /* the last call's values have been read */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; w++) v.x += shared[w].x, v.y += shared[w].y;
  }
  return v;
}

#endif
