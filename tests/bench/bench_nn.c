/*
 * Rates of the CPU operators of kernels/nn/nn.h at the shapes of a Llama layer (hidden 2048, 8192 in between, 32 and 8
 * heads of 64), and of the layer as a whole beside sgemm on the shapes of its matrix products.
 *
 *   bench_nn [threads] [tokens in a window] [windows]
 *
 * Each time is the best of five. GF/s counts 2 m n k for products, half the full square for causal attention (two
 * products forward, five backward); GB/s counts every array once for each time it is read or written.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>

#include <cblas.h>

#include "base/clock.h"
#include "kernels/nn/nn.h"

enum { HIDDEN = 2048, MIDDLE = 8192, HEADS = 32, KV_HEADS = 8, HEAD = 64, VOCABULARY = 32000, REPEATS = 5 };
enum { QKV = (HEADS + 2 * KV_HEADS) * HEAD };

typedef struct bench {
  ingot_nn *nn;
  int64_t   n_batch, n_time, n_token;
  float    *x, *y, *wide, *wide2, *qkv, *d_qkv, *weights, *stats, *lse, *table;
  int32_t  *index;
  double   *gram;
} bench;

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "bench_nn: %s\n", ingot_error_message());
  exit(1);
}

static void *room(bench *b, int64_t n, size_t size)
{
  void *p;
  must(b->nn->ops->alloc(b->nn, (size_t)n * size, &p));
  must(b->nn->ops->zero(b->nn, p, (size_t)n * size));
  return p;
}

static float *numbers(bench *b, int64_t n)
{
  float   *x = room(b, n, sizeof *x);
  uint32_t state = 1;
  for (int64_t i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(state >> 8) * 0x1p-23f - 1.0f;
  }
  return x;
}

static ingot_nn_norm norm_shape(const bench *b)
{
  return (ingot_nn_norm){.eps = 1e-5f,
                         .n_token = b->n_token,
                         .n_group = 1,
                         .width = HIDDEN,
                         .ld_x = HIDDEN,
                         .ld_y = HIDDEN};
}

static ingot_nn_attention attention_shape(const bench *b)
{
  return (ingot_nn_attention){.n_batch = b->n_batch,
                              .n_time = b->n_time,
                              .n_head = HEADS,
                              .n_kv_head = KV_HEADS,
                              .head_dim = HEAD,
                              .scale = 0.125f,
                              .ld_q = QKV,
                              .ld_k = QKV,
                              .ld_v = QKV,
                              .ld_o = HIDDEN};
}

static void product(bench *b, const float *x, int64_t width_in, float *y, int64_t width_out)
{
  ingot_nn_matrix a = {x, width_in, false}, w = {b->weights, width_in, true};
  must(b->nn->ops->matmul(b->nn, b->n_token, width_out, width_in, 1, a, w, 0, y, width_out, INGOT_DTYPE_F32, NULL));
}

/* ---- what is measured ---- */

static void run_products(bench *b)
{
  product(b, b->x, HIDDEN, b->qkv, QKV);
  product(b, b->x, HIDDEN, b->y, HIDDEN);
  product(b, b->x, HIDDEN, b->wide, 2 * MIDDLE);
  product(b, b->wide2, MIDDLE, b->y, HIDDEN);
}

/* What OpenBLAS makes of them with threads of its own. */
static void run_openblas(bench *b)
{
  const int shapes[4][2] = {{QKV, HIDDEN}, {HIDDEN, HIDDEN}, {2 * MIDDLE, HIDDEN}, {HIDDEN, MIDDLE}};
  openblas_set_num_threads(b->nn->n_thread);
  for (int i = 0; i < 4; i++)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)b->n_token, shapes[i][0], shapes[i][1], 1, b->wide2,
                shapes[i][1], b->weights, shapes[i][1], 0, b->wide, shapes[i][0]);
  openblas_set_num_threads(1);
}

static void run_norm(bench *b)
{
  ingot_nn_norm s = norm_shape(b);
  must(b->nn->ops->norm(b->nn, &s, b->x, b->y, b->wide, b->weights, NULL, b->wide2, b->stats));
}

