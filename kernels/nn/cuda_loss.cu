/*
 * Rows of logits: loss, gradient, sampling, the largest. A block works on a row. The row is read once from memory for
 * its logsumexp (a running maximum and sum), and again, mostly from the cache, for what follows.
 */
#include <cuda/std/limits>

#include "base/philox.h"
#include "kernels/nn/cuda_rows.cuh"

enum { BLOCK = INGOT_NN_ROW_BLOCK, N_WARP = INGOT_NN_ROW_WARPS };

/** Eight gradients a thread and turn, zero from n_vocab to ld. */
template <typename T>
static __device__ __forceinline__ void write_gradient(const float *z, int64_t n_vocab, int64_t ld, int32_t label,
                                                      float scale, ingot_nn_soft_sum s, bool wide, T *d)
{
  float factor = label == INGOT_NN_IGNORE ? 0.0f : scale / s.sum;
#pragma unroll 2
  for (int64_t at = threadIdx.x * 8; at < ld; at += BLOCK * 8) {
    float v[8];
    ingot_nn_load(z + at, n_vocab - at, wide, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float p = at + i < n_vocab && factor != 0.0f ? factor * expf(v[i] - s.largest) : 0.0f;
      v[i] = at + i == label ? p - scale : p;
    }
    ingot_nn_store(d + at, ld - at, wide, v);
  }
}

template <typename T>
static __global__ void __launch_bounds__(BLOCK)
    cross_entropy_kernel(ingot_nn_logits logits, const int32_t *__restrict__ labels, float scale, float *nll,
                         int32_t *top1, T *d_logits, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  int64_t                      row = blockIdx.x;
  const float                 *z = logits.data + row * logits.ld;
  int32_t                      label = labels[row];
  ingot_nn_soft_sum            s = ingot_nn_sum_row(z, logits.n_vocab, wide, shared);
  if (threadIdx.x == 0) {
    if (nll != nullptr) nll[row] = label == INGOT_NN_IGNORE ? 0.0f : s.largest - z[label] + logf(s.sum);
    if (top1 != nullptr) top1[row] = s.index;
  }
  if (d_logits == nullptr) return;
  write_gradient(z, logits.n_vocab, logits.ld, label, scale, s, wide, d_logits + row * logits.ld);
}

ingot_status ingot_nn_cuda_cross_entropy(ingot_nn *back_end, const ingot_nn_logits *z, const int32_t *labels,
                                         float scale, float *nll, int32_t *top1, void *d_logits)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool     wide = z->ld % 8 == 0 && ingot_nn_wide(z->data, z->ld) && reinterpret_cast<uintptr_t>(d_logits) % 16 == 0;
  unsigned grid = static_cast<unsigned>(z->n_row);
  if (z->n_row == 0) return INGOT_OK;
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    cross_entropy_kernel<<<grid, BLOCK, 0, nn->stream>>>(*z, labels, scale, nll, top1,
                                                         static_cast<__nv_bfloat16 *>(d_logits), wide);
  } else {
    cross_entropy_kernel<<<grid, BLOCK, 0, nn->stream>>>(*z, labels, scale, nll, top1, static_cast<float *>(d_logits),
                                                         wide);
  }
  return ingot_nn_cuda_launched("cross_entropy_kernel");
}

/** Sums of `v` over this thread and those before it, in float64; *total over all. shared: [N_WARP]. */
static __device__ __forceinline__ double scan_block(double v, double *shared, double *total)
{
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    double before = __shfl_up_sync(0xffffffffu, v, d);
    if (lane >= d) v += before;
  }
  if (lane == 31) shared[warp] = v;
  __syncthreads();
  double before = 0.0, all = 0.0;
  for (int w = 0; w < N_WARP; w++) {
    if (w == warp) before = all;
    all += shared[w];
  }
  *total = all;
  return before + v;
}

/** Where the uniform numbers of rows come from: counters, for rows that have a label; or an array. */
struct counted_numbers {
  static constexpr bool TELLS = false; /* a row without a distribution keeps its label, and its loss tells */
  uint64_t              key, first;

  __device__ __forceinline__ bool wanted(int64_t row, const int32_t *labels) const
  {
    return labels[row] != INGOT_NN_IGNORE;
  }
  __device__ __forceinline__ double at(int64_t row) const
  {
    uint32_t word[4];
    ingot_philox4x32(key, first + static_cast<uint64_t>(row), word);
    return (static_cast<double>(word[0]) + 0.5) / 4294967296.0;
  }
};

struct given_numbers {
  static constexpr bool TELLS = true;
  const double         *u;

  __device__ __forceinline__ bool wanted(int64_t, const int32_t *) const
  {
    return true;
  }
  __device__ __forceinline__ double at(int64_t row) const
  {
    return u[row];
  }
};

