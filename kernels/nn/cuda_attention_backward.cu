/*
 * Attention, backward, bfloat16. One kernel walks over the queries of a block of keys and sums dK and dV over the heads
 * of the group, one walks over the keys of a block of queries and sums dQ: the probabilities are computed twice, and
 * every sum has one owner and one order, so that two runs give the same bits.
 */
#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_attention_tile.cuh"

namespace {

constexpr int STEP = INGOT_TILE_STEP;

using bf16 = __nv_bfloat16;

/* ---- rows: lse in units of ln 2, and <dO, O> ---- */

constexpr int ROW_LANES = 8, ROW_THREADS = 256;

__global__ void __launch_bounds__(ROW_THREADS) rows_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  int64_t at = (static_cast<int64_t>(blockIdx.x) * ROW_THREADS + threadIdx.x) / ROW_LANES; /* token, head */
  int     lane = static_cast<int>(threadIdx.x) % ROW_LANES;
  bool    real = at < a.n_batch * a.n_time * a.n_head;
  int64_t token = real ? at / a.n_head : 0;
  int     head = real ? static_cast<int>(at % a.n_head) : 0;
  int64_t first = token * a.ld_o + static_cast<int64_t>(head) * a.head_dim;
  float   sum = 0.0f;

  for (int d = 8 * lane; d < a.head_dim; d += 8 * ROW_LANES) {
    uint4          o = *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(g.o) + first + d);
    uint4          d_o = *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(g.d_o) + first + d);
    const uint32_t x[4] = {o.x, o.y, o.z, o.w}, y[4] = {d_o.x, d_o.y, d_o.z, d_o.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      sum = fmaf(__uint_as_float(x[i] << 16), __uint_as_float(y[i] << 16), sum);
      sum = fmaf(__uint_as_float(x[i] & 0xffff0000u), __uint_as_float(y[i] & 0xffff0000u), sum);
    }
  }
#pragma unroll
  for (int i = 1; i < ROW_LANES; i *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  if (!real || lane != 0) return;
  int64_t row = (token / a.n_time * a.n_head + head) * a.n_time + token % a.n_time;
  g.rows[row] = make_float2(g.lse[row] * INGOT_LOG2_E, sum);
}

/* ---- dK and dV ---- */

template <int D> struct key_tiles {
  static constexpr int  GROUPS = 2, ROWS = GROUPS * INGOT_TILE_GROUP, THREADS = GROUPS * INGOT_GROUP_THREADS;
  static constexpr bool DEFER =
      D <= 64; /* the last product runs on into the next tile; longer rows lack the registers */
  static constexpr uint32_t STEP_BYTES = ingot_tile_bytes<D>(STEP), ROW_BYTES = STEP * sizeof(float2);
  static constexpr uint32_t SHARED = 2 * ingot_tile_bytes<D>(ROWS) + 6 * STEP_BYTES + 3 * ROW_BYTES + 1024;
};

/* Where a block of threads reads and writes. */
struct key_block {
  int64_t  batch, pair_row;   /* first row of the first head in g.rows */
  int      kv_head, n_shared; /* query heads of the group */
  int      key0;
  uint32_t k_tile, v_tile, q_tile, d_o_tile, rows;
};

