/*
 * The cache of keys and values, and attention of new tokens to it. A block has the query heads of one sequence that
 * share a key head, and some of the keys; neighbouring lanes share a key, eight elements each, and a warp has several
 * keys at a time. So a key and its value are read once for all these heads. Sums are float32: each owner of keys has
 * its own, then owners are added in a warp, warps in a block, and blocks by a second kernel where there are too few
 * sequences to fill the GPU.
 */
#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_nn.cuh"

namespace {

constexpr int THREADS = 128, WARPS = THREADS / 32;
constexpr int SPLIT_KEYS = 128, MOST_SPLITS = 64,
              COMBINE_THREADS = 64; /* keys of a block at least, unless there are fewer */

/* ---- storing and copying: 16 bytes a thread and turn ---- */

enum { COPY_BLOCK = 256, COPY_TURNS = 4, VECTOR_BYTES = 16, MOST_GRID = 65535 };

int64_t vectors_of(const ingot_nn *nn, int64_t elements)
{
  int64_t bytes = elements * static_cast<int64_t>(ingot_dtype_size(nn->dtype));
  INGOT_ASSERT(bytes % VECTOR_BYTES == 0);
  return bytes / VECTOR_BYTES;
}

struct store_rows {
  const uint4 *k, *v;
  uint4       *keys, *values;              /* of the layer */
  int64_t      n_token, width, ld_k, ld_v; /* in vectors */
};

__global__ void __launch_bounds__(COPY_BLOCK) store_kernel(const store_rows s, const int32_t *place)
{
  const int64_t step = static_cast<int64_t>(gridDim.x) * COPY_BLOCK;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(COPY_BLOCK) + threadIdx.x; i < s.n_token * s.width; i += step) {
    const int64_t token = i / s.width, at = i - token * s.width, to = place[token];
    if (to < 0) continue;
    s.keys[to * s.width + at] = s.k[token * s.ld_k + at];
    s.values[to * s.width + at] = s.v[token * s.ld_v + at];
  }
}

/** Block (part, copy, array): arrays are keys and values of every layer in turn. */
__global__ void __launch_bounds__(COPY_BLOCK)
    copy_kernel(const ingot_nn_cache cache, int64_t width, const int32_t *copies)
{
  const int32_t *copy = copies + 3 * static_cast<int64_t>(blockIdx.y);
  const int64_t  slot = cache.n_time * width, layer = blockIdx.z / 2, n = copy[2] * width;
  uint4 *array = static_cast<uint4 *>(blockIdx.z % 2 == 0 ? cache.keys : cache.values) + layer * cache.n_slot * slot;
  const uint4  *from = array + copy[0] * slot;
  uint4        *to = array + copy[1] * slot;
  const int64_t step = static_cast<int64_t>(gridDim.x) * COPY_BLOCK;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(COPY_BLOCK) + threadIdx.x; i < n; i += step) to[i] = from[i];
}

/* ---- attention ---- */

/** Eight elements as they are stored. */
template <typename T> struct eight;

template <> struct eight<float> {
  float4 low, high;

  __device__ __forceinline__ void widen(float v[8]) const
  {
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w, v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  }
};

template <> struct eight<__nv_bfloat16> {
  uint4 words;

  __device__ __forceinline__ void widen(float v[8]) const
  {
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[2 * i] = __uint_as_float(word[i] << 16);
      v[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
    }
  }
};

template <typename T> __device__ __forceinline__ eight<T> load_eight(const T *p, bool there)
{
  return there ? *reinterpret_cast<const eight<T> *>(p) : eight<T>{};
}

/** What exponents are taken from: no -inf minus -inf. */
__device__ __forceinline__ float offset_of(float top)
{
  return top == -INFINITY ? 0.0f : top;
}

struct cached_arrays {
  const void *q, *keys, *values; /* keys, values: of the layer */
  void       *o;
  float2     *tops;  /* [n_row][n_head][n_split]: largest score, sum of exponentials; NULL: the output is written */
  float      *sums;  /* [n_row][n_head][n_split][head_dim] */
  int64_t     slot;  /* elements of a slot */
  int         width; /* elements of a key of all heads */
  int         n_split, share; /* blocks that share a sequence's keys, and keys of each at most */
};

/** One thread's sums: of GROUP heads, over the keys that it has seen. Scores are in units of ln 2. */
template <int GROUP> struct running {
  float top[GROUP], total[GROUP], sum[GROUP][8];
};

