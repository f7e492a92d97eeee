#include "kernels/families/slerp.h"

#include "kernels/families/block_sums.cuh"
#include "kernels/families/device_ops.h"
#include "kernels/families/sum_apply.cuh"

/* One thread block a sum. The additions are one thread's, in order; the loads are not. */
__global__ void __launch_bounds__(INGOT_TILE_BLOCKS)
    add_block_sums_kernel(const double *block, int n_block, int n_sum, double *slot)
{
  __shared__ double value[INGOT_TILE_BLOCKS];
  int               k = static_cast<int>(blockIdx.x), b = static_cast<int>(threadIdx.x);
  if (b < n_block) value[b] = block[static_cast<int64_t>(b) * n_sum + k];
  __syncthreads();
  if (b > 0) return;
  double sum = slot[k];
#pragma unroll 8
  for (int i = 0; i < n_block; i++) sum += value[i];
  slot[k] = sum;
}

ingot_status ingot_add_block_sums(const double *block, int64_t n_block, int n_sum, double *slot, void *stream)
{
  INGOT_ASSERT(n_block <= INGOT_TILE_BLOCKS);
  add_block_sums_kernel<<<static_cast<unsigned>(n_sum), INGOT_TILE_BLOCKS, 0, static_cast<cudaStream_t>(stream)>>>(
      block, static_cast<int>(n_block), n_sum, slot);
  return ingot_launch_status("the sum over blocks");
}

enum { BATCH = 16 };

/* block: [n_block][3] */
__global__ void __launch_bounds__(INGOT_SUM_THREADS)
    dots_kernel(const __grid_constant__ ingot_inputs<INGOT_SMALL_INPUTS> a, double *block)
{
  int64_t b = static_cast<int64_t>(blockIdx.x) * INGOT_SUM_WARPS + threadIdx.x / INGOT_SUM_LANES;
  int     lane = static_cast<int>(threadIdx.x) % INGOT_SUM_LANES;
  int64_t first = b * INGOT_BLOCK;
  if (first >= a.n) return; /* the whole warp */
  int64_t end = first + INGOT_BLOCK < a.n ? first + INGOT_BLOCK : a.n;
  double  s00 = 0, s11 = 0, s01 = 0;
  for (int64_t i = first + lane; i < end; i += BATCH * INGOT_SUM_LANES) {
    float u[BATCH], v[BATCH];
    ingot_take_strided<BATCH>(a, 0, i, end, true, u);
    ingot_take_strided<BATCH>(a, 1, i, end, true, v);
#pragma unroll
    for (int k = 0; k < BATCH; k++) { /* zeros at the end change no bit */
      double x = u[k], y = v[k];
      s00 += x * x;
      s11 += y * y;
      s01 += x * y;
    }
  }
  s00 = ingot_fold_lanes(s00);
  s11 = ingot_fold_lanes(s11);
  s01 = ingot_fold_lanes(s01);
  if (lane != 0) return;
  block[b * INGOT_SLERP_SUMS] = s00;
  block[b * INGOT_SLERP_SUMS + 1] = s11;
  block[b * INGOT_SLERP_SUMS + 2] = s01;
}

static size_t slerp_workspace_bytes(const ingot_method_tensor *t)
{
  (void)t;
  return static_cast<size_t>(INGOT_TILE_BLOCKS) * INGOT_SLERP_SUMS * sizeof(double);
}

static ingot_status slerp_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                               const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  (void)state, (void)plan, (void)sums;
  ingot_inputs<INGOT_SMALL_INPUTS> a;
  ingot_status                     st = INGOT_OK;
  int64_t                          n_block = ingot_block_count(c->n);
  double                          *block = static_cast<double *>(c->workspace);

  ingot_inputs_set(&a, t, c);
  dots_kernel<<<static_cast<unsigned>((n_block + INGOT_SUM_WARPS - 1) / INGOT_SUM_WARPS), INGOT_SUM_THREADS, 0,
                static_cast<cudaStream_t>(c->stream)>>>(a, block);
  INGOT_TRY(ingot_launch_status("the dot product kernel"));
  INGOT_TRY(ingot_add_block_sums(block, n_block, INGOT_SLERP_SUMS, static_cast<double *>(slot), c->stream));
done:
  return st;
}

const ingot_device_ops ingot_device_slerp = {ingot_slerp_next, slerp_scan, ingot_device_sum_apply,
                                             slerp_workspace_bytes, INGOT_SMALL_INPUTS};
