/** Grid-stride loops: a thread takes piece ingot_nn_first, then every ingot_nn_step-th. CUDA sources only. */
#ifndef INGOT_KERNELS_NN_CUDA_GRID_CUH
#define INGOT_KERNELS_NN_CUDA_GRID_CUH

#include "kernels/nn/cuda_nn.cuh"

/** Blocks of BLOCK threads for n_thread pieces: at most so many that the loop's start costs little. */
template <int BLOCK> static unsigned ingot_nn_grid(const ingot_nn_cuda *nn, int64_t n_thread)
{
  int64_t blocks = (n_thread + BLOCK - 1) / BLOCK, most = 32 * static_cast<int64_t>(nn->sm_count);
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

template <int BLOCK> static __device__ __forceinline__ int64_t ingot_nn_first()
{
  return blockIdx.x * static_cast<int64_t>(BLOCK) + threadIdx.x;
}

template <int BLOCK> static __device__ __forceinline__ int64_t ingot_nn_step()
{
  return gridDim.x * static_cast<int64_t>(BLOCK);
}

#endif
