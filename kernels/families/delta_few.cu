/*
 * Task vectors of a few models, all in bfloat16: the common case, written for speed. Every thread merges eight
 * elements, four at a time, so that few registers are needed and many threads are in flight. With the number of models
 * and the kind of mask known to the compiler, the models' settings are operands from constant memory.
 */
#include "kernels/families/delta_args.cuh"

enum { HALF = INGOT_VECTOR / 2, MASK_MIXED = 100 };

/* Whether a kernel for MODELS models has model m. Up to INGOT_DELTA_FEW each number has its kernel, and nothing to
 * ask. */
template <int MODELS> static __device__ __forceinline__ bool has_model(int m, int n_model)
{
  return MODELS <= INGOT_DELTA_FEW || m < n_model;
}

/* With the keys of all rounds in constant memory, no thread has to add them up. */
struct few_args {
  delta_args<INGOT_SMALL_INPUTS> delta;
  ingot_philox_rounds            rounds[INGOT_DELTA_FEW_VOTING];
  int                            cut[INGOT_DELTA_FEW_VOTING];          /* CUT: within the chunk */
  float before[INGOT_DELTA_FEW_VOTING], after[INGOT_DELTA_FEW_VOTING]; /* CUT: magnitudes above this are kept there */
};

/* Widen four of eight. */
static __device__ __forceinline__ void widen_half(uint4 raw, int half, float v[HALF])
{
  uint32_t low = half == 0 ? raw.x : raw.z, high = half == 0 ? raw.y : raw.w;
  v[0] = ingot_f32_of_bits(low << 16);
  v[1] = ingot_f32_of_bits(low & 0xffff0000u);
  v[2] = ingot_f32_of_bits(high << 16);
  v[3] = ingot_f32_of_bits(high & 0xffff0000u);
}

/*
 * Magnitudes are compared as floats, in the order of their keys; a NaN is kept, as the largest. `at`: index in the
 * chunk of the first of the four. Before the cut those that equal the threshold are kept, too.
 */
static __device__ __forceinline__ void mask_cut(const few_args &a, int model, int at, float tau[HALF])
{
  int   below = a.cut[model] - at; /* so many of the four lie before the cut */
  float limit = below > 0 ? a.before[model] : a.after[model];
#pragma unroll
  for (int k = 0; k < HALF; k++) tau[k] = fabsf(tau[k]) <= limit ? 0.0f : tau[k];
  if (below > 0 && below < HALF) { /* one vector of a model */
#pragma unroll
    for (int k = 0; k < HALF; k++) tau[k] = k >= below && fabsf(tau[k]) == a.after[model] ? 0.0f : tau[k];
  }
}

/* y of four elements of one model. later: the random words of the second four, drawn with those of the first. */
template <int MASK>
static __device__ __forceinline__ void values(const few_args &a, int model, int64_t at, uint4 raw, int half,
                                              uint2 *later, const float base[HALF], float y[HALF])
{
  const ingot_delta_model &m = a.delta.model[model];
  int64_t                  flat = a.delta.inputs.first + at;
  widen_half(raw, half, y);
#pragma unroll
  for (int k = 0; k < HALF; k++) y[k] = y[k] - base[k];
  if (MASK == INGOT_MASK_RANDOM || (MASK == MASK_MIXED && m.mask == INGOT_MASK_RANDOM)) {
    uint2 now = *later;
    if (half == 0) {
      uint32_t word[4];
      ingot_device_philox(a.rounds[model], static_cast<uint64_t>(flat) / INGOT_VECTOR, word);
      now = make_uint2(word[0], word[1]);
      *later = make_uint2(word[2], word[3]);
    }
    ingot_mask_random(m, flat, now.x, now.y, y);
  }
  if (MASK == INGOT_MASK_CUT || (MASK == MASK_MIXED && m.mask == INGOT_MASK_CUT)) {
    mask_cut(a, model, static_cast<int>(at), y);
  }
#pragma unroll
  for (int k = 0; k < HALF; k++) y[k] = m.weight * (m.scale * y[k]);
}

/*
 * acc / den, IEEE. A zero would send the whole warp the long way round: acc is 0 only where no model agreed, and stays
 * +0 then, whatever it is divided by.
 */
