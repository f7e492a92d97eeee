/*
 * The operators of the CUDA back end in bfloat16 at the shape of a Llama of 1.1 G parameters (16 layers, 2048, 8192, 32
 * and 8 heads, vocabulary 32000), 8 windows of 2048 tokens, beside the card's own copy bandwidth and matrix rate in the
 * same run. Matrix products: 2 m n k operations. Others: bytes that must be read and written at least once.
 *
 * bench_nn_cuda [REPEATS]
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/philox.h"
#include "kernels/device.h"
#include "kernels/nn/nn.h"

enum {
  N = 16384,
  WINDOW = 2048,
  HIDDEN = 2048,
  INNER = 8192,
  HEADS = 32,
  KV = 8,
  HEAD_DIM = 64,
  VOCAB = 32000,
  CHUNK = 4096,
  MANY = 32, /* sequences that are decoded together */
  FEW = 4
};
enum { QKV = (HEADS + 2 * KV) * HEAD_DIM };

typedef struct bench {
  ingot_nn *nn;
  int       repeats;
  char     *a, *b, *c, *w;   /* bfloat16 activations [N][2 INNER], weights [2 INNER][HIDDEN] or the vocabulary's */
  float    *f, *g;           /* float32: logits [CHUNK][VOCAB] or gradients */
  double   *sum;             /* [INNER][INNER] */
  int32_t  *ids, *positions; /* [N] */
  int32_t  *first;           /* [CHUNK][64]: 0 .. 63 */
  int32_t  *n_key;           /* [MANY] of WINDOW, then [FEW] of N */
  double    copy_rate, matrix_rate;
} bench;

typedef ingot_status (*op)(const bench *b, const int64_t *shape);

static double seconds(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "%s\n", ingot_error_message());
  exit(1);
}

/** Seconds of one call: the best of three turns of `repeats` calls. */
static double time_of(const bench *b, op f, const int64_t *shape)
{
  double best = 1e30;
  must(f(b, shape));
  must(b->nn->ops->wait(b->nn));
  for (int turn = 0; turn < 3; turn++) {
    double begin = seconds();
    for (int i = 0; i < b->repeats; i++) must(f(b, shape));
    must(b->nn->ops->wait(b->nn));
    double took = (seconds() - begin) / b->repeats;
    if (took < best) best = took;
  }
  return best;
}

static ingot_status op_copy(const bench *b, const int64_t *s)
{
  return b->nn->ops->copy(b->nn, b->b, b->a, (size_t)s[0]);
}

/* m, n, k, a transposed, b transposed, float32 result, beta */
static ingot_status op_matmul(const bench *b, const int64_t *s)
{
  ingot_nn_matrix x = {b->a, s[3] ? s[0] : s[2], s[3]}, w = {b->w, s[4] ? s[2] : s[1], s[4]};
  return b->nn->ops->matmul(b->nn, s[0], s[1], s[2], 1.0f, x, w, (float)s[6], s[5] ? (void *)b->f : (void *)b->b, s[1],
                            s[5] ? INGOT_DTYPE_F32 : INGOT_DTYPE_BF16, NULL);
}

static ingot_status op_gram(const bench *b, const int64_t *s)
{
  return b->nn->ops->gram(b->nn, s[0], s[1], b->a, s[1], NULL, b->sum);
}

static ingot_status op_norm(const bench *b, const int64_t *s)
{
  ingot_nn_norm shape = {s[3], 1e-5f, s[0], (int)s[2], s[1], s[1] * s[2], s[1] * s[2]};
  return b->nn->ops->norm(b->nn, &shape, b->a, s[4] ? b->b : NULL, s[4] ? b->a : NULL, b->w, NULL, b->c, b->f);
}

static ingot_status op_norm_backward(const bench *b, const int64_t *s)
{
  ingot_nn_norm shape = {s[3], 1e-5f, s[0], (int)s[2], s[1], s[1] * s[2], s[1] * s[2]};
  return b->nn->ops->norm_backward(b->nn, &shape, b->a, b->w, b->f, b->b, s[4] ? b->c : NULL, b->c, b->g, NULL);
}