/** Keys base + owner, + OWNERS, ... and their values. */
template <typename T, int LANES, int GROUP, int TURNS>
__device__ __forceinline__ void see_keys(running<GROUP> &r, const float (&query)[GROUP][8], const T *k, const T *v,
                                         int width, int key, int end, bool real)
{
  constexpr int OWNERS = THREADS / LANES;
  eight<T>      k8[TURNS], v8[TURNS];
  float         s[TURNS][GROUP], x[8];
#pragma unroll
  for (int t = 0; t < TURNS; t++) {
    const int at = key + t * OWNERS;
    k8[t] = load_eight<T>(k + static_cast<int64_t>(at) * width, real && at < end);
    v8[t] = load_eight<T>(v + static_cast<int64_t>(at) * width, real && at < end);
  }
#pragma unroll
  for (int t = 0; t < TURNS; t++) {
    k8[t].widen(x);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      float dot = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) dot = fmaf(query[g][i], x[i], dot);
#pragma unroll
      for (int d = LANES / 2; d > 0; d /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, d);
      s[t][g] = key + t * OWNERS < end ? dot : -INFINITY;
    }
  }
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    float high = r.top[g];
#pragma unroll
    for (int t = 0; t < TURNS; t++) high = fmaxf(high, s[t][g]);
    const float offset = offset_of(high), factor = exp2f(r.top[g] - offset);
    r.top[g] = high;
    r.total[g] *= factor;
#pragma unroll
    for (int i = 0; i < 8; i++) r.sum[g][i] *= factor;
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
      s[t][g] = exp2f(s[t][g] - offset);
      r.total[g] += s[t][g];
    }
  }
#pragma unroll
  for (int t = 0; t < TURNS; t++) {
    v8[t].widen(x);
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
#pragma unroll
      for (int i = 0; i < 8; i++) r.sum[g][i] = fmaf(s[t][g], x[i], r.sum[g][i]);
    }
  }
}

/** The owners of a warp become one; every lane gets its eight elements of it. */
template <int LANES, int GROUP> __device__ __forceinline__ void add_owners(running<GROUP> &r)
{
#pragma unroll
  for (int d = LANES; d < 32; d *= 2) {
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      const float high = fmaxf(r.top[g], __shfl_xor_sync(0xffffffffu, r.top[g], d));
      const float factor = exp2f(r.top[g] - offset_of(high));
      r.top[g] = high;
      r.total[g] *= factor;
      r.total[g] += __shfl_xor_sync(0xffffffffu, r.total[g], d);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        r.sum[g][i] *= factor;
        r.sum[g][i] += __shfl_xor_sync(0xffffffffu, r.sum[g][i], d);
      }
    }
  }
}

/** Block (sequence, key head, GROUP of its query heads; share of the keys). */
template <typename T, int LANES, int GROUP>
__global__ void __launch_bounds__(THREADS) cached_kernel(const ingot_nn_cached a, const cached_arrays arrays)
{
  constexpr int     OWNERS = THREADS / LANES, TURNS = GROUP >= 8 ? 2 : 4;
  __shared__ float2 tops[WARPS][GROUP];
  __shared__ float  sums[WARPS][GROUP][LANES * 8];
  const int         group = a.n_head / a.n_kv_head, n_part = (group + GROUP - 1) / GROUP;
  const int         part = static_cast<int>(blockIdx.x) % n_part, pair = static_cast<int>(blockIdx.x) / n_part;
  const int         kv_head = pair % a.n_kv_head, row = pair / a.n_kv_head, split = static_cast<int>(blockIdx.y);
  const int         head0 = kv_head * group + part * GROUP, n_here = min(GROUP, group - part * GROUP);
  const int         lane = static_cast<int>(threadIdx.x) % LANES, owner = static_cast<int>(threadIdx.x) / LANES;
  const int         warp = static_cast<int>(threadIdx.x) / 32;
  const int         n_key = a.n_key[row], first = a.window > 0 ? max(n_key - a.window, 0) : 0;
  const int         begin = first + split * arrays.share, end = min(begin + arrays.share, n_key);
  const bool        real = lane * 8 < a.head_dim;
  const int64_t     column = a.slot[row] * arrays.slot + static_cast<int64_t>(kv_head) * a.head_dim + lane * 8;
  const T       *k = static_cast<const T *>(arrays.keys) + column, *v = static_cast<const T *>(arrays.values) + column;
  running<GROUP> r;
  float          query[GROUP][8];
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    const T *from =
        static_cast<const T *>(arrays.q) + row * a.ld_q + static_cast<int64_t>(head0 + g) * a.head_dim + lane * 8;
    load_eight<T>(from, real && g < n_here).widen(query[g]);
    r.top[g] = -INFINITY;
    r.total[g] = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      query[g][i] *= a.scale * INGOT_LOG2_E;
      r.sum[g][i] = 0.0f;
    }
  }
  for (int base = begin; base < end; base += OWNERS * TURNS)
    see_keys<T, LANES, GROUP, TURNS>(r, query, k, v, arrays.width, base + owner, end, real);
  add_owners<LANES, GROUP>(r);
  if (threadIdx.x % 32 < LANES) {
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      if (lane == 0) tops[warp][g] = make_float2(r.top[g], r.total[g]);
#pragma unroll
      for (int i = 0; i < 8; i++) sums[warp][g][lane * 8 + i] = r.sum[g][i];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n_here * a.head_dim; i += THREADS) {
    const int g = i / a.head_dim, d = i - g * a.head_dim;
    float     high = -INFINITY, total = 0.0f, sum = 0.0f;
    for (int w = 0; w < WARPS; w++) high = fmaxf(high, tops[w][g].x);
    for (int w = 0; w < WARPS; w++) {
      const float factor = exp2f(tops[w][g].x - offset_of(high));
      total = fmaf(tops[w][g].y, factor, total);
      sum = fmaf(sums[w][g][d], factor, sum);
    }
    if (arrays.tops == nullptr) {
      static_cast<T *>(arrays.o)[row * a.ld_o + static_cast<int64_t>(head0 + g) * a.head_dim + d] =
          ingot_nn_narrow<T>(sum / total);
      continue;
    }
    const int64_t at = (static_cast<int64_t>(row) * a.n_head + head0 + g) * arrays.n_split + split;
    arrays.sums[at * a.head_dim + d] = sum;
    if (d == 0) arrays.tops[at] = make_float2(high, total);
  }
}

