/**
 * What the merges with Gram matrices share: models one after the other into float64 matrices, their mean, and the
 * weighted mean of the tensors that have no matrix, which is families/sum.h.
 */
#ifndef INGOT_KERNELS_FAMILIES_GRAM_H
#define INGOT_KERNELS_FAMILIES_GRAM_H

#include "kernels/matrix.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The state of the mean: families/sum.h over all inputs, a base with the coefficient 0. Weights at per_model[i *
 * step]. */
size_t ingot_gram_mean_state_bytes(const ingot_method_tensor *t);
void   ingot_gram_mean_begin(const ingot_method_tensor *t, int step, void *state);

/** One layer being solved: n_out x n_in weights. All arrays are the back end's. */
typedef struct ingot_gram_job {
  const ingot_method_tensor *t;
  int                        step; /* of the weights in t->per_model */
  int64_t                    m, n; /* n_out, n_in */
  ingot_linalg              *l;
  const ingot_matrix_feed   *feed;
  double                     alpha; /* factor of off-diagonal elements */
} ingot_gram_job;

/** Weight of a model. */
double ingot_gram_weight(const ingot_gram_job *j, int model);
/** Statistic k into a full matrix. */
ingot_status ingot_gram_load(const ingot_gram_job *j, int k, ingot_linalg_array *to);
/** A model's weights into w [m][n]. */
ingot_status ingot_gram_load_weight(const ingot_gram_job *j, int input, ingot_linalg_array *w);
/** x [m][n] is the result. */
ingot_status ingot_gram_give(const ingot_gram_job *j, const ingot_linalg_array *x);
/** s [n][n] = sum of c_i G_i and r [m][n] = sum of c_i W_i G_i; g [n][n] and w [m][n] are room. s, r zero on entry. */
ingot_status ingot_gram_sums(const ingot_gram_job *j, ingot_linalg_array *g, ingot_linalg_array *w,
                             ingot_linalg_array *s, ingot_linalg_array *r);
/** mean [m][n] = sum of c_i W_i / sum of c_i; w is room. */
ingot_status ingot_gram_mean(const ingot_gram_job *j, ingot_linalg_array *w, ingot_linalg_array *mean);

#ifdef __cplusplus
}
#endif
#endif