static __device__ __forceinline__ float divide_by_weight(float acc, float den)
{
  float quotient = (acc == 0.0f ? 1.0f : acc) / (den == 0.0f ? 1.0f : den);
  return acc == 0.0f ? acc : quotient;
}

/* The sum, or the mean, of what agrees with the elected sign. y: [MODELS][HALF]. */
template <int MODELS, bool DIVIDE>
static __device__ __forceinline__ void add_agreeing(const delta_args<INGOT_SMALL_INPUTS> &a,
                                                    const float y[MODELS][HALF], const float sign[HALF],
                                                    float acc[HALF])
{
  float den[HALF] = {0, 0, 0, 0};
#pragma unroll
  for (int m = 0; m < MODELS; m++) {
    if (!has_model<MODELS>(m, a.n_model)) break;
#pragma unroll
    for (int k = 0; k < HALF; k++) {
      bool agrees = y[m][k] * sign[k] > 0.0f;
      acc[k] = agrees ? acc[k] + y[m][k] : acc[k];
      if constexpr (DIVIDE) den[k] = agrees ? den[k] + a.model[m].weight : den[k];
    }
  }
  if constexpr (DIVIDE) {
#pragma unroll
    for (int k = 0; k < HALF; k++) acc[k] = divide_by_weight(acc[k], den[k]);
  }
}

template <int MODELS>
static __device__ __forceinline__ void vote(const delta_args<INGOT_SMALL_INPUTS> &a, const float y[MODELS][HALF],
                                            float acc[HALF])
{
  float sign[HALF] = {0, 0, 0, 0}; /* the total, then +1 or -1 */
#pragma unroll
  for (int m = 0; m < MODELS; m++) {
    if (!has_model<MODELS>(m, a.n_model)) break;
#pragma unroll
    for (int k = 0; k < HALF; k++) sign[k] = sign[k] + y[m][k];
  }
#pragma unroll
  for (int k = 0; k < HALF; k++) sign[k] = sign[k] > 0.0f || (sign[k] == 0.0f && a.plus_on_zero) ? 1.0f : -1.0f;
  if (a.divide) add_agreeing<MODELS, true>(a, y, sign, acc);
  else add_agreeing<MODELS, false>(a, y, sign, acc);
}

template <int MODELS, bool VOTE, int MASK>
__global__ void __launch_bounds__(INGOT_THREADS, MODELS > INGOT_DELTA_FEW                   ? 2
                                                 : MASK == MASK_MIXED                       ? 3
                                                 : MASK == INGOT_MASK_RANDOM && MODELS == 4 ? 3
                                                                                            : 4)
    few_kernel(const __grid_constant__ few_args args)
{
  const delta_args<INGOT_SMALL_INPUTS> &a = args.delta;
  int64_t                               step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int   count = ingot_vector_count(i, a.inputs.n);
    uint4 raw_base = ingot_load_bf16(a.inputs.in[0], i, count), raw[MODELS];
    uint2 later[MODELS];
    float out[INGOT_VECTOR];
#pragma unroll
    for (int m = 0; m < MODELS; m++) {
      if (has_model<MODELS>(m, a.n_model)) raw[m] = ingot_load_bf16(a.inputs.in[1 + m], i, count);
    }
    raw_base = a.inputs.fixed_bf16(raw_base, 0, i);
#pragma unroll
    for (int m = 0; m < MODELS; m++) {
      if (has_model<MODELS>(m, a.n_model)) raw[m] = a.inputs.fixed_bf16(raw[m], 1 + m, i);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int64_t at = i + half * HALF;
      float   base[HALF], y[MODELS][HALF], acc[HALF] = {0, 0, 0, 0};
      widen_half(raw_base, half, base);
#pragma unroll
      for (int m = 0; m < MODELS; m++) {
        if (!has_model<MODELS>(m, a.n_model)) break;
        values<MASK>(args, m, at, raw[m], half, &later[m], base, y[m]);
        if constexpr (!VOTE) {
#pragma unroll
          for (int k = 0; k < HALF; k++) acc[k] = acc[k] + y[m][k];
        }
      }
      if constexpr (VOTE) {
        vote<MODELS>(a, y, acc);
      } else if (a.divide) {
#pragma unroll
        for (int k = 0; k < HALF; k++) acc[k] = acc[k] / a.divisor;
      }
#pragma unroll
      for (int k = 0; k < HALF; k++) out[half * HALF + k] = base[k] + a.lambda * acc[k];
    }
    ingot_store_any(a.out, a.out_dtype, i, count, out);
  }
}

