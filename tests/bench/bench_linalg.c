/*
 * The RegMean solve of one layer beside the library's own product and Cholesky rates on the same machine, in the same
 * run.
 *
 *   bench_linalg D [MODELS [THREADS [cpu|cuda [ROWS]]]]
 *
 * D: input features; ROWS: output features, D when it is left out. Memory: 8 (2 D^2 + 2 ROWS D) bytes of matrices, on
 * the host or on the GPU, and 4 ROWS D + 2 D^2 bytes of inputs on the host.
 *
 * "of the own rate": the time that the solve's operations (kernels/methods/regmean.c: D^3 / 3 for the factorisation,
 * 2 ROWS D^2 for the triangular solves and for each model's product) take at the library's own float64 rates, over the
 * time taken. From memory: inputs are float32 in the host's memory, page-locked for a GPU, and results arrive in
 * page-locked memory; reading files, and rounding and writing the result, are not in it. On a GPU also without the
 * transfers, and the transfers alone.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>

#include "base/clock.h"
#include "kernels/blas.h"
#include "kernels/device.h"
#include "kernels/matrix.h"

enum { MODELS_MAX = 16 };

typedef struct layer {
  int64_t       m, d;
  int           n_model, n_thread;
  bool          gpu;
  float        *weights, *gram;
  ingot_linalg *l;
  double        product_s, cholesky_s; /* the library's own */
  double        sum;                   /* of the result */
} layer;

static void must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "bench_linalg: %s\n", ingot_error_message());
  exit(1);
}

static ingot_status load(const layer *y, bool gram, ingot_linalg *l, double alpha, ingot_linalg_array *to)
{
  ingot_linalg_input how = {.form = gram ? INGOT_LINALG_PACKED : INGOT_LINALG_ROWS,
                            .dtype = INGOT_DTYPE_F32,
                            .rows = gram ? y->d : y->m,
                            .columns = y->d,
                            .alpha = alpha};
  ingot_linalg_found found;
  ingot_status       st = ingot_linalg_load(l, &how, gram ? y->gram : y->weights, to, &found);
  INGOT_ASSERT(st != INGOT_OK || found.n_nonfinite == 0);
  return st;
}

static ingot_status give_weight(void *context, int input, ingot_linalg *l, ingot_linalg_array *to)
{
  (void)input;
  return load(context, false, l, 1, to);
}

static ingot_status give_gram(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  (void)k;
  return load(context, true, l, alpha, to);
}

static ingot_status take_result(void *context, int64_t first, int64_t n, const float *values)
{
  layer *y = context;
  y->sum = (first > 0 ? y->sum : 0) + (double)values[0] + (double)values[n - 1];
  return INGOT_OK;
}

static void *allocate(size_t bytes)
{
  void *memory = malloc(bytes);
  INGOT_ASSERT(memory);
  return memory;
}

static void *allocate_input(const layer *y, int64_t n)
{
  void *memory;
  if (!y->gpu) return allocate((size_t)n * sizeof(float));
  must(ingot_device_pinned_alloc((size_t)n * sizeof(float), &memory));
  return memory;
}

static void make_inputs(layer *y)
{
  uint64_t state = 1;
  int64_t  d = y->d;
  y->weights = allocate_input(y, y->m * d);
  y->gram = allocate_input(y, ingot_linalg_packed_count(d));
  for (int64_t i = 0; i < y->m * d; i++)
    y->weights[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) * 1e-9f;
  for (int64_t i = 0, at = 0; i < d; i++)
    for (int64_t j = i; j < d; j++)
      y->gram[at++] = i == j ? (float)d : (float)((state = state * 6364136223846793005u + 1) >> 40) * 5e-8f;
}

/* Seconds since `start` (0: the time itself), once all work on the device is done. */
static double since(const layer *y, double start, const ingot_linalg_array *any)
{
  double dot;
  if (y->gpu) must(y->l->ops->dot(y->l, 1, any, any, &dot));
  return ingot_clock_s() - start;
}

static void least(double *best, double s)
{
  if (*best == 0 || s < *best) *best = s;
}

