/* The L1 summary of families/delta.h, and the GPU side of methods that need no other. */
#include "kernels/families/block_sums.cuh"
#include "kernels/families/delta.cuh"
#include "kernels/families/device_ops.h"

struct l1_args {
  ingot_inputs<INGOT_LARGE_INPUTS> inputs;
  ingot_delta_model                model[INGOT_LARGE_INPUTS];
  int                              n_model;
  double                          *block; /* [n_block][n_model][2] */
};

enum {
  ITERATIONS = 8
}; /* whose loads are in flight together; as many as elements share a counter,
      and a multiple of INGOT_SUM_FIRST */

/* Keep bits of eight elements that share a counter; the first is `flat`. */
static __device__ __forceinline__ uint32_t bits_of_counter(const ingot_delta_model &m, int64_t flat)
{
  uint32_t word[4], bits = 0;
  ingot_device_philox(ingot_philox_rounds_of(m.stream), static_cast<uint64_t>(flat) / 8, word);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    bits |= word[k] << 16 <= m.threshold ? 1u << 2 * k : 0u;
    bits |= word[k] <= m.threshold ? 2u << 2 * k : 0u;
  }
#pragma unroll
  for (int k = 0; k < 2; k++) {
    if (!ingot_needs_second(m, word[2 * k], word[2 * k + 1])) continue;
    bits &= ~(ingot_drawn_again(m.stream, m.keep_below, flat + 4 * k, word[2 * k], word[2 * k + 1]) << 4 * k);
  }
  return bits;
}

/*
 * Keep bits of eight iterations: bit s belongs to element `flat` + s * INGOT_SUM_LANES. Eight neighbouring lanes share
 * a counter in each iteration, so each computes one iteration's bits, and they exchange them.
 */
static __device__ __forceinline__ uint32_t random_bits(const ingot_delta_model &m, int64_t flat, int lane)
{
  int      eighth = lane % 8;
  uint32_t mine = bits_of_counter(m, flat - eighth + static_cast<int64_t>(eighth) * INGOT_SUM_LANES), kept = 0;
  mine <<= 8 * (eighth % 4);
  mine |= __shfl_xor_sync(0xffffffffu, mine, 1);
  mine |= __shfl_xor_sync(0xffffffffu, mine, 2);
  uint32_t other = __shfl_xor_sync(0xffffffffu, mine, 4);
  uint32_t low = eighth < 4 ? mine : other, high = eighth < 4 ? other : mine; /* iterations 0 .. 3, 4 .. 7 */
#pragma unroll
  for (int s = 0; s < 4; s++) {
    kept |= (low >> (8 * s + eighth) & 1u) << s;
    kept |= (high >> (8 * s + eighth) & 1u) << (s + 4);
  }
  return kept;
}

static __device__ __forceinline__ bool passes_cut(const ingot_delta_model &m, int64_t flat, float tau)
{
  uint32_t key = ingot_delta_key(tau);
  return key > m.threshold || (key == m.threshold && flat < m.cut);
}

__global__ void __launch_bounds__(INGOT_SUM_THREADS) l1_kernel(const __grid_constant__ l1_args a)
{
  int64_t                  b = static_cast<int64_t>(blockIdx.x) * INGOT_SUM_WARPS + threadIdx.x / INGOT_SUM_LANES;
  int                      lane = static_cast<int>(threadIdx.x) % INGOT_SUM_LANES, model = static_cast<int>(blockIdx.y);
  const ingot_delta_model &m = a.model[model];
  int64_t                  first = b * INGOT_BLOCK;
  if (first >= a.inputs.n) return; /* the whole warp */
  int64_t end = first + INGOT_BLOCK < a.inputs.n ? first + INGOT_BLOCK : a.inputs.n;
  double  all = 0, kept = 0;
  for (int64_t i = first + lane; i - lane < end; i += ITERATIONS * INGOT_SUM_LANES) {
    float    base[ITERATIONS], x[ITERATIONS];
    uint32_t random = 0;
    ingot_take_strided<ITERATIONS>(a.inputs, 0, i, end, model == 0, base);
    ingot_take_strided<ITERATIONS>(a.inputs, 1 + model, i, end, true, x);
    if (m.mask == INGOT_MASK_RANDOM) random = random_bits(m, a.inputs.first + i, lane);
#pragma unroll
    for (int s = 0; s < ITERATIONS; s += INGOT_SUM_FIRST) { /* zeros at the end change no bit */
      float first = 0, part = 0;
#pragma unroll
      for (int q = s; q < s + INGOT_SUM_FIRST; q++) {
        float tau = x[q] - base[q];
        bool  keep = m.mask == INGOT_MASK_RANDOM ? (random >> q & 1u) != 0
                                                 : passes_cut(m, a.inputs.first + i + q * INGOT_SUM_LANES, tau);
        first = first + fabsf(tau);
        part = part + (keep ? fabsf(tau) : 0.0f);
      }
      all += static_cast<double>(first);
      kept += static_cast<double>(part);
    }
  }
  all = ingot_fold_lanes(all);
  kept = ingot_fold_lanes(kept);
  if (lane != 0) return;
  bool    masked = m.mask != INGOT_MASK_ALL;
  double *out = a.block + (b * a.n_model + model) * 2;
  out[0] = masked ? all : 0.0;
  out[1] = masked ? kept : 0.0;
}

size_t ingot_device_delta_l1_workspace_bytes(const ingot_method_tensor *t)
{
  return static_cast<size_t>(INGOT_TILE_BLOCKS) * static_cast<size_t>(t->n_model) * 2 * sizeof(double);
}

ingot_status ingot_device_delta_l1_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                        const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  (void)plan, (void)sums;
  const ingot_delta_state *s = static_cast<const ingot_delta_state *>(state);
  ingot_status             st = INGOT_OK;
  int64_t                  n_block = ingot_block_count(c->n);
  l1_args                  a;

  ingot_inputs_set(&a.inputs, t, c);
  a.n_model = s->n_model;
  a.block = static_cast<double *>(c->workspace);
  for (int i = 0; i < s->n_model; i++) a.model[i] = ingot_device_delta_model(&ingot_delta_models_const(s)[i]);
  l1_kernel<<<dim3(static_cast<unsigned>((n_block + INGOT_SUM_WARPS - 1) / INGOT_SUM_WARPS),
                   static_cast<unsigned>(s->n_model)),
              INGOT_SUM_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  INGOT_TRY(ingot_launch_status("the L1 kernel"));
  INGOT_TRY(ingot_add_block_sums(a.block, n_block, 2 * s->n_model, static_cast<double *>(slot), c->stream));
done:
  return st;
}

const ingot_device_ops ingot_device_dare = {ingot_delta_l1_next, ingot_device_delta_l1_scan, ingot_device_delta_apply,
                                            ingot_device_delta_l1_workspace_bytes, INGOT_LARGE_INPUTS};
