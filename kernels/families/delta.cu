#include "kernels/families/delta.cuh"

#include "kernels/families/device_ops.h"

/* Models whose values stay in registers between vote and mean; with more, they are computed twice. */
enum { FEW_MODELS = 4, MORE_MODELS = 8 };

template <int CAPACITY> struct delta_args {
  ingot_inputs<CAPACITY> inputs;
  ingot_delta_model      model[CAPACITY];
  int                    n_model;
  bool                   plus_on_zero, divide;
  float                  divisor, lambda;
  void                  *out;
  ingot_dtype            out_dtype;
};

/* y of one model: weight * (scale * tau) where kept, else 0. i is the index in the chunk. */
template <int CAPACITY, bool BF16>
static __device__ __forceinline__ void values(const delta_args<CAPACITY> &a, int model, int64_t i,
                                              const ingot_raw_vector<BF16> &raw, const float base[INGOT_VECTOR],
                                              float y[INGOT_VECTOR], bool again = false)
{
  const ingot_delta_model &m = a.model[model];
  a.inputs.take(raw, 1 + model, i, y, again);
  float tau[INGOT_VECTOR];
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    tau[k] = y[k] - base[k];
    y[k] = m.weight * (m.scale * tau[k]);
  }
  ingot_delta_mask(m, a.inputs.first + i, tau, y);
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

/* With vote, at most MODELS models. */
template <int MODELS, bool BF16>
__global__ void __launch_bounds__(INGOT_THREADS) vote_kernel(const __grid_constant__ delta_args<INGOT_SMALL_INPUTS> a)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int                    count = ingot_vector_count(i, a.inputs.n);
    float                  base[INGOT_VECTOR], y[MODELS][INGOT_VECTOR];
    float                  total[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0};
    float                  acc[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0}, den[INGOT_VECTOR] = {0, 0, 0, 0, 0, 0, 0, 0};
    ingot_raw_vector<BF16> raw_base, raw[MODELS];
    raw_base.load(a.inputs.in[0], a.inputs.dtype_of(0), i, count);
#pragma unroll
    for (int m = 0; m < MODELS; m++) {
      if (m < a.n_model) raw[m].load(a.inputs.in[1 + m], a.inputs.dtype_of(1 + m), i, count);
    }
    a.inputs.take(raw_base, 0, i, base);
#pragma unroll
    for (int m = 0; m < MODELS; m++) {
      if (m >= a.n_model) break;
      values(a, m, i, raw[m], base, y[m]);
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) total[k] = total[k] + y[m][k];
    }
    uint32_t plus = elect(total, a.plus_on_zero);
#pragma unroll
    for (int m = 0; m < MODELS; m++) {
      if (m >= a.n_model) break;
      add_agreeing(plus, a.model[m].weight, y[m], acc, den);
    }
    if (a.divide) divide_by_weights(den, acc);
    finish(a, i, count, base, acc);
  }
}

/* With vote, any number of models: the values are computed twice. */
template <int CAPACITY>
__global__ void __launch_bounds__(INGOT_THREADS) vote_many_kernel(const __grid_constant__ delta_args<CAPACITY> a)
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

template <int CAPACITY>
static void args_set(delta_args<CAPACITY> *a, const ingot_method_tensor *t, const ingot_delta_state *s,
                     const ingot_device_chunk *c)
{
  ingot_inputs_set(&a->inputs, t, c);
  a->n_model = s->n_model;
  for (int i = 0; i < s->n_model; i++) a->model[i] = ingot_device_delta_model(&ingot_delta_models_const(s)[i]);
  a->plus_on_zero = s->zero_sign > 0;
  a->divide = s->divide != 0 && (s->vote != 0 || s->divisor != 1.0f);
  a->divisor = s->divisor;
  a->lambda = s->lambda;
  a->out = c->out;
  a->out_dtype = c->out_dtype;
}

template <int CAPACITY, bool BF16>
static ingot_status launch_sum(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c)
{
  delta_args<CAPACITY> a;
  args_set(&a, t, s, c);
  delta_kernel<CAPACITY, BF16>
      <<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the task vector kernel");
}

template <int MODELS, bool BF16>
static ingot_status launch_vote(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c)
{
  delta_args<INGOT_SMALL_INPUTS> a;
  args_set(&a, t, s, c);
  vote_kernel<MODELS, BF16>
      <<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the voting kernel");
}

static ingot_status launch_vote_many(const ingot_method_tensor *t, const ingot_delta_state *s,
                                     const ingot_device_chunk *c)
{
  delta_args<INGOT_LARGE_INPUTS> a;
  args_set(&a, t, s, c);
  vote_many_kernel<INGOT_LARGE_INPUTS>
      <<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the voting kernel for many models");
}

ingot_status ingot_device_delta_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  const ingot_delta_state *s = static_cast<const ingot_delta_state *>(state);
  bool                     bf16 = ingot_all_bf16(t, c);
  if (!s->vote) {
    if (t->n_input > INGOT_SMALL_INPUTS) return launch_sum<INGOT_LARGE_INPUTS, false>(t, s, c);
    return bf16 ? launch_sum<INGOT_SMALL_INPUTS, true>(t, s, c) : launch_sum<INGOT_SMALL_INPUTS, false>(t, s, c);
  }
  if (s->n_model <= FEW_MODELS) return bf16 ? launch_vote<FEW_MODELS, true>(t, s, c) : launch_vote<FEW_MODELS, false>(t, s, c);
  if (s->n_model <= MORE_MODELS && bf16) return launch_vote<MORE_MODELS, true>(t, s, c);
  return launch_vote_many(t, s, c);
}

const ingot_device_ops ingot_device_delta = {nullptr, nullptr, ingot_device_delta_apply, nullptr, INGOT_LARGE_INPUTS};
