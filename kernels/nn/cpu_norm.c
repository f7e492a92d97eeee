#include "kernels/nn/cpu.h"

#include <math.h>
#include <string.h>

#include "kernels/clones.h"

/* Rows are taken in chunks. The backward pass sums dweight and dbias over each chunk, then over chunks in order. */
enum { MAX_CHUNK = 64, MIN_CHUNK_ROWS = 16 };

static INGOT_CLONES void add_rows(int64_t n, const float *x, const float *delta, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = x[i] + delta[i];
}

static INGOT_CLONES float sum_of(int64_t n, const float *x)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum;
}

static INGOT_CLONES float sum_of_squares(int64_t n, const float *x, float mean)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
  return sum;
}

static INGOT_CLONES void scale_row(int64_t n, const float *x, float mean, float r, const float *weight,
                                   const float *bias, float *y)
{
  if (bias) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * weight[i] + bias[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * r * weight[i];
  }
}

static void norm_row(const ingot_nn_norm *shape, const float *x, const float *delta, float *sum, const float *weight,
                     const float *bias, float *y, float *stats)
{
  int64_t n = shape->width;
  float   mean = 0;
  if (delta) { /* a pass that comes again from the sum gets the same bits */
    add_rows(n, x, delta, sum);
    x = sum;
  }
  if (shape->centred) mean = sum_of(n, x) / (float)n;
  float r = 1.0f / sqrtf(sum_of_squares(n, x, mean) / (float)n + shape->eps);
  scale_row(n, x, mean, r, weight, bias, y);
  if (!stats) return;
  if (shape->centred) *stats++ = mean;
  *stats = r;
}

static int64_t chunk_rows(int64_t n_row)
{
  int64_t rows = ingot_cpu_ceil_div(n_row, MAX_CHUNK);
  return rows < MIN_CHUNK_ROWS ? MIN_CHUNK_ROWS : rows;
}

ingot_status ingot_cpu_norm(ingot_nn *nn, const ingot_nn_norm *shape, const void *x_, const void *delta_, void *sum_,
                            const void *weight, const void *bias, void *y_, float *stats)
{
  const float *x = x_, *delta = delta_;
  float       *sum = sum_, *y = y_;
  int64_t      n_row = shape->n_token * shape->n_group, width = shape->width;
  int          n_stat = shape->centred ? 2 : 1;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row *width)) schedule(static)
  for (int64_t row = 0; row < n_row; row++) {
    int64_t token = row / shape->n_group, group = row % shape->n_group;
    int64_t at_x = token * shape->ld_x + group * width, at_y = token * shape->ld_y + group * width;
    norm_row(shape, x + at_x, delta ? delta + at_x : NULL, sum ? sum + at_x : NULL, weight, bias, y + at_y,
             stats ? stats + row * n_stat : NULL);
  }
  return INGOT_OK;
}

/* Sums of delta and of delta * xhat over the row, delta = dy * weight; and the row's part of dweight and dbias. */
static INGOT_CLONES void backward_sums(int64_t n, const float *x, float mean, float r, const float *weight,
                                       const float *dy, float *dweight, float *dbias, float sums[2])
{
  float plain = 0, with_x = 0;
  if (dweight) {
#pragma omp simd reduction(+ : plain, with_x)
    for (int64_t i = 0; i < n; i++) {
      float xhat = (x[i] - mean) * r, d = dy[i] * weight[i];
      plain += d;
      with_x += d * xhat;
      dweight[i] += dy[i] * xhat;
    }
  } else {
#pragma omp simd reduction(+ : plain, with_x)
    for (int64_t i = 0; i < n; i++) {
      float d = dy[i] * weight[i];
      plain += d;
      with_x += d * ((x[i] - mean) * r);
    }
  }
  if (dbias) {
#pragma omp      simd
    for (int64_t i = 0; i < n; i++) dbias[i] += dy[i];
  }
  sums[0] = plain;
  sums[1] = with_x;
}

static INGOT_CLONES void backward_row(int64_t n, const float *x, float mean, float r, const float *weight,
                                      const float *dy, float mean_plain, float mean_with_x, const float *residual,
                                      float *dx)
{
  if (residual) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
      dx[i] = r * (dy[i] * weight[i] - mean_plain - (x[i] - mean) * r * mean_with_x) + residual[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) dx[i] = r * (dy[i] * weight[i] - mean_plain - (x[i] - mean) * r * mean_with_x);
  }
}

typedef struct backward {
  const ingot_nn_norm *shape;
  const float         *x, *weight, *stats, *dy, *residual;
  float               *dx;
} backward;

static void backward_chunk(const backward *b, int64_t first, int64_t last, float *dweight, float *dbias)
{
  const ingot_nn_norm *shape = b->shape;
  int64_t              width = shape->width;
  for (int64_t row = first; row < last; row++) {
    int64_t token = row / shape->n_group, group = row % shape->n_group;
    int64_t at_x = token * shape->ld_x + group * width, at_y = token * shape->ld_y + group * width;
    float   mean = shape->centred ? b->stats[2 * row] : 0, r = shape->centred ? b->stats[2 * row + 1] : b->stats[row];
    float   sums[2];
    backward_sums(width, b->x + at_x, mean, r, b->weight, b->dy + at_y, dweight, dbias, sums);
    backward_row(width, b->x + at_x, mean, r, b->weight, b->dy + at_y, shape->centred ? sums[0] / (float)width : 0,
                 sums[1] / (float)width, b->residual ? b->residual + at_x : NULL, b->dx + at_x);
  }
}

static void add_chunks(int64_t n_chunk, int64_t width, const float *chunks, int64_t stride, float *out)
{
  for (int64_t i = 0; i < width; i++) {
    double sum = out[i];
    for (int64_t c = 0; c < n_chunk; c++) sum += (double)chunks[c * stride + i];
    out[i] = (float)sum;
  }
}

ingot_status ingot_cpu_norm_backward(ingot_nn *nn, const ingot_nn_norm *shape, const void *x, const void *weight,
                                     const float *stats, const void *dy, const void *residual, void *dx, float *dweight,
                                     float *dbias)
{
  backward b = {shape, x, weight, stats, dy, residual, dx};
  int64_t  n_row = shape->n_token * shape->n_group;
  if (n_row == 0) return INGOT_OK;
  int64_t rows = chunk_rows(n_row), n_chunk = ingot_cpu_ceil_div(n_row, rows), padded = ingot_cpu_padded(shape->width);
  float  *chunks = NULL;
  if (dweight || dbias) {
    ingot_status st = ingot_cpu_scratch(nn, (size_t)(n_chunk * 2 * padded) * sizeof(float), &chunks);
    if (st != INGOT_OK) return st;
  }
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row * shape->width)) schedule(dynamic, 1)
  for (int64_t chunk = 0; chunk < n_chunk; chunk++) {
    float  *own = chunks ? chunks + chunk * 2 * padded : NULL;
    int64_t last = (chunk + 1) * rows < n_row ? (chunk + 1) * rows : n_row;
    if (own) memset(own, 0, (size_t)(2 * padded) * sizeof(float));
    backward_chunk(&b, chunk * rows, last, dweight ? own : NULL, dbias ? own + padded : NULL);
  }
  if (dweight) add_chunks(n_chunk, shape->width, chunks, 2 * padded, dweight);
  if (dbias) add_chunks(n_chunk, shape->width, chunks + padded, 2 * padded, dbias);
  return INGOT_OK;
}
