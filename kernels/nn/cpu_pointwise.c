#include "kernels/nn/cpu.h"

#include <string.h>

#include "kernels/nn/cpu_math.h"

enum {
  PIECE = 16384,    /* elements of one part of element-wise work */
  COLUMNS = 256,    /* of one part of a column sum */
  COLUMN_ROWS = 128 /* rows summed in float32 before they are added in float64 */
};

/* ---- rotary embedding ---- */

static INGOT_CLONES void rotate_head(int64_t half, const float *cos_, const float *sin_, float sign,
                                     float *restrict low, float *restrict high)
{
  for (int64_t j = 0; j < half; j++) {
    float a = low[j], b = high[j], s = sign * sin_[j];
    low[j] = a * cos_[j] - b * s;
    high[j] = b * cos_[j] + a * s;
  }
}

ingot_status ingot_cpu_rope(ingot_nn *nn, const ingot_nn_rope *shape, void *x_, bool inverse)
{
  float  *x = x_;
  int64_t half = shape->rotary_dim / 2;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, shape->n_token * shape->n_head * half)) schedule(static)
  for (int64_t token = 0; token < shape->n_token; token++) {
    int64_t row = shape->positions[token] * half;
    for (int head = 0; head < shape->n_head; head++) {
      float *at = x + token * shape->ld + (int64_t)head * shape->head_dim;
      rotate_head(half, shape->cos + row, shape->sin + row, inverse ? -1.0f : 1.0f, at, at + half);
    }
  }
  return INGOT_OK;
}

/* ---- activations ---- */

static INGOT_CLONES void swiglu_row(int64_t n, const float *gate, const float *up, float *restrict out)
{
  for (int64_t i = 0; i < n; i++) {
    float rest;
    out[i] = gate[i] * ingot_cpu_logistic(gate[i], &rest) * up[i];
  }
}

ingot_status ingot_cpu_swiglu(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up_, void *out_)
{
  const float *gate_up = gate_up_;
  float       *out = out_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row *width)) schedule(static)
  for (int64_t row = 0; row < n_row; row++)
    swiglu_row(width, gate_up + row * 2 * width, gate_up + row * 2 * width + width, out + row * width);
  return INGOT_OK;
}

/* d_gate and d_up may be gate and up. */
static INGOT_CLONES void swiglu_backward_row(int64_t n, const float *gate, const float *up, const float *d_out,
                                             float *d_gate, float *d_up)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float g = gate[i], u = up[i], rest, s = ingot_cpu_logistic(g, &rest);
    d_gate[i] = d_out[i] * u * s * (1.0f + g * rest);
    d_up[i] = d_out[i] * g * s;
  }
}

ingot_status ingot_cpu_swiglu_backward(ingot_nn *nn, int64_t n_row, int64_t width, const void *gate_up_,
                                       const void *d_out_, void *d_gate_up_)
{
  const float *gate_up = gate_up_, *d_out = d_out_;
  float       *d_gate_up = d_gate_up_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row *width)) schedule(static)
  for (int64_t row = 0; row < n_row; row++) {
    int64_t gate = row * 2 * width, up = gate + width;
    swiglu_backward_row(width, gate_up + gate, gate_up + up, d_out + row * width, d_gate_up + gate, d_gate_up + up);
  }
  return INGOT_OK;
}

/* (1 + tanh(u)) / 2 is the logistic function of 2u; so gelu = x s, s = logistic(2 sqrt(2 / pi) (x + 0.044715 x^3)). */
#define GELU_SCALE 1.5957691216057308f
#define GELU_CUBE 0.044715f

static INGOT_CLONES void gelu_piece(int64_t n, const float *x, float *y)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float v = x[i], rest;
    y[i] = v * ingot_cpu_logistic(GELU_SCALE * v * (1.0f + GELU_CUBE * v * v), &rest);
  }
}

static INGOT_CLONES void gelu_backward_piece(int64_t n, const float *x, const float *dy, float *dx)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float v = x[i], rest, s = ingot_cpu_logistic(GELU_SCALE * v * (1.0f + GELU_CUBE * v * v), &rest);
    dx[i] = dy[i] * (s + v * s * rest * GELU_SCALE * (1.0f + 3.0f * GELU_CUBE * v * v));
  }
}