/** Block (head, sequence): the shares of its keys become one. */
template <typename T>
__global__ void __launch_bounds__(COMBINE_THREADS) combine_kernel(const ingot_nn_cached a, const cached_arrays arrays)
{
  const int64_t row = blockIdx.y, head = blockIdx.x, first = (row * a.n_head + head) * arrays.n_split;
  const float2 *tops = arrays.tops + first;
  float         high = -INFINITY, total = 0.0f;
  for (int s = 0; s < arrays.n_split; s++) high = fmaxf(high, tops[s].x);
  const float offset = offset_of(high);
  for (int s = 0; s < arrays.n_split; s++) total = fmaf(tops[s].y, exp2f(tops[s].x - offset), total);
  for (int d = static_cast<int>(threadIdx.x); d < a.head_dim; d += COMBINE_THREADS) {
    float sum = 0.0f;
    for (int s = 0; s < arrays.n_split; s++)
      sum = fmaf(arrays.sums[(first + s) * a.head_dim + d], exp2f(tops[s].x - offset), sum);
    static_cast<T *>(arrays.o)[row * a.ld_o + head * a.head_dim + d] = ingot_nn_narrow<T>(sum / total);
  }
}

template <typename T, int LANES>
ingot_status launch_group(const ingot_nn_cached &a, const cached_arrays &arrays, cudaStream_t stream)
{
  const int  group = a.n_head / a.n_kv_head, taken = group > 4 ? 8 : group > 2 ? 4 : group;
  const dim3 grid(static_cast<unsigned>(a.n_row * a.n_kv_head * ((group + taken - 1) / taken)),
                  static_cast<unsigned>(arrays.n_split));
  if (taken == 1) cached_kernel<T, LANES, 1><<<grid, THREADS, 0, stream>>>(a, arrays);
  else if (taken == 2) cached_kernel<T, LANES, 2><<<grid, THREADS, 0, stream>>>(a, arrays);
  else if (taken == 4) cached_kernel<T, LANES, 4><<<grid, THREADS, 0, stream>>>(a, arrays);
  else cached_kernel<T, LANES, 8><<<grid, THREADS, 0, stream>>>(a, arrays);
  return ingot_nn_cuda_launched("cached_kernel");
}

template <typename T> ingot_status launch(const ingot_nn_cached &a, const cached_arrays &arrays, cudaStream_t stream)
{
  ingot_status st = INGOT_OK;
  if (a.head_dim <= 64) INGOT_TRY((launch_group<T, 8>(a, arrays, stream)));
  else if (a.head_dim <= 128) INGOT_TRY((launch_group<T, 16>(a, arrays, stream)));
  else INGOT_TRY((launch_group<T, 32>(a, arrays, stream)));
  if (arrays.tops == nullptr) goto done;
  combine_kernel<T>
      <<<dim3(static_cast<unsigned>(a.n_head), static_cast<unsigned>(a.n_row)), COMBINE_THREADS, 0, stream>>>(a,
                                                                                                              arrays);
  INGOT_TRY(ingot_nn_cuda_launched("combine_kernel"));
done:
  return st;
}

/** Blocks that share a sequence's keys: enough for four a multiprocessor where sequences and heads alone give less than
 * two. */
