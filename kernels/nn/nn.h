/**
 * Operators of the transformer runtime: one table, two back ends. CPU: float32, OpenBLAS and OpenMP. CUDA: bfloat16
 * with float32 accumulation, or float32 (optionally TF32 in matrix products). workers/model/ builds forward and
 * backward of whole models from these and nothing else.
 *
 * Conventions
 *   - Matrices are row-major; ld is the distance of rows in elements. N tokens are n_batch windows of n_time, in order.
 *   - Activations and weights have the dtype nn->dtype. Norm statistics, logsumexp, losses, tables of rotary angles and
 *     gradients of parameters are float32; master sums of Gram matrices float64.
 *   - Pointers are memory of the back end (`alloc`, 256-byte aligned) unless a comment says host. Leading dimensions
 *     are multiples of 8 elements on CUDA.
 *   - A call has been done (CPU) or enqueued on the back end's stream (CUDA); results may be read on the host after
 *     `wait` or `copy_out`. One thread uses a back end at a time.
 *   - Deterministic: the same inputs on the same back end, with the same number of threads, give the same bits. No
 *     floating-point atomics.
 *   - Errors: INGOT_ERR_NOMEM from alloc (with the bytes), INGOT_ERR_DEVICE from CUDA; arguments are the caller's
 *     promise (INGOT_ASSERT).
 */
#ifndef INGOT_KERNELS_NN_NN_H
#define INGOT_KERNELS_NN_NN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_nn_kind { INGOT_NN_CPU, INGOT_NN_CUDA } ingot_nn_kind;

typedef struct ingot_nn     ingot_nn;
typedef struct ingot_nn_ops ingot_nn_ops;

typedef struct ingot_nn_options {
  ingot_nn_kind kind;
  int           n_thread; /* of the CPU: at least 1; CUDA: for what its users do beside, such as reading weights */
  int           device;   /* CUDA: its number */
  ingot_dtype   dtype;    /* CPU: F32. CUDA: BF16 or F32 */
  bool          tf32;     /* CUDA with F32: matrix products may use TF32 */
} ingot_nn_options;

/** The head of every back end; each appends its own. */
struct ingot_nn {
  const ingot_nn_ops *ops;
  ingot_nn_kind       kind;
  ingot_dtype         dtype;
  int                 n_thread;
  int                 device;
};

/** INGOT_ERR_DEVICE when there is no such device, or the program was built without CUDA. */
ingot_status ingot_nn_open(const ingot_nn_options *options, ingot_nn **out);
void         ingot_nn_close(ingot_nn **nn); /* NULL is fine; waits for work under way */
/** Host memory that an open back end keeps: page-locked slots, with CUDA. */
uint64_t ingot_nn_host_bytes(ingot_nn_kind kind);

/** An operand of a matrix product. */
typedef struct ingot_nn_matrix {
  const void *data;
  int64_t     ld;
  bool        transpose; /* the operand is the transpose of what is stored */
} ingot_nn_matrix;

/** Normalisation of rows: RMSNorm, or LayerNorm when centred. A token has n_group rows of `width`, one after the
 * other. */
typedef struct ingot_nn_norm {
  bool    centred;
  float   eps;
  int64_t n_token;
  int     n_group; /* 1, or the number of heads (q and k norms) */
  int64_t width;
  int64_t ld_x, ld_y; /* distance of tokens in x (and sum, dx, residual); in y (and dy) */
} ingot_nn_norm;

/** Rotary position embedding of n_head heads, pairs (j, j + rotary_dim / 2) as in Hugging Face checkpoints. */
typedef struct ingot_nn_rope {
  int64_t        n_token;
  int            n_head, head_dim, rotary_dim;
  int64_t        ld;        /* distance of tokens */
  const float   *cos, *sin; /* [positions][rotary_dim / 2] */
  const int32_t *positions; /* [n_token]: row of the tables */
} ingot_nn_rope;

/** Causal attention with grouped heads: head h uses key and value head h / (n_head / n_kv_head). */
typedef struct ingot_nn_attention {
  int64_t        n_batch, n_time;
  int            n_head, n_kv_head, head_dim;
  float          scale;     /* of the scores, head_dim^-1/2 */
  int            window;    /* a query sees this many keys at most, its own included; 0: all before it */
  const int32_t *first_key; /* [n_batch * n_time]: first key (0 .. n_time - 1, within the window) that a query may see
                               (documents); ascending within a window; NULL: 0 */
  int64_t ld_q, ld_k, ld_v, ld_o; /* distance of tokens; heads of a token follow each other */
} ingot_nn_attention;

/**
 * Keys and values of tokens that were, in slots: a slot has those of one sequence, in every layer. Memory of the back
 * end, nn->dtype; CUDA: `width` is a multiple of 8.
 */
