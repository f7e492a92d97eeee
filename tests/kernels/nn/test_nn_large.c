/*
 * Sizes at which the CPU back end cuts its work: several blocks of keys, tiles of a Gram matrix, chunks of rows.
 * Expected values are plain float64 loops written here.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/nn/cpu_math.h"
#include "tests/kernels/nn/nn_cases.h"

static ingot_nn *nn;

static int open_nn(void **state)
{
  (void)state;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = 3, .dtype = INGOT_DTYPE_F32};
  return ingot_nn_open(&options, &nn) != INGOT_OK;
}

static int close_nn(void **state)
{
  (void)state;
  ingot_nn_close(&nn);
  return 0;
}

static void *room(int64_t n, size_t size)
{
  void *p = calloc((size_t)n, size);
  assert_non_null(p);
  return p;
}

static float *values(uint32_t seed, int64_t n, float scale)
{
  float *x = room(n, sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = scale * nn_case_value(seed, i);
  return x;
}

static void check_near(const char *what, const float *got, const double *expected, int64_t n, double limit)
{
  double largest = 0, off = 0;
  for (int64_t i = 0; i < n; i++) {
    largest = fmax(largest, fabs(expected[i]));
    off = fmax(off, isnan(got[i]) ? INFINITY : fabs((double)got[i] - expected[i]));
  }
  if (!(off <= limit * largest)) fail_msg("%s: off by %.3g of its largest value", what, off / largest);
}

/* ---- attention ---- */

typedef struct plain {
  double *o, *lse, *dq, *dk, *dv;
} plain;

static int64_t first_key(const ingot_nn_attention *s, int64_t t)
{
  int64_t first = s->first_key ? s->first_key[t] : 0, seen = s->window ? t + 1 - s->window : 0;
  return first > seen ? first : seen;
}

