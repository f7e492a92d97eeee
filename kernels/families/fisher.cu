#include "kernels/families/fisher.h"

#include "kernels/count_bad.h"
#include "kernels/families/device_ops.h"
#include "kernels/families/launch.cuh"
#include "kernels/families/sum.h"
#include "kernels/families/sum_apply.cuh"

template <int CAPACITY> struct fisher_args {
  ingot_inputs<CAPACITY> inputs;
  ingot_fisher_model     models[CAPACITY];
  ingot_fisher_state     state;
  void                  *out;
  ingot_dtype            out_dtype;
};

enum { PAIRS = 2 }; /* models whose weights and Fisher information are loaded together */

/** Counts bad values of inputs that the mean has no use for: a base. */
template <int CAPACITY>
static __device__ __forceinline__ void look_at_unused(const fisher_args<CAPACITY> &a, int64_t i, int count)
{
  if (a.inputs.finite.count == nullptr) return;
  for (int input = 0; input < a.state.first; input++) {
    ingot_raw_vector<false> raw;
    float                   x[INGOT_VECTOR];
    raw.load(a.inputs.in[input], a.inputs.dtype_of(input), i, count);
    a.inputs.take(raw, input, i, x);
  }
}

/** sum of c_i x_i / sum of c_i for eight elements. `again`: their bad values were counted before. */
template <int CAPACITY>
static __device__ __forceinline__ void plain_mean(const fisher_args<CAPACITY> &a, int64_t i, int count, bool again,
                                                  double mean[INGOT_VECTOR])
{
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) mean[k] = 0;
  for (int m = 0; m < a.state.n_model; m++) {
    ingot_raw_vector<false> raw;
    float                   x[INGOT_VECTOR];
    int                     input = a.state.first + m;
    raw.load(a.inputs.in[input], a.inputs.dtype_of(input), i, count);
    a.inputs.take(raw, input, i, x, again);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) mean[k] = mean[k] + a.models[m].plain * static_cast<double>(x[k]);
  }
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) mean[k] = mean[k] / a.state.plain_total;
}

/** Adds model m's eight elements x, with their Fisher information f. */
template <int CAPACITY>
static __device__ __forceinline__ void add_weighted(const fisher_args<CAPACITY> &a, int m, const float x[INGOT_VECTOR],
                                                    const float f[INGOT_VECTOR], double total[INGOT_VECTOR],
                                                    double sum[INGOT_VECTOR])
{
  double scale = a.models[m].scale, floor = a.models[m].floor;
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    double fisher = static_cast<double>(f[k]);
    double raised = a.state.add ? fisher + floor : (fisher < floor ? floor : fisher); /* NaN stays */
    double w = scale * raised;
    total[k] = total[k] + w;
    sum[k] = sum[k] + w * static_cast<double>(x[k]);
  }
}

/* USUAL: bfloat16 weights and float32 statistics; then no branch on a dtype stands between a thread's loads. */
template <int CAPACITY, bool USUAL>
static __device__ __forceinline__ void weighted_mean(const fisher_args<CAPACITY> &a, int64_t i, int count,
                                                     float out[INGOT_VECTOR])
{
  int    n_model = a.state.n_model, first = a.state.first;
  bool   vanishes = false;
  double total[INGOT_VECTOR], sum[INGOT_VECTOR];
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) total[k] = sum[k] = 0;
  for (int begin = 0; begin < n_model; begin += PAIRS) {
    ingot_raw_vector<USUAL> weight[PAIRS];
    ingot_raw_vector<false> fisher[PAIRS];
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
      int w = first + begin + p, f = w + n_model;
      if (begin + p >= n_model) continue;
      weight[p].load(a.inputs.in[w], a.inputs.dtype_of(w), i, count);
      fisher[p].load(a.inputs.in[f], USUAL ? INGOT_DTYPE_F32 : a.inputs.dtype_of(f), i, count);
    }
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
      float x[INGOT_VECTOR], f[INGOT_VECTOR];
      if (begin + p >= n_model) continue;
      a.inputs.take(weight[p], first + begin + p, i, x);
      a.inputs.take(fisher[p], first + n_model + begin + p, i, f);
      add_weighted(a, begin + p, x, f, total, sum);
    }
  }
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    out[k] = static_cast<float>(sum[k] / total[k]);
    vanishes |= total[k] == 0;
  }
  if (!vanishes) return;
  double plain[INGOT_VECTOR];
  plain_mean(a, i, count, true, plain);
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    if (total[k] == 0) out[k] = static_cast<float>(plain[k]);
  }
}

template <int CAPACITY, bool USUAL>
__global__ void __launch_bounds__(INGOT_THREADS) fisher_kernel(const __grid_constant__ fisher_args<CAPACITY> a)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int   count = ingot_vector_count(i, a.inputs.n);
    float out[INGOT_VECTOR];
    look_at_unused(a, i, count);
    if (a.state.has_fisher) {
      weighted_mean<CAPACITY, USUAL>(a, i, count, out);
    } else {
      double mean[INGOT_VECTOR];
      plain_mean(a, i, count, false, mean);
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) out[k] = static_cast<float>(mean[k]);
    }
    ingot_store_any(a.out, a.out_dtype, i, count, out);
  }
}

template <int CAPACITY, bool USUAL>
static ingot_status launch(const ingot_method_tensor *t, const ingot_fisher_state *s, const ingot_device_chunk *c)
{
  fisher_args<CAPACITY> a;
  ingot_inputs_set(&a.inputs, t, c);
  for (int i = 0; i < s->n_model; i++) a.models[i] = ingot_fisher_models_const(s)[i];
  a.state = *s;
  a.out = c->out;
  a.out_dtype = c->out_dtype;
  fisher_kernel<CAPACITY, USUAL>
      <<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the Fisher kernel");
}

static bool has_usual_dtypes(const ingot_fisher_state *s, const ingot_device_chunk *c)
{
  for (int i = s->first; i < s->first + s->n_model; i++) {
    if (c->in_dtype[i] != INGOT_DTYPE_BF16 || c->in_dtype[s->n_model + i] != INGOT_DTYPE_F32) return false;
  }
  return true;
}

static ingot_status fisher_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  const ingot_fisher_state *s = static_cast<const ingot_fisher_state *>(state);
  if (t->n_input > INGOT_SMALL_INPUTS) return launch<INGOT_LARGE_INPUTS, false>(t, s, c);
  if (s->has_fisher && has_usual_dtypes(s, c)) return launch<INGOT_SMALL_INPUTS, true>(t, s, c);
  return launch<INGOT_SMALL_INPUTS, false>(t, s, c);
}

static ingot_status mats_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  if (t->n_statistic > 0) return fisher_apply(t, state, c);
  ingot_status st = ingot_device_sum_apply(t, state, c);
  /* Where the base is kept, the models are looked at all the same. */
  int used = static_cast<const ingot_sum_state *>(state)->n_input;
  for (int i = used; i < t->n_input && c->n_nonfinite != nullptr && st == INGOT_OK; i++) {
    st = ingot_device_count_nonfinite(c->in_dtype[i], c->in[i], c->n, c->n_nonfinite + i, c->stream);
  }
  return st;
}

const ingot_device_ops ingot_device_fisher = {nullptr, nullptr, fisher_apply, nullptr, INGOT_LARGE_INPUTS};
const ingot_device_ops ingot_device_mats = {nullptr, nullptr, mats_apply, nullptr, INGOT_LARGE_INPUTS};