static void run_norm_backward(bench *b)
{
  ingot_nn_norm s = norm_shape(b);
  must(b->nn->ops->norm_backward(b->nn, &s, b->x, b->weights, b->stats, b->y, b->wide, b->wide, b->table, NULL));
}

static void run_rope(bench *b)
{
  ingot_nn_rope s = {.n_token = b->n_token,
                     .n_head = HEADS,
                     .head_dim = HEAD,
                     .rotary_dim = HEAD,
                     .ld = QKV,
                     .cos = b->x,
                     .sin = b->y,
                     .positions = b->index};
  must(b->nn->ops->rope(b->nn, &s, b->qkv, false));
}

static void run_attention(bench *b)
{
  ingot_nn_attention s = attention_shape(b);
  must(b->nn->ops->attention(b->nn, &s, b->qkv, b->qkv + HEADS * HEAD, b->qkv + (HEADS + KV_HEADS) * HEAD, b->y,
                             b->lse));
}

static void run_attention_backward(bench *b)
{
  ingot_nn_attention s = attention_shape(b);
  int64_t            k = HEADS * HEAD, v = (HEADS + KV_HEADS) * HEAD;
  must(b->nn->ops->attention_backward(b->nn, &s, b->qkv, b->qkv + k, b->qkv + v, b->y, b->lse, b->x, b->d_qkv,
                                      b->d_qkv + k, b->d_qkv + v));
}

static void run_swiglu(bench *b)
{
  must(b->nn->ops->swiglu(b->nn, b->n_token, MIDDLE, b->wide, b->wide2));
}

static void run_swiglu_backward(bench *b)
{
  must(b->nn->ops->swiglu_backward(b->nn, b->n_token, MIDDLE, b->wide, b->wide2, b->wide));
}

static void run_gelu(bench *b)
{
  must(b->nn->ops->gelu(b->nn, b->n_token * MIDDLE, b->wide, b->wide2));
}

static void run_gelu_backward(bench *b)
{
  must(b->nn->ops->gelu_backward(b->nn, b->n_token * MIDDLE, b->wide, b->wide2, b->wide + b->n_token * MIDDLE));
}

static void run_embedding(bench *b)
{
  must(b->nn->ops->embedding(b->nn, b->n_token, HIDDEN, b->index, b->table, NULL, NULL, b->y));
}

static void run_embedding_backward(bench *b)
{
  must(b->nn->ops->embedding_backward(b->nn, b->n_token, HIDDEN, VOCABULARY, b->index, b->x, b->table));
}

static void run_column_sum(bench *b)
{
  must(b->nn->ops->column_sum(b->nn, b->n_token, HIDDEN, b->x, HIDDEN, b->stats));
}

static void run_add_squares(bench *b)
{
  must(b->nn->ops->add_squares(b->nn, (int64_t)HIDDEN * MIDDLE, 0.5f, b->weights, b->table));
}

static void run_cross_entropy(bench *b)
{
  ingot_nn_logits z = {b->table, 2048, VOCABULARY, VOCABULARY};
  must(b->nn->ops->cross_entropy(b->nn, &z, b->index, 1, b->stats, NULL, NULL));
}

static void run_cross_entropy_backward(bench *b)
{
  ingot_nn_logits z = {b->table, 2048, VOCABULARY, VOCABULARY};
  must(b->nn->ops->cross_entropy(b->nn, &z, b->index, 1, b->stats, NULL, b->table));
}

enum { CHUNK = 1024 }; /* rows of logits: as many as fit the other arrays */

static void run_mix(bench *b)
{
  ingot_nn_logits z = {b->table, CHUNK, VOCABULARY, VOCABULARY};
  must(b->nn->ops->mix(b->nn, INGOT_NN_MIX_LINEAR, &z, b->lse, 0, false, b->wide));
}

