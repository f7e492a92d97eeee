#include "kernels/nn/cpu.h"

#include <string.h>

#include "kernels/clones.h"

enum {
  TILE_MULTIPLE = 32, /* edges of a product's parts: whole register tiles of sgemm */
  GRAM_TILE = 512,    /* of the Gram matrix: one part of the work */
  GRAM_ROWS = 8192    /* summed in float32 */
};

static const int64_t gram_copy_bytes = 64 << 20; /* for valid rows, when some are not */

/* ---- matmul: C is cut into a grid of n_thread parts ---- */

typedef struct grid {
  int64_t rows, columns; /* of a part */
  int64_t n_row_part, n_column_part;
} grid;

static int64_t part_size(int64_t n, int64_t n_part)
{
  return ingot_cpu_ceil_div(ingot_cpu_ceil_div(n, n_part), TILE_MULTIPLE) * TILE_MULTIPLE;
}

/* Every part packs its rows of A and columns of B: the grid with the smallest sum of both has the least to pack. */
static grid grid_of(int64_t m, int64_t n, int n_thread)
{
  grid    best = {0};
  int64_t best_cost = INT64_MAX;
  for (int64_t p = 1; p <= n_thread; p++) {
    int64_t rows = part_size(m, p), columns = part_size(n, n_thread / p);
    int64_t n_row_part = ingot_cpu_ceil_div(m, rows), n_column_part = ingot_cpu_ceil_div(n, columns);
    /* A grid of fewer parts than threads leaves some idle: its work counts more than its packing. */
    int64_t cost = (rows + columns) * 8 + rows * columns / 8;
    if (cost < best_cost) {
      best_cost = cost;
      best = (grid){rows, columns, n_row_part, n_column_part};
    }
  }
  return best;
}

static INGOT_CLONES void add_bias(int64_t m, int64_t n, const float *bias, float *c, int64_t ldc)
{
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) c[i * ldc + j] += bias[j];
}

static const float *rows_of(const ingot_nn_matrix *x, int64_t first)
{
  return (const float *)x->data + first * (x->transpose ? 1 : x->ld);
}

static const float *columns_of(const ingot_nn_matrix *x, int64_t first)
{
  return (const float *)x->data + first * (x->transpose ? x->ld : 1);
}

static CBLAS_TRANSPOSE transposition(bool transpose)
{
  return transpose ? CblasTrans : CblasNoTrans;
}

ingot_status ingot_cpu_matmul(ingot_nn *nn, int64_t m, int64_t n, int64_t k, float alpha, ingot_nn_matrix a,
                              ingot_nn_matrix b, float beta, void *c, int64_t ldc, ingot_dtype c_dtype,
                              const void *bias)
{
  INGOT_ASSERT(c_dtype == INGOT_DTYPE_F32);
  if (m == 0 || n == 0) return INGOT_OK;
  const ingot_blas *blas = ingot_cpu_blas(nn);
  grid              g = grid_of(m, n, ingot_cpu_threads(nn, m * n / 32 * k));
  int64_t           n_part = g.n_row_part * g.n_column_part;

#pragma omp parallel for num_threads((int)n_part) schedule(static, 1)
  for (int64_t part = 0; part < n_part; part++) {
    int64_t row = part % g.n_row_part * g.rows, column = part / g.n_row_part * g.columns;
    int64_t rows = m - row < g.rows ? m - row : g.rows, columns = n - column < g.columns ? n - column : g.columns;
    float  *out = (float *)c + row * ldc + column;
    blas->sgemm(CblasRowMajor, transposition(a.transpose), transposition(b.transpose), (blasint)rows, (blasint)columns,
                (blasint)k, alpha, rows_of(&a, row), (blasint)a.ld, columns_of(&b, column), (blasint)b.ld, beta, out,
                (blasint)ldc);
    if (bias) add_bias(rows, columns, (const float *)bias + column, out, ldc);
  }
  return INGOT_OK;
}

/* ---- gram: tiles of the upper triangle, each the product of two column panels ---- */

