/**
 * Methods of MATRIX grain: the whole of a linear layer's weights at once, with matrices of statistics, in float64.
 *
 * A worker gives a method the weights and statistics one after the other, on request, so that no more than the method
 * holds is in memory; the method works through kernels/linalg. One matrix at a time a rank.
 */
#ifndef INGOT_KERNELS_MATRIX_H
#define INGOT_KERNELS_MATRIX_H

#include "kernels/linalg/linalg.h"
#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where a method gets its inputs. Both may be called again for the same input. */
typedef struct ingot_matrix_feed {
  void *context;
  /** Input `input` of the tensor (base or model) as float32 [n_out][n_in], whichever way it is stored. */
  ingot_status (*weight)(void *context, int input, float *weight);
  /** Statistic k of the tensor (n_statistic of them) as a packed Gram matrix. */
  ingot_status (*gram)(void *context, int k, float *packed);
} ingot_matrix_feed;

/** What a solve has to tell. */
typedef struct ingot_matrix_report {
  double  ridge;       /* added to the diagonal, times its mean; 0: none */
  int64_t n_dead;      /* input features that no model has ever seen active */
  int64_t n_iteration; /* 0 for direct solves */
  double  residual;    /* relative, of an iteration */
  bool    unfinished;  /* the iteration ended at its cap, or met a matrix that is not positive */
} ingot_matrix_report;

typedef struct ingot_matrix_ops {
  /** Bytes that solve takes, on the host and on a GPU if it runs there (where it is the same matrices in float64). */
  uint64_t (*bytes)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in);
  /** Floating-point operations, for the choice of ranks. */
  double (*flops)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in);
  /** out [n_out][n_in]. INGOT_ERR_NUMERIC, INGOT_ERR_NOMEM, INGOT_ERR_DEVICE, or a failure of the feed. */
  ingot_status (*solve)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in, ingot_linalg *linalg,
                        const ingot_matrix_feed *feed, float *out, ingot_matrix_report *report);
} ingot_matrix_ops;

#ifdef __cplusplus
}
#endif
#endif
