/** Solving one layer with matrices in memory, for the tests of methods of MATRIX grain. */
#ifndef INGOT_TESTS_KERNELS_MATRIX_TEST_H
#define INGOT_TESTS_KERNELS_MATRIX_TEST_H

#include "kernels/matrix.h"

typedef struct matrix_test {
  const char         *method, *parameters;
  int                 n_model, n_out, n_in;
  const float        *base;    /* [n_out][n_in], or NULL */
  const float *const *weights; /* [n_model]: [n_out][n_in] */
  const float *const *grams;   /* [n_statistic]: packed */
  int                 n_statistic;
  ingot_linalg       *linalg; /* NULL: a CPU one for n_thread */
  int                 n_thread;
} matrix_test;

/** The status of the solve; out [n_out][n_in]. */
ingot_status matrix_try(const matrix_test *m, float *out, ingot_matrix_report *report);

/** Every case of tests/golden/matrix_reference.bin of the method, on a back end: NULL for the CPU with 1 and 3 threads,
 * which must give the same bytes. Fails the test. */
void matrix_check_cases(const char *method, ingot_linalg *linalg);

#endif
