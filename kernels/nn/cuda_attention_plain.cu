/*
 * Attention in float32 arithmetic, forward and backward, for F32 and for heads that the tensor-core kernels do not
 * take. Tiles of 32 queries and 32 keys in shared memory; 8 threads share a row, thread c of them holding columns c, c
 * + 8, ... Every sum has one owner and one order.
 */
#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_nn.cuh"

namespace {

constexpr int TILE = 32, LANES = 8, THREADS = TILE * LANES, SCORES = TILE / LANES, SCORE_LD = TILE + 1;

/* Rows of D + 1 floats: threads that read one column of neighbouring rows meet different banks. */
template <int D> constexpr size_t plain_shared(int n_tile, int n_scores)
{
  return (static_cast<size_t>(n_tile) * TILE * (D + 1) + static_cast<size_t>(n_scores) * TILE * SCORE_LD) *
         sizeof(float);
}

/* Rows first .. first + 31 of a head; zeros outside. */
template <typename T, int D>
__device__ void load_tile(float *tile, const T *x, int64_t ld, int first, const ingot_nn_attention &a)
{
  for (int i = static_cast<int>(threadIdx.x); i < TILE * D; i += THREADS) {
    int  row = i / D, column = i % D;
    bool real = first + row < a.n_time && column < a.head_dim;
    tile[row * (D + 1) + column] = real ? ingot_nn_widen(x[static_cast<int64_t>(first + row) * ld + column]) : 0.0f;
  }
}

__device__ __forceinline__ float dot(const float *x, const float *y, int n)
{
  float sum = 0.0f;
  for (int d = 0; d < n; d++) sum = fmaf(x[d], y[d], sum);
  return sum;
}

/* sum[i] += sum over j of weight[j] rows[j][c + 8 i] */
template <int D>
__device__ __forceinline__ void add_rows(float (&sum)[D / LANES], const float *weight, const float *rows, int c)
{
  for (int j = 0; j < TILE; j++) {
    float w = weight[j];
#pragma unroll
    for (int i = 0; i < D / LANES; i++) sum[i] = fmaf(w, rows[j * (D + 1) + c + LANES * i], sum[i]);
  }
}

template <typename T, int D>
__device__ void store_row(const ingot_nn_attention &a, T *to, int64_t ld, const float (&x)[D / LANES], int row, int c,
                          float factor)
{
  if (row >= a.n_time) return;
#pragma unroll
  for (int i = 0; i < D / LANES; i++) {
    if (c + LANES * i < a.head_dim)
      to[static_cast<int64_t>(row) * ld + c + LANES * i] = ingot_nn_narrow<T>(x[i] * factor);
  }
}

__device__ __forceinline__ float over_row(float v, bool maximum)
{
#pragma unroll
  for (int i = 1; i < LANES; i *= 2) {
    float other = __shfl_xor_sync(0xffffffffu, v, i);
    v = maximum ? fmaxf(v, other) : v + other;
  }
  return v;
}

template <typename T, int D>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const ingot_nn_attention a, const T *q, const T *k, const T *v, T *o, float *lse)
{
  extern __shared__ float shared[];
  float                  *q_tile = shared, *k_tile = q_tile + TILE * (D + 1), *v_tile = k_tile + TILE * (D + 1),
        *p = v_tile + TILE * (D + 1);
  const int     n_time = static_cast<int>(a.n_time), n_tile = (n_time + TILE - 1) / TILE;
  const int     n_pair = static_cast<int>(a.n_batch) * a.n_head, pair = static_cast<int>(blockIdx.x) % n_pair;
  const int     row0 = (n_tile - 1 - static_cast<int>(blockIdx.x) / n_pair) * TILE;
  const int     head = pair % a.n_head, kv_head = head / (a.n_head / a.n_kv_head);
  const int64_t batch = pair / a.n_head, token = batch * a.n_time;
  const int     r = static_cast<int>(threadIdx.x) / LANES, c = static_cast<int>(threadIdx.x) % LANES, row = row0 + r;
  const int     first = ingot_attention_first(a, batch, row);
  const int64_t q_column = static_cast<int64_t>(head) * a.head_dim,
                kv_column = static_cast<int64_t>(kv_head) * a.head_dim;

  load_tile<T, D>(q_tile, q + token * a.ld_q + q_column, a.ld_q, row0, a);
  float sums[D / LANES] = {}, top = -INFINITY, total = 0.0f;
  for (int key = ingot_attention_first(a, batch, row0) / TILE * TILE; key <= min(row0 + TILE, n_time) - 1;
       key += TILE) {
    __syncthreads();
    load_tile<T, D>(k_tile, k + token * a.ld_k + kv_column, a.ld_k, key, a);
    load_tile<T, D>(v_tile, v + token * a.ld_v + kv_column, a.ld_v, key, a);
    __syncthreads();
    float s[SCORES], highest = -INFINITY;
#pragma unroll
    for (int i = 0; i < SCORES; i++) {
      int at = c + LANES * i;
      s[i] = dot(q_tile + r * (D + 1), k_tile + at * (D + 1), a.head_dim) * a.scale;
      if (key + at > row || key + at < first) s[i] = -INFINITY;
      highest = fmaxf(highest, s[i]);
    }
    highest = fmaxf(top, over_row(highest, true));
    const float offset = highest == -INFINITY ? 0.0f : highest, scale = expf(top - offset);
    float       sum = 0.0f;
    top = highest;
#pragma unroll
    for (int i = 0; i < SCORES; i++) {
      float e = expf(s[i] - offset);
      sum += e;
      p[r * SCORE_LD + c + LANES * i] = e;
    }
    total = total * scale + over_row(sum, false);
#pragma unroll
    for (int i = 0; i < D / LANES; i++) sums[i] *= scale;
    __syncwarp(); /* the row's scores come from this warp */
    add_rows<D>(sums, p + r * SCORE_LD, v_tile, c);
  }
  store_row<T, D>(a, o + token * a.ld_o + q_column, a.ld_o, sums, row, c, 1.0f / total);
  if (lse != nullptr && c == 0 && row < n_time) lse[(batch * a.n_head + head) * a.n_time + row] = top + logf(total);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) rows_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  int64_t at = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) / LANES; /* token, head */
  bool    real = at < a.n_batch * a.n_time * a.n_head;
  int64_t token = real ? at / a.n_head : 0, head = real ? at % a.n_head : 0;
  int64_t first = token * a.ld_o + head * a.head_dim;
  float   sum = 0.0f;
  for (int d = static_cast<int>(threadIdx.x) % LANES; d < a.head_dim; d += LANES) {
    sum = fmaf(ingot_nn_widen(static_cast<const T *>(g.o)[first + d]),
               ingot_nn_widen(static_cast<const T *>(g.d_o)[first + d]), sum);
  }
  sum = over_row(sum, false);
  if (!real || threadIdx.x % LANES != 0) return;
  int64_t row = (token / a.n_time * a.n_head + head) * a.n_time + token % a.n_time;
  g.rows[row] = make_float2(g.lse[row] * INGOT_LOG2_E, sum);
}

