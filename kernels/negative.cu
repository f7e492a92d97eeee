#include "kernels/negative.h"

#include "kernels/device_error.cuh"
#include "kernels/vector.cuh"

enum { BLOCK = 256, GRID_MAX = 4096 };

__global__ static void __launch_bounds__(BLOCK) negative_kernel(ingot_dtype d, const void *src, int64_t n,
                                                                unsigned long long *count)
{
  int64_t  step = static_cast<int64_t>(gridDim.x) * BLOCK * INGOT_VECTOR;
  unsigned found = 0;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x) * INGOT_VECTOR; i < n; i += step) {
    float v[INGOT_VECTOR];
    ingot_load_any(src, d, i, n - i < INGOT_VECTOR ? static_cast<int>(n - i) : INGOT_VECTOR, v);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) found += v[k] < 0.0f;
  }
  if (found > 0) atomicAdd(count, static_cast<unsigned long long>(found));
}

ingot_status ingot_device_count_negative(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  const int64_t per_block = static_cast<int64_t>(BLOCK) * INGOT_VECTOR;
  if (n == 0) return INGOT_OK;
  int64_t grid = (n + per_block - 1) / per_block;
  negative_kernel<<<static_cast<unsigned>(grid < GRID_MAX ? grid : GRID_MAX), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(
    d, src, n, reinterpret_cast<unsigned long long *>(count));
  return ingot_cuda_status(cudaGetLastError(), "negative_kernel");
}