typedef struct ingot_nn_cache {
  void   *keys, *values; /* [n_layer][n_slot][n_time][width] */
  int64_t n_layer, n_slot, n_time;
  int64_t width; /* of all key heads */
} ingot_nn_cache;

/** Attention of new tokens, each to the first n_key tokens in its slot. Rows may share a slot: tokens of one
 * sequence. */
typedef struct ingot_nn_cached {
  int64_t        n_row;
  int64_t        layer;
  int            n_head, n_kv_head, head_dim;
  float          scale; /* as in ingot_nn_attention, as is the next */
  int            window;
  const int32_t *slot;     /* [n_row] */
  const int32_t *n_key;    /* [n_row]: at least 1: the new token's own is there */
  int64_t        most_key; /* the largest of n_key */
  int64_t        ld_q, ld_o;
} ingot_nn_cached;

/** Rows of logits. Only the first n_vocab of each row are read; gradients are exactly 0 behind them. */
typedef struct ingot_nn_logits {
  const float *data;
  int64_t      n_row;
  int64_t      n_vocab;
  int64_t      ld;
} ingot_nn_logits;

enum { INGOT_NN_IGNORE = -1 }; /* label of a row that has no loss: loss 0, gradient 0, top1 is still given */

/** How the distributions of several models become one. */
typedef enum ingot_nn_mix {
  INGOT_NN_MIX_LINEAR, /* sum of weight * p; a row's weight is given as its logarithm, -inf: the member is left out */
  INGOT_NN_MIX_LOG_LINEAR, /* sum of weight * log p; weights of any sign */
  INGOT_NN_MIX_MAX,        /* largest weight * p; the weight given as its logarithm */
} ingot_nn_mix;

typedef enum ingot_nn_divergence {
  INGOT_NN_FORWARD_KL, /* KL(teacher || student) */
  INGOT_NN_REVERSE_KL, /* KL(student || teacher) */
  INGOT_NN_JSD,        /* beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student */
} ingot_nn_divergence;

/** A distillation loss: alpha T^2 D(teacher at T, student at T) + (1 - alpha) cross-entropy with the label, per row. */
typedef struct ingot_nn_distill {
  ingot_nn_divergence divergence;
  float               beta;        /* of JSD, in (0, 1) */
  float               temperature; /* T > 0 */
  float               alpha;       /* in [0, 1] */
  float               scale;       /* of the gradient */
} ingot_nn_distill;

/**
 * What the stored top-k of a teacher says of the other classes. At another temperature than 1, what they have together
 * is that of a share spread evenly over them; less than 10^-6 at temperature 1, of teacher or student, counts as 10^-6.
 */
typedef enum ingot_nn_tail {
  INGOT_NN_TAIL_NONE,    /* nothing: the stored ones are made to sum to 1 */
  INGOT_NN_TAIL_BUCKET,  /* the rest is one class, of teacher and student alike */
  INGOT_NN_TAIL_UNIFORM, /* the rest is spread evenly over the other classes */
} ingot_nn_tail;

/** A teacher's k largest log-probabilities of each row, at temperature 1. Back-end memory. */
typedef struct ingot_nn_top_k {
  int            k;
  const int32_t *ids;  /* [n_row][k] */
  const float   *logp; /* [n_row][k] */
  ingot_nn_tail  tail;
} ingot_nn_top_k;

/** AdamW (Loshchilov and Hutter, arXiv 1711.05101) at one step. */
typedef struct ingot_nn_adamw {
  float   rate, beta1, beta2, epsilon, decay;
  float   gradient_scale; /* of the gradient before anything else: clipping */
  int64_t step;           /* from 1 */
} ingot_nn_adamw;

struct ingot_nn_ops {
  void (*close)(ingot_nn *nn);

  /* Memory. */
  ingot_status (*alloc)(ingot_nn *nn, size_t bytes, void **out); /* not cleared */
  void (*free)(ingot_nn *nn, void *memory);                      /* NULL is fine */
  ingot_status (*copy_in)(ingot_nn *nn, void *dst, const void *host_src,
                          size_t bytes); /* host memory is free on return */
  ingot_status (*copy_out)(ingot_nn *nn, void *host_dst, const void *src, size_t bytes); /* waits */
  ingot_status (*copy)(ingot_nn *nn, void *dst, const void *src, size_t bytes);
  ingot_status (*zero)(ingot_nn *nn, void *dst, size_t bytes);
  ingot_status (*wait)(ingot_nn *nn);

