/** For tests of the CPU back end on examples that were worked out elsewhere. */
#ifndef INGOT_TESTS_KERNELS_NN_WORKED_H
#define INGOT_TESTS_KERNELS_NN_WORKED_H

#include "tests/check.h"

#include <math.h>

#include "kernels/nn/nn.h"

/** Group setup and teardown: *state is a CPU back end of two threads. */
static inline int nn_worked_open(void **state)
{
  ingot_nn        *nn = NULL;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = 2, .dtype = INGOT_DTYPE_F32};
  ingot_status     st = ingot_nn_open(&options, &nn);
  *state = nn;
  return st != INGOT_OK;
}

static inline int nn_worked_close(void **state)
{
  ingot_nn *nn = *state;
  ingot_nn_close(&nn);
  return 0;
}

/** Each to `tolerance`; the infinite must be so. */
static inline void nn_worked_check(const char *what, const float *got, const double *expected, int n, double tolerance)
{
  for (int i = 0; i < n; i++) {
    const double g = (double)got[i];
    if (!(isinf(expected[i]) ? g == expected[i] : fabs(g - expected[i]) <= tolerance))
      fail_msg("%s[%d]: %.9g instead of %.9g", what, i, g, expected[i]);
  }
}

#endif