/** Threads own neighbouring stretches of the row, so that the scan over threads is the scan over the vocabulary. */
template <typename NUMBERS>
static __global__ void __launch_bounds__(BLOCK)
    draw_kernel(ingot_nn_logits logits, NUMBERS numbers, float inverse, int32_t *labels, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  __shared__ double            sums[N_WARP], upto[BLOCK];
  __shared__ int               winner;
  int64_t                      row = blockIdx.x, n = logits.n_vocab, stretch = (n + BLOCK - 1) / BLOCK;
  int64_t                      first = threadIdx.x * stretch, end = first + stretch < n ? first + stretch : n;
  const float                 *z = logits.data + row * logits.ld;
  if (!numbers.wanted(row, labels)) return;
  if (threadIdx.x == 0) winner = BLOCK;
  float  largest = ingot_nn_sum_row(z, n, wide, shared).largest;
  double mine = 0.0, total = 0.0;
  for (int64_t v = first; v < end; v++) mine += static_cast<double>(expf((z[v] - largest) * inverse));
  upto[threadIdx.x] = scan_block(mine, sums, &total);
  __syncthreads();
  double target = numbers.at(row) * total;
  double sum = threadIdx.x > 0 ? upto[threadIdx.x - 1] : 0.0;
  if (upto[threadIdx.x] > target) atomicMin(&winner, static_cast<int>(threadIdx.x)); /* the total is above the target */
  __syncthreads();
  if (NUMBERS::TELLS && winner == BLOCK && threadIdx.x == 0) labels[row] = -1;
  if (winner != static_cast<int>(threadIdx.x)) return;
  int64_t chosen = first;
  for (; chosen < end - 1; chosen++) {
    sum += static_cast<double>(expf((z[chosen] - largest) * inverse));
    if (sum > target) break;
  }
  labels[row] = static_cast<int32_t>(chosen);
}

ingot_status ingot_nn_cuda_sample_labels(ingot_nn *back_end, const ingot_nn_logits *z, uint64_t key,
                                         uint64_t first_counter, int32_t *labels)
{
  ingot_nn_cuda  *nn = ingot_nn_cuda_of(back_end);
  counted_numbers numbers = {key, first_counter};
  if (z->n_row == 0) return INGOT_OK;
  draw_kernel<<<static_cast<unsigned>(z->n_row), BLOCK, 0, nn->stream>>>(*z, numbers, 1.0f, labels,
                                                                         ingot_nn_wide(z->data, z->ld));
  return ingot_nn_cuda_launched("draw_kernel");
}

ingot_status ingot_nn_cuda_draw(ingot_nn *back_end, const ingot_nn_logits *z, float inverse, const double *u,
                                int32_t *ids)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  given_numbers  numbers = {u};
  if (z->n_row == 0) return INGOT_OK;
  draw_kernel<<<static_cast<unsigned>(z->n_row), BLOCK, 0, nn->stream>>>(*z, numbers, inverse, ids,
                                                                         ingot_nn_wide(z->data, z->ld));
  return ingot_nn_cuda_launched("draw_kernel");
}

/** The best of this thread's elements that comes after (last, last_index) in the order of the result. */
static __device__ __forceinline__ ingot_nn_soft_sum best_after(const float *z, int64_t n, float last,
                                                               int32_t last_index)
{
  ingot_nn_soft_sum best = ingot_nn_no_sum();
  for (int64_t v = threadIdx.x; v < n; v += BLOCK) {
    int32_t index = static_cast<int32_t>(v);
    if (ingot_nn_goes_before(last, last_index, z[v], index) &&
        ingot_nn_goes_before(z[v], index, best.largest, best.index)) {
      best.largest = z[v];
      best.index = index;
    }
  }
  return best;
}

/** Every thread holds the best of its own elements; the one whose is taken looks for its next. */
static __global__ void __launch_bounds__(BLOCK)
    top_k_kernel(ingot_nn_logits logits, int k, int32_t *ids, float *logp, bool wide)
{
  __shared__ ingot_nn_soft_sum shared[N_WARP];
  int64_t                      row = blockIdx.x, n = logits.n_vocab;
  const float                 *z = logits.data + row * logits.ld;
  ingot_nn_soft_sum            all = ingot_nn_sum_row(z, n, wide, shared);
  float                        log_sum = logf(all.sum);
  ingot_nn_soft_sum            mine = best_after(z, n, cuda::std::numeric_limits<float>::infinity(), -1);
  for (int i = 0; i < k; i++) {
    ingot_nn_soft_sum best = ingot_nn_merge_sums_block(mine, shared);
    if (threadIdx.x == 0) {
      ids[row * k + i] = best.index;
      logp[row * k + i] = best.largest - all.largest - log_sum;
    }
    if (best.index % BLOCK == threadIdx.x) mine = best_after(z, n, best.largest, best.index);
  }
}

ingot_status ingot_nn_cuda_top_k(ingot_nn *back_end, const ingot_nn_logits *z, int k, int32_t *ids, float *logp)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  INGOT_ASSERT(k >= 0 && k <= z->n_vocab);
  if (z->n_row == 0 || k == 0) return INGOT_OK;
  top_k_kernel<<<static_cast<unsigned>(z->n_row), BLOCK, 0, nn->stream>>>(*z, k, ids, logp,
                                                                          ingot_nn_wide(z->data, z->ld));
  return ingot_nn_cuda_launched("top_k_kernel");
}
