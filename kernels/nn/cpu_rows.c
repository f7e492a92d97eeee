#include "kernels/nn/cpu_rows.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/nn/cpu_math.h"

INGOT_CLONES float ingot_cpu_row_top(int64_t n, const float *z)
{
  float top = z[0];
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < n; i++) top = z[i] > top ? z[i] : top;
  if (top > -FLT_MAX || isnan(top)) return top;
  top = z[0]; /* compilers may begin such a maximum at -FLT_MAX: once more, for -inf alone */
  for (int64_t i = 1; i < n; i++) top = z[i] > top ? z[i] : top;
  return top;
}

static INGOT_CLONES float sum_of_exp(int64_t n, const float *z, float top, float factor)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += ingot_cpu_exp((z[i] - top) * factor);
  return sum;
}

double ingot_cpu_row_sum(int64_t n, const float *z, float top, float factor)
{
  const int64_t piece = INGOT_CPU_ROW_PIECE;
  double        sum = 0;
  for (int64_t i = 0; i < n; i += piece) sum += (double)sum_of_exp(n - i < piece ? n - i : piece, z + i, top, factor);
  return sum;
}

static INGOT_CLONES void softmax_row(int64_t n, const float *z, float top, float factor, float *d)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) d[i] = factor * ingot_cpu_exp(z[i] - top);
}

void ingot_cpu_row_gradient(const ingot_nn_logits *z, int64_t row, int32_t label, float scale, float top, double sum,
                            float *d)
{
  softmax_row(z->n_vocab, z->data + row * z->ld, top, (float)((double)scale / sum), d);
  d[label] -= scale;
  memset(d + z->n_vocab, 0, (size_t)(z->ld - z->n_vocab) * sizeof *d);
}