/* One probability and its gradient; 0 where the query does not see the key. */
__device__ __forceinline__ float2 score_gradient(const ingot_nn_attention &a, float s, float dp, float2 row, bool seen)
{
  float p = seen ? exp2f(fmaf(s, a.scale * INGOT_LOG2_E, -row.x)) : 0.0f;
  return make_float2(p, p * (dp - row.y));
}

template <typename T, int D>
__global__ void __launch_bounds__(THREADS) keys_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  extern __shared__ float shared[];
  constexpr int           SIZE = TILE * (D + 1);
  float                  *k_tile = shared, *v_tile = k_tile + SIZE, *q_tile = v_tile + SIZE, *d_o_tile = q_tile + SIZE;
  float                  *p = d_o_tile + SIZE, *ds = p + TILE * SCORE_LD;
  const int               n_time = static_cast<int>(a.n_time), n_pair = static_cast<int>(a.n_batch) * a.n_kv_head;
  const int     pair = static_cast<int>(blockIdx.x) % n_pair, key0 = static_cast<int>(blockIdx.x) / n_pair * TILE;
  const int     kv_head = pair % a.n_kv_head, n_shared = a.n_head / a.n_kv_head;
  const int64_t batch = pair / a.n_kv_head, token = batch * a.n_time;
  const int     r = static_cast<int>(threadIdx.x) / LANES, c = static_cast<int>(threadIdx.x) % LANES, key = key0 + r;
  const int64_t kv_column = static_cast<int64_t>(kv_head) * a.head_dim;
  const int     end = ingot_attention_end(a, batch, min(n_time, key0 + TILE) - 1);

  load_tile<T, D>(k_tile, static_cast<const T *>(g.k) + token * a.ld_k + kv_column, a.ld_k, key0, a);
  load_tile<T, D>(v_tile, static_cast<const T *>(g.v) + token * a.ld_v + kv_column, a.ld_v, key0, a);
  float dk[D / LANES] = {}, dv[D / LANES] = {};
  for (int head = kv_head * n_shared; head < (kv_head + 1) * n_shared; head++) {
    const int64_t q_column = static_cast<int64_t>(head) * a.head_dim;
    const float2 *rows = g.rows + (batch * a.n_head + head) * a.n_time;
    for (int query = key0; query < end; query += TILE) {
      __syncthreads();
      load_tile<T, D>(q_tile, static_cast<const T *>(g.q) + token * a.ld_q + q_column, a.ld_q, query, a);
      load_tile<T, D>(d_o_tile, static_cast<const T *>(g.d_o) + token * a.ld_o + q_column, a.ld_o, query, a);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < SCORES; i++) {
        int    at = c + LANES * i, time = query + at;
        bool   seen = time < n_time && key <= time && key >= ingot_attention_first(a, batch, time);
        float2 x = score_gradient(a, dot(k_tile + r * (D + 1), q_tile + at * (D + 1), a.head_dim),
                                  dot(v_tile + r * (D + 1), d_o_tile + at * (D + 1), a.head_dim),
                                  seen ? rows[time] : make_float2(0.0f, 0.0f), seen);
        p[r * SCORE_LD + at] = x.x;
        ds[r * SCORE_LD + at] = x.y;
      }
      __syncwarp();
      add_rows<D>(dv, p + r * SCORE_LD, d_o_tile, c);
      add_rows<D>(dk, ds + r * SCORE_LD, q_tile, c);
    }
  }
  store_row<T, D>(a, static_cast<T *>(g.dk) + token * a.ld_k + kv_column, a.ld_k, dk, key, c, a.scale);
  store_row<T, D>(a, static_cast<T *>(g.dv) + token * a.ld_v + kv_column, a.ld_v, dv, key, c, 1.0f);
}