static ingot_status op_rope(const bench *b, const int64_t *s)
{
  ingot_nn_rope shape = {s[0], (int)s[1], HEAD_DIM, HEAD_DIM, QKV, b->f, b->f, b->positions};
  return b->nn->ops->rope(b->nn, &shape, b->a, false);
}

static ingot_status op_swiglu(const bench *b, const int64_t *s)
{
  return b->nn->ops->swiglu(b->nn, s[0], s[1], b->a, b->b);
}

static ingot_status op_swiglu_backward(const bench *b, const int64_t *s)
{
  return b->nn->ops->swiglu_backward(b->nn, s[0], s[1], b->a, b->b, b->c);
}

static ingot_status op_gelu(const bench *b, const int64_t *s)
{
  return b->nn->ops->gelu(b->nn, s[0] * s[1], b->a, b->b);
}

static ingot_status op_gelu_backward(const bench *b, const int64_t *s)
{
  return b->nn->ops->gelu_backward(b->nn, s[0] * s[1], b->a, b->b, b->c);
}

static ingot_status op_add(const bench *b, const int64_t *s)
{
  return b->nn->ops->add(b->nn, s[0] * s[1], b->a, b->b);
}

static ingot_status op_add_squares(const bench *b, const int64_t *s)
{
  return b->nn->ops->add_squares(b->nn, s[0] * s[1], 1.0f, b->f, b->g);
}

static ingot_status op_column_sum(const bench *b, const int64_t *s)
{
  return b->nn->ops->column_sum(b->nn, s[0], s[1], b->a, s[1], b->g);
}

static ingot_status op_embedding(const bench *b, const int64_t *s)
{
  return b->nn->ops->embedding(b->nn, s[0], s[1], b->ids, b->w, NULL, NULL, b->b);
}

static ingot_status op_embedding_backward(const bench *b, const int64_t *s)
{
  return b->nn->ops->embedding_backward(b->nn, s[0], s[1], VOCAB, b->ids, b->a, b->g);
}

/* rows, with gradient */
static ingot_status op_cross_entropy(const bench *b, const int64_t *s)
{
  ingot_nn_logits z = {b->f, s[0], VOCAB, VOCAB};
  return b->nn->ops->cross_entropy(b->nn, &z, b->ids, 1.0f, b->g, NULL, s[1] ? b->b : NULL);
}

static ingot_status op_sample(const bench *b, const int64_t *s)
{
  ingot_nn_logits z = {b->f, s[0], VOCAB, VOCAB};
  return b->nn->ops->sample_labels(b->nn, &z, 1, 2, (int32_t *)(void *)b->c);
}

static ingot_status op_top_k(const bench *b, const int64_t *s)
{
  ingot_nn_logits z = {b->f, s[0], VOCAB, VOCAB};
  return b->nn->ops->top_k(b->nn, &z, (int)s[1], (int32_t *)(void *)b->c, b->g);
}

/* rows, keys of each, where their numbers of keys are */
static ingot_status op_cached(const bench *b, const int64_t *s)
{
  ingot_nn_cache  cache = {b->a, b->b, 1, s[0], s[1], KV * HEAD_DIM};
  ingot_nn_cached shape = {.n_row = s[0],
                           .n_head = HEADS,
                           .n_kv_head = KV,
                           .head_dim = HEAD_DIM,
                           .scale = 0.125f,
                           .slot = b->positions,
                           .n_key = b->n_key + s[2],
                           .most_key = s[1],
                           .ld_q = QKV,
                           .ld_o = HEADS * HEAD_DIM};
  return b->nn->ops->attention_cached(b->nn, &shape, &cache, b->w, b->c);
}

