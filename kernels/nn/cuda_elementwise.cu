/* Element by element: rotary embedding, activations, sums of two arrays; and column sums. Memory bounds all of them. */
#include "kernels/nn/cuda_grid.cuh"
#include "kernels/nn/cuda_partials.cuh"

enum { BLOCK = 256 };

/* Arrays of n elements, eight at a time. F: float v[8] from one array and another. */
struct add_of {
  static __device__ __forceinline__ float apply(float x, float y)
  {
    return x + y;
  }
};

/* sqrt(2 / pi), and the cube's factor: the constants of the published form */
static __device__ __forceinline__ float gelu_tanh(float x)
{
  return tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x));
}

struct gelu_of {
  static __device__ __forceinline__ float apply(float x, float)
  {
    return 0.5f * x * (1.0f + gelu_tanh(x));
  }
};

struct gelu_gradient_of {
  static __device__ __forceinline__ float apply(float x, float dy)
  {
    float t = gelu_tanh(x);
    float slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608028654f * (1.0f + 0.134145f * x * x);
    return dy * slope;
  }
};

/* No __restrict__: out may be x or y. */
template <typename T, typename F>
static __global__ void map_kernel(int64_t n, const T *x, const T *y, T *out, bool wide)
{
  for (int64_t i = ingot_nn_first<BLOCK>(); i * 8 < n; i += ingot_nn_step<BLOCK>()) {
    float v[8], w[8] = {};
    ingot_nn_load(x + i * 8, n - i * 8, wide, v);
    if (y != nullptr) ingot_nn_load(y + i * 8, n - i * 8, wide, w);
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = F::apply(v[j], w[j]);
    ingot_nn_store(out + i * 8, n - i * 8, wide, v);
  }
}

template <typename F>
static ingot_status map(ingot_nn *back_end, const char *name, int64_t n, const void *x, const void *y, void *out)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide =
      (reinterpret_cast<uintptr_t>(x) | reinterpret_cast<uintptr_t>(y) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
  if (n == 0) return INGOT_OK;
  unsigned grid = ingot_nn_grid<BLOCK>(nn, (n + 7) / 8);
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    map_kernel<__nv_bfloat16, F><<<grid, BLOCK, 0, nn->stream>>>(n, static_cast<const __nv_bfloat16 *>(x),
                                                                 static_cast<const __nv_bfloat16 *>(y),
                                                                 static_cast<__nv_bfloat16 *>(out), wide);
  } else {
    map_kernel<float, F><<<grid, BLOCK, 0, nn->stream>>>(n, static_cast<const float *>(x),
                                                         static_cast<const float *>(y), static_cast<float *>(out),
                                                         wide);
  }
  return ingot_nn_cuda_launched(name);
}

ingot_status ingot_nn_cuda_add(ingot_nn *nn, int64_t n, const void *x, void *y)
{
  return map<add_of>(nn, "add", n, x, y, y);
}

ingot_status ingot_nn_cuda_gelu(ingot_nn *nn, int64_t n, const void *x, void *y)
{
  return map<gelu_of>(nn, "gelu", n, x, nullptr, y);
}

ingot_status ingot_nn_cuda_gelu_backward(ingot_nn *nn, int64_t n, const void *x, const void *dy, void *dx)
{
  return map<gelu_gradient_of>(nn, "gelu_backward", n, x, dy, dx);
}

static __global__ void add_squares_kernel(int64_t n, float scale, const float *g, float *f, bool wide)
{
  for (int64_t i = ingot_nn_first<BLOCK>(); i * 8 < n; i += ingot_nn_step<BLOCK>()) {
    float v[8], w[8];
    ingot_nn_load(g + i * 8, n - i * 8, wide, v);
    ingot_nn_load(f + i * 8, n - i * 8, wide, w);
#pragma unroll
    for (int j = 0; j < 8; j++) w[j] += scale * v[j] * v[j];
    ingot_nn_store(f + i * 8, n - i * 8, wide, w);
  }
}

ingot_status ingot_nn_cuda_add_squares(ingot_nn *back_end, int64_t n, float scale, const float *g, float *f)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = (reinterpret_cast<uintptr_t>(g) | reinterpret_cast<uintptr_t>(f)) % 16 == 0;
  if (n == 0) return INGOT_OK;
  add_squares_kernel<<<ingot_nn_grid<BLOCK>(nn, (n + 7) / 8), BLOCK, 0, nn->stream>>>(n, scale, g, f, wide);
  return ingot_nn_cuda_launched("add_squares_kernel");
}

static __device__ __forceinline__ float logistic(float x)
{
  return 1.0f / (1.0f + expf(-x));
}