template <int D>
__device__ __forceinline__ void load_queries(const ingot_nn_attention &a, const ingot_attention_grads &g,
                                             const key_block &b, int shared_head, int tile, uint32_t stage)
{
  using tiles = key_tiles<D>;
  const int     head = b.kv_head * b.n_shared + shared_head, n_time = static_cast<int>(a.n_time);
  const int64_t column = static_cast<int64_t>(head) * a.head_dim, token = b.batch * a.n_time;
  ingot_tile_load<D, STEP, tiles::THREADS>(b.q_tile + stage * tiles::STEP_BYTES,
                                           static_cast<const bf16 *>(g.q) + token * a.ld_q + column, a.ld_q,
                                           tile * STEP, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(b.d_o_tile + stage * tiles::STEP_BYTES,
                                           static_cast<const bf16 *>(g.d_o) + token * a.ld_o + column, a.ld_o,
                                           tile * STEP, n_time, a.head_dim);
  const int i = static_cast<int>(threadIdx.x), time = tile * STEP + i;
  if (i < STEP) {
    const float2 *from = g.rows + (b.batch * a.n_head + head) * a.n_time;
    ingot_copy_async_8(b.rows + stage * tiles::ROW_BYTES + static_cast<uint32_t>(i) * 8u,
                       time < n_time ? from + time : from, time < n_time);
  }
}

/* Rows are keys, columns are queries. */
__device__ __forceinline__ void mask_transposed(float (&s)[8][4], const ingot_nn_attention &a, int64_t batch, int query,
                                                int key)
{
  const bool bounded = a.first_key != nullptr || a.window > 0;
#pragma unroll
  for (int t = 0; t < 8; t++) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int at = query + 8 * t + i;
      int first = bounded ? ingot_attention_first(a, batch, at) : 0;
      if (at < key || key < first) s[t][i] = -INFINITY;
      if (at < key + 8 || key + 8 < first) s[t][2 + i] = -INFINITY;
    }
  }
}

template <int D>
__device__ __forceinline__ void store_rows(const ingot_nn_attention &a, bf16 *to, int64_t ld,
                                           const float (&x)[D / 8][4], int row, int lane, float factor)
{
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (row + 8 * h >= a.n_time) continue;
    bf16 *at = to + static_cast<int64_t>(row + 8 * h) * ld + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < D / 8; t++) {
      if (8 * t < a.head_dim) {
        *reinterpret_cast<uint32_t *>(at + 8 * t) = ingot_pack_bf16(x[t][2 * h] * factor, x[t][2 * h + 1] * factor);
      }
    }
  }
}