/* rows, kind */
static ingot_status op_mix(const bench *b, const int64_t *s)
{
  ingot_nn_logits z = {b->f, s[0], VOCAB, VOCAB};
  return b->nn->ops->mix(b->nn, (ingot_nn_mix)s[1], &z, (const float *)(const void *)b->w, -18, false, b->g);
}

static ingot_status op_log_softmax(const bench *b, const int64_t *s)
{
  ingot_nn_logits z = {b->f, s[0], VOCAB, VOCAB};
  return b->nn->ops->log_softmax(b->nn, &z, b->f);
}

/* rows, divergence, quarters of alpha, with gradient */
static ingot_status op_distill(const bench *b, const int64_t *s)
{
  ingot_nn_logits  z = {b->f, s[0], VOCAB, VOCAB};
  ingot_nn_distill loss = {(ingot_nn_divergence)s[1], 0.5f, 2, (float)s[2] / 4, 1};
  float           *out = (float *)(void *)b->c;
  return b->nn->ops->distill(b->nn, &loss, &z, b->g, b->ids, out, out + N, s[3] ? b->b : NULL);
}

/* rows, k, tail: the teacher's k first classes, alike */
static ingot_status op_distill_top_k(const bench *b, const int64_t *s)
{
  ingot_nn_logits  z = {b->f, s[0], VOCAB, VOCAB};
  ingot_nn_distill loss = {INGOT_NN_FORWARD_KL, 0.5f, 1, 1, 1};
  ingot_nn_top_k   teacher = {(int)s[1], b->first, b->g, (ingot_nn_tail)s[2]};
  float           *out = (float *)(void *)b->c;
  return b->nn->ops->distill_top_k(b->nn, &loss, &z, &teacher, b->ids, out, out + N, b->b);
}

/* rows, members */
static ingot_status op_moments(const bench *b, const int64_t *s)
{
  ingot_nn_logits mixed = {b->f, s[0], VOCAB, VOCAB};
  const float    *members[16];
  float          *out = (float *)(void *)b->c;
  for (int64_t m = 0; m < s[1]; m++) members[m] = b->g + m * s[0] * VOCAB;
  return b->nn->ops->moments(b->nn, &mixed, (int)s[1], members, b->ids, out, out + 16 * s[0], out + 512 * s[0]);
}

/* parameters */
static ingot_status op_adamw(const bench *b, const int64_t *s)
{
  const ingot_nn_adamw how = {1e-5f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 10};
  return b->nn->ops->adamw(b->nn, &how, s[0], b->f, b->g, (float *)(void *)b->a, (float *)(void *)b->b, b->c);
}

static ingot_status op_sum_squares(const bench *b, const int64_t *s)
{
  double sum;
  return b->nn->ops->sum_squares(b->nn, s[0], b->f, &sum);
}

static ingot_status op_round(const bench *b, const int64_t *s)
{
  return b->nn->ops->round_to(b->nn, s[0], b->f, b->c);
}

static void report_bytes(bench *b, const char *name, op f, const int64_t *shape, double bytes)
{
  double t = time_of(b, f, shape);
  printf("%-46s %9.1f us %8.0f GB/s  %5.2f of the copy\n", name, 1e6 * t, 1e-9 * bytes / t, bytes / t / b->copy_rate);
}

static double report_flops(bench *b, const char *name, op f, const int64_t *shape, double flops)
{
  double t = time_of(b, f, shape);
  if (b->matrix_rate == 0) b->matrix_rate = flops / t;
  printf("%-46s %9.1f us %8.0f TFLOP/s %4.2f of the square product\n", name, 1e6 * t, 1e-12 * flops / t,
         flops / t / b->matrix_rate);
  return t;
}

