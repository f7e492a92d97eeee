#include "kernels/gram_pack.h"

#include "kernels/device_error.cuh"
#include "kernels/linalg/input.h"

__global__ static void pack_kernel(int64_t width, const double *sum, double scale, int64_t first, int64_t n,
                                   float *packed)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < n; k += step) {
    int64_t e = first + k, i = ingot_packed_row(width, e);
    packed[k] = static_cast<float>(sum[i * width + i + (e - ingot_packed_row_start(width, i))] * scale);
  }
}

ingot_status ingot_gram_pack(int64_t width, const double *sum, double scale, int64_t first, int64_t n, float *packed,
                             void *stream)
{
  enum { BLOCK = 256 };
  if (n == 0) return INGOT_OK;
  int64_t grid = (n + BLOCK - 1) / BLOCK, most = 4096;
  pack_kernel<<<static_cast<unsigned>(grid < most ? grid : most), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(
      width, sum, scale, first, n, packed);
  return ingot_cuda_status(cudaGetLastError(), "pack_kernel");
}
