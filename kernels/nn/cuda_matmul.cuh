/** Matrix products of the CUDA back end, with batches; matmul of the table is a batch of one. */
#ifndef INGOT_KERNELS_NN_CUDA_MATMUL_CUH
#define INGOT_KERNELS_NN_CUDA_MATMUL_CUH

#include "kernels/nn/cuda_nn.cuh"

/** nn.h's matmul n_batch times; the operands and c of each are `stride` elements after those of the last. */
struct ingot_nn_product {
  int64_t         m, n, k;
  float           alpha, beta;
  ingot_nn_matrix a, b;
  void           *c;
  int64_t         ldc;
  ingot_dtype     c_dtype;
  const void     *bias;
  int             n_batch;
  int64_t         stride_a, stride_b, stride_c;
  cudaStream_t    stream; /* with its own workspace */
  void           *workspace;
  size_t          workspace_bytes;
};

ingot_status ingot_nn_cuda_product(ingot_nn_cuda *nn, const ingot_nn_product *p);

#endif