  /**
   * C = alpha A B + beta C + bias, with A [m, k], B [k, n] of nn->dtype after their transposition, C [m, n] of c_dtype
   * (nn->dtype or F32), bias [n] of nn->dtype or NULL. beta 0 does not read C. Sums over k are float32.
   */
  ingot_status (*matmul)(ingot_nn *nn, int64_t m, int64_t n, int64_t k, float alpha, ingot_nn_matrix a,
                         ingot_nn_matrix b, float beta, void *c, int64_t ldc, ingot_dtype c_dtype, const void *bias);
  /**
   * Upper triangle of sum [width][width] += X^T X over the rows with valid != 0 (NULL: all). X has nn->dtype, products
   * are summed in float32 over at most 8192 rows, then added in float64. Below the diagonal nothing is promised.
   */
  ingot_status (*gram)(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld, const int32_t *valid,
                       double *sum);

  /** y = norm(x + delta) * weight (+ bias); with delta (may be NULL) the sum goes to `sum`. stats: float32 per row, the
   *  reciprocal deviation; centred: [mean, reciprocal deviation]. Statistics and products in float32. */
  ingot_status (*norm)(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *delta, void *sum,
                       const void *weight, const void *bias, void *y, float *stats);
  /** dx = (gradient through the norm) + residual (NULL: none); residual may be dx. dweight, dbias [width] are added to;
   *  NULL: not wanted. x is the norm's input (its `sum` if there was a delta). */
  ingot_status (*norm_backward)(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *weight,
                                const float *stats, const void *dy, const void *residual, void *dx, float *dweight,
                                float *dbias);

  /** In place. inverse turns by the negative angle: the backward pass. */
  ingot_status (*rope)(ingot_nn *nn, const ingot_nn_rope *shape, void *x, bool inverse);

  /** o = softmax(scale q k^T + mask) v per head; lse [n_batch][n_head][n_time] (NULL: not kept) is the logsumexp of the
   *  scaled scores. The score matrix is never stored whole. */
  ingot_status (*attention)(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k, const void *v,
                            void *o, float *lse);
  /** Gradients are written (not added) with the strides of q, k, v; do and o have ld_o. */
  ingot_status (*attention_backward)(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                     const void *v, const void *o, const float *lse, const void *d_o, void *dq,
                                     void *dk, void *dv);

  /** Keys and values of tokens go to a layer of the cache. place [n_token]: slot * n_time + time; -1: nowhere. */
  ingot_status (*cache_store)(ingot_nn *nn, const ingot_nn_cache *cache, int64_t layer, int64_t n_token,
                              const int32_t *place, const void *k, int64_t ld_k, const void *v, int64_t ld_v);
  /** The first tokens of slots, of all layers, go to other slots. copies [n_copy][3]: from, to, tokens (most_token the
   * largest of these); no slot is copied to twice, or both from and to. */
  ingot_status (*cache_copy)(ingot_nn *nn, const ingot_nn_cache *cache, int64_t n_copy, const int32_t *copies,
                             int64_t most_token);
  /** As attention, for new tokens against cached keys. */
  ingot_status (*attention_cached)(ingot_nn *nn, const ingot_nn_cached *shape, const ingot_nn_cache *cache,
                                   const void *q, void *o);

  /** out [n_row][width] = silu(gate) * up, gate_up [n_row][2 width] = [gate | up]. */
  ingot_status (*swiglu)(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up, void *out);
  /** d_gate_up may be gate_up itself. */
  ingot_status (*swiglu_backward)(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up, const void *d_out,
                                  void *d_gate_up);
  /** The tanh form of GELU ("gelu_new", "gelu_pytorch_tanh"). y may be x. */
  ingot_status (*gelu)(ingot_nn *nn, int64_t n, const void *x, void *y);
  ingot_status (*gelu_backward)(ingot_nn *nn, int64_t n, const void *x, const void *dy, void *dx);

  /** out [n_token][width] = table[tokens] (+ position_table[positions], when not NULL). */
  ingot_status (*embedding)(ingot_nn *nn, int64_t n_token, int64_t width, const int32_t *tokens, const void *table,
                            const int32_t *positions, const void *position_table, void *out);
  /** d_table[index[t]] += d_out[t], in ascending t for every row. Indices lie in 0 .. n_index - 1. */
  ingot_status (*embedding_backward)(ingot_nn *nn, int64_t n_token, int64_t width, int64_t n_index,
                                     const int32_t *index, const void *d_out, float *d_table);

  /** sum [width] += column sums of x: the gradient of a bias. */
  ingot_status (*column_sum)(ingot_nn *nn, int64_t n_row, int64_t width, const void *x, int64_t ld, float *sum);
  /** y += x, both nn->dtype. */
  ingot_status (*add)(ingot_nn *nn, int64_t n, const void *x, void *y);
  /** f += scale * g * g, float32. */
  ingot_status (*add_squares)(ingot_nn *nn, int64_t n, float scale, const float *g, float *f);

