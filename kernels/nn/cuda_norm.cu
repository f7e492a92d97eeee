/*
 * Normalisation of rows. THREADS threads (part of a warp, or a block) keep a row in registers as VECTORS vectors of
 * eight each, so that x is read once. Rows that are too wide or not aligned take a kernel that reads them again.
 *
 * Gradients of weight and bias: every group of threads adds up the rows that it works on, in order, and every block its
 * groups into a partial row; a second kernel adds the partial rows. All in an order that the shape and the GPU fix.
 */
#include "kernels/nn/cuda_nn.cuh"
#include "kernels/nn/cuda_partials.cuh"
#include "kernels/nn/cuda_reduce.cuh"

enum { BLOCK = 256 };

struct norm_rows {
  int64_t n_row, width, ld_x, ld_y;
  int     n_group;
  float   eps;
  bool    wide;

  __device__ __forceinline__ int64_t offset(int64_t row, int64_t ld) const
  {
    return n_group == 1 ? row * ld : row / n_group * ld + row % n_group * width;
  }
};

/* No __restrict__: sum may be x or delta, y may be x. A row has up to THREADS * 8 * VECTORS elements. */
template <typename T, int THREADS, int VECTORS, bool CENTRED>
static __global__ void __launch_bounds__(BLOCK)
    norm_kernel(norm_rows r, const T *x, const T *delta, T *sum, const T *weight, const T *bias, T *y, float *stats)
{
  __shared__ float2 shared[BLOCK / 32];
  int64_t           row = blockIdx.x * static_cast<int64_t>(BLOCK / THREADS) + threadIdx.x / THREADS;
  int               lane = threadIdx.x % THREADS;
  bool              live = row < r.n_row;
  if (!live) row = r.n_row - 1; /* joins the shuffles, writes nothing */
  const T *row_x = x + r.offset(row, r.ld_x);
  float    v[VECTORS][8];
  float2   total = make_float2(0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    int64_t at = (i * THREADS + lane) * 8, left = r.width - at;
    if (left < 0) left = 0;
    ingot_nn_load(row_x + at, left, r.wide, v[i]);
    if (delta != nullptr) {
      float d[8];
      ingot_nn_load(delta + r.offset(row, r.ld_x) + at, left, r.wide, d);
#pragma unroll
      for (int j = 0; j < 8; j++) v[i][j] = ingot_nn_widen(ingot_nn_narrow<T>(v[i][j] + d[j]));
      if (live) ingot_nn_store(sum + r.offset(row, r.ld_x) + at, left, r.wide, v[i]);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) total.x += CENTRED ? v[i][j] : v[i][j] * v[i][j];
  }
  total = ingot_nn_sum_pair<THREADS>(total, shared);
  float width = static_cast<float>(r.width), mean = 0.0f;
  if (CENTRED) {
    mean = total.x / width;
    total = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        float d = v[i][j] - mean;
        if ((i * THREADS + lane) * 8 + j < r.width) total.x += d * d;
      }
    }
    total = ingot_nn_sum_pair<THREADS>(total, shared);
  }
  float reciprocal = 1.0f / sqrtf(total.x / width + r.eps);
  if (!live) return;
  if (lane == 0 && CENTRED) stats[2 * row] = mean, stats[2 * row + 1] = reciprocal;
  if (lane == 0 && !CENTRED) stats[row] = reciprocal;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    int64_t at = (i * THREADS + lane) * 8, left = r.width - at;
    float   w[8], b[8];
    if (left <= 0) break;
    ingot_nn_load(weight + at, left, r.wide, w);
    if (bias != nullptr) ingot_nn_load(bias + at, left, r.wide, b);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      v[i][j] = (v[i][j] - mean) * reciprocal * w[j];
      if (bias != nullptr) v[i][j] += b[j];
    }
    ingot_nn_store(y + r.offset(row, r.ld_y) + at, left, r.wide, v[i]);
  }
}

