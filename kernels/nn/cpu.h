/**
 * The CPU back end of nn.h: float32, OpenBLAS for products, OpenMP for everything.
 *
 * Threads. There is one pool, OpenMP's. Work is cut into parts that depend on shapes alone (products: on the number of
 * threads as well), the parts are taken by whichever thread is free, and each part's sums have a fixed order: so the
 * bits are the same from run to run. A product's parts are sgemm calls of one thread each (kernels/blas.h): a pool of
 * OpenBLAS's beside OpenMP's would have both spin on the same cores.
 */
#ifndef INGOT_KERNELS_NN_CPU_H
#define INGOT_KERNELS_NN_CPU_H

#include "kernels/blas.h"
#include "kernels/nn/nn.h"

typedef struct ingot_nn_cpu {
  ingot_nn   head;
  ingot_blas blas;
  void      *scratch; /* grows; lent to the operator under way */
  size_t     scratch_bytes;
} ingot_nn_cpu;

ingot_status ingot_nn_cpu_open(const ingot_nn_options *options, ingot_nn **out);

/** Scratch memory of at least so many bytes, 64-byte aligned, until the next call. INGOT_ERR_NOMEM. */
ingot_status ingot_cpu_scratch(ingot_nn *nn, size_t bytes, float **out);
/** How many threads are worth waking for so many elements (of element-wise work; a product's are worth 32
 * multiplications). */
int ingot_cpu_threads(const ingot_nn *nn, int64_t n_elem);
/** This thread's number in a parallel region, 0 .. n_thread - 1: whose scratch memory it uses. */
int ingot_cpu_thread(void);

static inline const ingot_blas *ingot_cpu_blas(const ingot_nn *nn)
{
  return &((const ingot_nn_cpu *)nn)->blas;
}

static inline int64_t ingot_cpu_ceil_div(int64_t a, int64_t b)
{
  return (a + b - 1) / b;
}

/** Floats rounded up to whole cache lines. */
static inline int64_t ingot_cpu_padded(int64_t n_float)
{
  return (n_float + 15) / 16 * 16;
}

/* The operators, by file; see nn.h. */
ingot_status ingot_cpu_matmul(ingot_nn *nn, int64_t m, int64_t n, int64_t k, float alpha, ingot_nn_matrix a,
                              ingot_nn_matrix b, float beta, void *c, int64_t ldc, ingot_dtype c_dtype,
                              const void *bias);
ingot_status ingot_cpu_gram(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld, const int32_t *valid,
                            double *sum);

ingot_status ingot_cpu_norm(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *delta, void *sum,
                            const void *weight, const void *bias, void *y, float *stats);
ingot_status ingot_cpu_norm_backward(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *weight,
                                     const float *stats, const void *dy, const void *residual, void *dx, float *dweight,
                                     float *dbias);

ingot_status ingot_cpu_attention(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                 const void *v, void *o, float *lse);
ingot_status ingot_cpu_attention_backward(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                          const void *v, const void *o, const float *lse, const void *d_o, void *dq,
                                          void *dk, void *dv);

ingot_status ingot_cpu_cache_store(ingot_nn *nn, const ingot_nn_cache *cache, int64_t layer, int64_t n_token,
                                   const int32_t *place, const void *k, int64_t ld_k, const void *v, int64_t ld_v);
ingot_status ingot_cpu_cache_copy(ingot_nn *nn, const ingot_nn_cache *cache, int64_t n_copy, const int32_t *copies,
                                  int64_t most_token);
ingot_status ingot_cpu_attention_cached(ingot_nn *nn, const ingot_nn_cached *shape, const ingot_nn_cache *cache,
                                        const void *q, void *o);

ingot_status ingot_cpu_rope(ingot_nn *nn, const ingot_nn_rope *shape, void *x, bool inverse);
ingot_status ingot_cpu_swiglu(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up, void *out);
ingot_status ingot_cpu_swiglu_backward(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up,
                                       const void *d_out, void *d_gate_up);
ingot_status ingot_cpu_gelu(ingot_nn *nn, int64_t n, const void *x, void *y);
ingot_status ingot_cpu_gelu_backward(ingot_nn *nn, int64_t n, const void *x, const void *dy, void *dx);
ingot_status ingot_cpu_embedding(ingot_nn *nn, int64_t n_token, int64_t width, const int32_t *tokens, const void *table,
                                 const int32_t *positions, const void *position_table, void *out);
ingot_status ingot_cpu_embedding_backward(ingot_nn *nn, int64_t n_token, int64_t width, int64_t n_index,
                                          const int32_t *index, const void *d_out, float *d_table);
ingot_status ingot_cpu_column_sum(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld, float *sum);
ingot_status ingot_cpu_add(ingot_nn *nn, int64_t n, const void *x, void *y);
ingot_status ingot_cpu_add_squares(ingot_nn *nn, int64_t n, float scale, const float *g, float *f);

ingot_status ingot_cpu_cross_entropy(ingot_nn *nn, const ingot_nn_logits *z, const int32_t *labels, float scale,
                                     float *nll, int32_t *top1, void *d_logits);
ingot_status ingot_cpu_sample_labels(ingot_nn *nn, const ingot_nn_logits *z, uint64_t key, uint64_t first_counter,
                                     int32_t *labels);
ingot_status ingot_cpu_draw(ingot_nn *nn, const ingot_nn_logits *z, float inverse, const double *u, int32_t *ids);
ingot_status ingot_cpu_top_k(ingot_nn *nn, const ingot_nn_logits *z, int k, int32_t *ids, float *logp);

ingot_status ingot_cpu_mix(ingot_nn *nn, ingot_nn_mix kind, const ingot_nn_logits *z, const float *weight, float floor,
                           bool first, float *mixed);
ingot_status ingot_cpu_rule_out(ingot_nn *nn, const ingot_nn_logits *z, float margin, float *mixed);
ingot_status ingot_cpu_log_softmax(ingot_nn *nn, const ingot_nn_logits *z, float *logp);
ingot_status ingot_cpu_moments(ingot_nn *nn, const ingot_nn_logits *mixed, int n_member, const float *const *members,
                               const int32_t *labels, float *mean, float *product, float *label);
ingot_status ingot_cpu_distill(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                               const float *teacher, const int32_t *labels, float *soft, float *nll, void *d_logits);
ingot_status ingot_cpu_distill_top_k(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                     const ingot_nn_top_k *teacher, const int32_t *labels, float *soft, float *nll,
                                     void *d_logits);

ingot_status ingot_cpu_sum_squares(ingot_nn *nn, int64_t n, const float *x, double *sum);
ingot_status ingot_cpu_adamw(ingot_nn *nn, const ingot_nn_adamw *how, int64_t n, const float *gradient, float *master,
                             float *m, float *v, void *weight);
ingot_status ingot_cpu_round_to(ingot_nn *nn, int64_t n, const float *src, void *dst);
ingot_status ingot_cpu_widen(ingot_nn *nn, int64_t n, const void *src, float *dst);

#endif
