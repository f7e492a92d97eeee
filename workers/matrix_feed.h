/** Reading for matrices: weights as [out, in], statistics as packed Gram matrices, whichever way they are stored. */
#ifndef INGOT_WORKERS_MATRIX_FEED_H
#define INGOT_WORKERS_MATRIX_FEED_H

#include "kernels/matrix.h"
#include "workers/merge.h"

/** The context of an ingot_matrix_feed. */
typedef struct ingot_matrix_reader {
  const ingot_merge_plan   *plan;
  const ingot_merge_tensor *tensor;
  int                       tensor_index;
  int64_t                   n_out, n_in;
  char                     *raw;   /* [INGOT_MATRIX_RAW_BYTES] */
  float                    *wide;  /* [INGOT_TILE] */
  bool                     *counted; /* [n_input]: bad values of this input have been counted */
  ingot_nonfinite_report   *nonfinite; /* [n_source], added to */
  ingot_merge_timing       *timing;
} ingot_matrix_reader;

enum { INGOT_MATRIX_RAW_BYTES = INGOT_TILE * 8 };

/** Feed functions; context is an ingot_matrix_reader. */
ingot_status ingot_matrix_read_weight(void *context, int input, float *weight);
ingot_status ingot_matrix_read_gram(void *context, int k, float *packed);

#endif
