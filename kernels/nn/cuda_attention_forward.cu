/*
 * Attention, forward, bfloat16: one block of threads for the rows of a few warpgroups and one head, walking over the keys
 * 64 at a time with running maximum and sum. While one tile of keys and values is worked on, the next is copied.
 */
#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_attention_tile.cuh"

namespace {

constexpr int STEP = INGOT_TILE_STEP;

template <int D> struct forward_tiles {
  static constexpr int GROUPS = D <= 64 ? 2 : 3;
  static constexpr int BLOCKS = D <= 64 ? 2 : 1; /* of threads, on a multiprocessor: bounds the registers */
  static constexpr int ROWS = GROUPS * INGOT_TILE_GROUP;
  static constexpr int THREADS = GROUPS * INGOT_GROUP_THREADS;
  static constexpr uint32_t STEP_BYTES = ingot_tile_bytes<D>(STEP);
  static constexpr uint32_t SHARED = ingot_tile_bytes<D>(ROWS) + 4 * STEP_BYTES + 1024; /* to begin at a multiple */
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

/* s becomes probabilities before their division by the sum; the outputs so far are scaled to the new maximum. */
template <int D> __device__ __forceinline__ void softmax_step(float (&s)[8][4], float (&o)[D / 8][4], softmax_rows *r, float factor)
{
  float scale[2], offset[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = fmaxf(s[0][2 * h], s[0][2 * h + 1]);
#pragma unroll
    for (int t = 1; t < 8; t++) top = fmaxf(top, fmaxf(s[t][2 * h], s[t][2 * h + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    top = fmaxf(r->top[h], top * factor);
    offset[h] = top == -INFINITY ? 0.0f : top; /* no key yet: every term is 2^-inf */
    scale[h] = ingot_exp2(r->top[h] - offset[h]);
    r->top[h] = top;
    r->sum[h] *= scale[h];
  }
#pragma unroll
  for (int t = 0; t < 8; t++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      s[t][i] = ingot_exp2(fmaf(s[t][i], factor, -offset[i / 2]));
      r->sum[i / 2] += s[t][i];
    }
  }
  if (__any_sync(0xffffffffu, scale[0] != 1.0f || scale[1] != 1.0f)) {
#pragma unroll
    for (int t = 0; t < D / 8; t++) {
#pragma unroll
      for (int i = 0; i < 4; i++) o[t][i] *= scale[i / 2];
    }
  }
}

/* Divide, and write the thread's elements of its two rows. */
template <int D>
__device__ __forceinline__ void forward_store(const ingot_nn_attention &a, const forward_arrays &x, const float (&o)[D / 8][4],
                                              const softmax_rows &r, int64_t batch, int head, int row, int lane)
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
  const uint32_t q_tile = (ingot_shared_address(shared) + 1023u) & ~1023u;
  const uint32_t k_tile = q_tile + ingot_tile_bytes<D>(tiles::ROWS), v_tile = k_tile + 2 * tiles::STEP_BYTES;
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
  const int group_low = ingot_attention_first(a, batch, group_row);
  const int group_high = ingot_attention_first(a, batch, group_row + INGOT_TILE_GROUP - 1);
  const int begin = ingot_attention_first(a, batch, row0) / STEP, end = (min(n_time, row0 + tiles::ROWS) - 1) / STEP + 1;

  ingot_tile_load<D, tiles::ROWS, tiles::THREADS>(q_tile, q, a.ld_q, row0, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(k_tile, k, a.ld_k, begin * STEP, n_time, a.head_dim);
  ingot_tile_load<D, STEP, tiles::THREADS>(v_tile, v, a.ld_v, begin * STEP, n_time, a.head_dim);
  ingot_copy_async_wait();
  __syncthreads();

  float        o[D / 8][4] = {};
  softmax_rows state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
  const float  factor = a.scale * INGOT_LOG2_E;
  for (int tile = begin; tile < end; tile++) {
    const uint32_t side = static_cast<uint32_t>((tile - begin) % 2) * tiles::STEP_BYTES;
    const int      key = tile * STEP;
    if (tile > begin) {
      ingot_copy_async_wait();
      __syncthreads(); /* the tile is here, and nobody reads the other any more */
    }
    if (tile + 1 < end) {
      ingot_tile_load<D, STEP, tiles::THREADS>(k_tile + (tiles::STEP_BYTES - side), k, a.ld_k, key + STEP, n_time, a.head_dim);
      ingot_tile_load<D, STEP, tiles::THREADS>(v_tile + (tiles::STEP_BYTES - side), v, a.ld_v, key + STEP, n_time, a.head_dim);
    }
    if (key > group_row + INGOT_TILE_GROUP - 1 || key + STEP - 1 < group_low) continue; /* not for this group */
    float s[8][4];
    ingot_product_begin();
    ingot_product_tiles<D, tiles::ROWS>(s, q_tile, group * INGOT_TILE_GROUP, k_tile + side);
    ingot_product_commit();
    ingot_product_wait<0>();
    if (key + STEP - 1 > group_row || key < group_high) ingot_mask_scores(s, key + lane % 4 * 2, row, first);
    softmax_step<D>(s, o, &state, factor);
    uint32_t p[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) ingot_fragment(p[i], s[2 * i], s[2 * i + 1]);
    ingot_product_begin();
    ingot_product_columns<D>(o, p, v_tile + side);
    ingot_product_commit();
    ingot_product_wait<0>();
  }
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
