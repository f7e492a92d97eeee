/** One operator on two back ends: the same inputs on the CPU and on the GPU, and the outputs compared. */
#ifndef INGOT_TESTS_GPU_NN_PAIR_H
#define INGOT_TESTS_GPU_NN_PAIR_H

#include "kernels/nn/nn.h"

enum { NN_MAX_ARRAY = 10 };

typedef enum nn_array_kind {
  NN_ACT, /* nn->dtype; rounded to it on both sides */
  NN_F32,
  NN_F64,
  NN_I32,
} nn_array_kind;

/** An array of an operator. Values are given, and compared, as float64. */
typedef struct nn_array {
  nn_array_kind kind;
  int64_t       n;
  double       *value;     /* [n] before the call; owned */
  double        tolerance; /* of an output, in units of its largest value; 0: an input. Integers: must be equal */
} nn_array;

typedef struct nn_pair {
  ingot_nn *cpu, *gpu;
  double    exact;   /* tolerance of float32 outputs */
  double    rounded; /* tolerance of outputs in nn->dtype */
} nn_pair;

/** An operator: p[i] is array i in the back end's memory. */
typedef ingot_status (*nn_call)(ingot_nn *nn, void **p, const void *context);

/** Open both back ends; the GPU with this dtype, without TF32. */
void nn_pair_open(nn_pair *pair, ingot_dtype dtype);
void nn_pair_close(nn_pair *pair);

/** An array of random values in [-scale, scale], or, when scale is 0, of 7: a value to recognise what was not
 * written. */
nn_array nn_random(nn_array_kind kind, int64_t n, double scale, double tolerance);
/** An array of integers from 0 to limit - 1. */
nn_array nn_random_index(int64_t n, int64_t limit);

/**
 * Run on both, the GPU twice: outputs must agree, and those of the GPU have the same bits. Arrays are freed. `what`
 * begins the message of a failure. gpu_out, when not NULL, gets the GPU's values of array 0, malloc'ed.
 */
void nn_pair_run(const nn_pair *pair, const char *what, int n_array, nn_array *array, nn_call call, const void *context,
                 double **gpu_out);

#endif