template <typename T, int D>
__global__ void __launch_bounds__(THREADS) queries_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  extern __shared__ float shared[];
  constexpr int           SIZE = TILE * (D + 1);
  float *q_tile = shared, *d_o_tile = q_tile + SIZE, *k_tile = d_o_tile + SIZE, *v_tile = k_tile + SIZE,
        *ds = v_tile + SIZE;
  const int     n_time = static_cast<int>(a.n_time), n_tile = (n_time + TILE - 1) / TILE;
  const int     n_pair = static_cast<int>(a.n_batch) * a.n_head, pair = static_cast<int>(blockIdx.x) % n_pair;
  const int     row0 = (n_tile - 1 - static_cast<int>(blockIdx.x) / n_pair) * TILE;
  const int     head = pair % a.n_head, kv_head = head / (a.n_head / a.n_kv_head);
  const int64_t batch = pair / a.n_head, token = batch * a.n_time;
  const int     r = static_cast<int>(threadIdx.x) / LANES, c = static_cast<int>(threadIdx.x) % LANES, row = row0 + r;
  const int     first = ingot_attention_first(a, batch, row);
  const int64_t q_column = static_cast<int64_t>(head) * a.head_dim,
                kv_column = static_cast<int64_t>(kv_head) * a.head_dim;
  const float2 own = row < n_time ? g.rows[(batch * a.n_head + head) * a.n_time + row] : make_float2(0.0f, 0.0f);

  load_tile<T, D>(q_tile, static_cast<const T *>(g.q) + token * a.ld_q + q_column, a.ld_q, row0, a);
  load_tile<T, D>(d_o_tile, static_cast<const T *>(g.d_o) + token * a.ld_o + q_column, a.ld_o, row0, a);
  float dq[D / LANES] = {};
  for (int key = ingot_attention_first(a, batch, row0) / TILE * TILE; key <= min(row0 + TILE, n_time) - 1;
       key += TILE) {
    __syncthreads();
    load_tile<T, D>(k_tile, static_cast<const T *>(g.k) + token * a.ld_k + kv_column, a.ld_k, key, a);
    load_tile<T, D>(v_tile, static_cast<const T *>(g.v) + token * a.ld_v + kv_column, a.ld_v, key, a);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SCORES; i++) {
      int  at = c + LANES * i;
      bool seen = row < n_time && key + at <= row && key + at >= first;
      ds[r * SCORE_LD + at] = score_gradient(a, dot(q_tile + r * (D + 1), k_tile + at * (D + 1), a.head_dim),
                                             dot(d_o_tile + r * (D + 1), v_tile + at * (D + 1), a.head_dim), own, seen)
                                  .y;
    }
    __syncwarp();
    add_rows<D>(dq, ds + r * SCORE_LD, k_tile, c);
  }
  store_row<T, D>(a, static_cast<T *>(g.dq) + token * a.ld_q + q_column, a.ld_q, dq, row, c, a.scale);
}