/** Threads take vectors of eight of [n_row][width]; both halves of gate_up lie `width` apart. */
template <typename T>
static __global__ void swiglu_kernel(int64_t n_row, int64_t width, const T *__restrict__ gate_up, T *__restrict__ out,
                                     bool wide)
{
  int64_t per_row = (width + 7) / 8;
  for (int64_t i = ingot_nn_first<BLOCK>(); i < n_row * per_row; i += ingot_nn_step<BLOCK>()) {
    int64_t  row = i / per_row, at = (i - row * per_row) * 8, left = width - at;
    const T *gate = gate_up + row * 2 * width + at;
    float    g[8], u[8];
    ingot_nn_load(gate, left, wide, g);
    ingot_nn_load(gate + width, left, wide, u);
#pragma unroll
    for (int j = 0; j < 8; j++) g[j] = g[j] * logistic(g[j]) * u[j];
    ingot_nn_store(out + row * width + at, left, wide, g);
  }
}

/* No __restrict__: d_gate_up may be gate_up. */
template <typename T>
static __global__ void swiglu_backward_kernel(int64_t n_row, int64_t width, const T *gate_up, const T *d_out,
                                              T *d_gate_up, bool wide)
{
  int64_t per_row = (width + 7) / 8;
  for (int64_t i = ingot_nn_first<BLOCK>(); i < n_row * per_row; i += ingot_nn_step<BLOCK>()) {
    int64_t  row = i / per_row, at = (i - row * per_row) * 8, left = width - at;
    const T *gate = gate_up + row * 2 * width + at;
    float    g[8], u[8], d[8];
    ingot_nn_load(gate, left, wide, g);
    ingot_nn_load(gate + width, left, wide, u);
    ingot_nn_load(d_out + row * width + at, left, wide, d);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      float s = logistic(g[j]), up = u[j];
      u[j] = d[j] * g[j] * s;
      g[j] = d[j] * up * s * (1.0f + g[j] * (1.0f - s));
    }
    T *d_gate = d_gate_up + row * 2 * width + at;
    ingot_nn_store(d_gate, left, wide, g);
    ingot_nn_store(d_gate + width, left, wide, u);
  }
}

template <typename T>
static ingot_status swiglu_of(ingot_nn_cuda *nn, int64_t n_row, int64_t width, const void *gate_up, const void *d_out,
                              void *out)
{
  const T *in = static_cast<const T *>(gate_up), *gradient = static_cast<const T *>(d_out);
  T       *result = static_cast<T *>(out);
  bool     wide = ingot_nn_wide(in, width) && ingot_nn_wide(gradient, width) && ingot_nn_wide(result, width);
  unsigned grid = ingot_nn_grid<BLOCK>(nn, n_row * ((width + 7) / 8));
  if (gradient == nullptr) {
    swiglu_kernel<T><<<grid, BLOCK, 0, nn->stream>>>(n_row, width, in, result, wide);
  } else {
    swiglu_backward_kernel<T><<<grid, BLOCK, 0, nn->stream>>>(n_row, width, in, gradient, result, wide);
  }
  return ingot_nn_cuda_launched(gradient == nullptr ? "swiglu_kernel" : "swiglu_backward_kernel");
}

ingot_status ingot_nn_cuda_swiglu(ingot_nn *back_end, int64_t n_row, int64_t width, const void *gate_up, void *out)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (n_row == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16 ? swiglu_of<__nv_bfloat16>(nn, n_row, width, gate_up, nullptr, out)
                                            : swiglu_of<float>(nn, n_row, width, gate_up, nullptr, out);
}

ingot_status ingot_nn_cuda_swiglu_backward(ingot_nn *back_end, int64_t n_row, int64_t width, const void *gate_up,
                                           const void *d_out, void *d_gate_up)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (n_row == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16 ? swiglu_of<__nv_bfloat16>(nn, n_row, width, gate_up, d_out, d_gate_up)
                                            : swiglu_of<float>(nn, n_row, width, gate_up, d_out, d_gate_up);
}

/** A thread turns eight neighbouring pairs of one head. */
template <typename T> static __global__ void rope_kernel(ingot_nn_rope s, T *x, float sign, bool wide, bool wide_table)
{
  int64_t half = s.rotary_dim / 2, per_head = (half + 7) / 8, per_token = per_head * s.n_head;
  for (int64_t i = ingot_nn_first<BLOCK>(); i < s.n_token * per_token; i += ingot_nn_step<BLOCK>()) {
    int64_t token = i / per_token, part = i - token * per_token, head = part / per_head;
    int64_t at = (part - head * per_head) * 8, left = half - at;
    T      *low = x + token * s.ld + head * s.head_dim + at, *high = low + half;
    int64_t row = s.positions[token] * half + at;
    float   a[8], b[8], c[8], n[8];
    ingot_nn_load(low, left, wide, a);
    ingot_nn_load(high, left, wide, b);
    ingot_nn_load(s.cos + row, left, wide_table, c);
    ingot_nn_load(s.sin + row, left, wide_table, n);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      float turned = a[j] * c[j] - sign * n[j] * b[j];
      b[j] = b[j] * c[j] + sign * n[j] * a[j];
      a[j] = turned;
    }
    ingot_nn_store(low, left, wide, a);
    ingot_nn_store(high, left, wide, b);
  }
}