static int64_t piece_at(int64_t n, int64_t first)
{
  return n - first < PIECE ? n - first : PIECE;
}

ingot_status ingot_cpu_gelu(ingot_nn *nn, int64_t n, const void *x_, void *y_)
{
  const float *x = x_;
  float       *y = y_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n; i += PIECE) gelu_piece(piece_at(n, i), x + i, y + i);
  return INGOT_OK;
}

ingot_status ingot_cpu_gelu_backward(ingot_nn *nn, int64_t n, const void *x_, const void *dy_, void *dx_)
{
  const float *x = x_, *dy = dy_;
  float       *dx = dx_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n; i += PIECE) gelu_backward_piece(piece_at(n, i), x + i, dy + i, dx + i);
  return INGOT_OK;
}

/* ---- embedding ---- */

static INGOT_CLONES void add_piece(int64_t n, const float *x, float *y)
{
  for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

ingot_status ingot_cpu_embedding(ingot_nn *nn, int64_t n_token, int64_t width, const int32_t *tokens,
                                 const void *table_, const int32_t *positions, const void *position_table_, void *out_)
{
  const float *table = table_, *position_table = position_table_;
  float       *out = out_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_token *width)) schedule(static)
  for (int64_t t = 0; t < n_token; t++) {
    memcpy(out + t * width, table + tokens[t] * width, (size_t)width * sizeof(float));
    if (position_table) add_piece(width, position_table + positions[t] * width, out + t * width);
  }
  return INGOT_OK;
}

/* A thread owns some columns and goes over all tokens, so that every sum is in the order of tokens. */
ingot_status ingot_cpu_embedding_backward(ingot_nn *nn, int64_t n_token, int64_t width, int64_t n_index,
                                          const int32_t *index, const void *d_out_, float *d_table)
{
  (void)n_index;
  const float *d_out = d_out_;
  int64_t      slice = ingot_cpu_padded(ingot_cpu_ceil_div(width, nn->n_thread));
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_token *width)) schedule(static, 1)
  for (int64_t first = 0; first < width; first += slice) {
    int64_t n = width - first < slice ? width - first : slice;
    for (int64_t t = 0; t < n_token; t++) add_piece(n, d_out + t * width + first, d_table + index[t] * width + first);
  }
  return INGOT_OK;
}

/* ---- sums ---- */

static void column_sum_slice(int64_t n_row, int64_t n, const float *x, int64_t ld, float *sum)
{
  double total[COLUMNS];
  for (int64_t j = 0; j < n; j++) total[j] = sum[j];
  for (int64_t first = 0; first < n_row; first += COLUMN_ROWS) {
    int64_t last = n_row - first < COLUMN_ROWS ? n_row : first + COLUMN_ROWS;
    float   part[COLUMNS] = {0};
    for (int64_t row = first; row < last; row++) add_piece(n, x + row * ld, part);
    for (int64_t j = 0; j < n; j++) total[j] += (double)part[j];
  }
  for (int64_t j = 0; j < n; j++) sum[j] = (float)total[j];
}

ingot_status ingot_cpu_column_sum(ingot_nn *nn, int64_t n_row, int64_t width, const void *x_, int64_t ld, float *sum)
{
  const float *x = x_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row *width)) schedule(static)
  for (int64_t first = 0; first < width; first += COLUMNS)
    column_sum_slice(n_row, width - first < COLUMNS ? width - first : COLUMNS, x + first, ld, sum + first);
  return INGOT_OK;
}

ingot_status ingot_cpu_add(ingot_nn *nn, int64_t n, const void *x_, void *y_)
{
  const float *x = x_;
  float       *y = y_;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n; i += PIECE) add_piece(piece_at(n, i), x + i, y + i);
  return INGOT_OK;
}

static INGOT_CLONES void add_squares_piece(int64_t n, float scale, const float *g, float *f)
{
  for (int64_t i = 0; i < n; i++) f[i] += scale * g[i] * g[i];
}

ingot_status ingot_cpu_add_squares(ingot_nn *nn, int64_t n, float scale, const float *g, float *f)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n)) schedule(static)
  for (int64_t i = 0; i < n; i += PIECE) add_squares_piece(piece_at(n, i), scale, g + i, f + i);
  return INGOT_OK;
}
