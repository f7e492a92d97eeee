/**
 * The mean of tensors weighted by their diagonal Fisher information, or without it by the models' weights.
 *
 * Order of the float64 operations on each element, for models i = 0 .. n - 1:
 *   f_i   = max(F_i, floor_i), or F_i + floor_i when `add` is 1
 *   total = total + (c_i * f_i);  sum = sum + (c_i * f_i) * x_i       both from 0
 *   out   = (float) (sum / total); where total is 0: (float) (sum of c_i x_i / sum of c_i)
 */
#ifndef INGOT_KERNELS_FAMILIES_FISHER_H
#define INGOT_KERNELS_FAMILIES_FISHER_H

#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_fisher_model {
  double plain; /* weight of the plain mean */
  double scale; /* c_i */
  double floor;
} ingot_fisher_model;

/** Plain memory: this header, then the models. */
typedef struct ingot_fisher_state {
  int32_t n_model;
  int32_t add;
  int32_t first;       /* index of the first model's input */
  int32_t has_fisher;  /* inputs first + n_model + i are F_i; 0: the plain mean alone */
  double  plain_total; /* sum of the models' `plain` */
} ingot_fisher_state;

static inline ingot_fisher_model *ingot_fisher_models(ingot_fisher_state *s)
{
  return (ingot_fisher_model *)(s + 1);
}

static inline const ingot_fisher_model *ingot_fisher_models_const(const ingot_fisher_state *s)
{
  return (const ingot_fisher_model *)(s + 1);
}

enum { INGOT_FISHER_MAX_ALL, INGOT_FISHER_MAX_FIRST, INGOT_FISHER_ADD };

size_t ingot_fisher_state_bytes(int n_model);
/** weights [n_model], at t->per_model[i * step]. rule: INGOT_FISHER_ constants. */
void ingot_fisher_begin(const ingot_method_tensor *t, int step, double floor, int rule, ingot_fisher_state *s);
/** ingot_method.apply of the family. */
void ingot_fisher_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out);
/** INGOT_ERR_JOB when all weights are 0. */
ingot_status ingot_fisher_check(const ingot_method_tensor *t, int step);

#ifdef __cplusplus
}
#endif
#endif
