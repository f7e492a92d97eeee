/**
 * The CUDA back end of nn.h from inside: its struct, scratch memory, launches, and eight elements in registers. CUDA
 * sources of kernels/nn only.
 *
 * Every operator works on one stream, in the order of the calls (or on lanes that wait for it, and that it waits for);
 * scratch memory and the workspace of the matrix products are safe to reuse from call to call for that reason alone.
 */
#ifndef INGOT_KERNELS_NN_CUDA_NN_CUH
#define INGOT_KERNELS_NN_CUDA_NN_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/device_error.cuh"
#include "kernels/nn/cublaslt.cuh"
#include "kernels/nn/nn.h"

enum { INGOT_NN_LANES = 4 };

struct ingot_nn_plans;   /* of matrix products, by shape: cuda_matmul.cu */
struct ingot_nn_staging; /* page-locked memory for copies: cuda.cu */

struct ingot_nn_cuda {
  ingot_nn          head; /* first: the two pointers are one */
  bool              tf32;
  int               sm_count;
  int               compute;      /* 10 major + minor: 80, 90, ... */
  size_t            shared_bytes; /* the most shared memory that a block may ask for */
  cudaStream_t      stream;
  cudaStream_t      lane[INGOT_NN_LANES]; /* for operators that are many small pieces: fork and join below */
  cudaEvent_t       forked, joined[INGOT_NN_LANES];
  void             *scratch;
  size_t            scratch_bytes;
  ingot_cublaslt    blas;
  cublasLtHandle_t  lt;
  void             *workspace; /* of the matrix products */
  size_t            workspace_bytes;
  ingot_nn_plans   *plans;
  ingot_nn_staging *staging;
};

/** The back end behind the table's pointer; makes its device the calling thread's. */
static inline ingot_nn_cuda *ingot_nn_cuda_of(ingot_nn *nn)
{
  (void)cudaSetDevice(nn->device);
  return reinterpret_cast<ingot_nn_cuda *>(nn);
}

/**
 * Device memory of at least `bytes` bytes, 256-byte aligned, owned by the back end and valid until the next call of
 * this function: each operator takes what it needs in one piece. INGOT_ERR_NOMEM. Waits for the stream when it has to
 * grow.
 */
ingot_status ingot_nn_cuda_scratch(ingot_nn_cuda *nn, size_t bytes, void **out);

/** Lanes 0 .. n_lane - 1 wait for what is on the stream so far. */
ingot_status ingot_nn_cuda_fork(ingot_nn_cuda *nn, int n_lane);
/** The stream waits for what is on the lanes so far. */
ingot_status ingot_nn_cuda_join(ingot_nn_cuda *nn, int n_lane);

/** Round bytes up to the alignment of pieces of scratch memory. */
static inline size_t ingot_nn_cuda_aligned(size_t bytes)
{
  return (bytes + 255) / 256 * 256;
}

/** The status of the launch before it; `kernel` is its name for the message. */
static inline ingot_status ingot_nn_cuda_launched(const char *kernel)
{
  return ingot_cuda_status(cudaGetLastError(), kernel);
}

/* cuBLASLt: its handle and the plans. close is fine on a half-open back end. */
ingot_status ingot_nn_cuda_matmul_open(ingot_nn_cuda *nn);
void         ingot_nn_cuda_matmul_close(ingot_nn_cuda *nn);

/* Operators, by source file. cuda.cu has the memory functions and the table. */
ingot_status ingot_nn_cuda_matmul(ingot_nn *nn, int64_t m, int64_t n, int64_t k, float alpha, ingot_nn_matrix a,
                                  ingot_nn_matrix b, float beta, void *c, int64_t ldc, ingot_dtype c_dtype,
                                  const void *bias);
ingot_status ingot_nn_cuda_gram(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld,
                                const int32_t *valid, double *sum);
ingot_status ingot_nn_cuda_norm(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *delta, void *sum,
                                const void *weight, const void *bias, void *y, float *stats);
ingot_status ingot_nn_cuda_norm_backward(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *weight,
                                         const float *stats, const void *dy, const void *residual, void *dx,
                                         float *dweight, float *dbias);
ingot_status ingot_nn_cuda_rope(ingot_nn *nn, const ingot_nn_rope *shape, void *x, bool inverse);
ingot_status ingot_nn_cuda_attention(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                     const void *v, void *o, float *lse);
ingot_status ingot_nn_cuda_attention_backward(ingot_nn *nn, const ingot_nn_attention *shape, const void *q,
                                              const void *k, const void *v, const void *o, const float *lse,
                                              const void *d_o, void *dq, void *dk, void *dv);
ingot_status ingot_nn_cuda_cache_store(ingot_nn *nn, const ingot_nn_cache *cache, int64_t layer, int64_t n_token,
                                       const int32_t *place, const void *k, int64_t ld_k, const void *v, int64_t ld_v);
ingot_status ingot_nn_cuda_cache_copy(ingot_nn *nn, const ingot_nn_cache *cache, int64_t n_copy, const int32_t *copies,
                                      int64_t most_token);
ingot_status ingot_nn_cuda_attention_cached(ingot_nn *nn, const ingot_nn_cached *shape, const ingot_nn_cache *cache,
                                            const void *q, void *o);
ingot_status ingot_nn_cuda_swiglu(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up, void *out);
ingot_status ingot_nn_cuda_swiglu_backward(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up,
                                           const void *d_out, void *d_gate_up);
