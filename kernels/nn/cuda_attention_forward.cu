/*
 * Attention, forward, bfloat16: one block of threads for the rows of a few warpgroups and one head, walking over the
 * keys 64 at a time with running maximum and sum. Three tiles of keys and values: one is copied while one is worked on,
 * and the product with the values of the one before may still be under way.
 */
#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_attention_tile.cuh"

namespace {

constexpr int STEP = INGOT_TILE_STEP;

template <int D> struct forward_tiles {
  static constexpr int      GROUPS = D <= 64 ? 2 : 3;
  static constexpr int      BLOCKS = D <= 64 ? 2 : 1; /* of threads, on a multiprocessor: bounds the registers */
  static constexpr int      ROWS = GROUPS * INGOT_TILE_GROUP;
  static constexpr int      THREADS = GROUPS * INGOT_GROUP_THREADS;
  static constexpr uint32_t STEP_BYTES = ingot_tile_bytes<D>(STEP);
  static constexpr uint32_t SHARED = ingot_tile_bytes<D>(ROWS) + 6 * STEP_BYTES + 1024; /* to begin at a multiple */
};

struct forward_arrays {
  const __nv_bfloat16 *q, *k, *v;
  __nv_bfloat16       *o;
  float               *lse;
};

/* The running state of a thread's two rows, in units of scale / ln 2. */
struct softmax_rows {
  float top[2], sum[2];
};

/* The largest of the thread's 16 scores of a row. */
__device__ __forceinline__ float largest(const float (&s)[8][4], int h)
{
  float top[4]; /* four chains: each has to wait for itself alone */
#pragma unroll
  for (int t = 0; t < 4; t++)
    top[t] = fmaxf(fmaxf(s[t][2 * h], s[t][2 * h + 1]), fmaxf(s[t + 4][2 * h], s[t + 4][2 * h + 1]));
  return fmaxf(fmaxf(top[0], top[1]), fmaxf(top[2], top[3]));
}

/* s becomes probabilities before their division by the sum. Returns by what the outputs so far are to be multiplied. */
__device__ __forceinline__ float2 softmax_step(float (&s)[8][4], softmax_rows *r, float factor)
{
  float scale[2], offset[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = largest(s, h);
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(r->top[h], top * factor);
    offset[h] = top == -INFINITY ? 0.0f : top; /* no key yet: every term is 2^-inf */
    scale[h] = ingot_exp2(r->top[h] - offset[h]);
    r->top[h] = top;
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float sum[4] = {};
#pragma unroll
    for (int t = 0; t < 8; t++) {
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; i++) {
        s[t][i] = ingot_exp2(fmaf(s[t][i], factor, -offset[h]));
        sum[(2 * t + i) % 4] += s[t][i];
      }
    }
    r->sum[h] = fmaf(r->sum[h], scale[h], (sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return make_float2(scale[0], scale[1]);
}

template <int D> __device__ __forceinline__ void scale_rows(float (&o)[D / 8][4], float2 scale)
{
  if (!__any_sync(0xffffffffu, scale.x != 1.0f || scale.y != 1.0f)) return;
#pragma unroll
  for (int t = 0; t < D / 8; t++) {
    o[t][0] *= scale.x;
    o[t][1] *= scale.x;
    o[t][2] *= scale.y;
    o[t][3] *= scale.y;
  }
}

/* Divide, and write the thread's elements of its two rows. */
template <int D>
__device__ __forceinline__ void forward_store(const ingot_nn_attention &a, const forward_arrays &x,
                                              const float (&o)[D / 8][4], const softmax_rows &r, int64_t batch,
                                              int head, int row, int lane)
{
#pragma unroll
  for (int h = 0; h < 2; h++) {
    int   time = row + 8 * h;
    float sum = r.sum[h];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (time >= a.n_time) continue;
    __nv_bfloat16 *to = x.o + (batch * a.n_time + time) * a.ld_o + static_cast<int64_t>(head) * a.head_dim;
    float          inverse = 1.0f / sum;
#pragma unroll
    for (int t = 0; t < D / 8; t++) {
      if (8 * t < a.head_dim) {
        *reinterpret_cast<uint32_t *>(to + 8 * t + lane % 4 * 2) =
            ingot_pack_bf16(o[t][2 * h] * inverse, o[t][2 * h + 1] * inverse);
      }
    }
    if (x.lse != nullptr && lane % 4 == 0) {
      x.lse[(batch * a.n_head + head) * a.n_time + time] = (r.top[h] + log2f(sum)) * 0.6931471805599453f;
    }
  }
}

template <int D>
__global__ void __launch_bounds__(forward_tiles<D>::THREADS, forward_tiles<D>::BLOCKS)
    forward_kernel(const ingot_nn_attention a, const forward_arrays x)
{
  using tiles = forward_tiles<D>;
  extern __shared__ unsigned char shared[];
  const uint32_t                  q_tile = (ingot_shared_address(shared) + 1023u) & ~1023u;
  const uint32_t k_tile = q_tile + ingot_tile_bytes<D>(tiles::ROWS), v_tile = k_tile + 3 * tiles::STEP_BYTES;
  const int      n_time = static_cast<int>(a.n_time), n_row_block = (n_time + tiles::ROWS - 1) / tiles::ROWS;
  const int      n_pair = static_cast<int>(a.n_batch) * a.n_head, pair = static_cast<int>(blockIdx.x) % n_pair;
  const int      row0 = (n_row_block - 1 - static_cast<int>(blockIdx.x) / n_pair) * tiles::ROWS; /* the longest first */
  const int      head = pair % a.n_head, kv_head = head / (a.n_head / a.n_kv_head);
  const int64_t  batch = pair / a.n_head;
  const int      lane = static_cast<int>(threadIdx.x) % 32, group = static_cast<int>(threadIdx.x) / INGOT_GROUP_THREADS;
  const int      group_row = row0 + group * INGOT_TILE_GROUP;
  const int      row = group_row + static_cast<int>(threadIdx.x) % INGOT_GROUP_THREADS / 32 * 16 + lane / 4;

  const __nv_bfloat16 *q = x.q + batch * a.n_time * a.ld_q + static_cast<int64_t>(head) * a.head_dim;
  const __nv_bfloat16 *k = x.k + batch * a.n_time * a.ld_k + static_cast<int64_t>(kv_head) * a.head_dim;
  const __nv_bfloat16 *v = x.v + batch * a.n_time * a.ld_v + static_cast<int64_t>(kv_head) * a.head_dim;

  const int first[2] = {ingot_attention_first(a, batch, row), ingot_attention_first(a, batch, row + 8)};
  const int group_high = ingot_attention_first(a, batch, group_row + INGOT_TILE_GROUP - 1);
  const int begin = ingot_attention_first(a, batch, row0) / STEP,
            end = (min(n_time, row0 + tiles::ROWS) - 1) / STEP + 1;
  const int group_begin = ingot_attention_first(a, batch, group_row) / STEP, group_end = min(end, group_row / STEP + 1);

  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(q_tile, q, a.ld_q, row0, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(k_tile, k, a.ld_k, begin * STEP, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(v_tile, v, a.ld_v, begin * STEP, n_time, a.head_dim);

  float        o[D / 8][4] = {};
  uint32_t     p[4][4];
  softmax_rows state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
  const float  factor = a.scale * INGOT_LOG2_E;
  uint32_t     stage = 0; /* of the tile after this one */
  const auto   next_tile = [&](int tile) {
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
    float          s[8][4];
    ingot_product_begin();
    ingot_product_tiles<D, tiles::ROWS>(s, q_tile, group * INGOT_TILE_GROUP, k_tile + at);
    ingot_product_commit();
    ingot_product_wait<0>(); /* also for the last tile's outputs */
    if (key + STEP - 1 > group_row || key < group_high) ingot_mask_scores(s, key + lane % 4 * 2, row, first);
    const float2 scale = softmax_step(s, &state, factor);
    scale_rows<D>(o, scale);
#pragma unroll
    for (int i = 0; i < 4; i++) ingot_fragment(p[i], s[2 * i], s[2 * i + 1]);
    ingot_product_begin();
    ingot_product_columns<D>(o, p, v_tile + at);
    ingot_product_commit();
  }
  ingot_product_wait<0>();
  for (; tile < end; tile++) (void)next_tile(tile);
  forward_store<D>(a, x, o, state, batch, head, row, lane);
}

template <int D> ingot_status forward(const ingot_nn_attention *a, const forward_arrays &x, cudaStream_t stream)
{
  using tiles = forward_tiles<D>;
  ingot_status st = INGOT_OK;
  int64_t      blocks = (a->n_time + tiles::ROWS - 1) / tiles::ROWS * a->n_batch * a->n_head;
  INGOT_ATTENTION_LAUNCH(forward_kernel<D>, blocks, tiles::THREADS, tiles::SHARED, stream, *a, x);
done:
  return st;
}

} // namespace

ingot_status ingot_attention_tensor_forward(const ingot_nn_attention *a, const void *q, const void *k, const void *v,
                                            void *o, float *lse, cudaStream_t stream)
{
  forward_arrays x = {static_cast<const __nv_bfloat16 *>(q), static_cast<const __nv_bfloat16 *>(k),
                      static_cast<const __nv_bfloat16 *>(v), static_cast<__nv_bfloat16 *>(o), lse};
  if (a->head_dim <= 32) return forward<32>(a, x, stream);
  if (a->head_dim <= 64) return forward<64>(a, x, stream);
  if (a->head_dim <= 96) return forward<96>(a, x, stream);
  return forward<128>(a, x, stream);
}