/** Rows of any width, a block each, element by element. */
template <typename T, bool CENTRED>
static __global__ void __launch_bounds__(BLOCK)
    norm_any_kernel(norm_rows r, const T *x, const T *delta, T *sum, const T *weight, const T *bias, T *y, float *stats)
{
  __shared__ float2 shared[BLOCK / 32];
  for (int64_t row = blockIdx.x; row < r.n_row; row += gridDim.x) {
    const T *row_x = x + r.offset(row, r.ld_x);
    float2   total = make_float2(0.0f, 0.0f);
    for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
      float v = ingot_nn_widen(row_x[i]);
      if (delta != nullptr) {
        T stored = ingot_nn_narrow<T>(v + ingot_nn_widen(delta[r.offset(row, r.ld_x) + i]));
        sum[r.offset(row, r.ld_x) + i] = stored;
        v = ingot_nn_widen(stored);
      }
      total.x += CENTRED ? v : v * v;
    }
    if (delta != nullptr) row_x = sum + r.offset(row, r.ld_x); /* each thread reads again what it wrote */
    total = ingot_nn_sum_pair<BLOCK>(total, shared);
    float width = static_cast<float>(r.width), mean = CENTRED ? total.x / width : 0.0f;
    if (CENTRED) {
      total = make_float2(0.0f, 0.0f);
      for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
        float d = ingot_nn_widen(row_x[i]) - mean;
        total.x += d * d;
      }
      total = ingot_nn_sum_pair<BLOCK>(total, shared);
    }
    float reciprocal = 1.0f / sqrtf(total.x / width + r.eps);
    if (threadIdx.x == 0 && CENTRED) stats[2 * row] = mean, stats[2 * row + 1] = reciprocal;
    if (threadIdx.x == 0 && !CENTRED) stats[row] = reciprocal;
    for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
      float v = (ingot_nn_widen(row_x[i]) - mean) * reciprocal * ingot_nn_widen(weight[i]);
      if (bias != nullptr) v += ingot_nn_widen(bias[i]);
      y[r.offset(row, r.ld_y) + i] = ingot_nn_narrow<T>(v);
    }
  }
}

/** What the gradient of one element needs: the mean over the row of delta, and of delta times the normalised x. */
struct row_means {
  float mean, reciprocal, delta, product;
};

template <bool CENTRED> static __device__ __forceinline__ row_means read_stats(const float *stats, int64_t row)
{
  row_means m = {0.0f, 0.0f, 0.0f, 0.0f};
  if (CENTRED) m.mean = stats[2 * row], m.reciprocal = stats[2 * row + 1];
  if (!CENTRED) m.reciprocal = stats[row];
  return m;
}

/** Add the block's groups in order into its partial row. */
template <int THREADS, int VECTORS>
static __device__ __forceinline__ void write_partial(const float v[VECTORS][8], int64_t width, float *partial)
{
  __shared__ float shared[THREADS < BLOCK ? BLOCK * 8 * VECTORS : 1];
  const int        row = THREADS * 8 * VECTORS;
  int              lane = threadIdx.x % THREADS;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
#pragma unroll
    for (int j = 0; j < 8; j++) {
      int at = (i * THREADS + lane) * 8 + j;
      if (THREADS < BLOCK) shared[threadIdx.x / THREADS * row + at] = v[i][j];
      if (THREADS == BLOCK && at < width) partial[at] = v[i][j];
    }
  }
  if (THREADS == BLOCK) return;
  __syncthreads();
  for (int at = threadIdx.x; at < width; at += BLOCK) {
    float total = 0.0f;
    for (int g = 0; g < BLOCK / THREADS; g++) total += shared[g * row + at];
    partial[at] = total;
  }
  __syncthreads(); /* shared is used again */
}

/* No __restrict__: dx may be residual. */
template <typename T, int THREADS, int VECTORS, bool CENTRED>
static __global__ void __launch_bounds__(BLOCK)
    norm_backward_kernel(norm_rows r, const T *x, const T *weight, const float *stats, const T *dy, const T *residual,
                         T *dx, float *dweight, float *dbias)
{
  __shared__ float2 shared[BLOCK / 32];
  const int         per_block = BLOCK / THREADS;
  int               lane = threadIdx.x % THREADS;
  int64_t           group = blockIdx.x * static_cast<int64_t>(per_block) + threadIdx.x / THREADS;
  int64_t           n_group = gridDim.x * static_cast<int64_t>(per_block);
  float             w[VECTORS][8], dw[VECTORS][8] = {}, db[VECTORS][8] = {};
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    int64_t at = (i * THREADS + lane) * 8;
    ingot_nn_load(weight + at, r.width - at, r.wide, w[i]);
  }
  /* all groups take the same number of turns, since they shuffle and wait together */
  for (int64_t turn = 0; turn * n_group < r.n_row; turn++) {
    int64_t row = turn * n_group + group;
    bool    live = row < r.n_row;
    if (!live) row = r.n_row - 1;
    row_means m = read_stats<CENTRED>(stats, row);
    float2    total = make_float2(0.0f, 0.0f);
    float     normal[VECTORS][8], d[VECTORS][8];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      int64_t at = (i * THREADS + lane) * 8, left = r.width - at;
      ingot_nn_load(x + r.offset(row, r.ld_x) + at, left, r.wide, normal[i]);
      ingot_nn_load(dy + r.offset(row, r.ld_y) + at, left, r.wide, d[i]);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        normal[i][j] = (normal[i][j] - m.mean) * m.reciprocal;
        if (live) dw[i][j] += d[i][j] * normal[i][j]; /* d is 0 behind the row's end */
        if (live && CENTRED) db[i][j] += d[i][j];
        d[i][j] *= w[i][j];
        total.x += d[i][j] * normal[i][j];
        if (CENTRED) total.y += d[i][j];
      }
    }
    total = ingot_nn_sum_pair<THREADS>(total, shared);
    m.product = total.x / static_cast<float>(r.width);
    m.delta = total.y / static_cast<float>(r.width);
    if (!live) continue;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      int64_t at = (i * THREADS + lane) * 8, left = r.width - at;
      float   rest[8];
      if (left <= 0) break;
      if (residual != nullptr) ingot_nn_load(residual + r.offset(row, r.ld_x) + at, left, r.wide, rest);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        d[i][j] = m.reciprocal * (d[i][j] - m.delta - normal[i][j] * m.product);
        if (residual != nullptr) d[i][j] += rest[j];
      }
      ingot_nn_store(dx + r.offset(row, r.ld_x) + at, left, r.wide, d[i]);
    }
  }
  if (dweight != nullptr) write_partial<THREADS, VECTORS>(dw, r.width, dweight + blockIdx.x * r.width);
  if (dbias != nullptr) write_partial<THREADS, VECTORS>(db, r.width, dbias + blockIdx.x * r.width);
}

