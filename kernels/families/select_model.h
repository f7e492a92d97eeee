/**
 * Selection of the largest magnitudes of each task vector over the whole model, all merged tensors taken together, as
 * the authors of TIES do: an element is kept when its key is at least the model's threshold, so all equals are kept.
 *
 * Passes over all tensors: two exact histograms of the keys (their upper 16 bits, then the lower 15 of those that share
 * the upper ones), and one more that counts the signs of the kept, weighted sums when zero sums go with the majority.
 */
#ifndef INGOT_KERNELS_FAMILIES_SELECT_MODEL_H
#define INGOT_KERNELS_FAMILIES_SELECT_MODEL_H

#include "kernels/families/delta.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_SELECT_MODEL_HIGH = 1, INGOT_SELECT_MODEL_LOW = 2, INGOT_SELECT_MODEL_SIGNS = 3 };

/** Plain memory: this header, then ingot_delta_model model[n_model] (mask, threshold and cut), then working memory. */
typedef struct ingot_select_model_state {
  int32_t n_model;
  int32_t majority;  /* 0 or 1: find zero_sign by the third pass */
  int32_t zero_sign; /* +1 or -1 */
  int32_t n_select;  /* models with a threshold to find */
} ingot_select_model_state;

static inline ingot_delta_model *ingot_select_model_models(ingot_select_model_state *s)
{
  return (ingot_delta_model *)(s + 1);
}

static inline const ingot_delta_model *ingot_select_model_models_const(const ingot_select_model_state *s)
{
  return (const ingot_delta_model *)(s + 1);
}

size_t ingot_select_model_state_bytes(int n_model);
/** Start on zeroed memory: no model has a threshold to find, weights are 1. */
void ingot_select_model_begin(ingot_select_model_state *s, int n_model, bool majority);
/** Ask for the `keep` largest of a model, and all that equal the last of them; 1 .. length of the vector. */
void ingot_select_model_want(ingot_select_model_state *s, int model, int64_t keep);
/** The next pass after `result`, or the first one with NULL. */
void ingot_select_model_next(ingot_select_model_state *s, const ingot_scan_result *result, ingot_scan_plan *plan);
void ingot_select_model_scan(const ingot_select_model_state *s, const ingot_scan_plan *plan, const ingot_chunk *c,
                             int64_t *sums);

#ifdef __cplusplus
}
#endif
#endif
