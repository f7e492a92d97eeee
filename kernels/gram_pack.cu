#include "kernels/gram_pack.h"

#include "kernels/device_error.cuh"

/** Where row i begins among the elements of the upper triangle. */
__device__ static int64_t row_start(int64_t width, int64_t i)
{
  return i * width - i * (i - 1) / 2;
}

__global__ static void pack_kernel(int64_t width, const double *sum, double scale, int64_t first, int64_t n, float *packed)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < n; k += step) {
    int64_t e = first + k;
    double  b = static_cast<double>(width) + 0.5; /* the row from the root of a quadratic, then put right */
    int64_t i = static_cast<int64_t>(b - sqrt(fmax(b * b - 2.0 * static_cast<double>(e), 0.0)));
    if (i < 0) i = 0;
    if (i > width - 1) i = width - 1;
    while (i > 0 && row_start(width, i) > e) i--;
    while (i + 1 < width && row_start(width, i + 1) <= e) i++;
    packed[k] = static_cast<float>(sum[i * width + i + (e - row_start(width, i))] * scale);
  }
}

ingot_status ingot_gram_pack(int64_t width, const double *sum, double scale, int64_t first, int64_t n, float *packed,
                             void *stream)
{
  enum { BLOCK = 256, GRID_MAX = 4096 };
  if (n == 0) return INGOT_OK;
  int64_t grid = (n + BLOCK - 1) / BLOCK;
  pack_kernel<<<static_cast<unsigned>(grid < GRID_MAX ? grid : GRID_MAX), BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(
      width, sum, scale, first, n, packed);
  return ingot_cuda_status(cudaGetLastError(), "pack_kernel");
}