/** Rows of any width: partial sums live in memory, a row of them for each block. */
template <typename T, bool CENTRED>
static __global__ void __launch_bounds__(BLOCK)
    norm_backward_any_kernel(norm_rows r, const T *x, const T *weight, const float *stats, const T *dy,
                             const T *residual, T *dx, float *dweight, float *dbias)
{
  __shared__ float2 shared[BLOCK / 32];
  if (dweight != nullptr) dweight += blockIdx.x * r.width;
  if (dbias != nullptr) dbias += blockIdx.x * r.width;
  for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
    if (dweight != nullptr) dweight[i] = 0.0f;
    if (dbias != nullptr) dbias[i] = 0.0f;
  }
  for (int64_t row = blockIdx.x; row < r.n_row; row += gridDim.x) {
    row_means m = read_stats<CENTRED>(stats, row);
    float2    total = make_float2(0.0f, 0.0f);
    int64_t   at_x = r.offset(row, r.ld_x), at_y = r.offset(row, r.ld_y);
    for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
      float normal = (ingot_nn_widen(x[at_x + i]) - m.mean) * m.reciprocal, g = ingot_nn_widen(dy[at_y + i]);
      float d = g * ingot_nn_widen(weight[i]);
      if (dweight != nullptr) dweight[i] += g * normal;
      if (dbias != nullptr) dbias[i] += g;
      total.x += d * normal;
      if (CENTRED) total.y += d;
    }
    total = ingot_nn_sum_pair<BLOCK>(total, shared);
    m.product = total.x / static_cast<float>(r.width);
    m.delta = total.y / static_cast<float>(r.width);
    for (int64_t i = threadIdx.x; i < r.width; i += BLOCK) {
      float normal = (ingot_nn_widen(x[at_x + i]) - m.mean) * m.reciprocal;
      float d = ingot_nn_widen(dy[at_y + i]) * ingot_nn_widen(weight[i]);
      float v = m.reciprocal * (d - m.delta - normal * m.product);
      if (residual != nullptr) v += ingot_nn_widen(residual[at_x + i]);
      dx[at_x + i] = ingot_nn_narrow<T>(v);
    }
  }
}

enum { WIDEST = BLOCK * 8 * 4 }; /* of rows that stay in registers */

static norm_rows rows_of(const ingot_nn_norm *shape, bool wide)
{
  norm_rows r =
      {shape->n_token * shape->n_group, shape->width, shape->ld_x, shape->ld_y, shape->n_group, shape->eps, wide};
  return r;
}

struct norm_args {
  const void *x, *delta;
  void       *sum;
  const void *weight, *bias;
  void       *y;
  float      *stats;
};

template <typename T, int THREADS, int VECTORS, bool CENTRED>
static ingot_status launch_norm(ingot_nn_cuda *nn, norm_rows r, const norm_args *a)
{
  int64_t per_block = BLOCK / THREADS, blocks = (r.n_row + per_block - 1) / per_block;
  norm_kernel<T, THREADS, VECTORS, CENTRED>
      <<<static_cast<unsigned>(blocks), BLOCK, 0, nn->stream>>>(r, static_cast<const T *>(a->x),
                                                                static_cast<const T *>(a->delta),
                                                                static_cast<T *>(a->sum),
                                                                static_cast<const T *>(a->weight),
                                                                static_cast<const T *>(a->bias), static_cast<T *>(a->y),
                                                                a->stats);
  return ingot_nn_cuda_launched("norm_kernel");
}

