#include "kernels/families/sum.h"

#include <math.h>

#include "kernels/families/device_ops.h"
#include "kernels/families/launch.cuh"
#include "kernels/families/sum_apply.cuh"

enum divide_kind { DIVIDE_NOT, DIVIDE_BY_PRODUCT, DIVIDE };

template <int CAPACITY> struct sum_args {
  ingot_inputs<CAPACITY> inputs;
  float                  coef[CAPACITY];
  int                    n_term;  /* inputs that are summed up */
  int                    divide;  /* divide_kind */
  float                  divisor; /* or its inverse */
  void                  *out;
  ingot_dtype            out_dtype;
};

template <int CAPACITY, bool BF16>
__global__ void __launch_bounds__(INGOT_THREADS) sum_kernel(const __grid_constant__ sum_args<CAPACITY> a)
{
  int64_t step = static_cast<int64_t>(gridDim.x) * INGOT_THREADS * INGOT_VECTOR;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * INGOT_THREADS + threadIdx.x) * INGOT_VECTOR;
  for (; i < a.inputs.n; i += step) {
    int   count = ingot_vector_count(i, a.inputs.n);
    float acc[INGOT_VECTOR];
    for (int group = 0; group < a.n_term; group += INGOT_GROUP) {
      ingot_raw_vector<BF16> raw[INGOT_GROUP];
#pragma unroll
      for (int g = 0; g < INGOT_GROUP; g++) {
        if (group + g < a.n_term) raw[g].load(a.inputs.in[group + g], a.inputs.dtype_of(group + g), i, count);
      }
#pragma unroll
      for (int g = 0; g < INGOT_GROUP; g++) {
        if (group + g >= a.n_term) break;
        float x[INGOT_VECTOR];
        float coef = a.coef[group + g];
        a.inputs.take(raw[g], group + g, i, x);
#pragma unroll
        for (int k = 0; k < INGOT_VECTOR; k++) {
          float term = coef * x[k];
          acc[k] = g == 0 && group == 0 ? term : acc[k] + term;
        }
      }
    }
    if (a.divide != DIVIDE_NOT) {
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) acc[k] = a.divide == DIVIDE ? acc[k] / a.divisor : acc[k] * a.divisor;
    }
    ingot_store_any(a.out, a.out_dtype, i, count, acc);
  }
}

/* Dividing by a power of two and multiplying by its inverse round the same number. */
static divide_kind divide_kind_of(float divisor, float *factor)
{
  int   exponent;
  float inverse = 1.0f / divisor;
  *factor = divisor;
  if (divisor == 1.0f) return DIVIDE_NOT;
  if (fabsf(frexpf(divisor, &exponent)) != 0.5f || !isnormal(inverse)) return DIVIDE;
  *factor = inverse;
  return DIVIDE_BY_PRODUCT;
}

template <int CAPACITY, bool BF16>
static ingot_status launch(const ingot_method_tensor *t, const ingot_sum_state *s, const ingot_device_chunk *c)
{
  sum_args<CAPACITY> a;
  ingot_inputs_set(&a.inputs, t, c);
  a.n_term = s->n_input;
  for (int i = 0; i < s->n_input; i++) a.coef[i] = ingot_sum_coef_const(s)[i];
  a.divide = s->divide ? divide_kind_of(s->divisor, &a.divisor) : DIVIDE_NOT;
  a.out = c->out;
  a.out_dtype = c->out_dtype;
  sum_kernel<CAPACITY, BF16><<<ingot_vector_grid(c->n), INGOT_THREADS, 0, static_cast<cudaStream_t>(c->stream)>>>(a);
  return ingot_launch_status("the sum kernel");
}

ingot_status ingot_device_sum_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  const ingot_sum_state *s = static_cast<const ingot_sum_state *>(state);
  if (t->n_input > INGOT_SMALL_INPUTS) return launch<INGOT_LARGE_INPUTS, false>(t, s, c);
  if (ingot_all_bf16(t, c)) return launch<INGOT_SMALL_INPUTS, true>(t, s, c);
  return launch<INGOT_SMALL_INPUTS, false>(t, s, c);
}

const ingot_device_ops ingot_device_sum = {nullptr, nullptr, ingot_device_sum_apply, nullptr, INGOT_LARGE_INPUTS};
