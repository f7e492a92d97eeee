/*
 * Distributions of several models: mixtures, their moments, log-probabilities. A block works on a row: it is read once
 * for its logsumexp, and again, mostly from the cache, for what follows.
 */
#include "kernels/nn/cuda_reduce.cuh"
#include "kernels/nn/cuda_rows.cuh"

enum { BLOCK = INGOT_NN_ROW_BLOCK, N_WARP = INGOT_NN_ROW_WARPS, MOST_MEMBERS = 16 };

static __device__ __forceinline__ float no_probability()
{
  return -cuda::std::numeric_limits<float>::infinity();
}

/** One row of a member, as a term of the mixture: offset + factor * max(logp, lowest). */
struct mix_term {
  float largest, log_sum, lowest, factor, offset;
};

static __device__ __forceinline__ float term_of(const mix_term &term, float z)
{
  float logp = z - term.largest - term.log_sum;
  return term.offset + term.factor * (logp < term.lowest ? term.lowest : logp);
}

template <ingot_nn_mix KIND> static __device__ __forceinline__ float combine(float mixed, float x)
{
  if constexpr (KIND == INGOT_NN_MIX_LINEAR) return ingot_nn_log_add(mixed, x);
  if constexpr (KIND == INGOT_NN_MIX_MAX) return x > mixed || x != x ? x : mixed;
  return mixed + x;
}

/** mixed_rows may be the logits: no __restrict__. */
template <ingot_nn_mix KIND>
static __global__ void __launch_bounds__(BLOCK)
    mix_kernel(ingot_nn_logits logits, const float *weights, float floor, bool first, float *mixed_rows, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  constexpr bool               product = KIND == INGOT_NN_MIX_LOG_LINEAR;
  int64_t                      row = blockIdx.x, n = logits.n_vocab;
  const float                 *z = logits.data + row * logits.ld;
  float                       *mixed = mixed_rows + row * logits.ld;
  float                        weight = weights != nullptr ? weights[row] : 0.0f;
  bool                         left_out = product ? weight == 0.0f : weight == no_probability();
  ingot_nn_soft_sum            sum = {0.0f, 1.0f, 0};
  if (left_out && !first) return;
  if (!left_out) sum = ingot_nn_sum_row(z, n, wide, shared);
  mix_term term = {sum.largest, logf(sum.sum), product && weight < 0.0f ? floor : no_probability(),
                   product ? weight : 1.0f, product ? 0.0f : weight};
  for (int64_t at = threadIdx.x * 8; at < n; at += BLOCK * 8) {
    float v[8], w[8];
    ingot_nn_load(z + at, n - at, wide, v);
    if (!first) ingot_nn_load(mixed + at, n - at, wide, w);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float x = left_out ? (product ? 0.0f : no_probability()) : term_of(term, v[i]);
      v[i] = first ? x : combine<KIND>(w[i], x);
    }
    ingot_nn_store(mixed + at, n - at, wide, v);
  }
}

ingot_status ingot_nn_cuda_mix(ingot_nn *back_end, ingot_nn_mix kind, const ingot_nn_logits *z, const float *weight,
                               float floor, bool first, float *mixed)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = ingot_nn_wide(z->data, z->ld) && ingot_nn_wide(mixed, z->ld);
  unsigned       grid = static_cast<unsigned>(z->n_row);
  if (z->n_row == 0) return INGOT_OK;
  if (kind == INGOT_NN_MIX_LINEAR) {
    mix_kernel<INGOT_NN_MIX_LINEAR><<<grid, BLOCK, 0, nn->stream>>>(*z, weight, floor, first, mixed, wide);
  } else if (kind == INGOT_NN_MIX_LOG_LINEAR) {
    mix_kernel<INGOT_NN_MIX_LOG_LINEAR><<<grid, BLOCK, 0, nn->stream>>>(*z, weight, floor, first, mixed, wide);
  } else {
    mix_kernel<INGOT_NN_MIX_MAX><<<grid, BLOCK, 0, nn->stream>>>(*z, weight, floor, first, mixed, wide);
  }
  return ingot_nn_cuda_launched("mix_kernel");
}

static __global__ void __launch_bounds__(BLOCK)
    rule_out_kernel(ingot_nn_logits logits, float margin, float *mixed_rows, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  int64_t                      row = blockIdx.x, n = logits.n_vocab;
  const float                 *z = logits.data + row * logits.ld;
  float                       *mixed = mixed_rows + row * logits.ld;
  float                        lowest = ingot_nn_sum_row(z, n, wide, shared).largest + margin;
  for (int64_t at = threadIdx.x * 4; at < n; at += BLOCK * 4) {
    float v[4];
    ingot_nn_load_four(z + at, n - at, wide, v);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (at + i < n && v[i] < lowest) mixed[at + i] = no_probability();
    }
  }
}

ingot_status ingot_nn_cuda_rule_out(ingot_nn *back_end, const ingot_nn_logits *z, float margin, float *mixed)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  INGOT_ASSERT(margin <= 0.0f);
  if (z->n_row == 0) return INGOT_OK;
  rule_out_kernel<<<static_cast<unsigned>(z->n_row), BLOCK, 0, nn->stream>>>(*z, margin, mixed,
                                                                             ingot_nn_wide(z->data, z->ld));
  return ingot_nn_cuda_launched("rule_out_kernel");
}