static INGOT_CLONES void add_tile(int64_t rows, int64_t columns, const float *tile, double *sum, int64_t ld)
{
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) sum[i * ld + j] += (double)tile[i * columns + j];
}

/* Tile number -> its row and column of tiles, row <= column, by columns. */
static void tile_place(int64_t tile, int64_t *row, int64_t *column)
{
  int64_t c = 0;
  while ((c + 1) * (c + 2) / 2 <= tile) c++;
  *column = c;
  *row = tile - c * (c + 1) / 2;
}

static void gram_of_rows(ingot_nn *nn, int64_t n_row, int64_t width, const float *x, int64_t ld, float *tiles,
                         double *sum)
{
  const ingot_blas *blas = ingot_cpu_blas(nn);
  int64_t           side = ingot_cpu_ceil_div(width, GRAM_TILE), n_tile = side * (side + 1) / 2;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, n_row *width / 64 * width)) schedule(dynamic, 1)
  for (int64_t tile = 0; tile < n_tile; tile++) {
    int64_t row, column;
    tile_place(tile, &row, &column);
    row *= GRAM_TILE, column *= GRAM_TILE;
    int64_t rows = width - row < GRAM_TILE ? width - row : GRAM_TILE;
    int64_t columns = width - column < GRAM_TILE ? width - column : GRAM_TILE;
    float  *out = tiles + (int64_t)ingot_cpu_thread() * GRAM_TILE * GRAM_TILE;
    if (row == column)
      blas->ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (blasint)rows, (blasint)n_row, 1, x + row, (blasint)ld, 0, out,
                  (blasint)columns);
    else
      blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)rows, (blasint)columns, (blasint)n_row, 1, x + row,
                  (blasint)ld, x + column, (blasint)ld, 0, out, (blasint)columns);
    add_tile(rows, columns, out, sum + row * width + column, width);
  }
}

/* Copy rows with valid != 0, from row *next on, until `room` is full; returns how many. */
static int64_t gather_valid(int64_t n_row, int64_t width, const float *x, int64_t ld, const int32_t *valid,
                            int64_t room, int64_t *next, float *out)
{
  int64_t n = 0;
  for (; *next < n_row && n < room; ++*next)
    if (valid[*next]) memcpy(out + n++ * width, x + *next * ld, (size_t)width * sizeof(float));
  return n;
}

static int64_t count_valid(int64_t n_row, const int32_t *valid)
{
  int64_t n = 0;
  for (int64_t r = 0; r < n_row; r++) n += valid[r] != 0;
  return n;
}

ingot_status ingot_cpu_gram(ingot_nn *nn, int64_t n_row, int64_t width, const void *x_, int64_t ld,
                            const int32_t *valid, double *sum)
{
  const float *x = x_;
  int64_t      n_sum = valid ? count_valid(n_row, valid) : n_row;
  if (n_sum == 0 || width == 0) return INGOT_OK;

  bool    all = n_sum == n_row;
  int64_t room = gram_copy_bytes / (width * (int64_t)sizeof(float));
  room = room < 64 ? 64 : room > GRAM_ROWS ? GRAM_ROWS : room;
  room = room < n_sum ? room : n_sum;
  float       *tiles;
  int64_t      tile_floats = (int64_t)nn->n_thread * GRAM_TILE * GRAM_TILE, copy_floats = all ? 0 : room * width;
  ingot_status st = ingot_cpu_scratch(nn, (size_t)(tile_floats + copy_floats) * sizeof(float), &tiles);
  if (st != INGOT_OK) return st;

  if (all) {
    for (int64_t row = 0; row < n_row; row += GRAM_ROWS)
      gram_of_rows(nn, n_row - row < GRAM_ROWS ? n_row - row : GRAM_ROWS, width, x + row * ld, ld, tiles, sum);
  } else {
    float *rows = tiles + tile_floats;
    for (int64_t next = 0; next < n_row;) {
      int64_t n = gather_valid(n_row, width, x, ld, valid, room, &next, rows);
      if (n) gram_of_rows(nn, n, width, rows, width, tiles, sum);
    }
  }
  return INGOT_OK;
}