static double product(int n, const float *x, const float *y)
{
  double sum = 0;
  for (int i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
  return sum;
}

/* One query of one head: adds to dk and dv. p is room for the probabilities. */
static void plain_query(const ingot_nn_attention *s, int64_t t, int h, const float *q, const float *k, const float *v,
                        const float *d_o, double *p, plain *out)
{
  int    d = s->head_dim, kv = h / (s->n_head / s->n_kv_head);
  double sum = 0, dot = 0;
  q += t * s->ld_q + h * d, d_o += t * s->ld_o + h * d, k += kv * d, v += kv * d;
  double *o = out->o + t * s->ld_o + h * d, *dq = out->dq + t * s->ld_q + h * d;
  for (int64_t j = first_key(s, t); j <= t; j++) sum += p[j] = exp((double)s->scale * product(d, q, k + j * s->ld_k));
  out->lse[h * s->n_time + t] = log(sum);
  for (int64_t j = first_key(s, t); j <= t; j++) {
    p[j] /= sum;
    for (int i = 0; i < d; i++) o[i] += p[j] * (double)v[j * s->ld_v + i];
  }
  for (int i = 0; i < d; i++) dot += o[i] * (double)d_o[i];
  for (int64_t j = first_key(s, t); j <= t; j++) {
    double ds = p[j] * (product(d, d_o, v + j * s->ld_v) - dot) * (double)s->scale;
    for (int i = 0; i < d; i++) {
      dq[i] += ds * (double)k[j * s->ld_k + i];
      out->dk[j * s->ld_k + kv * d + i] += ds * (double)q[i];
      out->dv[j * s->ld_v + kv * d + i] += p[j] * (double)d_o[i];
    }
  }
}

static void check_attention(int64_t n_time, int n_head, int n_kv_head, int head_dim, int window, int64_t document)
{
  ingot_nn_attention s = {.n_batch = 1,
                          .n_time = n_time,
                          .n_head = n_head,
                          .n_kv_head = n_kv_head,
                          .head_dim = head_dim,
                          .scale = 1.0f,
                          .window = window,
                          .ld_q = n_head * head_dim,
                          .ld_k = n_kv_head * head_dim,
                          .ld_v = n_kv_head * head_dim,
                          .ld_o = n_head * head_dim};
  int32_t           *first = room(n_time, sizeof *first);
  for (int64_t t = 0; t < n_time; t++) first[t] = document ? (int32_t)(t / document * document) : 0;
  if (document) s.first_key = first;
  int64_t n_q = n_time * s.ld_q, n_k = n_time * s.ld_k, n_lse = n_time * n_head;
  float  *q = values(1, n_q, 2), *k = values(2, n_k, 2), *v = values(3, n_k, 1), *d_o = values(4, n_q, 1);
  float  *o = room(n_q, 4), *lse = room(n_lse, 4), *dq = room(n_q, 4), *dk = room(n_k, 4), *dv = room(n_k, 4);
  plain   e = {room(n_q, 8), room(n_lse, 8), room(n_q, 8), room(n_k, 8), room(n_k, 8)};
  double *p = room(n_time, 8);
  for (int h = 0; h < n_head; h++)
    for (int64_t t = 0; t < n_time; t++) plain_query(&s, t, h, q, k, v, d_o, p, &e);

  memset(dk, 0xff, (size_t)n_k * 4); /* NaN: gradients are written, not added */
  memset(dv, 0xff, (size_t)n_k * 4);
  check_ok(nn->ops->attention(nn, &s, q, k, v, o, lse));
  check_near("o", o, e.o, n_q, 3e-6);
  check_near("lse", lse, e.lse, n_lse, 1e-6);
  memset(o, 0xff, (size_t)n_q * 4);
  check_ok(nn->ops->attention(nn, &s, q, k, v, o, NULL));
  check_near("o without lse", o, e.o, n_q, 3e-6);
  check_ok(nn->ops->attention_backward(nn, &s, q, k, v, o, lse, d_o, dq, dk, dv));
  check_near("dq", dq, e.dq, n_q, 5e-6);
  check_near("dk", dk, e.dk, n_k, 5e-6);
  check_near("dv", dv, e.dv, n_k, 5e-6);
  void *all[] = {first, q, k, v, d_o, o, lse, dq, dk, dv, e.o, e.lse, e.dq, e.dk, e.dv, p};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void test_attention(void **state)
{
  (void)state;
  check_attention(1100, 2, 1, 8, 0, 0);   /* three blocks of keys */
  check_attention(1100, 1, 1, 8, 520, 0); /* a window over more than one block, first keys inside of blocks */
  check_attention(700, 4, 1, 4, 0, 600);  /* a document that ends within a block of queries */
  check_attention(300, 32, 1, 4, 0, 0);   /* a group larger than a block's rows allow */
}

/* ---- gram ---- */

static void check_gram(int64_t n_row, int64_t width, int every)
{
  int64_t  ld = width + 3;
  float   *x = values(1, n_row * ld, 1);
  int32_t *valid = room(n_row, sizeof *valid);
  double  *sum = room(width * width, sizeof *sum);
  for (int64_t r = 0; r < n_row; r++) valid[r] = every && r % every == 0 ? 0 : 7;
  check_ok(nn->ops->gram(nn, n_row, width, x, ld, every ? valid : NULL, sum));
  /* Some of all tiles. One row left out or taken twice would show: products are a third on average. */
  for (int64_t i = 0; i < width; i += i % 7 + 1)
    for (int64_t j = i; j < width; j += 61) {
      double expected = 0;
      for (int64_t r = 0; r < n_row; r++)
        if (!every || valid[r]) expected += (double)x[r * ld + i] * (double)x[r * ld + j];
      if (fabs(sum[i * width + j] - expected) > 3e-7 * (double)n_row)
        fail_msg("[%d, %d]: %.9g instead of %.9g", (int)i, (int)j, sum[i * width + j], expected);
    }
  free(x);
  free(valid);
  free(sum);
}

static void test_gram(void **state)
{
  (void)state;
  check_gram(100, 1030, 0);   /* three by three tiles */
  check_gram(8200, 40, 0);    /* more rows than are summed in float32 */
  check_gram(8300, 2100, 97); /* more valid rows than are copied at once */
}

/* No valid row: nothing changes. */
static void test_gram_none(void **state)
{
  (void)state;
  float   x[4] = {1, 2, 3, 4};
  int32_t valid[2] = {0, 0};
  double  sum[4] = {5, 6, 7, 8};
  check_ok(nn->ops->gram(nn, 2, 2, x, 2, valid, sum));
  assert_true(sum[0] == 5 && sum[1] == 6 && sum[3] == 8);
}

/* ---- products ---- */

/* Whole numbers below 2^24 are exact in any order, so every element must be exact, wherever the parts are cut. */
static void test_matmul_exact(void **state)
{
  (void)state;
  enum { M = 301, N = 211, K = 65 };
  float *a = values(1, M * K, 128), *b = values(2, N * K, 128), *c = room(M * N, sizeof *c);
  for (int n_thread = 1; n_thread <= 7; n_thread++) {
    ingot_nn        *own;
    ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = n_thread, .dtype = INGOT_DTYPE_F32};
    check_ok(ingot_nn_open(&options, &own));
    check_ok(own->ops->matmul(own, M, N, K, 1, (ingot_nn_matrix){a, K, false}, (ingot_nn_matrix){b, K, true}, 0, c, N,
                              INGOT_DTYPE_F32, NULL));
    ingot_nn_close(&own);
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++)
        if ((double)c[i * N + j] != product(K, a + i * K, b + j * K)) fail_msg("%d threads: [%d, %d]", n_thread, i, j);
    memset(c, 0xff, M * N * sizeof *c); /* beta 0 does not read C */
  }
  free(a);
  free(b);
  free(c);
}