template <int D>
__global__ void __launch_bounds__(key_tiles<D>::THREADS, 1)
    keys_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  using tiles = key_tiles<D>;
  extern __shared__ unsigned char shared[];
  const int n_time = static_cast<int>(a.n_time), n_pair = static_cast<int>(a.n_batch) * a.n_kv_head;
  const int pair = static_cast<int>(blockIdx.x) % n_pair;
  key_block b;
  b.batch = pair / a.n_kv_head;
  b.kv_head = pair % a.n_kv_head;
  b.n_shared = a.n_head / a.n_kv_head;
  b.key0 = static_cast<int>(blockIdx.x) / n_pair * tiles::ROWS; /* the longest first */
  b.k_tile = (ingot_shared_address(shared) + 1023u) & ~1023u;
  b.v_tile = b.k_tile + ingot_tile_bytes<D>(tiles::ROWS);
  b.q_tile = b.v_tile + ingot_tile_bytes<D>(tiles::ROWS);
  b.d_o_tile = b.q_tile + 3 * tiles::STEP_BYTES;
  b.rows = b.d_o_tile + 3 * tiles::STEP_BYTES;
  const int     lane = static_cast<int>(threadIdx.x) % 32, group = static_cast<int>(threadIdx.x) / INGOT_GROUP_THREADS;
  const int     group_key = b.key0 + group * INGOT_TILE_GROUP;
  const int     key = group_key + static_cast<int>(threadIdx.x) % INGOT_GROUP_THREADS / 32 * 16 + lane / 4;
  const int64_t token = b.batch * a.n_time, column = static_cast<int64_t>(b.kv_head) * a.head_dim;

  const int begin = b.key0 / STEP;
  const int end = (ingot_attention_end(a, b.batch, min(n_time, b.key0 + tiles::ROWS) - 1) + STEP - 1) / STEP;
  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(b.k_tile, static_cast<const bf16 *>(g.k) + token * a.ld_k + column,
                                                  a.ld_k, b.key0, n_time, a.head_dim);
  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(b.v_tile, static_cast<const bf16 *>(g.v) + token * a.ld_v + column,
                                                  a.ld_v, b.key0, n_time, a.head_dim);
  load_queries<D>(a, g, b, 0, begin, 0);

  /* The tiles of queries that see this group's keys. */
  const int group_begin = min(max(begin, group_key / STEP), end);
  const int group_last = min(n_time, group_key + INGOT_TILE_GROUP) - 1;
  const int group_end =
      group_last < group_key ? group_begin : (ingot_attention_end(a, b.batch, group_last) + STEP - 1) / STEP;

  float       dk[D / 8][4] = {}, dv[D / 8][4] = {};
  uint32_t    p[4][4], ds[4][4], stage = 0; /* of the tile after this one */
  const float factor = a.scale * INGOT_LOG2_E;
  const auto  next_tile = [&](int head, int tile) {
    const uint32_t at = stage;
    stage = stage == 2 ? 0 : stage + 1;
    ingot_copy_async_wait();
    __syncthreads(); /* the tile is here; the next stage's, two tiles back, is no longer read */
    if (++tile == end) tile = begin, head++;
    if (head < b.n_shared) load_queries<D>(a, g, b, head, tile, stage);
    return at;
  };
  for (int head = 0; head < b.n_shared; head++) {
    int tile = begin;
    for (; tile < group_begin; tile++) (void)next_tile(head, tile); /* not for this group */
    for (; tile < group_end; tile++) {
      const uint32_t at = next_tile(head, tile);
      const uint32_t q_tile = b.q_tile + at * tiles::STEP_BYTES, d_o_tile = b.d_o_tile + at * tiles::STEP_BYTES;
      const int      query = tile * STEP;
      float          s[8][4], dp[8][4];
      ingot_product_begin();
      ingot_product_tiles<D, tiles::ROWS>(s, b.k_tile, group * INGOT_TILE_GROUP, q_tile);
      ingot_product_commit();
      ingot_product_tiles<D, tiles::ROWS>(dp, b.v_tile, group * INGOT_TILE_GROUP, d_o_tile);
      ingot_product_commit();
      ingot_product_wait<1>(); /* also for the last tile's sums */
      if (query < group_key + INGOT_TILE_GROUP - 1 || ingot_attention_first(a, b.batch, query + STEP - 1) > group_key) {
        mask_transposed(s, a, b.batch, query + lane % 4 * 2, key);
      }
      const uint32_t rows = b.rows + at * tiles::ROW_BYTES + static_cast<uint32_t>(lane % 4) * 16u;
#pragma unroll
      for (int t = 0; t < 8; t++) {
        float4 r =
            ingot_shared_float4(rows + static_cast<uint32_t>(t) * 64u); /* of two queries: lse, <dO, O>, lse, <dO, O> */
#pragma unroll
        for (int i = 0; i < 4; i++) s[t][i] = ingot_exp2(fmaf(s[t][i], factor, i % 2 ? -r.z : -r.x));
      }
#pragma unroll
      for (int i = 0; i < 4; i++) ingot_fragment(p[i], s[2 * i], s[2 * i + 1]);
      ingot_product_begin();
      ingot_product_columns<D>(dv, p, d_o_tile);
      ingot_product_commit();
      ingot_product_wait<1>();
#pragma unroll
      for (int t = 0; t < 8; t++) {
        float4 r = ingot_shared_float4(rows + static_cast<uint32_t>(t) * 64u);
#pragma unroll
        for (int i = 0; i < 4; i++) dp[t][i] = s[t][i] * (dp[t][i] - (i % 2 ? r.w : r.y));
      }
#pragma unroll
      for (int i = 0; i < 4; i++) ingot_fragment(ds[i], dp[2 * i], dp[2 * i + 1]);
      ingot_product_begin();
      ingot_product_columns<D>(dk, ds, q_tile);
      ingot_product_commit();
      if constexpr (!tiles::DEFER) ingot_product_wait<0>();
    }
    if constexpr (tiles::DEFER) ingot_product_wait<0>();
    for (; tile < end; tile++) (void)next_tile(head, tile);
  }
  store_rows<D>(a, static_cast<bf16 *>(g.dk) + token * a.ld_k + column, a.ld_k, dk, key, lane, a.scale);
  store_rows<D>(a, static_cast<bf16 *>(g.dv) + token * a.ld_v + column, a.ld_v, dv, key, lane, 1.0f);
}