/** The first member of a mixture, at full weight. */
ingot_status ingot_nn_cuda_log_softmax(ingot_nn *back_end, const ingot_nn_logits *z, float *logp)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = ingot_nn_wide(z->data, z->ld) && ingot_nn_wide(logp, z->ld);
  if (z->n_row == 0) return INGOT_OK;
  mix_kernel<INGOT_NN_MIX_LINEAR>
      <<<static_cast<unsigned>(z->n_row), BLOCK, 0, nn->stream>>>(*z, nullptr, 0.0f, true, logp, wide);
  return ingot_nn_cuda_launched("log_softmax");
}

/* ---- moments ---- */

struct member_rows {
  const float *of[MOST_MEMBERS];
};

/** Members a to a + 3 with members b to b + 3, of a row; the means come with a == b. */
enum { TILE = 4, TILE_SUMS = TILE * TILE + TILE };

static __device__ __forceinline__ void add_tile(const float q[4], const float x[TILE][4], const float y[TILE][4],
                                                float sums[TILE_SUMS])
{
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int m = 0; m < TILE; m++) {
      float weighted = q[i] == 0.0f ? 0.0f : q[i] * x[m][i];
      sums[TILE * TILE + m] += weighted;
#pragma unroll
      for (int j = 0; j < TILE; j++) sums[m * TILE + j] += q[i] == 0.0f ? 0.0f : weighted * y[j][i];
    }
  }
}

/** Four neighbouring elements of up to TILE members' rows; 0 where there are none. */
static __device__ __forceinline__ void load_tile(const member_rows &members, int first, int n_member, int64_t at,
                                                 int64_t count, bool wide, float x[TILE][4])
{
#pragma unroll
  for (int m = 0; m < TILE; m++) {
    const float *row = members.of[first + m < n_member ? first + m : first];
    if (wide && count >= 4) {
      float4 four = *reinterpret_cast<const float4 *>(row + at);
      x[m][0] = four.x, x[m][1] = four.y, x[m][2] = four.z, x[m][3] = four.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) x[m][i] = i < count ? row[at + i] : 0.0f;
    }
  }
}

/** Block (row, tile): the tile's numbers count pairs (a, b) with a <= b, a first. */
static __global__ void __launch_bounds__(BLOCK)
    moments_kernel(ingot_nn_logits mixed, int n_member, member_rows members, const int32_t *labels, float *mean,
                   float *product, float *label, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  __shared__ float             parts[N_WARP][TILE_SUMS];
  int64_t                      row = blockIdx.x, n = mixed.n_vocab, offset = row * mixed.ld;
  int                          n_tile = (n_member + TILE - 1) / TILE, a = 0, b = static_cast<int>(blockIdx.y);
  for (; b >= n_tile - a; a++) b -= n_tile - a;
  b = (b + a) * TILE;
  a *= TILE;
  const bool   ignored = labels[row] == INGOT_NN_IGNORE;
  const float *z = mixed.data + offset;
  float        sums[TILE_SUMS] = {};
  if (!ignored) {
    ingot_nn_soft_sum sum = ingot_nn_sum_row(z, n, wide, shared);
    float             factor = 1.0f / sum.sum;
    for (int64_t at = threadIdx.x * 4; at < n; at += BLOCK * 4) {
      float q[4], x[TILE][4], y[TILE][4];
      ingot_nn_load_four(z + at, n - at, wide, q); /* what is not there becomes 0 */
#pragma unroll
      for (int i = 0; i < 4; i++) q[i] = factor * expf(q[i] - sum.largest);
      load_tile(members, a, n_member, offset + at, n - at, wide, x);
      load_tile(members, b, n_member, offset + at, n - at, wide, y);
      add_tile(q, x, y, sums);
    }
  }
#pragma unroll
  for (int i = 0; i < TILE_SUMS; i++) {
    float v = ingot_nn_sum_lanes<32>(sums[i]);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32][i] = v;
  }
  __syncthreads();
  int i = static_cast<int>(threadIdx.x), width = n_member;
  if (i >= TILE_SUMS) return;
  float total = 0.0f;
  for (int w = 0; w < N_WARP; w++) total += parts[w][i];
  int m = a + (i < TILE * TILE ? i / TILE : i - TILE * TILE), j = b + i % TILE;
  if (i >= TILE * TILE) {
    if (a != b || m >= width) return;
    mean[row * width + m] = total;
    label[row * width + m] = ignored ? 0.0f : members.of[m][offset + labels[row]];
  } else if (m < width && j < width && m <= j) { /* one of the two: the same bits on both sides of the diagonal */
    product[(row * width + m) * width + j] = total;
    product[(row * width + j) * width + m] = total;
  }
}

ingot_status ingot_nn_cuda_moments(ingot_nn *back_end, const ingot_nn_logits *mixed, int n_member,
                                   const float *const *members, const int32_t *labels, float *mean, float *product,
                                   float *label)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           wide = ingot_nn_wide(mixed->data, mixed->ld);
  int            n_tile = (n_member + TILE - 1) / TILE;
  member_rows    rows = {};
  INGOT_ASSERT(n_member >= 1 && n_member <= MOST_MEMBERS);
  if (mixed->n_row == 0) return INGOT_OK;
  for (int m = 0; m < n_member; m++) {
    rows.of[m] = members[m];
    wide = wide && ingot_nn_wide(members[m], mixed->ld);
  }
  dim3 grid(static_cast<unsigned>(mixed->n_row), static_cast<unsigned>(n_tile * (n_tile + 1) / 2));
  moments_kernel<<<grid, BLOCK, 0, nn->stream>>>(*mixed, n_member, rows, labels, mean, product, label, wide);
  return ingot_nn_cuda_launched("moments_kernel");
}
