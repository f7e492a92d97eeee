/** Rows of logits, a block of threads to a row: the largest and the sum of exponentials. CUDA sources of kernels/nn
 * only. */
#ifndef INGOT_KERNELS_NN_CUDA_ROWS_CUH
#define INGOT_KERNELS_NN_CUDA_ROWS_CUH

#include <cuda/std/limits>

#include "kernels/nn/cuda_nn.cuh"

enum { INGOT_NN_ROW_BLOCK = 512, INGOT_NN_ROW_WARPS = INGOT_NN_ROW_BLOCK / 32 };

/** Of some of a row's logits: the largest, the smallest index that has it, and the sum of exp(z - largest). */
struct ingot_nn_soft_sum {
  float   largest, sum;
  int32_t index;
};

static __device__ __forceinline__ ingot_nn_soft_sum ingot_nn_no_sum()
{
  ingot_nn_soft_sum s = {-cuda::std::numeric_limits<float>::infinity(), 0.0f, INT32_MAX};
  return s;
}

static __device__ __forceinline__ bool ingot_nn_goes_before(float a, int32_t index_a, float b, int32_t index_b)
{
  return a > b || (a == b && index_a < index_b);
}

static __device__ __forceinline__ ingot_nn_soft_sum ingot_nn_merge_sums(ingot_nn_soft_sum a, ingot_nn_soft_sum b)
{
  bool              first = ingot_nn_goes_before(a.largest, a.index, b.largest, b.index);
  ingot_nn_soft_sum high = first ? a : b, low = first ? b : a;
  if (!(low.sum == 0.0f)) high.sum += low.sum * expf(low.largest - high.largest); /* NaN stays */
  return high;
}

/** Over the block, in a fixed order; every thread gets it. shared: [INGOT_NN_ROW_WARPS]. */
static __device__ __forceinline__ ingot_nn_soft_sum ingot_nn_merge_sums_block(ingot_nn_soft_sum  s,
                                                                              ingot_nn_soft_sum *shared)
{
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    ingot_nn_soft_sum other = {__shfl_down_sync(0xffffffffu, s.largest, d), __shfl_down_sync(0xffffffffu, s.sum, d),
                               __shfl_down_sync(0xffffffffu, s.index, d)};
    s = ingot_nn_merge_sums(s, other);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = s;
  __syncthreads();
  s = shared[0];
  for (int w = 1; w < INGOT_NN_ROW_WARPS; w++) s = ingot_nn_merge_sums(s, shared[w]);
  return s;
}

/** One row: threads take vectors of four in turn. */
static __device__ __forceinline__ ingot_nn_soft_sum ingot_nn_sum_row(const float *z, int64_t n, bool wide,
                                                                     ingot_nn_soft_sum *shared)
{
  ingot_nn_soft_sum s = ingot_nn_no_sum();
#pragma unroll 4
  for (int64_t at = threadIdx.x * 4; at < n; at += INGOT_NN_ROW_BLOCK * 4) {
    float v[4];
    if (wide && at + 4 <= n) {
      float4 four = *reinterpret_cast<const float4 *>(z + at);
      v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = at + i < n ? z[at + i] : -cuda::std::numeric_limits<float>::infinity();
    }
    float high = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
    if (high > s.largest) {
      s.sum *= expf(s.largest - high); /* 0 the first time */
      s.largest = high;
      s.index = static_cast<int32_t>(at) + (v[0] == high ? 0 : v[1] == high ? 1 : v[2] == high ? 2 : 3);
    }
    float from = s.largest == -cuda::std::numeric_limits<float>::infinity() ? 0.0f : s.largest;
    s.sum += (expf(v[0] - from) + expf(v[1] - from)) + (expf(v[2] - from) + expf(v[3] - from));
  }
  return ingot_nn_merge_sums_block(s, shared);
}

/** Four neighbouring logits, of which `count` exist; the others are -inf. wide: z is 16-byte aligned. */
static __device__ __forceinline__ void ingot_nn_load_four(const float *z, int64_t count, bool wide, float v[4])
{
  if (wide && count >= 4) {
    float4 four = *reinterpret_cast<const float4 *>(z);
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = i < count ? z[i] : -cuda::std::numeric_limits<float>::infinity();
  }
}

/** log(exp(a) + exp(b)); either may be -inf. */
static __device__ __forceinline__ float ingot_nn_log_add(float a, float b)
{
  float high = a > b ? a : b, low = a > b ? b : a;
  return low == -cuda::std::numeric_limits<float>::infinity() ? high : high + log1pf(expf(low - high));
}

#endif