static void bench_products(bench *b)
{
  static const struct {
    const char *name;
    int64_t     n, k; /* the layer's output and input */
  } layers[] = {{"qkv", QKV, HIDDEN}, {"o", HIDDEN, HIDDEN}, {"gate, up", 2 * INNER, HIDDEN}, {"down", HIDDEN, INNER}};
  const int64_t square[] = {8192, 8192, 8192, 0, 1, 0, 0};
  double        forward = 0, backward = 0;
  report_flops(b, "product 8192", op_matmul, square, 2.0 * 8192 * 8192 * 8192);
  for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
    int64_t n = layers[i].n, k = layers[i].k;
    double  flops = 2.0 * N * (double)n * (double)k;
    char    name[64];
    int64_t y[] = {N, n, k, 0, 1, 0, 0}, dx[] = {N, k, n, 0, 0, 0, 0}, dw[] = {n, k, N, 1, 0, 1, 0};
    snprintf(name, sizeof name, "%s: y = x W'", layers[i].name);
    forward += report_flops(b, name, op_matmul, y, flops);
    snprintf(name, sizeof name, "%s: dx = dy W", layers[i].name);
    backward += report_flops(b, name, op_matmul, dx, flops);
    snprintf(name, sizeof name, "%s: dW = dy' x, float32", layers[i].name);
    backward += report_flops(b, name, op_matmul, dw, flops);
  }
  int64_t head[] = {CHUNK, VOCAB, HIDDEN, 0, 1, 1, 0}, dh[] = {CHUNK, HIDDEN, VOCAB, 0, 0, 0, 0};
  int64_t dw[] = {VOCAB, HIDDEN, CHUNK, 1, 0, 1, 1};
  double  flops = 2.0 * CHUNK * (double)VOCAB * HIDDEN, chunks = (double)N / CHUNK;
  double  head_y = report_flops(b, "head: logits, float32", op_matmul, head, flops);
  double  head_dx = report_flops(b, "head: dx", op_matmul, dh, flops);
  double  head_dw = report_flops(b, "head: dW +=, float32", op_matmul, dw, flops);
  printf("all products of the model: forward %.1f ms, backward %.1f ms\n", 1e3 * (16 * forward + chunks * head_y),
         1e3 * (16 * backward + chunks * (head_dx + head_dw)));
  int64_t narrow[] = {N, HIDDEN}, broad[] = {N, INNER};
  double  g_narrow = report_flops(b, "gram 2048 (counted: the triangle)", op_gram, narrow, 1.0 * N * HIDDEN * HIDDEN);
  double  g_broad = report_flops(b, "gram 8192 (counted: the triangle)", op_gram, broad, 1.0 * N * INNER * INNER);
  printf("all Gram matrices of the layers: %.1f ms\n", 1e3 * 16 * (3 * g_narrow + g_broad));
}

