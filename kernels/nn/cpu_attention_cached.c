/* One new token of each sequence against its cached keys. A key head of a sequence is a part of work; its scores are whole. */
#include <math.h>

#include <cblas.h>

#include "kernels/nn/cpu.h"
#include "kernels/nn/cpu_math.h"

/* Scores become probabilities, not yet divided by their sum, which is returned. */
static INGOT_CLONES float exponentials(int64_t n, float *s)
{
  float top = s[0], sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = s[i] > top ? s[i] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    s[i] = ingot_cpu_exp(s[i] - top);
    sum += s[i];
  }
  return sum;
}

static INGOT_CLONES void scale_row(int64_t n, float factor, float *x)
{
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

/* The heads of sequence `row` that share key head `kv`; scores is room for [group][n_key]. */
static void attend(const ingot_nn_cached *shape, int64_t row, int kv, const float *q, const float *keys, const float *values,
                   float *o, float *scores)
{
  const int     d = shape->head_dim, group = shape->n_head / shape->n_kv_head;
  const int64_t first = shape->window > 0 && shape->n_key[row] > shape->window ? shape->n_key[row] - shape->window : 0;
  const int64_t n_key = shape->n_key[row] - first;
  const int64_t at = shape->slot[row] * shape->slot_stride + first * shape->ld_cache + kv * d;
  q += row * shape->ld_q + kv * group * d;
  o += row * shape->ld_o + kv * group * d;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, group, (blasint)n_key, d, shape->scale, q, d, keys + at,
              (blasint)shape->ld_cache, 0, scores, (blasint)n_key);
  for (int h = 0; h < group; h++) {
    const float sum = exponentials(n_key, scores + h * n_key);
    scale_row(n_key, 1.0f / sum, scores + h * n_key);
  }
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, group, d, (blasint)n_key, 1, scores, (blasint)n_key, values + at,
              (blasint)shape->ld_cache, 0, o, d);
}

ingot_status ingot_cpu_attention_cached(ingot_nn *nn, const ingot_nn_cached *shape, const void *q, const void *keys,
                                        const void *values, void *o)
{
  int64_t most = 0, total = 0;
  for (int64_t r = 0; r < shape->n_row; r++) {
    INGOT_ASSERT(shape->n_key[r] > 0);
    most = shape->n_key[r] > most ? shape->n_key[r] : most;
    total += shape->n_key[r];
  }
  const int64_t floats = ingot_cpu_padded(most * (shape->n_head / shape->n_kv_head)), n_part = shape->n_row * shape->n_kv_head;
  float        *memory;
  ingot_status  st = ingot_cpu_scratch(nn, (size_t)(floats * nn->n_thread) * sizeof(float), &memory);
  if (st != INGOT_OK) return st;
  ingot_cpu_blas_serial();
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, total * shape->n_head * shape->head_dim / 16)) schedule(dynamic, 1)
  for (int64_t i = 0; i < n_part; i++)
    attend(shape, i / shape->n_kv_head, (int)(i % shape->n_kv_head), q, keys, values, o, memory + ingot_cpu_thread() * floats);
  return INGOT_OK;
}