template <int MODELS, bool VOTE, int MASK> static ingot_status launch(const few_args &a, cudaStream_t stream)
{
  few_kernel<MODELS, VOTE, MASK><<<ingot_vector_grid(a.delta.inputs.n), INGOT_THREADS, 0, stream>>>(a);
  return ingot_launch_status("the task vector kernel for few models");
}

template <bool VOTE, int MASK> static ingot_status launch_exact(const few_args &a, cudaStream_t stream)
{
  switch (a.delta.n_model) {
  case 1: return launch<1, VOTE, MASK>(a, stream);
  case 2: return launch<2, VOTE, MASK>(a, stream);
  case 3: return launch<3, VOTE, MASK>(a, stream);
  default: return launch<INGOT_DELTA_FEW, VOTE, MASK>(a, stream);
  }
}

/* The mask of all models, or MASK_MIXED. */
static int common_mask(const ingot_delta_state *s)
{
  const ingot_delta_model *m = ingot_delta_models_const(s);
  for (int i = 1; i < s->n_model; i++) {
    if (m[i].mask != m[0].mask) return MASK_MIXED;
  }
  return static_cast<int>(m[0].mask);
}

/* A threshold that is a NaN's key is left to the kernels that compare keys. */
static bool has_nan_threshold(const ingot_delta_state *s)
{
  for (int i = 0; i < s->n_model; i++) {
    const ingot_delta_model *m = &ingot_delta_models_const(s)[i];
    if (m->mask == INGOT_MASK_CUT && m->threshold >= INGOT_DELTA_KEY_MAX) return true;
  }
  return false;
}

bool ingot_device_delta_is_few(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c)
{
  return s->n_model <= (s->vote ? INGOT_DELTA_FEW_VOTING : INGOT_DELTA_FEW) && ingot_all_bf16(t, c) &&
         c->n <= INT32_MAX && !has_nan_threshold(s);
}

static void set_model(few_args *a, int i)
{
  const ingot_delta_model *m = &a->delta.model[i];
  a->rounds[i] = ingot_philox_rounds_of(m->stream);
  if (m->mask != INGOT_MASK_CUT) return;
  int64_t cut = m->cut - a->delta.inputs.first, n = a->delta.inputs.n;
  a->cut[i] = static_cast<int>(cut < 0 ? 0 : cut < n ? cut : n);
  a->before[i] = m->threshold > 0 ? ingot_f32_of_bits(m->threshold - 1) : -1.0f;
  a->after[i] = ingot_f32_of_bits(m->threshold);
}

ingot_status ingot_device_delta_apply_few(const ingot_method_tensor *t, const ingot_delta_state *s,
                                          const ingot_device_chunk *c)
{
  few_args     a;
  cudaStream_t stream = static_cast<cudaStream_t>(c->stream);
  int          mask = common_mask(s);

  delta_args_set(&a.delta, t, s, c);
  for (int i = 0; i < s->n_model; i++) set_model(&a, i);
  if (!s->vote) {
    if (mask == INGOT_MASK_ALL) return launch_exact<false, INGOT_MASK_ALL>(a, stream);
    if (mask == INGOT_MASK_RANDOM) return launch_exact<false, INGOT_MASK_RANDOM>(a, stream);
    return launch_exact<false, MASK_MIXED>(a, stream);
  }
  if (s->n_model > INGOT_DELTA_FEW) return launch<INGOT_DELTA_FEW_VOTING, true, MASK_MIXED>(a, stream);
  if (mask == INGOT_MASK_CUT) return launch_exact<true, INGOT_MASK_CUT>(a, stream);
  if (mask == INGOT_MASK_RANDOM) return launch_exact<true, INGOT_MASK_RANDOM>(a, stream);
  return launch_exact<true, MASK_MIXED>(a, stream);
}
