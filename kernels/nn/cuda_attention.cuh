/** What the attention kernels share: launch functions by dtype, and which keys a query sees. CUDA sources only. */
#ifndef INGOT_KERNELS_NN_CUDA_ATTENTION_CUH
#define INGOT_KERNELS_NN_CUDA_ATTENTION_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/device_error.cuh"
#include "kernels/nn/cuda_attention.h"
#include "kernels/nn/nn.h"

/** Arrays of the backward pass; elements of the dtype of the call. */
struct ingot_attention_grads {
  const void  *q, *k, *v, *o, *d_o;
  const float *lse;
  void        *dq, *dk, *dv;
  float2      *rows; /* scratch [n_batch][n_head][n_time]: lse / ln 2, and <dO, O> of the row */
  cudaStream_t stream;
};

/** BF16, head_dim to 128: tensor cores. */
ingot_status ingot_attention_tensor_forward(const ingot_nn_attention *shape, const void *q, const void *k,
                                            const void *v, void *o, float *lse, cudaStream_t stream);
ingot_status ingot_attention_tensor_backward(const ingot_nn_attention *shape, const ingot_attention_grads *g);

/** F32 and BF16, head_dim to 256: float32 arithmetic throughout. */
ingot_status ingot_attention_plain_forward(const ingot_nn_attention *shape, ingot_dtype dtype, const void *q,
                                           const void *k, const void *v, void *o, float *lse, cudaStream_t stream);
ingot_status ingot_attention_plain_backward(const ingot_nn_attention *shape, ingot_dtype dtype,
                                            const ingot_attention_grads *g);

static const float INGOT_LOG2_E = 1.4426950408889634f;

/** The first key that the query at `time` of a window sees; ascending in time. Behind the window's end: of its last. */
static __device__ __forceinline__ int ingot_attention_first(const ingot_nn_attention &a, int64_t batch, int time)
{
  int at = min(time, static_cast<int>(a.n_time) - 1);
  int first = a.first_key != nullptr ? a.first_key[batch * a.n_time + at] : 0;
  return a.window > 0 ? max(first, at - a.window + 1) : first;
}

/** One past the last query of a window that sees one of the keys up to `key`: found by halving. */
static __device__ __forceinline__ int ingot_attention_end(const ingot_nn_attention &a, int64_t batch, int key)
{
  int low = min(key, static_cast<int>(a.n_time) - 1), high = static_cast<int>(a.n_time); /* low sees, high does not */
  if (a.first_key == nullptr && a.window <= 0) return high;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (ingot_attention_first(a, batch, middle) <= key) low = middle;
    else high = middle;
  }
  return high;
}

/** Launch with more shared memory than a kernel gets unasked. */
#define INGOT_ATTENTION_LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...)                                    \
  do {                                                                                                                \
    auto launched = kernel;                                                                                           \
    INGOT_TRY_CUDA(cudaFuncSetAttribute(launched, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(shared_bytes))); \
    launched<<<static_cast<unsigned>(blocks), (threads), (shared_bytes), (stream)>>>(__VA_ARGS__);                    \
    INGOT_TRY(ingot_cuda_status(cudaGetLastError(), #kernel));                                                        \
  } while (0)

#endif