static void run_distill_as(bench *b, ingot_nn_divergence divergence, float alpha)
{
  ingot_nn_logits  z = {b->table, CHUNK, VOCABULARY, VOCABULARY};
  ingot_nn_distill loss = {divergence, 0.5f, 2, alpha, 1};
  must(b->nn->ops->distill(b->nn, &loss, &z, b->wide, b->index, b->stats, NULL, b->weights));
}

static void run_distill(bench *b)
{
  run_distill_as(b, INGOT_NN_FORWARD_KL, 1);
}

static void run_distill_labels(bench *b)
{
  run_distill_as(b, INGOT_NN_FORWARD_KL, 0.5f);
}

static void run_distill_jsd(bench *b)
{
  run_distill_as(b, INGOT_NN_JSD, 1);
}

static void run_top_k(bench *b)
{
  ingot_nn_logits z = {b->table, CHUNK, VOCABULARY, VOCABULARY};
  must(b->nn->ops->top_k(b->nn, &z, 64, (int32_t *)(void *)b->qkv, b->d_qkv));
}

static void run_distill_top_k(bench *b)
{
  ingot_nn_logits  z = {b->table, CHUNK, VOCABULARY, VOCABULARY};
  ingot_nn_distill loss = {INGOT_NN_FORWARD_KL, 0, 1, 1, 1};
  ingot_nn_top_k   teacher = {64, (const int32_t *)(const void *)b->qkv, b->d_qkv, INGOT_NN_TAIL_BUCKET};
  must(b->nn->ops->distill_top_k(b->nn, &loss, &z, &teacher, b->index, b->stats, NULL, b->weights));
}

static void run_adamw(bench *b)
{
  ingot_nn_adamw how = {0, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 10};
  must(b->nn->ops->adamw(b->nn, &how, (int64_t)HIDDEN * MIDDLE, b->table, b->weights, b->wide, b->wide2, NULL));
}

static void run_sum_squares(bench *b)
{
  double sum;
  must(b->nn->ops->sum_squares(b->nn, (int64_t)HIDDEN * MIDDLE, b->table, &sum));
}

static void run_gram(bench *b)
{
  must(b->nn->ops->gram(b->nn, b->n_token, HIDDEN, b->x, HIDDEN, NULL, b->gram));
}

static void run_layer(bench *b)
{
  run_norm(b);
  product(b, b->x, HIDDEN, b->qkv, QKV);
  run_rope(b);
  run_attention(b);
  product(b, b->y, HIDDEN, b->x, HIDDEN);
  run_norm(b);
  product(b, b->x, HIDDEN, b->wide, 2 * MIDDLE);
  run_swiglu(b);
  product(b, b->wide2, MIDDLE, b->y, HIDDEN);
}

static void keep_best(bench *b, void (*run)(bench *), double *best)
{
  double start = ingot_clock_s();
  run(b);
  double elapsed = ingot_clock_s() - start;
  *best = elapsed < *best ? elapsed : *best;
}

static void print_line(const char *name, double s, double amount, const char *unit)
{
  printf("%-24s %9.2f ms %9.1f %s\n", name, s * 1e3, amount / s * 1e-9, unit);
}

static void report(bench *b, const char *name, void (*run)(bench *), double amount, const char *unit)
{
  double best = 1e30;
  for (int i = 0; i < REPEATS; i++) keep_best(b, run, &best);
  print_line(name, best, amount, unit);
}

/* In turn, so that a machine that is busy for a while is busy for all three. */
static void report_layer(bench *b, double products, double attention)
{
  double openblas = 1e30, own = 1e30, layer = 1e30;
  for (int i = 0; i < REPEATS; i++) {
    keep_best(b, run_openblas, &openblas);
    keep_best(b, run_products, &own);
    keep_best(b, run_layer, &layer);
  }
  print_line("products, OpenBLAS alone", openblas, products, "GF/s");
  print_line("products of a layer", own, products, "GF/s");
  print_line("layer, forward", layer, products + attention, "GF/s");
  printf("layer at %.3f of the rate of OpenBLAS, its attention counted at half the square\n",
         (products + attention) / layer / (products / openblas));
}

