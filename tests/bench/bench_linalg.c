/*
 * The RegMean solve of one square layer beside the library's own Cholesky and product rates on the same machine.
 *
 *   bench_linalg D [MODELS [THREADS [cuda]]]
 *
 * "of the rate": the time that the solve's operations (kernels/methods/regmean.c: d^3 / 3, and 2 d^3 for the solve and for
 * each model's product) take at the library's rates, over the time that was taken, reading not included.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cblas.h>
#include <lapacke.h>

#include "base/clock.h"
#include "kernels/matrix.h"

typedef struct layer {
  int64_t d;
  float  *weights, *gram;
} layer;

static ingot_status give_weight(void *context, int input, float *weight)
{
  const layer *l = context;
  (void)input;
  memcpy(weight, l->weights, (size_t)(l->d * l->d) * sizeof *weight);
  return INGOT_OK;
}

static ingot_status give_gram(void *context, int k, float *packed)
{
  const layer *l = context;
  (void)k;
  memcpy(packed, l->gram, (size_t)ingot_linalg_packed_count(l->d) * sizeof *packed);
  return INGOT_OK;
}

static void *allocate(size_t bytes)
{
  void *memory = malloc(bytes);
  INGOT_ASSERT(memory);
  return memory;
}

static void make_layer(layer *l, int64_t d)
{
  uint64_t state = 1;
  l->d = d;
  l->weights = allocate((size_t)(d * d) * sizeof(float));
  l->gram = allocate((size_t)ingot_linalg_packed_count(d) * sizeof(float));
  for (int64_t i = 0; i < d * d; i++) l->weights[i] = (float)((state = state * 6364136223846793005u + 1) >> 40) * 1e-9f;
  for (int64_t i = 0, at = 0; i < d; i++)
    for (int64_t j = i; j < d; j++)
      l->gram[at++] = i == j ? (float)d : (float)((state = state * 6364136223846793005u + 1) >> 40) * 5e-8f;
}

/* Seconds of one product and one Cholesky factorisation of the library: OpenBLAS's own threads, or the GPU. */
static void library_rates(const layer *l, int n_thread, ingot_linalg *gpu, double *product_s, double *cholesky_s)
{
  int64_t d = l->d;
  if (gpu) {
    ingot_linalg_array s = {0}, a = {0}, b = {0};
    double             warm[1], start;
    int64_t            pivot;
    INGOT_ASSERT(gpu->ops->alloc(gpu, d * d, &s) == INGOT_OK && gpu->ops->alloc(gpu, d * d, &a) == INGOT_OK &&
                 gpu->ops->alloc(gpu, d * d, &b) == INGOT_OK);
    for (int k = 0; k < 2; k++) { /* the first time is for loading kernels */
      INGOT_ASSERT(gpu->ops->load_gram(gpu, l->gram, d, 1, &s) == INGOT_OK && gpu->ops->dot(gpu, 1, &s, &s, warm) == INGOT_OK);
      start = ingot_clock_s();
      INGOT_ASSERT(gpu->ops->multiply(gpu, d, d, d, 1, &s, &a, 0, &b) == INGOT_OK && gpu->ops->dot(gpu, 1, &b, &b, warm) == INGOT_OK);
      *product_s = ingot_clock_s() - start;
      start = ingot_clock_s();
      INGOT_ASSERT(gpu->ops->factor(gpu, d, &s, &pivot) == INGOT_OK && pivot == 0);
      *cholesky_s = ingot_clock_s() - start;
    }
    gpu->ops->free(gpu, &s);
    gpu->ops->free(gpu, &a);
    gpu->ops->free(gpu, &b);
    return;
  }
  double *a = allocate((size_t)(d * d) * sizeof *a), *b = allocate((size_t)(d * d) * sizeof *b);
  double *c = allocate((size_t)(d * d) * sizeof *c);
  for (int64_t i = 0, at = 0; i < d; i++)
    for (int64_t j = i; j < d; j++, at++) a[i * d + j] = a[j * d + i] = (double)l->gram[at];
  for (int64_t i = 0; i < d * d; i++) b[i] = (double)l->weights[i];
  memset(c, 0, (size_t)(d * d) * sizeof *c);
  openblas_set_num_threads(n_thread);
  double start = ingot_clock_s();
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)d, (blasint)d, (blasint)d, 1, b, (blasint)d, a, (blasint)d, 0,
              c, (blasint)d);
  *product_s = ingot_clock_s() - start;
  start = ingot_clock_s();
  INGOT_ASSERT(LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)d, a, (lapack_int)d) == 0);
  *cholesky_s = ingot_clock_s() - start;
  free(a), free(b), free(c);
}

int main(int argc, char **argv)
{
  enum { MODELS_MAX = 16 };
  int64_t       d = argc > 1 ? atoll(argv[1]) : 1024;
  int           n_model = argc > 2 ? atoi(argv[2]) : 4, n_thread = argc > 3 ? atoi(argv[3]) : 2;
  bool          gpu = argc > 4 && strcmp(argv[4], "cuda") == 0;
  double        global[] = {0.9, 0}, per_model[MODELS_MAX], product_s = 0, cholesky_s = 0;
  layer         l;
  ingot_linalg *linalg = NULL;
  if (d < 1 || n_model < 1 || n_model > MODELS_MAX) return 2;
  make_layer(&l, d);
  for (int i = 0; i < n_model; i++) per_model[i] = 1;
  if ((gpu ? ingot_linalg_open_cuda(0, &linalg) : INGOT_OK) != INGOT_OK) {
    fprintf(stderr, "bench_linalg: %s\n", ingot_error_message());
    return 1;
  }
  library_rates(&l, n_thread, linalg, &product_s, &cholesky_s);
  if (!gpu && ingot_linalg_open_cpu(n_thread, &linalg) != INGOT_OK) return 1;
  ingot_method_tensor t = {.name = "layer", .shape = {2, {d, d}}, .n_elem = d * d, .n_model = n_model, .n_statistic = n_model,
                           .n_input = 2 * n_model, .global = global, .per_model = per_model};
  ingot_matrix_feed   feed = {&l, give_weight, give_gram};
  ingot_matrix_report report;
  float              *out = allocate((size_t)(d * d) * sizeof *out);
  double              start = ingot_clock_s();
  if (ingot_method_find("regmean")->matrix->solve(&t, d, d, linalg, &feed, out, &report) != INGOT_OK) {
    fprintf(stderr, "bench_linalg: %s\n", ingot_error_message());
    return 1;
  }
  double solve_s = ingot_clock_s() - start, n = (double)d, least = cholesky_s + product_s * (n_model + 1);
  printf("d %lld, %d models, %s: product %.3f s (%.1f GFLOP/s), Cholesky %.3f s (%.1f GFLOP/s), solve %.3f s: %.2f of the rate\n",
         (long long)d, n_model, gpu ? "GPU" : "CPU", product_s, 2e-9 * n * n * n / product_s, cholesky_s,
         n * n * n / 3e9 / cholesky_s, solve_s, least / solve_s);
  ingot_linalg_close(&linalg);
  free(l.weights), free(l.gram), free(out);
  return 0;
}
