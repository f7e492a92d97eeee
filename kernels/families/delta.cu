#include "kernels/families/delta_args.cuh"

#include "kernels/families/device_ops.h"

/* y of one model: weight * (scale * tau), tau 0 where it is dropped. i is the index in the chunk. */
template <int CAPACITY, bool BF16>
static __device__ __forceinline__ void values(const delta_args<CAPACITY> &a, int model, int64_t i,
                                              const ingot_raw_vector<BF16> &raw, const float base[INGOT_VECTOR],
                                              float y[INGOT_VECTOR], bool again = false)
{
  const ingot_delta_model &m = a.model[model];
  a.inputs.take(raw, 1 + model, i, y, again);
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) y[k] = y[k] - base[k];
  ingot_delta_mask(m, a.inputs.first + i, y);
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) y[k] = m.weight * (m.scale * y[k]);
}

template <int CAPACITY>
static __device__ __forceinline__ void finish(const delta_args<CAPACITY> &a, int64_t i, int count,
                                              const float base[INGOT_VECTOR], float acc[INGOT_VECTOR])
{
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) acc[k] = base[k] + a.lambda * acc[k];
  ingot_store_any(a.out, a.out_dtype, i, count, acc);
}

/* Without vote: the values are added up as they come, INGOT_GROUP inputs in flight. */
template <int CAPACITY, bool BF16>
__global__ void __launch_bounds__(INGOT_THREADS) delta_kernel(const __grid_constant__ delta_args<CAPACITY> a)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int                    count = ingot_vector_count(i, a.inputs.n);
    float                  base[INGOT_VECTOR], acc[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0};
    ingot_raw_vector<BF16> raw_base;
    raw_base.load(a.inputs.in[0], a.inputs.dtype_of(0), i, count);
    for (int group = 0; group < a.n_model; group += INGOT_GROUP) {
      ingot_raw_vector<BF16> raw[INGOT_GROUP];
#pragma unroll
      for (int g = 0; g < INGOT_GROUP; g++) {
        int input = 1 + group + g;
        if (group + g < a.n_model) raw[g].load(a.inputs.in[input], a.inputs.dtype_of(input), i, count);
      }
      if (group == 0) a.inputs.take(raw_base, 0, i, base);
#pragma unroll
      for (int g = 0; g < INGOT_GROUP; g++) {
        if (group + g >= a.n_model) break;
        float y[INGOT_VECTOR];
        values(a, group + g, i, raw[g], base, y);
#pragma unroll
        for (int k = 0; k < INGOT_VECTOR; k++) acc[k] = acc[k] + y[k];
      }
    }
    if (a.divide) {
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) acc[k] = acc[k] / a.divisor;
    }
    finish(a, i, count, base, acc);
  }
}

/* Elected +: as bits. */
static __device__ __forceinline__ uint32_t elect(const float total[INGOT_VECTOR], bool plus_on_zero)
{
  uint32_t plus = 0;
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    plus |= total[k] > 0.0f || (total[k] == 0.0f && plus_on_zero) ? 1u << k : 0u;
  }
  return plus;
}

static __device__ __forceinline__ void add_agreeing(uint32_t plus, float weight, const float y[INGOT_VECTOR],
                                                    float acc[INGOT_VECTOR], float den[INGOT_VECTOR])
{
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    bool agrees = (plus >> k & 1u) != 0 ? y[k] > 0.0f : y[k] < 0.0f;
    acc[k] = agrees ? acc[k] + y[k] : acc[k];
    den[k] = agrees ? den[k] + weight : den[k];
  }
}

static __device__ __forceinline__ void divide_by_weights(const float den[INGOT_VECTOR], float acc[INGOT_VECTOR])
{
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) acc[k] = acc[k] / (den[k] == 0.0f ? 1.0f : den[k]);
}

/* With vote: the values are computed twice, since there is no room to keep those of any number of models. */
template <int CAPACITY>
__global__ void __launch_bounds__(INGOT_THREADS) vote_kernel(const __grid_constant__ delta_args<CAPACITY> a)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int                     count = ingot_vector_count(i, a.inputs.n);
    float                   base[INGOT_VECTOR], y[INGOT_VECTOR];
    float                   total[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0};
    float                   acc[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0}, den[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0};
    ingot_raw_vector<false> raw;
    raw.load(a.inputs.in[0], a.inputs.dtype_of(0), i, count);
    a.inputs.take(raw, 0, i, base);
    for (int m = 0; m < a.n_model; m++) {
      raw.load(a.inputs.in[1 + m], a.inputs.dtype_of(1 + m), i, count);
      values(a, m, i, raw, base, y);
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) total[k] = total[k] + y[k];
    }
    uint32_t plus = elect(total, a.plus_on_zero);
    for (int m = 0; m < a.n_model; m++) {
      raw.load(a.inputs.in[1 + m], a.inputs.dtype_of(1 + m), i, count);
      values(a, m, i, raw, base, y, true);
      add_agreeing(plus, a.model[m].weight, y, acc, den);
    }
    if (a.divide) divide_by_weights(den, acc);
    finish(a, i, count, base, acc);
  }
}

template <int CAPACITY, bool BF16>
static ingot_status launch_sum(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c)
{
  delta_args<CAPACITY> a;
  delta_args_set(&a, t, s, c);
  delta_kernel<CAPACITY, BF16><<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the task vector kernel");
}

template <int CAPACITY>
static ingot_status launch_vote(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c)
{
  delta_args<CAPACITY> a;
  delta_args_set(&a, t, s, c);
  vote_kernel<CAPACITY><<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the voting kernel");
}

ingot_status ingot_device_delta_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  const ingot_delta_state *s = static_cast<const ingot_delta_state *>(state);
  bool                     small = t->n_input <= INGOT_SMALL_INPUTS;
  if (ingot_device_delta_is_few(t, s, c)) return ingot_device_delta_apply_few(t, s, c);
  if (s->vote) return small ? launch_vote<INGOT_SMALL_INPUTS>(t, s, c) : launch_vote<INGOT_LARGE_INPUTS>(t, s, c);
  if (!small) return launch_sum<INGOT_LARGE_INPUTS, false>(t, s, c);
  return ingot_all_bf16(t, c) ? launch_sum<INGOT_SMALL_INPUTS, true>(t, s, c)
                              : launch_sum<INGOT_SMALL_INPUTS, false>(t, s, c);
}

const ingot_device_ops ingot_device_delta = {nullptr, nullptr, ingot_device_delta_apply, nullptr, INGOT_LARGE_INPUTS};