static void bench_bytes(bench *b)
{
  const double  row = 2.0 * N * HIDDEN, inner = 2.0 * N * INNER, logits = 4.0 * CHUNK * VOCAB;
  const int64_t norm[] = {N, HIDDEN, 1, 0, 0}, fused[] = {N, HIDDEN, 1, 0, 1},
                heads[] = {N, HEAD_DIM, HEADS + KV, 0, 0};
  const int64_t layer[] = {N, HIDDEN, 1, 1, 1}, turn[] = {N, HEADS + KV}, mlp[] = {N, INNER}, hidden[] = {N, HIDDEN};
  const int64_t loss[] = {CHUNK, 0}, gradient[] = {CHUNK, 1}, top[] = {CHUNK, 16};
  const double  rotated = 2.0 * N * (HEADS + KV) * HEAD_DIM;
  const int64_t many[] = {MANY, WINDOW, 0}, few[] = {FEW, N, MANY};
  report_bytes(b, "cached attention, 32 tokens, 2048 keys", op_cached, many, 4.0 * MANY * WINDOW * KV * HEAD_DIM);
  report_bytes(b, "cached attention, 4 tokens, 16384 keys", op_cached, few, 4.0 * FEW * N * KV * HEAD_DIM);
  report_bytes(b, "norm", op_norm, norm, 2 * row);
  report_bytes(b, "norm of a sum", op_norm, fused, 4 * row);
  report_bytes(b, "norm of a sum, centred", op_norm, layer, 4 * row);
  report_bytes(b, "norm of heads", op_norm, heads, 2 * rotated);
  report_bytes(b, "norm backward", op_norm_backward, norm, 3 * row);
  report_bytes(b, "norm backward, residual", op_norm_backward, fused, 4 * row);
  report_bytes(b, "norm of heads backward", op_norm_backward, heads, 3 * rotated);
  report_bytes(b, "rope, q and k", op_rope, turn, 2 * rotated);
  report_bytes(b, "swiglu", op_swiglu, mlp, 3 * inner);
  report_bytes(b, "swiglu backward", op_swiglu_backward, mlp, 5 * inner);
  report_bytes(b, "gelu", op_gelu, mlp, 2 * inner);
  report_bytes(b, "gelu backward", op_gelu_backward, mlp, 3 * inner);
  report_bytes(b, "add", op_add, hidden, 3 * row);
  report_bytes(b, "add squares", op_add_squares, hidden, 6 * row);
  report_bytes(b, "column sum", op_column_sum, hidden, row);
  report_bytes(b, "embedding", op_embedding, hidden, 2 * row);
  report_bytes(b, "embedding backward", op_embedding_backward, hidden, 5 * row);
  report_bytes(b, "cross entropy, 4096 rows", op_cross_entropy, loss, logits);
  report_bytes(b, "cross entropy and gradient, 4096 rows", op_cross_entropy, gradient, 1.5 * logits);
  report_bytes(b, "sample labels, 4096 rows", op_sample, loss, logits);
  report_bytes(b, "top 16, 4096 rows", op_top_k, top, logits);
}

static void bench_training(bench *b)
{
  const double  logits = 4.0 * CHUNK * VOCAB, n = 1 << 26;
  const int64_t linear[] = {CHUNK, INGOT_NN_MIX_LINEAR}, product[] = {CHUNK, INGOT_NN_MIX_LOG_LINEAR};
  const int64_t forward[] = {CHUNK, INGOT_NN_FORWARD_KL, 4, 1}, both[] = {CHUNK, INGOT_NN_FORWARD_KL, 2, 1};
  const int64_t loss[] = {CHUNK, INGOT_NN_FORWARD_KL, 4, 0}, reverse[] = {CHUNK, INGOT_NN_REVERSE_KL, 2, 1};
  const int64_t jsd[] = {CHUNK, INGOT_NN_JSD, 2, 1}, bucket[] = {CHUNK, 64, INGOT_NN_TAIL_BUCKET};
  const int64_t uniform[] = {CHUNK, 64, INGOT_NN_TAIL_UNIFORM}, four[] = {CHUNK / 4, 4}, all[] = {1 << 26};
  report_bytes(b, "log softmax, 4096 rows", op_log_softmax, forward, 2 * logits);
  report_bytes(b, "mix, linear, 4096 rows", op_mix, linear, 3 * logits);
  report_bytes(b, "mix, log-linear, 4096 rows", op_mix, product, 3 * logits);
  report_bytes(b, "distill, forward KL", op_distill, loss, 2 * logits);
  report_bytes(b, "distill, forward KL and gradient", op_distill, forward, 2.5 * logits);
  report_bytes(b, "distill, forward KL and labels, gradient", op_distill, both, 2.5 * logits);
  report_bytes(b, "distill, reverse KL and labels, gradient", op_distill, reverse, 2.5 * logits);
  report_bytes(b, "distill, JSD and labels, gradient", op_distill, jsd, 2.5 * logits);
  report_bytes(b, "distill, top 64, bucket, gradient", op_distill_top_k, bucket, 1.5 * logits);
  report_bytes(b, "distill, top 64, uniform, gradient", op_distill_top_k, uniform, 1.5 * logits);
  report_bytes(b, "moments of 4 members, 1024 rows", op_moments, four, 1.25 * logits);
  report_bytes(b, "sum of squares, 64 Mi", op_sum_squares, all, 4 * n);
  report_bytes(b, "round to bfloat16, 64 Mi", op_round, all, 6 * n);
  report_bytes(b, "AdamW, 64 Mi parameters", op_adamw, all, 30 * n);
}

