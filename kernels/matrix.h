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

/** Where a method gets its inputs, and where its result goes. Inputs may be asked for again. */
typedef struct ingot_matrix_feed {
  void *context;
  /** Input `input` of the tensor (base or model) into `to` [n_out][n_in], whichever way it is stored. */
  ingot_status (*weight)(void *context, int input, ingot_linalg *l, ingot_linalg_array *to);
  /** Statistic k of the tensor (n_statistic of them), a Gram matrix, into `to` [width][width], both triangles; elements
   * beside the diagonal times alpha. */
  ingot_status (*gram)(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to);
  /** The result, in the order in which the tensor is stored. */
  ingot_linalg_taker result;
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
  /** Bytes of the matrices that solve holds: on the host, or on a GPU. There, the two inputs on their way come on top,
   * in their storage dtypes. */
  uint64_t (*bytes)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in);
  /** Floating-point operations, for the choice of ranks. */
  double (*flops)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in);
  /** INGOT_ERR_NUMERIC, INGOT_ERR_NOMEM, INGOT_ERR_DEVICE, or a failure of the feed; all but the feed's before the
   * result. */
  ingot_status (*solve)(const ingot_method_tensor *t, int64_t n_out, int64_t n_in, ingot_linalg *linalg,
                        const ingot_matrix_feed *feed, ingot_matrix_report *report);
} ingot_matrix_ops;

#ifdef __cplusplus
}
#endif
#endif