  /**
   * Per row: nll = logsumexp(z) - z[label] (float32), top1 = the smallest index of the largest logit (each NULL: not
   * wanted). d_logits [n_row][ld] of nn->dtype (NULL: not wanted) = scale * (softmax(z) - onehot(label)).
   */
  ingot_status (*cross_entropy)(ingot_nn *nn, const ingot_nn_logits *z, const int32_t *labels, float scale, float *nll,
                                int32_t *top1, void *d_logits);
  /** labels[r] drawn from softmax(z[r]) with the Philox word 0 of (key, first_counter + r), u = (word + 0.5) / 2^32:
   * the smallest v with cumulative probability above u. Rows whose label is INGOT_NN_IGNORE on entry stay so. */
  ingot_status (*sample_labels)(ingot_nn *nn, const ingot_nn_logits *z, uint64_t key, uint64_t first_counter,
                                int32_t *labels);
  /** ids[r] drawn from softmax(inverse * z[r]) with u[r] of [0, 1): the smallest v with cumulative probability above u.
   * -1 for a row that has no distribution: not a number, +inf, or -inf alone. */
  ingot_status (*draw)(ingot_nn *nn, const ingot_nn_logits *z, float inverse, const double *u, int32_t *ids);
  /** The k largest log-probabilities of each row, descending, equal logits by ascending id: ids, logp [n_row][k]. */
  ingot_status (*top_k)(ingot_nn *nn, const ingot_nn_logits *z, int k, int32_t *ids, float *logp);

  /* Combining models, distillation, training. */

  /**
   * Take a member into mixed [n_row][z->ld], rows of unnormalised log-probabilities; `first` sets instead of adding.
   * weight [n_row] as the kind says; floor (log-linear with a negative weight): log-probabilities below it count as it.
   * A weight of 0 leaves out of a product. cross_entropy and distill normalise what they are given, so mixed rows serve
   * as logits. Behind n_vocab nothing is promised.
   */
  ingot_status (*mix)(ingot_nn *nn, ingot_nn_mix kind, const ingot_nn_logits *z, const float *weight, float floor,
                      bool first, float *mixed);
  /** mixed [n_row][z->ld] = -inf where z is below the largest of its row plus margin (at most 0): what a member holds
   * to be implausible. Whatever is mixed in later leaves it there, as long as it is not +inf. */
  ingot_status (*rule_out)(ingot_nn *nn, const ingot_nn_logits *z, float margin, float *mixed);
  /**
   * Per row: soft = T^2 D (float32), nll = cross-entropy with the label, each NULL: not wanted; d_logits (NULL: not
   * wanted) = scale times the gradient of the whole loss by z. Rows labelled INGOT_NN_IGNORE: 0. teacher
   * [n_row][z->ld]: logits. Forward KL over what a teacher rules out (-inf) is 0 there; reverse KL is +inf.
   */
  ingot_status (*distill)(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z, const float *teacher,
                          const int32_t *labels, float *soft, float *nll, void *d_logits);
  /** The same with forward KL from stored top-k. */
  ingot_status (*distill_top_k)(ingot_nn *nn, const ingot_nn_distill *loss, const ingot_nn_logits *z,
                                const ingot_nn_top_k *teacher, const int32_t *labels, float *soft, float *nll,
                                void *d_logits);
  /**
   * Moments and the log-probability of the label of M members of mixed rows, for learning log-linear weights: with q
   * the softmax of mixed, mean [n_row][M] = E_q[logp_m], product [n_row][M][M] = E_q[logp_m logp_j], label [n_row][M] =
   * logp_m(label). members: host array of M back-end arrays [n_row][mixed->ld] of log-probabilities. M at most 16. Rows
   * labelled INGOT_NN_IGNORE: 0. What q gives nothing adds nothing, whatever its logp.
   */
  ingot_status (*moments)(ingot_nn *nn, const ingot_nn_logits *mixed, int n_member, const float *const *members,
                          const int32_t *labels, float *mean, float *product, float *label);
  /** logp [n_row][z->ld] = log-softmax of the rows; may be z->data. */
  ingot_status (*log_softmax)(ingot_nn *nn, const ingot_nn_logits *z, float *logp);
  /** *sum (host) = sum of squares, float64 in blocks added in a fixed order. Waits. */
  ingot_status (*sum_squares)(ingot_nn *nn, int64_t n, const float *x, double *sum);
  /** One step on n parameters: master, m, v updated; weight (nn->dtype, NULL: none) = master rounded. */
  ingot_status (*adamw)(ingot_nn *nn, const ingot_nn_adamw *how, int64_t n, const float *gradient, float *master,
                        float *m, float *v, void *weight);
  /** dst (nn->dtype) = src rounded to nearest even; and src widened. */
  ingot_status (*round_to)(ingot_nn *nn, int64_t n, const float *src, void *dst);
  ingot_status (*widen)(ingot_nn *nn, int64_t n, const void *src, float *dst);
};

#ifdef __cplusplus
}
#endif
#endif