/* ---- dQ ---- */

template <int D> struct query_tiles {
  static constexpr int      GROUPS = 2, BLOCKS = D <= 64 ? 2 : 1;
  static constexpr bool     DEFER = D > 64; /* with two blocks on a multiprocessor there are not the registers for it */
  static constexpr int      ROWS = GROUPS * INGOT_TILE_GROUP, THREADS = GROUPS * INGOT_GROUP_THREADS;
  static constexpr uint32_t STEP_BYTES = ingot_tile_bytes<D>(STEP);
  static constexpr uint32_t SHARED = 2 * ingot_tile_bytes<D>(ROWS) + 6 * STEP_BYTES + 1024;
};

template <int D>
__global__ void __launch_bounds__(query_tiles<D>::THREADS, query_tiles<D>::BLOCKS)
    queries_kernel(const ingot_nn_attention a, const ingot_attention_grads g)
{
  using tiles = query_tiles<D>;
  extern __shared__ unsigned char shared[];
  const uint32_t                  q_tile = (ingot_shared_address(shared) + 1023u) & ~1023u;
  const uint32_t                  d_o_tile = q_tile + ingot_tile_bytes<D>(tiles::ROWS),
                 k_tile = d_o_tile + ingot_tile_bytes<D>(tiles::ROWS);
  const uint32_t v_tile = k_tile + 3 * tiles::STEP_BYTES;
  const int      n_time = static_cast<int>(a.n_time), n_row_block = (n_time + tiles::ROWS - 1) / tiles::ROWS;
  const int      n_pair = static_cast<int>(a.n_batch) * a.n_head, pair = static_cast<int>(blockIdx.x) % n_pair;
  const int      row0 = (n_row_block - 1 - static_cast<int>(blockIdx.x) / n_pair) * tiles::ROWS; /* the longest first */
  const int      head = pair % a.n_head, kv_head = head / (a.n_head / a.n_kv_head);
  const int64_t  batch = pair / a.n_head, token = batch * a.n_time;
  const int      lane = static_cast<int>(threadIdx.x) % 32, group = static_cast<int>(threadIdx.x) / INGOT_GROUP_THREADS;
  const int      group_row = row0 + group * INGOT_TILE_GROUP;
  const int      row = group_row + static_cast<int>(threadIdx.x) % INGOT_GROUP_THREADS / 32 * 16 + lane / 4;
  const int64_t  q_column = static_cast<int64_t>(head) * a.head_dim,
                kv_column = static_cast<int64_t>(kv_head) * a.head_dim;
  const bf16 *k = static_cast<const bf16 *>(g.k) + token * a.ld_k + kv_column;
  const bf16 *v = static_cast<const bf16 *>(g.v) + token * a.ld_v + kv_column;

  const int first[2] = {ingot_attention_first(a, batch, row), ingot_attention_first(a, batch, row + 8)};
  const int group_high = ingot_attention_first(a, batch, group_row + INGOT_TILE_GROUP - 1);
  const int begin = ingot_attention_first(a, batch, row0) / STEP,
            end = (min(n_time, row0 + tiles::ROWS) - 1) / STEP + 1;
  const int group_begin = ingot_attention_first(a, batch, group_row) / STEP, group_end = min(end, group_row / STEP + 1);

  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(q_tile, static_cast<const bf16 *>(g.q) + token * a.ld_q + q_column,
                                                  a.ld_q, row0, n_time, a.head_dim);
  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(d_o_tile,
                                                  static_cast<const bf16 *>(g.d_o) + token * a.ld_o + q_column, a.ld_o,
                                                  row0, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(k_tile, k, a.ld_k, begin * STEP, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(v_tile, v, a.ld_v, begin * STEP, n_time, a.head_dim);

  float2 r[2] = {};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (row + 8 * h < n_time) r[h] = g.rows[(batch * a.n_head + head) * a.n_time + row + 8 * h];
  }
  float       dq[D / 8][4] = {};
  uint32_t    ds[4][4], stage = 0; /* of the tile after this one */
  const float factor = a.scale * INGOT_LOG2_E;
  const auto  next_tile = [&](int tile) {
    const uint32_t at = stage * tiles::STEP_BYTES;
    stage = stage == 2 ? 0 : stage + 1;
    ingot_copy_async_wait();
    __syncthreads(); /* the tile is here; the next stage's, two tiles back, is no longer read */
    if (tile + 1 < end) {
      const int key = (tile + 1) * STEP;
      ingot_tile_load<D, STEP, tiles::THREADS>(k_tile + stage * tiles::STEP_BYTES, k, a.ld_k, key, n_time, a.head_dim);
      ingot_tile_load<D, STEP, tiles::THREADS>(v_tile + stage * tiles::STEP_BYTES, v, a.ld_v, key, n_time, a.head_dim);
    }
    return at;
  };
  int tile = begin;
  for (; tile < group_begin; tile++) (void)next_tile(tile); /* not for this group */
  for (; tile < group_end; tile++) {
    const uint32_t at = next_tile(tile);
    const int      key = tile * STEP;
    float          s[8][4], dp[8][4];
    ingot_product_begin();
    ingot_product_tiles<D, tiles::ROWS>(s, q_tile, group * INGOT_TILE_GROUP, k_tile + at);
    ingot_product_commit();
    ingot_product_tiles<D, tiles::ROWS>(dp, d_o_tile, group * INGOT_TILE_GROUP, v_tile + at);
    ingot_product_commit();
    ingot_product_wait<1>(); /* also for the last tile's sums */
    if (key + STEP - 1 > group_row || key < group_high) ingot_mask_scores(s, key + lane % 4 * 2, row, first);
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) s[t][i] = ingot_exp2(fmaf(s[t][i], factor, -r[i / 2].x));
    }
    ingot_product_wait<0>();
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) dp[t][i] = s[t][i] * (dp[t][i] - r[i / 2].y);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) ingot_fragment(ds[i], dp[2 * i], dp[2 * i + 1]);
    ingot_product_begin();
    ingot_product_columns<D>(dq, ds, k_tile + at);
    ingot_product_commit();
    if constexpr (!tiles::DEFER) ingot_product_wait<0>();
  }
  if constexpr (tiles::DEFER) ingot_product_wait<0>();
  for (; tile < end; tile++) (void)next_tile(tile);
  store_rows<D>(a, static_cast<bf16 *>(g.dq) + token * a.ld_q + q_column, a.ld_q, dq, row, lane, a.scale);
}

