/*
 * Gram matrices. X^T X is symmetric: panels of its rows, each from the diagonal to the right end, are a little more
 * than half of the product. A panel's products over some thousand rows of X are summed in float32 by cuBLASLt, several
 * such pieces as a batch; a kernel then adds them in order to the float64 master. Panels are of unequal length and many
 * are smaller than the GPU, so they go to several streams, each with its own workspace and room for sums; a panel is
 * always on the same one, so its pieces are added in order. Rows that do not count are set to zero in a copy.
 */
#include "kernels/nn/cuda_grid.cuh"
#include "kernels/nn/cuda_matmul.cuh"

enum {
  MAX_SUM = 8192,    /* rows of X under one float32 sum, at most */
  MAX_BATCH = 16384, /* rows of X at a time */
  PANEL = 512,
  BLOCK = 256
};

/** A copy of rows whose rows with valid 0 are zero. */
template <typename T>
static __global__ void mask_rows_kernel(int64_t n_row, int64_t width, const T *__restrict__ x, int64_t ld,
                                        const int32_t *__restrict__ valid, T *__restrict__ out, int64_t ld_out,
                                        bool wide)
{
  int64_t per_row = (width + 7) / 8;
  for (int64_t i = ingot_nn_first<BLOCK>(); i < n_row * per_row; i += ingot_nn_step<BLOCK>()) {
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
  for (int64_t column = ingot_nn_first<BLOCK>(); column < n_column; column += ingot_nn_step<BLOCK>()) {
    if (column < row) continue;
    double total = 0.0;
    for (int p = 0; p < n_piece; p++) total += static_cast<double>(panel[p * stride + row * ld + column]);
    sum[(first + row) * width + first + column] += total;
  }
}

struct gram_plan {
  int64_t width, piece, batch; /* rows of X: under one sum, at a time */
  int64_t panel, ld;           /* rows of a panel; distance of the rows of its sums */
  int64_t stride;              /* elements of a panel's sums */
  int     n_lane;
  size_t  lane_bytes, mask_bytes;
};

static int64_t element_size(const ingot_nn_cuda *nn)
{
  return nn->head.dtype == INGOT_DTYPE_BF16 ? 2 : 4;
}

static int64_t at_most(int64_t v, int64_t limit)
{
  return v < limit ? v : limit;
}

/** Shorter sums keep more of the GPU busy when the matrix is small; when it is large they cost more than they bring. */
static gram_plan plan_gram(const ingot_nn_cuda *nn, int64_t n_row, int64_t width, bool masked)
{
  gram_plan g = {};
  int64_t   piece = width <= 4096 ? MAX_SUM / 2 : MAX_SUM;
  g.width = width;
  g.piece = at_most(n_row, piece);
  g.batch = at_most(n_row, MAX_BATCH / g.piece * g.piece);
  g.panel = at_most(width, PANEL);
  g.ld = (width + 7) / 8 * 8;
  g.stride = g.panel * g.ld;
  g.n_lane = static_cast<int>(at_most((width + g.panel - 1) / g.panel, INGOT_NN_LANES));
  int64_t n_piece = (g.batch + g.piece - 1) / g.piece;
  g.lane_bytes = ingot_nn_cuda_aligned(static_cast<size_t>(n_piece * g.stride) * sizeof(float));
  if (masked) g.mask_bytes = static_cast<size_t>(g.batch * g.ld * element_size(nn));
  return g;
}

/** n_piece pieces of `rows` rows each, from x on: one panel's sums, then onto the master. */
static ingot_status add_panel(ingot_nn_cuda *nn, const gram_plan *g, int lane, int64_t first, int64_t n_piece,
                              int64_t rows, const char *x, int64_t ld, float *sums, double *sum)
{
  ingot_status st = INGOT_OK;
  int64_t      height = at_most(g->width - first, g->panel), length = g->width - first;
  size_t       workspace_bytes = nn->workspace_bytes / INGOT_NN_LANES;
  const void  *operand = x + first * element_size(nn);
  dim3         grid(static_cast<unsigned>((length + 4 * BLOCK - 1) / (4 * BLOCK)), static_cast<unsigned>(height));

  ingot_nn_product p = {};
  p.m = height, p.n = length, p.k = rows;
  p.alpha = 1.0f;
  p.a = {operand, ld, true};
  p.b = {operand, ld, false};
  p.c = sums, p.ldc = g->ld, p.c_dtype = INGOT_DTYPE_F32;
  p.n_batch = static_cast<int>(n_piece);
  p.stride_a = p.stride_b = rows * ld, p.stride_c = g->stride;
  p.stream = nn->lane[lane];
  p.workspace = static_cast<char *>(nn->workspace) + lane * workspace_bytes, p.workspace_bytes = workspace_bytes;
  INGOT_TRY(ingot_nn_cuda_product(nn, &p));
  add_panel_kernel<<<grid, BLOCK, 0, nn->lane[lane]>>>(first, g->width, static_cast<int>(n_piece), g->stride, g->ld,
                                                       sums, sum);
  INGOT_TRY(ingot_nn_cuda_launched("add_panel_kernel"));
done:
  return st;
}

static ingot_status add_pieces(ingot_nn_cuda *nn, const gram_plan *g, int64_t n_piece, int64_t rows, const char *x,
                               int64_t ld, char *memory, double *sum)
{
  ingot_status st = INGOT_OK;
  int          lane = 0;
  for (int64_t first = 0; first < g->width; first += g->panel) {
    float *sums = reinterpret_cast<float *>(memory + static_cast<size_t>(lane) * g->lane_bytes);
    INGOT_TRY(add_panel(nn, g, lane, first, n_piece, rows, x, ld, sums, sum));
    lane = (lane + 1) % g->n_lane;
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
  void          *memory = nullptr;

  if (n_row == 0 || width == 0) return INGOT_OK;
  gram_plan g = plan_gram(nn, n_row, width, valid != nullptr);
  INGOT_TRY(ingot_nn_cuda_scratch(nn, g.n_lane * g.lane_bytes + g.mask_bytes, &memory));
  for (int64_t first = 0; first < n_row; first += g.batch) {
    int64_t     rows = at_most(n_row - first, g.batch), whole = rows / g.piece, rest = rows % g.piece, from_ld = ld;
    const char *from = static_cast<const char *>(x) + first * ld * element_size(nn);
    if (valid != nullptr) {
      char *masked = static_cast<char *>(memory) + static_cast<size_t>(g.n_lane) * g.lane_bytes;
      INGOT_TRY(mask_rows(nn, rows, width, from, ld, valid + first, masked, g.ld));
      from = masked;
      from_ld = g.ld;
    }
    INGOT_TRY(ingot_nn_cuda_fork(nn, g.n_lane));
    if (whole > 0) INGOT_TRY(add_pieces(nn, &g, whole, g.piece, from, from_ld, static_cast<char *>(memory), sum));
    from += whole * g.piece * from_ld * element_size(nn);
    if (rest > 0) INGOT_TRY(add_pieces(nn, &g, 1, rest, from, from_ld, static_cast<char *>(memory), sum));
    INGOT_TRY(ingot_nn_cuda_join(nn, g.n_lane));
  }
done:
  return st;
}