/* ---- column sums ---- */

static void test_column_sums(void **state)
{
  (void)state;
  enum { ROWS = 3001, WIDTH = 300 };
  ingot_nn_norm shape =
      {.centred = true, .eps = 0, .n_token = ROWS, .n_group = 1, .width = WIDTH, .ld_x = WIDTH, .ld_y = WIDTH};
  float *x = values(1, ROWS * WIDTH, 1), *dy = values(2, ROWS * WIDTH, 1), *stats = room(2 * ROWS, sizeof *stats);
  float *weight = values(3, WIDTH, 1), *dx = room(ROWS * WIDTH, sizeof *dx);
  float  dweight[WIDTH] = {0}, dbias[WIDTH] = {0}, sum[WIDTH] = {0};
  double e_weight[WIDTH] = {0}, e_bias[WIDTH] = {0};
  for (int r = 0; r < ROWS; r++) {
    stats[2 * r] = 0.25f;
    stats[2 * r + 1] = 2;
    for (int i = 0; i < WIDTH; i++) {
      e_weight[i] += (double)dy[r * WIDTH + i] * ((double)x[r * WIDTH + i] - 0.25) * 2;
      e_bias[i] += (double)dy[r * WIDTH + i];
    }
  }
  check_ok(nn->ops->norm_backward(nn, &shape, x, weight, stats, dy, NULL, dx, dweight, dbias));
  check_ok(nn->ops->column_sum(nn, ROWS, WIDTH, dy, WIDTH, sum));
  check_near("dweight", dweight, e_weight, WIDTH, 1e-6);
  check_near("dbias", dbias, e_bias, WIDTH, 1e-6);
  check_near("sum", sum, e_bias, WIDTH, 1e-6);
  free(x);
  free(dy);
  free(stats);
  free(weight);
  free(dx);
}

/* ---- exp ---- */

static void test_exp(void **state)
{
  (void)state;
  double worst = 0;
  for (double x = -87.3; x <= 88; x += 1.3e-4) {
    float  at = (float)x;
    double expected = exp((double)at);
    worst = fmax(worst, fabs((double)ingot_cpu_exp(at) - expected) / expected);
  }
  if (!(worst < 1.5e-7)) fail_msg("relative error %.3g", worst);
  assert_true(ingot_cpu_exp(0) == 1 && ingot_cpu_exp(-88) == 0 && ingot_cpu_exp(-INFINITY) == 0);
  assert_true(ingot_cpu_exp(1e30f) > 1.6e38f && ingot_cpu_exp(INFINITY) > 1.6e38f);
  assert_true(isnan(ingot_cpu_exp(NAN)));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_attention),    cmocka_unit_test(test_gram),        cmocka_unit_test(test_gram_none),
      cmocka_unit_test(test_matmul_exact), cmocka_unit_test(test_column_sums), cmocka_unit_test(test_exp),
  };
  return cmocka_run_group_tests(tests, open_nn, close_nn);
}