template <typename T, bool CENTRED> static ingot_status norm_of(ingot_nn_cuda *nn, norm_rows r, const norm_args *a)
{
  if (r.wide && r.width <= 64) return launch_norm<T, 8, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= 128) return launch_norm<T, 16, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= 256) return launch_norm<T, 32, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= 1024) return launch_norm<T, 32, 4, CENTRED>(nn, r, a);
  if (r.wide && r.width <= BLOCK * 8) return launch_norm<T, BLOCK, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= BLOCK * 16) return launch_norm<T, BLOCK, 2, CENTRED>(nn, r, a);
  if (r.wide && r.width <= WIDEST) return launch_norm<T, BLOCK, 4, CENTRED>(nn, r, a);
  int64_t blocks = r.n_row < 16 * nn->sm_count ? r.n_row : 16 * nn->sm_count;
  norm_any_kernel<T, CENTRED>
      <<<static_cast<unsigned>(blocks), BLOCK, 0, nn->stream>>>(r, static_cast<const T *>(a->x),
                                                                static_cast<const T *>(a->delta),
                                                                static_cast<T *>(a->sum),
                                                                static_cast<const T *>(a->weight),
                                                                static_cast<const T *>(a->bias), static_cast<T *>(a->y),
                                                                a->stats);
  return ingot_nn_cuda_launched("norm_any_kernel");
}

/** Rows, and rows of a token, that all start on 16 bytes; and no vector reaches from one row into the next. */
template <typename T>
static bool norm_is_wide(const ingot_nn_norm *s, const void *const *rows_x, const void *const *rows_y)
{
  bool wide = s->width % 8 == 0;
  for (; *rows_x != nullptr; rows_x++) wide = wide && ingot_nn_wide(static_cast<const T *>(*rows_x), s->ld_x);
  for (; *rows_y != nullptr; rows_y++) wide = wide && ingot_nn_wide(static_cast<const T *>(*rows_y), s->ld_y);
  return wide;
}

template <typename T> static ingot_status norm_typed(ingot_nn_cuda *nn, const ingot_nn_norm *shape, const norm_args *a)
{
  const void *rows_x[] = {a->x, a->weight, a->delta, a->sum, nullptr}, *rows_y[] = {a->y, a->bias, nullptr};
  if (a->delta == nullptr) rows_x[2] = rows_x[3] = nullptr;
  bool      wide = norm_is_wide<T>(shape, rows_x, rows_y);
  norm_rows r = rows_of(shape, wide);
  return shape->centred ? norm_of<T, true>(nn, r, a) : norm_of<T, false>(nn, r, a);
}

ingot_status ingot_nn_cuda_norm(ingot_nn *back_end, const ingot_nn_norm *shape, const void *x, const void *delta,
                                void *sum, const void *weight, const void *bias, void *y, float *stats)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  norm_args      a = {x, delta, sum, weight, bias, y, stats};
  if (shape->n_token == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16 ? norm_typed<__nv_bfloat16>(nn, shape, &a)
                                            : norm_typed<float>(nn, shape, &a);
}

struct norm_backward_args {
  const void  *x, *weight;
  const float *stats;
  const void  *dy, *residual;
  void        *dx;
  float       *dweight, *dbias;
};

/** Take scratch for n_part partial rows of each gradient that is wanted. */
static ingot_status take_partials(ingot_nn_cuda *nn, int64_t n_part, int64_t width, const norm_backward_args *a,
                                  float **dweight, float **dbias)
{
  ingot_status st = INGOT_OK;
  size_t       bytes = ingot_nn_cuda_aligned(static_cast<size_t>(n_part * width) * sizeof(float));
  void        *memory = nullptr;
  *dweight = *dbias = nullptr;
  if (a->dweight == nullptr && a->dbias == nullptr) return INGOT_OK;
  INGOT_TRY(ingot_nn_cuda_scratch(nn, 2 * bytes, &memory));
  if (a->dweight != nullptr) *dweight = static_cast<float *>(memory);
  if (a->dbias != nullptr) *dbias = reinterpret_cast<float *>(static_cast<char *>(memory) + bytes);
done:
  return st;
}

