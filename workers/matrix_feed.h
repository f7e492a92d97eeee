/** Reading for matrices: weights as [out, in], statistics as Gram matrices, whichever way they are stored. */
#ifndef INGOT_WORKERS_MATRIX_FEED_H
#define INGOT_WORKERS_MATRIX_FEED_H

#include "kernels/matrix.h"
#include "workers/merge.h"

/** The context of an ingot_matrix_feed begins with one of these. */
typedef struct ingot_matrix_reader {
  const ingot_merge_plan   *plan;
  const ingot_merge_tensor *tensor;
  int                       tensor_index;
  int64_t                   n_out, n_in;
  bool                     *counted;   /* [n_input]: bad values of this input have been counted */
  ingot_bad_report         *nonfinite; /* [n_source], added to */
  ingot_merge_timing       *timing;
} ingot_matrix_reader;

/** Feed functions. */
ingot_status ingot_matrix_read_weight(void *context, int input, ingot_linalg *l, ingot_linalg_array *to);
ingot_status ingot_matrix_read_gram(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to);

#endif