template <int D> ingot_status backward(const ingot_nn_attention *a, const ingot_attention_grads *g)
{
  using on_keys = key_tiles<D>;
  using on_queries = query_tiles<D>;
  ingot_status st = INGOT_OK;
  int64_t      key_blocks = (a->n_time + on_keys::ROWS - 1) / on_keys::ROWS * a->n_batch * a->n_kv_head;
  int64_t      query_blocks = (a->n_time + on_queries::ROWS - 1) / on_queries::ROWS * a->n_batch * a->n_head;
  int64_t      row_blocks = (a->n_batch * a->n_time * a->n_head * ROW_LANES + ROW_THREADS - 1) / ROW_THREADS;

  rows_kernel<<<static_cast<unsigned>(row_blocks), ROW_THREADS, 0, g->stream>>>(*a, *g);
  INGOT_TRY(ingot_cuda_status(cudaGetLastError(), "rows_kernel"));
  INGOT_ATTENTION_LAUNCH(keys_kernel<D>, key_blocks, on_keys::THREADS, on_keys::SHARED, g->stream, *a, *g);
  INGOT_ATTENTION_LAUNCH(queries_kernel<D>, query_blocks, on_queries::THREADS, on_queries::SHARED, g->stream, *a, *g);
done:
  return st;
}

} // namespace

ingot_status ingot_attention_tensor_backward(const ingot_nn_attention *a, const ingot_attention_grads *g)
{
  if (a->head_dim <= 32) return backward<32>(a, g);
  if (a->head_dim <= 64) return backward<64>(a, g);
  if (a->head_dim <= 96) return backward<96>(a, g);
  return backward<128>(a, g);
}