ingot_status ingot_nn_cuda_gelu(ingot_nn *nn, int64_t n, const void *x, void *y);
ingot_status ingot_nn_cuda_gelu_backward(ingot_nn *nn, int64_t n, const void *x, const void *dy, void *dx);
ingot_status ingot_nn_cuda_embedding(ingot_nn *nn, int64_t n_token, int64_t width, const int32_t *tokens,
                                     const void *table, const int32_t *positions, const void *position_table,
                                     void *out);
ingot_status ingot_nn_cuda_embedding_backward(ingot_nn *nn, int64_t n_token, int64_t width, int64_t n_index,
                                              const int32_t *index, const void *d_out, float *d_table);
ingot_status ingot_nn_cuda_column_sum(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld,
                                      float *sum);
ingot_status ingot_nn_cuda_add(ingot_nn *nn, int64_t n, const void *x, void *y);
ingot_status ingot_nn_cuda_add_squares(ingot_nn *nn, int64_t n, float scale, const float *g, float *f);
ingot_status ingot_nn_cuda_cross_entropy(ingot_nn *nn, const ingot_nn_logits *z, const int32_t *labels, float scale,
                                         float *nll, int32_t *top1, void *d_logits);
ingot_status ingot_nn_cuda_sample_labels(ingot_nn *nn, const ingot_nn_logits *z, uint64_t key, uint64_t first_counter,
                                         int32_t *labels);
ingot_status ingot_nn_cuda_draw(ingot_nn *nn, const ingot_nn_logits *z, float inverse, const double *u, int32_t *ids);
ingot_status ingot_nn_cuda_top_k(ingot_nn *nn, const ingot_nn_logits *z, int k, int32_t *ids, float *logp);
ingot_status ingot_nn_cuda_mix(ingot_nn *nn, ingot_nn_mix kind, const ingot_nn_logits *z, const float *weight,
                               float floor, bool first, float *mixed);
ingot_status ingot_nn_cuda_rule_out(ingot_nn *nn, const ingot_nn_logits *z, float margin, float *mixed);
ingot_status ingot_nn_cuda_log_softmax(ingot_nn *nn, const ingot_nn_logits *z, float *logp);
ingot_status ingot_nn_cuda_moments(ingot_nn *nn, const ingot_nn_logits *mixed, int n_member,
                                   const float *const *members, const int32_t *labels, float *mean, float *product,
                                   float *label);
ingot_status ingot_nn_cuda_distill(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                   const float *teacher, const int32_t *labels, float *soft, float *nll,
                                   void *d_logits);
ingot_status ingot_nn_cuda_distill_top_k(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                         const ingot_nn_top_k *teacher, const int32_t *labels, float *soft, float *nll,
                                         void *d_logits);
ingot_status ingot_nn_cuda_sum_squares(ingot_nn *nn, int64_t n, const float *x, double *sum);
ingot_status ingot_nn_cuda_adamw(ingot_nn *nn, const ingot_nn_adamw *how, int64_t n, const float *gradient,
                                 float *master, float *m, float *v, void *weight);
ingot_status ingot_nn_cuda_round_to(ingot_nn *nn, int64_t n, const float *src, void *dst);
ingot_status ingot_nn_cuda_widen(ingot_nn *nn, int64_t n, const void *src, float *dst);

/* Eight neighbouring elements, widened. */

static __device__ __forceinline__ float ingot_nn_widen(float v)
{
  return v;
}

static __device__ __forceinline__ float ingot_nn_widen(__nv_bfloat16 v)
{
  return __bfloat162float(v);
}

template <typename T> static __device__ __forceinline__ T ingot_nn_narrow(float v);

template <> __device__ __forceinline__ float ingot_nn_narrow<float>(float v)
{
  return v;
}

template <> __device__ __forceinline__ __nv_bfloat16 ingot_nn_narrow<__nv_bfloat16>(float v)
{
  return __float2bfloat16_rn(v);
}

static __device__ __forceinline__ void ingot_nn_load8(const float *p, float v[8])
{
  float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

static __device__ __forceinline__ void ingot_nn_load8(const __nv_bfloat16 *p, float v[8])
{
  uint4          raw = *reinterpret_cast<const uint4 *>(p);
  const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = __uint_as_float(word[i] << 16);
    v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
  }
}

static __device__ __forceinline__ void ingot_nn_store8(float *p, const float v[8])
{
  reinterpret_cast<float4 *>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4 *>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

static __device__ __forceinline__ void ingot_nn_store8(__nv_bfloat16 *p, const float v[8])
{
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    __nv_bfloat162 two = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    word[i] = *reinterpret_cast<uint32_t *>(&two);
  }
  *reinterpret_cast<uint4 *>(p) = make_uint4(word[0], word[1], word[2], word[3]);
}

/** Eight elements from p, of which `count` exist (others read as 0); wide: p is 16-byte aligned. */
template <typename T>
static __device__ __forceinline__ void ingot_nn_load(const T *p, int64_t count, bool wide, float v[8])
{
  if (wide && count >= 8) {
    ingot_nn_load8(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = i < count ? ingot_nn_widen(p[i]) : 0.0f;
  }
}

template <typename T>
static __device__ __forceinline__ void ingot_nn_store(T *p, int64_t count, bool wide, const float v[8])
{
  if (wide && count >= 8) {
    ingot_nn_store8(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (i < count) p[i] = ingot_nn_narrow<T>(v[i]);
    }
  }
}

/** True when rows of this pointer and distance start 16-byte aligned. */
template <typename T> static inline bool ingot_nn_wide(const T *p, int64_t ld)
{
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && ld * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

#endif