/** Memory with small random bfloat16 values (also fine as float32 for timing). */
static void *room(const bench *b, size_t bytes)
{
  const size_t part = 16u << 20;
  void        *memory = NULL;
  uint16_t    *values = malloc(part);
  if (values == NULL) exit(1);
  for (size_t i = 0; i < part / 8; i++) {
    uint32_t word[4];
    ingot_philox4x32(5, i, word);
    for (size_t j = 0; j < 4; j++)
      values[4 * i + j] = (uint16_t)((word[j] & 0x807fu) | (0x3c00u + (word[j] >> 8 & 0x300u)));
  }
  must(b->nn->ops->alloc(b->nn, bytes, &memory));
  for (size_t at = 0; at < bytes; at += part)
    must(b->nn->ops->copy_in(b->nn, (char *)memory + at, values, bytes - at < part ? bytes - at : part));
  free(values);
  return memory;
}

static int32_t *numbers(const bench *b, int32_t n, int64_t limit, bool random)
{
  void        *memory = NULL;
  const size_t bytes = (size_t)n * sizeof(int32_t);
  int32_t     *values = malloc(bytes);
  if (values == NULL) exit(1);
  for (int32_t i = 0; i < n; i++) {
    uint32_t word[4];
    ingot_philox4x32(6, (uint64_t)i, word);
    values[i] = (int32_t)((random ? word[0] : (uint32_t)i) % (uint32_t)limit);
  }
  must(b->nn->ops->alloc(b->nn, bytes, &memory));
  must(b->nn->ops->copy_in(b->nn, memory, values, bytes));
  free(values);
  return memory;
}

int main(int argc, char **argv)
{
  bench            b = {.repeats = argc > 1 ? atoi(argv[1]) : 20};
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = INGOT_DTYPE_BF16};
  const size_t     activations = 2u * 2 * INNER * (size_t)N, logits = 4u * (size_t)CHUNK * VOCAB;
  const int64_t    copied[] = {(int64_t)activations};
  if (ingot_device_count() == 0) {
    fprintf(stderr, "no usable GPU\n");
    return 77;
  }
  must(ingot_nn_open(&options, &b.nn));
  b.a = room(&b, activations);
  b.b = room(&b, activations);
  b.c = room(&b, activations);
  b.w = room(&b, 2u * (size_t)8192 * 8192); /* the largest: the square product's */
  b.f = room(&b, logits);
  b.g = room(&b, logits);
  b.sum = room(&b, sizeof(double) * INNER * INNER);
  b.ids = numbers(&b, N, VOCAB, true);
  b.positions = numbers(&b, N, WINDOW, false);
  b.first = numbers(&b, CHUNK * 64, 64, false);
  int32_t n_key[MANY + FEW];
  for (int i = 0; i < MANY + FEW; i++) n_key[i] = i < MANY ? WINDOW : N;
  b.n_key = numbers(&b, MANY + FEW, 1, false);
  must(b.nn->ops->copy_in(b.nn, b.n_key, n_key, sizeof n_key));
  double t = time_of(&b, op_copy, copied);
  b.copy_rate = 2.0 * (double)activations / t;
  printf("%-46s %9.1f us %8.0f GB/s\n", "copy, read and written", 1e6 * t, 1e-9 * b.copy_rate);
  bench_products(&b);
  bench_bytes(&b);
  bench_training(&b);
  void *all[] = {b.a, b.b, b.c, b.w, b.f, b.g, b.sum, b.ids, b.positions, b.first, b.n_key};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) b.nn->ops->free(b.nn, all[i]);
  ingot_nn_close(&b.nn);
  return 0;
}
