#include "kernels/count_bad.h"

#include "kernels/device_error.cuh"
#include "kernels/vector.cuh"

enum { BLOCK = 256 };

struct is_negative {
  static __device__ __forceinline__ unsigned test(float v)
  {
    return v < 0.0f;
  }
};

struct is_nonfinite {
  static __device__ __forceinline__ unsigned test(float v)
  {
    return ingot_f32_nonfinite(v);
  }
};

template <typename BAD>
__global__ static void __launch_bounds__(BLOCK)
    count_kernel(ingot_dtype d, const void *src, int64_t n, unsigned long long *count)
{
  int64_t  step = static_cast<int64_t>(gridDim.x) * BLOCK * INGOT_VECTOR;
  unsigned found = 0;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x) * INGOT_VECTOR; i < n; i += step) {
    float v[INGOT_VECTOR];
    ingot_load_any(src, d, i, n - i < INGOT_VECTOR ? static_cast<int>(n - i) : INGOT_VECTOR, v);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) found += BAD::test(v[k]);
  }
  if (found > 0) atomicAdd(count, static_cast<unsigned long long>(found));
}

template <typename BAD>
static ingot_status count_bad(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  const int64_t per_block = static_cast<int64_t>(BLOCK) * INGOT_VECTOR;
  if (n == 0) return INGOT_OK;
  int64_t grid = (n + per_block - 1) / per_block, most = 4096;
  count_kernel<BAD><<<static_cast<unsigned>(grid < most ? grid : most), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(
      d, src, n, reinterpret_cast<unsigned long long *>(count));
  return ingot_cuda_status(cudaGetLastError(), "count_kernel");
}

ingot_status ingot_device_count_negative(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  return count_bad<is_negative>(d, src, n, count, stream);
}

ingot_status ingot_device_count_nonfinite(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  return count_bad<is_nonfinite>(d, src, n, count, stream);
}