template <typename T> static ingot_status rope_of(ingot_nn_cuda *nn, const ingot_nn_rope *s, void *data, float sign)
{
  T       *x = static_cast<T *>(data);
  int64_t  n_pair = s->rotary_dim / 2;
  bool     wide = ingot_nn_wide(x, s->ld) && ingot_nn_wide(x, s->head_dim) && ingot_nn_wide(x, n_pair);
  bool     wide_table = ingot_nn_wide(s->cos, n_pair) && ingot_nn_wide(s->sin, n_pair);
  unsigned grid = ingot_nn_grid<BLOCK>(nn, s->n_token * s->n_head * ((n_pair + 7) / 8));
  rope_kernel<T><<<grid, BLOCK, 0, nn->stream>>>(*s, x, sign, wide, wide_table);
  return ingot_nn_cuda_launched("rope_kernel");
}

ingot_status ingot_nn_cuda_rope(ingot_nn *back_end, const ingot_nn_rope *shape, void *x, bool inverse)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  float          sign = inverse ? -1.0f : 1.0f;
  if (shape->n_token == 0 || shape->rotary_dim == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16 ? rope_of<__nv_bfloat16>(nn, shape, x, sign)
                                            : rope_of<float>(nn, shape, x, sign);
}

enum { SUM_COLUMNS = 32, SUM_LANES = 32, PARTIAL_ROWS = 512 };

/** A block sums 32 columns: each of 32 lanes every 32nd row, in order; then the lanes in order. */
static __global__ void __launch_bounds__(SUM_COLUMNS *SUM_LANES)
    sum_partials_kernel(int64_t n_part, int64_t width, const float *__restrict__ partial, float *sum)
{
  __shared__ float lanes[SUM_LANES][SUM_COLUMNS];
  int64_t          column = blockIdx.x * static_cast<int64_t>(SUM_COLUMNS) + threadIdx.x;
  float            total = 0.0f;
  if (column < width) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < n_part; p += SUM_LANES) total += partial[p * width + column];
  }
  lanes[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  total = 0.0f;
  for (int lane = 0; lane < SUM_LANES; lane++) total += lanes[lane][threadIdx.x];
  sum[column] += total;
}

ingot_status ingot_nn_cuda_sum_partials(ingot_nn_cuda *nn, int64_t n_part, int64_t width, const float *partial,
                                        float *sum)
{
  dim3 threads(SUM_COLUMNS, SUM_LANES);
  sum_partials_kernel<<<static_cast<unsigned>((width + SUM_COLUMNS - 1) / SUM_COLUMNS), threads, 0, nn->stream>>>(
      n_part, width, partial, sum);
  return ingot_nn_cuda_launched("sum_partials_kernel");
}

/** Partial row blockIdx.y: the sum of its share of the rows. A thread has eight columns. */
template <typename T>
static __global__ void __launch_bounds__(BLOCK) column_sum_kernel(int64_t n_row, int64_t width, const T *__restrict__ x,
                                                                  int64_t ld, int64_t share, float *partial, bool wide)
{
  int64_t at = ingot_nn_first<BLOCK>() * 8, left = width - at, first = blockIdx.y * share;
  int64_t end = first + share < n_row ? first + share : n_row;
  float   total[8] = {};
  if (left <= 0) return;
#pragma unroll 4
  for (int64_t row = first; row < end; row++) {
    float v[8];
    ingot_nn_load(x + row * ld + at, left, wide, v);
#pragma unroll
    for (int j = 0; j < 8; j++) total[j] += v[j];
  }
  for (int j = 0; j < 8; j++) {
    if (j < left) partial[blockIdx.y * width + at + j] = total[j];
  }
}

ingot_status ingot_nn_cuda_column_sum(ingot_nn *back_end, int64_t n_row, int64_t width, const void *x, int64_t ld,
                                      float *sum)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  int64_t        n_part = (n_row + 31) / 32 < PARTIAL_ROWS ? (n_row + 31) / 32 : static_cast<int64_t>(PARTIAL_ROWS);
  int64_t        share = n_part > 0 ? (n_row + n_part - 1) / n_part : 0, columns = (width + 7) / 8;
  dim3           grid(static_cast<unsigned>((columns + BLOCK - 1) / BLOCK), static_cast<unsigned>(n_part));
  void          *memory = nullptr;

  if (n_row == 0 || width == 0) return INGOT_OK;
  INGOT_TRY(ingot_nn_cuda_scratch(nn, static_cast<size_t>(n_part * width) * sizeof(float), &memory));
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    const __nv_bfloat16 *rows = static_cast<const __nv_bfloat16 *>(x);
    column_sum_kernel<<<grid, BLOCK, 0, nn->stream>>>(n_row, width, rows, ld, share, static_cast<float *>(memory),
                                                      ingot_nn_wide(rows, ld));
  } else {
    const float *rows = static_cast<const float *>(x);
    column_sum_kernel<<<grid, BLOCK, 0, nn->stream>>>(n_row, width, rows, ld, share, static_cast<float *>(memory),
                                                      ingot_nn_wide(rows, ld));
  }
  INGOT_TRY(ingot_nn_cuda_launched("column_sum_kernel"));
  INGOT_TRY(ingot_nn_cuda_sum_partials(nn, n_part, width, static_cast<const float *>(memory), sum));
done:
  return st;
}