/* OpenBLAS with its own threads. */
static void cpu_rates(layer *y)
{
  int64_t d = y->d, m = y->m;
  double *a = allocate((size_t)(d * d) * sizeof *a), *b = allocate((size_t)(m * d) * sizeof *b);
  double *c = allocate((size_t)(m * d) * sizeof *c);
  for (int64_t i = 0, at = 0; i < d; i++)
    for (int64_t j = i; j < d; j++, at++) a[i * d + j] = a[j * d + i] = (double)y->gram[at];
  for (int64_t i = 0; i < m * d; i++) b[i] = (double)y->weights[i];
  memset(c, 0, (size_t)(m * d) * sizeof *c);
  ingot_blas    blas;
  const blasint n = (blasint)d;
  blasint       info = -1;
  must(ingot_blas_load(&blas));
  openblas_set_num_threads(y->n_thread);
  double start = ingot_clock_s();
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)d, (blasint)d, 1, b, (blasint)d, a,
              (blasint)d, 0, c, (blasint)d);
  y->product_s = ingot_clock_s() - start;
  start = ingot_clock_s();
  blas.dpotrf("U", &n, a, &n, &info, 1);
  INGOT_ASSERT(info == 0);
  y->cholesky_s = ingot_clock_s() - start;
  openblas_set_num_threads(1);
  free(a), free(b), free(c);
}

/* cuBLAS and cuSOLVER on matrices that are there; the same for a whole solve, and transfers by themselves. */
static void gpu_rates(layer *y)
{
  const ingot_linalg_ops *ops = y->l->ops;
  ingot_linalg           *l = y->l;
  int64_t                 d = y->d, m = y->m, pivot;
  double                  n = (double)d, rows = (double)m, start, gram_s = 0, weights_s = 0, result_s = 0;
  double                  sum_s = 0, factor_s = 0, solve_s = 0, all_s = 0, products_s = 0;
  ingot_linalg_array      s = {0}, g = {0}, r = {0}, w = {0};
  must(ops->alloc(l, d * d, &s)), must(ops->alloc(l, d * d, &g));
  must(ops->alloc(l, m * d, &r)), must(ops->alloc(l, m * d, &w));
  for (int k = 0; k < 3; k++) { /* the first time is for loading kernels and making room */
    start = ingot_clock_s();
    must(load(y, true, l, 1, &g));
    least(&gram_s, since(y, start, &g));
    start = ingot_clock_s();
    must(load(y, false, l, 1, &w));
    least(&weights_s, since(y, start, &w));
    start = ingot_clock_s();
    must(ops->multiply(l, m, d, d, 1, &w, &g, 0, &r));
    least(&y->product_s, since(y, start, &r));
    must(ops->copy(l, &g, d * d, &s));
    start = since(y, 0, &s);
    must(ops->factor(l, d, &s, &pivot));
    least(&y->cholesky_s, since(y, start, &s));
    INGOT_ASSERT(pivot == 0);
    start = ingot_clock_s();
    must(ops->give(l, m, d, &w, INGOT_LINALG_ROWS, take_result, y));
    least(&result_s, since(y, start, &w));
  }
  for (int k = 0; k < 2; k++) {
    double t[5];
    must(ops->axpby(l, d * d, 0, &g, 0, &s));
    t[0] = since(y, 0, &s);
    for (int i = 0; i < y->n_model; i++) must(ops->axpby(l, d * d, 1, &g, 1, &s));
    t[1] = since(y, 0, &s);
    for (int i = 0; i < y->n_model; i++) must(ops->multiply(l, m, d, d, 1, &w, &g, i > 0 ? 1 : 0, &r));
    t[2] = since(y, 0, &r);
    must(ops->factor(l, d, &s, &pivot));
    t[3] = since(y, 0, &s);
    must(ops->solve(l, m, d, &s, &r));
    t[4] = since(y, 0, &r);
    if (k == 0) continue; /* loads kernels */
    sum_s = t[1] - t[0], products_s = t[2] - t[1], factor_s = t[3] - t[2], solve_s = t[4] - t[3], all_s = t[4] - t[0];
  }
  ops->free(l, &s), ops->free(l, &g), ops->free(l, &r), ops->free(l, &w);
  double ideal = y->cholesky_s + y->product_s * (y->n_model + 1), count = y->n_model;
  double moved_s = count * (gram_s + weights_s) + result_s;
  printf(
      "  own rates          product %.2f ms (%.1f TFLOP/s), Cholesky %.2f ms (%.1f TFLOP/s); the solve at these rates "
      "%.2f ms\n",
      1e3 * y->product_s, 2e-12 * rows * n * n / y->product_s, 1e3 * y->cholesky_s, n * n * n / 3e12 / y->cholesky_s,
      1e3 * ideal);
  printf(
      "  compute alone      %.2f ms: %.2f of the own rate (sums %.2f, products %.2f, Cholesky %.2f, triangular solves "
      "%.2f ms, %.1f TFLOP/s)\n",
      1e3 * all_s, ideal / all_s, 1e3 * sum_s, 1e3 * products_s, 1e3 * factor_s, 1e3 * solve_s,
      2e-12 * rows * n * n / solve_s);
  printf(
      "  transfers alone    %.2f ms (a Gram matrix %.1f, weights %.1f, result %.1f GB/s, with unpacking and rounding): "
      "%.2f of the own rate at best\n",
      1e3 * moved_s, 2e-9 * n * (n + 1) / gram_s, 4e-9 * rows * n / weights_s, 4e-9 * rows * n / result_s,
      ideal / (moved_s > ideal ? moved_s : ideal));
}

