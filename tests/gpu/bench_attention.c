/*
 * Attention on CUDA at model shapes, in bfloat16: TFLOP/s of the forward and the backward pass beside the card's own
 * rate in a matrix product of 8192. Operations are those of the products, 2 forward and 5 backward, a score counted
 * where a query sees the key (T (T + 1) / 2 of them).
 *
 *   bench_attention [REPEAT]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "kernels/device.h"
#include "kernels/nn/nn.h"

typedef struct shape {
  const char *name;
  int         n_batch, n_time, n_head, n_kv_head, head_dim, document;
} shape;

static const shape shapes[] = {
    {"Llama 1B, T 2048", 8, 2048, 32, 8, 64, 0},
    {"Llama 8B, T 2048", 4, 2048, 32, 8, 128, 0},
    {"Llama 1B, T 8192", 2, 8192, 32, 8, 64, 0},
    {"Llama 8B, T 8192", 1, 8192, 32, 8, 128, 0},
    {"GPT-2, T 1024", 16, 1024, 12, 12, 64, 0},
    {"head 96, T 2048", 4, 2048, 32, 32, 96, 0},
    {"Llama 1B, documents of 512", 8, 2048, 32, 8, 64, 512},
};

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "%s\n", ingot_error_message());
  exit(1);
}

/* Deterministic noise about 1 in size: data of the size of real activations draws the power of real work. */
static void fill(ingot_nn *nn, void *to, int64_t n)
{
  uint16_t *host = malloc((size_t)n * 2);
  uint32_t  x = 12345;
  if (!host) exit(1);
  for (int64_t i = 0; i < n; i++) {
    x = x * 1664525u + 1013904223u;
    host[i] = (uint16_t)((x >> 31) << 15 | (0x3f00u + (x >> 24 & 0xffu)));
  }
  must(nn->ops->copy_in(nn, to, host, (size_t)n * 2));
  free(host);
}

static void *array(ingot_nn *nn, int64_t n)
{
  void *p = NULL;
  must(nn->ops->alloc(nn, (size_t)n * 2, &p));
  fill(nn, p, n);
  return p;
}

static int by_value(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef struct work {
  ingot_nn_attention s;
  void              *q, *k, *v, *o, *lse, *d_o, *dq, *dk, *dv;
} work;

static void once(ingot_nn *nn, const work *w, int what)
{
  if (what == 0) must(nn->ops->attention(nn, &w->s, w->q, w->k, w->v, w->o, w->lse));
  else must(nn->ops->attention_backward(nn, &w->s, w->q, w->k, w->v, w->o, w->lse, w->d_o, w->dq, w->dk, w->dv));
}

/* Median of several rounds of `repeat` calls, seconds a call. */
static double seconds(ingot_nn *nn, const work *w, int what, int repeat)
{
  enum { ROUNDS = 5 };
  double t[ROUNDS];
  for (int r = -1; r < ROUNDS; r++) {
    must(nn->ops->wait(nn));
    double begin = ingot_clock_s();
    for (int i = 0; i < repeat; i++) once(nn, w, what);
    must(nn->ops->wait(nn));
    if (r >= 0) t[r] = (ingot_clock_s() - begin) / repeat;
  }
  qsort(t, ROUNDS, sizeof *t, by_value);
  return t[ROUNDS / 2];
}

static double matrix_rate(ingot_nn *nn, int repeat)
{
  const int64_t   n = 8192;
  void           *x = array(nn, n * n), *y = array(nn, n * n), *z = array(nn, n * n);
  ingot_nn_matrix a = {.data = x, .ld = n}, b = {.data = y, .ld = n, .transpose = true};
  double          best = 0;
  for (int r = 0; r < 4; r++) {
    must(nn->ops->wait(nn));
    double begin = ingot_clock_s();
    for (int i = 0; i < repeat; i++) must(nn->ops->matmul(nn, n, n, n, 1.0f, a, b, 0.0f, z, n, INGOT_DTYPE_BF16, NULL));
    must(nn->ops->wait(nn));
    double rate = 2.0 * (double)n * (double)n * (double)n * repeat / (ingot_clock_s() - begin);
    if (rate > best) best = rate;
  }
  nn->ops->free(nn, x);
  nn->ops->free(nn, y);
  nn->ops->free(nn, z);
  return best;
}

static double pairs_of(const shape *c)
{
  double length = c->document ? c->document : c->n_time;
  return (double)c->n_time / length * length * (length + 1) / 2;
}

static void bench(ingot_nn *nn, const shape *c, double limit, int repeat)
{
  const int64_t tokens = (int64_t)c->n_batch * c->n_time, q = (int64_t)c->n_head * c->head_dim;
  const int64_t kv = (int64_t)c->n_kv_head * c->head_dim;
  work          w = {.s = {.n_batch = c->n_batch,
                           .n_time = c->n_time,
                           .n_head = c->n_head,
                           .n_kv_head = c->n_kv_head,
                           .head_dim = c->head_dim,
                           .scale = (float)(1.0 / sqrt((double)c->head_dim)),
                           .ld_q = q,
                           .ld_k = kv,
                           .ld_v = kv,
                           .ld_o = q}};
  int32_t      *host = NULL;
  void         *first = NULL;

  if (c->document) {
    host = malloc((size_t)tokens * sizeof *host);
    if (!host) exit(1);
    for (int64_t i = 0; i < tokens; i++) host[i] = (int32_t)(i % c->n_time / c->document * c->document);
    must(nn->ops->alloc(nn, (size_t)tokens * sizeof *host, &first));
    must(nn->ops->copy_in(nn, first, host, (size_t)tokens * sizeof *host));
    w.s.first_key = first;
  }
  void **big[] = {&w.q, &w.o, &w.d_o, &w.dq}, **small[] = {&w.k, &w.v, &w.dk, &w.dv};
  for (int i = 0; i < 4; i++) *big[i] = array(nn, tokens * q), *small[i] = array(nn, tokens * kv);
  must(nn->ops->alloc(nn, (size_t)tokens * (size_t)c->n_head * sizeof(float), &w.lse));
  double product = 2.0 * c->n_batch * c->n_head * pairs_of(c) * c->head_dim;
  double forward_s = seconds(nn, &w, 0, repeat), backward_s = seconds(nn, &w, 1, repeat);
  double forward = 2 * product / forward_s / 1e12, backward = 5 * product / backward_s / 1e12;
  printf("%-28s %8.3f %8.0f %6.2f %10.3f %8.0f %6.2f\n", c->name, forward_s * 1e3, forward, forward / limit,
         backward_s * 1e3, backward, backward / limit);
  for (int i = 0; i < 4; i++) nn->ops->free(nn, *big[i]), nn->ops->free(nn, *small[i]);
  nn->ops->free(nn, w.lse);
  nn->ops->free(nn, first);
  free(host);
}

int main(int argc, char **argv)
{
  int              repeat = argc > 1 ? atoi(argv[1]) : 20;
  ingot_nn        *nn = NULL;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = INGOT_DTYPE_BF16};
  if (ingot_device_count() == 0) {
    fprintf(stderr, "no usable GPU\n");
    return 77;
  }
  must(ingot_nn_open(&options, &nn));
  double limit = matrix_rate(nn, repeat) / 1e12;
  printf("matrix product of 8192, bfloat16: %.0f TFLOP/s\n", limit);
  printf("%-28s %8s %8s %6s %10s %8s %6s\n", "", "fwd ms", "TFLOP/s", "of it", "bwd ms", "TFLOP/s", "of it");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) bench(nn, &shapes[i], limit, repeat);
  ingot_nn_close(&nn);
  return 0;
}