template <typename T, int D>
ingot_status forward(const ingot_nn_attention *a, const void *q, const void *k, const void *v, void *o, float *lse,
                     cudaStream_t stream)
{
  ingot_status st = INGOT_OK;
  int64_t      blocks = (a->n_time + TILE - 1) / TILE * a->n_batch * a->n_head;
  INGOT_ATTENTION_LAUNCH((forward_kernel<T, D>), blocks, THREADS, plain_shared<D>(3, 1), stream, *a,
                         static_cast<const T *>(q), static_cast<const T *>(k), static_cast<const T *>(v),
                         static_cast<T *>(o), lse);
done:
  return st;
}

template <typename T, int D> ingot_status backward(const ingot_nn_attention *a, const ingot_attention_grads *g)
{
  ingot_status st = INGOT_OK;
  int64_t      tiles = (a->n_time + TILE - 1) / TILE, rows = a->n_batch * a->n_time * a->n_head;
  INGOT_ATTENTION_LAUNCH(rows_kernel<T>, (rows * LANES + THREADS - 1) / THREADS, THREADS, 0, g->stream, *a, *g);
  INGOT_ATTENTION_LAUNCH((keys_kernel<T, D>), tiles * a->n_batch * a->n_kv_head, THREADS, plain_shared<D>(4, 2),
                         g->stream, *a, *g);
  INGOT_ATTENTION_LAUNCH((queries_kernel<T, D>), tiles * a->n_batch * a->n_head, THREADS, plain_shared<D>(4, 1),
                         g->stream, *a, *g);
done:
  return st;
}

template <typename T>
ingot_status forward_any(const ingot_nn_attention *a, const void *q, const void *k, const void *v, void *o, float *lse,
                         cudaStream_t stream)
{
  if (a->head_dim <= 64) return forward<T, 64>(a, q, k, v, o, lse, stream);
  if (a->head_dim <= 128) return forward<T, 128>(a, q, k, v, o, lse, stream);
  return forward<T, 256>(a, q, k, v, o, lse, stream);
}

template <typename T> ingot_status backward_any(const ingot_nn_attention *a, const ingot_attention_grads *g)
{
  if (a->head_dim <= 64) return backward<T, 64>(a, g);
  if (a->head_dim <= 128) return backward<T, 128>(a, g);
  return backward<T, 256>(a, g);
}

} // namespace

ingot_status ingot_attention_plain_forward(const ingot_nn_attention *a, ingot_dtype dtype, const void *q, const void *k,
                                           const void *v, void *o, float *lse, cudaStream_t stream)
{
  if (dtype == INGOT_DTYPE_F32) return forward_any<float>(a, q, k, v, o, lse, stream);
  return forward<__nv_bfloat16, 256>(a, q, k, v, o, lse, stream); /* smaller heads have tensor cores */
}

ingot_status ingot_attention_plain_backward(const ingot_nn_attention *a, ingot_dtype dtype,
                                            const ingot_attention_grads *g)
{
  if (dtype == INGOT_DTYPE_F32) return backward_any<float>(a, g);
  return backward<__nv_bfloat16, 256>(a, g);
}