static void open_bench(bench *b, int n_thread)
{
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = n_thread, .dtype = INGOT_DTYPE_F32};
  must(ingot_nn_open(&options, &b->nn));
  int64_t n = b->n_token;
  b->x = numbers(b, n * HIDDEN);
  b->y = numbers(b, n * HIDDEN);
  b->wide = numbers(b, n * 2 * MIDDLE);
  b->wide2 = numbers(b, n * MIDDLE);
  b->qkv = numbers(b, n * QKV);
  b->d_qkv = numbers(b, n * QKV);
  b->weights = numbers(b, (int64_t)HIDDEN * 2 * MIDDLE);
  b->table = numbers(b, (int64_t)VOCABULARY * HIDDEN);
  b->stats = numbers(b, n + HIDDEN);
  b->lse = numbers(b, n * HEADS);
  b->index = room(b, n, sizeof *b->index);
  b->gram = room(b, (int64_t)HIDDEN * HIDDEN, sizeof *b->gram);
  for (int64_t i = 0; i < n; i++) b->index[i] = (int32_t)(i * 37 % 2048);
}

int main(int argc, char **argv)
{
  bench b = {0};
  b.n_time = argc > 2 ? atoll(argv[2]) : 1024;
  b.n_batch = argc > 3 ? atoll(argv[3]) : 2;
  b.n_token = b.n_batch * b.n_time;
  if (b.n_token < 2048) {
    fprintf(stderr, "bench_nn: at least 2048 tokens\n");
    return 2;
  }
  open_bench(&b, argc > 1 ? atoi(argv[1]) : 2);
  double n = (double)b.n_token, h = HIDDEN, pairs = n * (double)b.n_time / 2 * HEADS * HEAD;
  double products = 2 * n * h * (QKV + HIDDEN + 3.0 * MIDDLE);
  report_layer(&b, products, 4 * pairs);
  report(&b, "attention", run_attention, 4 * pairs, "GF/s");
  report(&b, "attention backward", run_attention_backward, 10 * pairs, "GF/s");
  report(&b, "gram", run_gram, n * h * h, "GF/s");
  report(&b, "norm with delta", run_norm, 16 * n * h, "GB/s");
  report(&b, "norm backward", run_norm_backward, 16 * n * h, "GB/s");
  report(&b, "rope", run_rope, 8 * n * h, "GB/s");
  report(&b, "swiglu", run_swiglu, 12 * n * MIDDLE, "GB/s");
  report(&b, "swiglu backward", run_swiglu_backward, 20 * n * MIDDLE, "GB/s");
  report(&b, "gelu", run_gelu, 8 * n * MIDDLE, "GB/s");
  report(&b, "gelu backward", run_gelu_backward, 12 * n * MIDDLE, "GB/s");
  report(&b, "embedding", run_embedding, 8 * n * h, "GB/s");
  report(&b, "embedding backward", run_embedding_backward, 12 * n * h, "GB/s");
  report(&b, "column sum", run_column_sum, 4 * n * h, "GB/s");
  report(&b, "add squares", run_add_squares, 12 * h * MIDDLE, "GB/s");
  report(&b, "cross entropy", run_cross_entropy, 4 * h * VOCABULARY, "GB/s");
  report(&b, "cross entropy backward", run_cross_entropy_backward, 8 * h * VOCABULARY, "GB/s");
  const double logits = 4.0 * CHUNK * VOCABULARY;
  report(&b, "mix, linear", run_mix, 3 * logits, "GB/s");
  report(&b, "distill", run_distill, 3 * logits, "GB/s");
  report(&b, "distill and labels", run_distill_labels, 3 * logits, "GB/s");
  report(&b, "distill, JSD", run_distill_jsd, 3 * logits, "GB/s");
  report(&b, "top 64", run_top_k, logits, "GB/s");
  report(&b, "distill, top 64", run_distill_top_k, 2 * logits, "GB/s");
  report(&b, "sum of squares", run_sum_squares, 4 * h * MIDDLE, "GB/s");
  report(&b, "AdamW", run_adamw, 28 * h * MIDDLE, "GB/s");
  ingot_nn_close(&b.nn);
  return 0;
}
