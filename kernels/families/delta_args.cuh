/** What the kernels of the task vector family are launched with. CUDA sources only. */
#ifndef INGOT_KERNELS_FAMILIES_DELTA_ARGS_CUH
#define INGOT_KERNELS_FAMILIES_DELTA_ARGS_CUH

#include "kernels/families/delta.cuh"

/* Models that delta_few.cu takes. */
enum { INGOT_DELTA_FEW = 4, INGOT_DELTA_FEW_VOTING = 8 };

template <int CAPACITY> struct delta_args {
  ingot_inputs<CAPACITY> inputs;
  ingot_delta_model      model[CAPACITY];
  int                    n_model;
  bool                   plus_on_zero, divide;
  float                  divisor, lambda;
  void                  *out;
  ingot_dtype            out_dtype;
};

template <int CAPACITY>
static void delta_args_set(delta_args<CAPACITY> *a, const ingot_method_tensor *t, const ingot_delta_state *s,
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

/** Whether delta_few.cu takes this step, and its apply. */
bool ingot_device_delta_is_few(const ingot_method_tensor *t, const ingot_delta_state *s, const ingot_device_chunk *c);
ingot_status ingot_device_delta_apply_few(const ingot_method_tensor *t, const ingot_delta_state *s,
                                          const ingot_device_chunk *c);

#endif
