/**
 * OpenBLAS, loaded when it is first needed (kernels/library.h), and always of one thread: ingot's own threads each make
 * calls of their own. Linked as usual, it would start a thread for every core in every process, merges too, and each
 * would spin for 0.1 s before it sleeps.
 */
#ifndef INGOT_KERNELS_BLAS_H
#define INGOT_KERNELS_BLAS_H

#include <cblas.h>
#include <stddef.h>

#include "base/status.h"

/** The functions that ingot calls, by their names without "cblas_". They may be called by any thread. */
typedef struct ingot_blas {
  __typeof__(&cblas_sgemm) sgemm;
  __typeof__(&cblas_ssyrk) ssyrk;
  __typeof__(&cblas_dgemm) dgemm;
  __typeof__(&cblas_dsyrk) dsyrk;
  __typeof__(&cblas_dtrsm) dtrsm;
  /** LAPACK's, by Fortran's rules: everything by reference, and the length of `triangle` at the end. */
  void (*dpotrf)(const char *triangle, const blasint *n, double *a, const blasint *lda, blasint *info, size_t length);
} ingot_blas;

/**
 * Load the library, if it is not there yet, and set its number of threads, which is the process's, to 1. For main:
 * OPENBLAS_NUM_THREADS=1 in the environment before the first call keeps it from starting others at all.
 *
 * INGOT_ERR_DEVICE when there is no such library.
 */
ingot_status ingot_blas_load(ingot_blas *out);

#endif
