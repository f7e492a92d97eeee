/*
 * Gram matrices. X^T X is symmetric: panels of its rows, each from the diagonal to the right end, are a little more than
 * half of the product. A panel's products over up to 8192 rows of X are summed in float32 by cuBLASLt, several such pieces
 * as a batch; a kernel then adds them in order to the float64 master. Rows that do not count are set to zero in a copy.
 */
#include "kernels/nn/cuda_matmul.cuh"

enum {
  PIECE = 8192,     /* rows of X under one float32 sum */
  MAX_PIECES = 4,   /* of a batch */
  PANEL = 512,      /* rows of the result at a time; wider where more panels would not pay */
  BLOCK = 256
};

/** A copy of rows whose rows with valid 0 are zero. */
template <typename T>
static __global__ void mask_rows_kernel(int64_t n_row, int64_t width, const T *__restrict__ x, int64_t ld,
                                        const int32_t *__restrict__ valid, T *__restrict__ out, int64_t ld_out, bool wide)
{
  int64_t per_row = (width + 7) / 8;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(BLOCK) + threadIdx.x; i < n_row * per_row;
       i += static_cast<int64_t>(gridDim.x) * BLOCK) {
    int64_t row = i / per_row, at = (i - row * per_row) * 8, left = width - at;
    float   v[8] = {};
    if (valid[row] != 0) ingot_nn_load(x + row * ld + at, left, wide, v);
    ingot_nn_store(out + row * ld_out + at, left, true, v);
  }
}

/** sum [width][width] += the pieces' panels, in order: rows first .. first + n, from the diagonal on. */
static __global__ void __launch_bounds__(BLOCK)
    add_panel_kernel(int64_t first, int64_t width, int n_piece, int64_t stride, int64_t ld,
                     const float *__restrict__ panel, double *sum)
{
  int64_t row = blockIdx.y, n_column = width - first;
  for (int64_t column = blockIdx.x * static_cast<int64_t>(BLOCK) + threadIdx.x; column < n_column;
       column += static_cast<int64_t>(gridDim.x) * BLOCK) {
    if (column < row) continue;
    double total = 0.0;
    for (int p = 0; p < n_piece; p++) total += static_cast<double>(panel[p * stride + row * ld + column]);
    sum[(first + row) * width + first + column] += total;
  }
}

struct gram_plan {
  int64_t panel, ld; /* rows of a panel; distance of the rows of its float32 sums */
  size_t  panel_bytes, mask_bytes;
};

static int64_t element_size(const ingot_nn_cuda *nn)
{
  return nn->head.dtype == INGOT_DTYPE_BF16 ? 2 : 4;
}

/** n_piece pieces of `rows` rows each, from x on: their panels into scratch, then onto the master. */
static ingot_status add_pieces(ingot_nn_cuda *nn, const gram_plan *g, int n_piece, int64_t rows, int64_t width,
                               const char *x, int64_t ld, float *panels, double *sum)
{
  ingot_status st = INGOT_OK;
  int64_t      stride = g->panel * g->ld;
  for (int64_t first = 0; first < width; first += g->panel) {
    int64_t          height = width - first < g->panel ? width - first : g->panel;
    const void      *operand = x + first * element_size(nn);
    ingot_nn_product product = {height, width - first,   rows,   1.0f,  0.0f,   {operand, ld, true}, {operand, ld, false},
                                panels, g->ld,           INGOT_DTYPE_F32, nullptr, n_piece, rows * ld, rows * ld, stride};
    INGOT_TRY(ingot_nn_cuda_product(nn, &product));
    int64_t blocks = (width - first + 4 * BLOCK - 1) / (4 * BLOCK);
    dim3    grid(static_cast<unsigned>(blocks), static_cast<unsigned>(height));
    add_panel_kernel<<<grid, BLOCK, 0, nn->stream>>>(first, width, n_piece, stride, g->ld, panels, sum);
    INGOT_TRY(ingot_nn_cuda_launched("add_panel_kernel"));
  }
done:
  return st;
}

static ingot_status mask_rows(ingot_nn_cuda *nn, int64_t n_row, int64_t width, const void *x, int64_t ld,
                              const int32_t *valid, void *out, int64_t ld_out)
{
  unsigned grid = static_cast<unsigned>(16 * nn->sm_count);
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    const __nv_bfloat16 *rows = static_cast<const __nv_bfloat16 *>(x);
    mask_rows_kernel<<<grid, BLOCK, 0, nn->stream>>>(n_row, width, rows, ld, valid, static_cast<__nv_bfloat16 *>(out),
                                                     ld_out, ingot_nn_wide(rows, ld));
  } else {
    const float *rows = static_cast<const float *>(x);
    mask_rows_kernel<<<grid, BLOCK, 0, nn->stream>>>(n_row, width, rows, ld, valid, static_cast<float *>(out), ld_out,
                                                     ingot_nn_wide(rows, ld));
  }
  return ingot_nn_cuda_launched("mask_rows_kernel");
}

ingot_status ingot_nn_cuda_gram(ingot_nn *back_end, int64_t n_row, int64_t width, const void *x, int64_t ld,
                                const int32_t *valid, double *sum)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  int64_t        n_piece = n_row / PIECE < MAX_PIECES ? n_row / PIECE : MAX_PIECES;
  int64_t        ld_mask = (width + 7) / 8 * 8, most = n_row < MAX_PIECES * PIECE ? n_row : MAX_PIECES * PIECE;
  gram_plan      g = {width < PANEL ? width : PANEL, (width + 7) / 8 * 8, 0, 0};
  void          *memory = nullptr;

  if (n_row == 0 || width == 0) return INGOT_OK;
  g.panel_bytes = ingot_nn_cuda_aligned(static_cast<size_t>((n_piece > 1 ? n_piece : 1) * g.panel * g.ld) * sizeof(float));
  if (valid != nullptr) g.mask_bytes = static_cast<size_t>(most * ld_mask * element_size(nn));
  INGOT_TRY(ingot_nn_cuda_scratch(nn, g.panel_bytes + g.mask_bytes, &memory));
  for (int64_t first = 0; first < n_row;) {
    int64_t     whole = (n_row - first) / PIECE, pieces = whole > MAX_PIECES ? MAX_PIECES : whole > 0 ? whole : 1;
    int64_t     rows = whole > 0 ? PIECE : n_row - first, from_ld = ld;
    const char *from = static_cast<const char *>(x) + first * ld * element_size(nn);
    if (valid != nullptr) {
      char *masked = static_cast<char *>(memory) + g.panel_bytes;
      INGOT_TRY(mask_rows(nn, pieces * rows, width, from, ld, valid + first, masked, ld_mask));
      from = masked;
      from_ld = ld_mask;
    }
    INGOT_TRY(add_pieces(nn, &g, static_cast<int>(pieces), rows, width, from, from_ld, static_cast<float *>(memory), sum));
    first += pieces * rows;
  }
done:
  return st;
}
