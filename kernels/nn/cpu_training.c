/* The optimiser's side of training: norms of gradients, AdamW, conversions. Memory bounds all of it. */
#include "kernels/nn/cpu.h"

#include <math.h>
#include <string.h>

#include "kernels/clones.h"

enum { PIECE = 16384 }; /* elements of one part of the work */

static int64_t piece_at(int64_t n, int64_t first)
{
  return n - first < PIECE ? n - first : PIECE;
}

static INGOT_CLONES double squares_piece(int64_t n, const float *x)
{
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
  return sum;
}

ingot_status ingot_cpu_sum_squares(ingot_nn *nn, int64_t n, const float *x, double *sum)
{
  const int64_t n_part = ingot_cpu_ceil_div(n, PIECE);
  float        *memory;
  *sum = 0;
  ingot_status st = ingot_cpu_scratch(nn, (size_t)n_part * sizeof(double), &memory);
  if (st != INGOT_OK) return st;
  double *part = (void *)memory;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n_part; i++) part[i] = squares_piece(piece_at(n, i * PIECE), x + i * PIECE);
  for (int64_t i = 0; i < n_part; i++) *sum += part[i];
  return INGOT_OK;
}

/* Factors of a step, from its beta1 and beta2. */
typedef struct adamw_factors {
  float gradient, rate, epsilon, decay;
  float keep1, keep2;     /* 1 - beta */
  float debias1, debias2; /* 1 / (1 - beta^step) */
} adamw_factors;

static adamw_factors factors_of(const ingot_nn_adamw *how)
{
  return (adamw_factors){
      .gradient = how->gradient_scale,
      .rate = how->rate,
      .epsilon = how->epsilon,
      .decay = how->decay,
      .keep1 = 1 - how->beta1,
      .keep2 = 1 - how->beta2,
      .debias1 = (float)(1 / (1 - pow((double)how->beta1, (double)how->step))),
      .debias2 = (float)(1 / (1 - pow((double)how->beta2, (double)how->step))),
  };
}

/* Every product is fused into one sum at most in one way, so that an element's bits do not depend on where it lies: a
 * slice of the parameters gives what all of them give. weight may be master, and NULL. */
static INGOT_CLONES void adamw_piece(int64_t n, const adamw_factors *factors, const float *gradient, float *master,
                                     float *m, float *v, float *weight)
{
  const adamw_factors f = *factors;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float g = f.gradient * gradient[i];
    m[i] += f.keep1 * (g - m[i]);
    v[i] += f.keep2 * (g * g - v[i]);
    float direction = m[i] * f.debias1 / (sqrtf(v[i] * f.debias2) + f.epsilon) + f.decay * master[i];
    master[i] -= f.rate * direction;
  }
  if (weight && weight != master) memcpy(weight, master, (size_t)n * sizeof *weight);
}

ingot_status ingot_cpu_adamw(ingot_nn *nn, const ingot_nn_adamw *how, int64_t n, const float *gradient, float *master,
                             float *m, float *v, void *weight)
{
  INGOT_ASSERT(how->step >= 1);
  const adamw_factors factors = factors_of(how);
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n; i += PIECE)
    adamw_piece(piece_at(n, i), &factors, gradient + i, master + i, m + i, v + i, weight ? (float *)weight + i : NULL);
  return INGOT_OK;
}

/* The dtype of this back end is float32. */
ingot_status ingot_cpu_round_to(ingot_nn *nn, int64_t n, const float *src, void *dst)
{
  return src == dst ? INGOT_OK : nn->ops->copy(nn, dst, src, (size_t)n * sizeof *src);
}

ingot_status ingot_cpu_widen(ingot_nn *nn, int64_t n, const void *src, float *dst)
{
  return src == dst ? INGOT_OK : nn->ops->copy(nn, dst, src, (size_t)n * sizeof *dst);
}