static ingot_status sum_partials(ingot_nn_cuda *nn, int64_t n_part, int64_t width, const norm_backward_args *a,
                                 const float *dweight, const float *dbias)
{
  ingot_status st = INGOT_OK;
  if (dweight != nullptr) INGOT_TRY(ingot_nn_cuda_sum_partials(nn, n_part, width, dweight, a->dweight));
  if (dbias != nullptr) INGOT_TRY(ingot_nn_cuda_sum_partials(nn, n_part, width, dbias, a->dbias));
done:
  return st;
}

template <typename T, int THREADS, int VECTORS, bool CENTRED>
static ingot_status launch_backward(ingot_nn_cuda *nn, norm_rows r, const norm_backward_args *a)
{
  ingot_status st = INGOT_OK;
  int64_t      per_block = BLOCK / THREADS, blocks = (r.n_row + per_block - 1) / per_block, most = 4 * nn->sm_count;
  float       *dweight = nullptr, *dbias = nullptr;
  if (blocks > most) blocks = most;
  INGOT_TRY(take_partials(nn, blocks, r.width, a, &dweight, &dbias));
  norm_backward_kernel<T, THREADS, VECTORS, CENTRED>
      <<<static_cast<unsigned>(blocks), BLOCK, 0, nn->stream>>>(r, static_cast<const T *>(a->x),
                                                                static_cast<const T *>(a->weight), a->stats,
                                                                static_cast<const T *>(a->dy),
                                                                static_cast<const T *>(a->residual),
                                                                static_cast<T *>(a->dx), dweight, dbias);
  INGOT_TRY(ingot_nn_cuda_launched("norm_backward_kernel"));
  INGOT_TRY(sum_partials(nn, blocks, r.width, a, dweight, dbias));
done:
  return st;
}

template <typename T, bool CENTRED>
static ingot_status launch_backward_any(ingot_nn_cuda *nn, norm_rows r, const norm_backward_args *a)
{
  ingot_status st = INGOT_OK;
  int64_t      blocks = r.n_row < 4 * nn->sm_count ? r.n_row : 4 * nn->sm_count;
  float       *dweight = nullptr, *dbias = nullptr;
  INGOT_TRY(take_partials(nn, blocks, r.width, a, &dweight, &dbias));
  norm_backward_any_kernel<T, CENTRED>
      <<<static_cast<unsigned>(blocks), BLOCK, 0, nn->stream>>>(r, static_cast<const T *>(a->x),
                                                                static_cast<const T *>(a->weight), a->stats,
                                                                static_cast<const T *>(a->dy),
                                                                static_cast<const T *>(a->residual),
                                                                static_cast<T *>(a->dx), dweight, dbias);
  INGOT_TRY(ingot_nn_cuda_launched("norm_backward_any_kernel"));
  INGOT_TRY(sum_partials(nn, blocks, r.width, a, dweight, dbias));
done:
  return st;
}

template <typename T, bool CENTRED>
static ingot_status norm_backward_of(ingot_nn_cuda *nn, norm_rows r, const norm_backward_args *a)
{
  if (r.wide && r.width <= 64) return launch_backward<T, 8, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= 128) return launch_backward<T, 16, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= 256) return launch_backward<T, 32, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= BLOCK * 8) return launch_backward<T, BLOCK, 1, CENTRED>(nn, r, a);
  if (r.wide && r.width <= BLOCK * 16) return launch_backward<T, BLOCK, 2, CENTRED>(nn, r, a);
  return launch_backward_any<T, CENTRED>(nn, r, a);
}

template <typename T>
static ingot_status norm_backward_typed(ingot_nn_cuda *nn, const ingot_nn_norm *shape, const norm_backward_args *a)
{
  const void *rows_x[] = {a->x, a->weight, a->dx, a->residual, nullptr}, *rows_y[] = {a->dy, nullptr};
  bool        wide = norm_is_wide<T>(shape, rows_x, rows_y);
  norm_rows   r = rows_of(shape, wide);
  return shape->centred ? norm_backward_of<T, true>(nn, r, a) : norm_backward_of<T, false>(nn, r, a);
}

ingot_status ingot_nn_cuda_norm_backward(ingot_nn *back_end, const ingot_nn_norm *shape, const void *x,
                                         const void *weight, const float *stats, const void *dy, const void *residual,
                                         void *dx, float *dweight, float *dbias)
{
  ingot_nn_cuda     *nn = ingot_nn_cuda_of(back_end);
  norm_backward_args a = {x, weight, stats, dy, residual, dx, dweight, dbias};
  if (shape->n_token == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16 ? norm_backward_typed<__nv_bfloat16>(nn, shape, &a)
                                            : norm_backward_typed<float>(nn, shape, &a);
}