void split_keys(const ingot_nn_cuda *nn, const ingot_nn_cached &a, cached_arrays *arrays)
{
  const int64_t most = a.window > 0 && a.window < a.most_key ? a.window : a.most_key;
  const int64_t group = a.n_head / a.n_kv_head, blocks = a.n_row * a.n_kv_head * ((group + 7) / 8), sms = nn->sm_count;
  int64_t       n = blocks >= 2 * sms ? 1 : (4 * sms + blocks - 1) / blocks;
  if (n > most / SPLIT_KEYS) n = most / SPLIT_KEYS;
  if (n > MOST_SPLITS) n = MOST_SPLITS;
  if (n < 1) n = 1;
  arrays->share = static_cast<int>((most + n - 1) / n);
  arrays->n_split = static_cast<int>((most + arrays->share - 1) / arrays->share);
}

} // namespace

ingot_status ingot_nn_cuda_cache_store(ingot_nn *back_end, const ingot_nn_cache *cache, int64_t layer, int64_t n_token,
                                       const int32_t *place, const void *k, int64_t ld_k, const void *v, int64_t ld_v)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  const int64_t  width = vectors_of(back_end, cache->width), first = layer * cache->n_slot * cache->n_time * width;
  store_rows     s = {static_cast<const uint4 *>(k),
                      static_cast<const uint4 *>(v),
                      static_cast<uint4 *>(cache->keys) + first,
                      static_cast<uint4 *>(cache->values) + first,
                      n_token,
                      width,
                      vectors_of(back_end, ld_k),
                      vectors_of(back_end, ld_v)};
  const int64_t  blocks = (n_token * width + COPY_BLOCK - 1) / COPY_BLOCK,
                most = 32 * static_cast<int64_t>(nn->sm_count);
  if (n_token == 0) return INGOT_OK;
  store_kernel<<<static_cast<unsigned>(blocks < most ? blocks : most), COPY_BLOCK, 0, nn->stream>>>(s, place);
  return ingot_nn_cuda_launched("store_kernel");
}

ingot_status ingot_nn_cuda_cache_copy(ingot_nn *back_end, const ingot_nn_cache *cache, int64_t n_copy,
                                      const int32_t *copies, int64_t most_token)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  const int64_t  width = vectors_of(back_end, cache->width), turn = COPY_BLOCK * COPY_TURNS;
  const int64_t  blocks = (most_token * width + turn - 1) / turn;
  INGOT_ASSERT(n_copy <= MOST_GRID && 2 * cache->n_layer <= MOST_GRID);
  if (n_copy == 0 || most_token == 0) return INGOT_OK;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(n_copy),
                  static_cast<unsigned>(2 * cache->n_layer));
  copy_kernel<<<grid, COPY_BLOCK, 0, nn->stream>>>(*cache, width, copies);
  return ingot_nn_cuda_launched("copy_kernel");
}

ingot_status ingot_nn_cuda_attention_cached(ingot_nn *back_end, const ingot_nn_cached *a, const ingot_nn_cache *cache,
                                            const void *q, void *o)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  const int64_t  layer = a->layer * cache->n_slot * cache->n_time * cache->width, n_head = a->n_row * a->n_head;
  const size_t   size = ingot_dtype_size(back_end->dtype);
  cached_arrays  arrays = {q,
                           static_cast<const char *>(cache->keys) + static_cast<size_t>(layer) * size,
                           static_cast<const char *>(cache->values) + static_cast<size_t>(layer) * size,
                           o,
                           nullptr,
                           nullptr,
                           cache->n_time * cache->width,
                           static_cast<int>(cache->width),
                           1,
                           0};
  void          *scratch = nullptr;
  INGOT_TRY(ingot_nn_cuda_attention_check(a->head_dim));
  if (a->n_row == 0) return INGOT_OK;
  INGOT_ASSERT(a->n_head % a->n_kv_head == 0 && cache->width == static_cast<int64_t>(a->n_kv_head) * a->head_dim);
  INGOT_ASSERT(a->ld_q % 8 == 0 && a->most_key > 0 && a->most_key <= cache->n_time && a->n_row <= MOST_GRID);
  split_keys(nn, *a, &arrays);
  if (arrays.n_split > 1) {
    const size_t tops = ingot_nn_cuda_aligned(static_cast<size_t>(n_head * arrays.n_split) * sizeof(float2));
    INGOT_TRY(ingot_nn_cuda_scratch(nn,
                                    tops + static_cast<size_t>(n_head * arrays.n_split * a->head_dim) * sizeof(float),
                                    &scratch));
    arrays.tops = static_cast<float2 *>(scratch);
    arrays.sums = reinterpret_cast<float *>(static_cast<char *>(scratch) + tops);
  }
  if (back_end->dtype == INGOT_DTYPE_BF16) INGOT_TRY(launch<__nv_bfloat16>(*a, arrays, nn->stream));
  else INGOT_TRY(launch<float>(*a, arrays, nn->stream));
done:
  return st;
}
