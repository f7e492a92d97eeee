/** What dare_linear and dare_ties share: random masks and their rescaling. */
#ifndef INGOT_KERNELS_FAMILIES_DARE_H
#define INGOT_KERNELS_FAMILIES_DARE_H

#include "kernels/families/delta.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The parameter table of both; indices below. */
enum { INGOT_DARE_NORMALIZE, INGOT_DARE_LAMBDA, INGOT_DARE_RESCALE, INGOT_DARE_N_GLOBAL };
enum { INGOT_DARE_WEIGHT, INGOT_DARE_DENSITY, INGOT_DARE_N_PER_MODEL };
enum { INGOT_DARE_N_PARAM = INGOT_DARE_N_GLOBAL + INGOT_DARE_N_PER_MODEL };
extern const ingot_param_spec ingot_dare_params[INGOT_DARE_N_PARAM];

ingot_grain  ingot_dare_grain(const ingot_method_tensor *t);
double       ingot_dare_cost(const ingot_method_tensor *t);
ingot_status ingot_dare_check(const ingot_method_tensor *t);
size_t       ingot_dare_state_bytes(const ingot_method_tensor *t);
void         ingot_dare_begin(const ingot_method_tensor *t, bool vote, ingot_delta_state *s);

#ifdef __cplusplus
}
#endif
#endif