static double solve(layer *y)
{
  double              global[] = {0.9, 0}, per_model[MODELS_MAX];
  ingot_method_tensor t = {.name = "layer",
                           .shape = {2, {y->m, y->d}},
                           .n_elem = y->m * y->d,
                           .n_model = y->n_model,
                           .n_statistic = y->n_model,
                           .n_input = 2 * y->n_model,
                           .global = global,
                           .per_model = per_model};
  ingot_matrix_feed   feed = {y, give_weight, give_gram, take_result};
  ingot_matrix_report report;
  for (int i = 0; i < y->n_model; i++) per_model[i] = 1;
  double start = ingot_clock_s();
  must(ingot_method_find("regmean")->matrix->solve(&t, y->m, y->d, y->l, &feed, &report));
  double s = ingot_clock_s() - start;
  INGOT_ASSERT(report.ridge == 0 && isfinite(y->sum));
  return s;
}

int main(int argc, char **argv)
{
  const char *device = argc > 4 ? argv[4] : "cpu";
  layer       y = {.d = argc > 1 ? atoll(argv[1]) : 1024,
                   .n_model = argc > 2 ? atoi(argv[2]) : 4,
                   .n_thread = argc > 3 ? atoi(argv[3]) : 2,
                   .gpu = strcmp(device, "cuda") == 0};
  y.m = argc > 5 ? atoll(argv[5]) : y.d;
  if (y.d < 1 || y.m < 1 || y.n_model < 1 || y.n_model > MODELS_MAX || (!y.gpu && strcmp(device, "cpu") != 0)) {
    fprintf(stderr, "usage: bench_linalg D [MODELS [THREADS [cpu|cuda [ROWS]]]]\n");
    return 2;
  }
  if (y.gpu) must(ingot_linalg_open_cuda(0, &y.l));
  make_inputs(&y);
  printf("RegMean, %lld x %lld, %d models, %s\n", (long long)y.m, (long long)y.d, y.n_model, y.gpu ? "GPU" : "CPU");
  if (y.gpu) gpu_rates(&y);
  else cpu_rates(&y);
  if (!y.gpu) must(ingot_linalg_open_cpu(y.n_thread, &y.l));
  double n = (double)y.d, rows = (double)y.m, ideal = y.cholesky_s + y.product_s * (y.n_model + 1);
  double first_s = solve(&y), best_s = first_s;
  for (int k = 0; k < (y.gpu ? 3 : 0); k++) least(&best_s, solve(&y));
  if (!y.gpu)
    printf(
        "  own rates          product %.3f s (%.1f GFLOP/s), Cholesky %.3f s (%.1f GFLOP/s); the solve at these rates "
        "%.3f s\n",
        y.product_s, 2e-9 * rows * n * n / y.product_s, y.cholesky_s, n * n * n / 3e9 / y.cholesky_s, ideal);
  printf("  from memory        %.2f ms (first %.2f): %.2f of the own rate\n", 1e3 * best_s, 1e3 * first_s,
         ideal / best_s);
  ingot_linalg_close(&y.l);
  if (y.gpu) {
    ingot_device_pinned_free(y.weights);
    ingot_device_pinned_free(y.gram);
  } else {
    free(y.weights), free(y.gram);
  }
  return 0;
}
