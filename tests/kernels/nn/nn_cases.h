/**
 * Cases for the operators of kernels/nn/nn.h, to be run on any back end: each runs one operator, or an operator and its
 * backward pass, on inputs that are made from a hash, and gives back what came out.
 *
 * Inputs are whole multiples of 2^-7 (times a power of two) of at most 8 significant bits, so bfloat16 and float32 back
 * ends get the same numbers. Room for outputs is filled with NaN first, and rows are longer than their width wherever
 * the operator allows it. reference.bin holds what float64 arithmetic gives for every case (make_reference.py, which
 * names the same cases with the same numbers).
 *
 * To add a case: a row in nn_cases.c, a line in make_reference.py, and run that script.
 */
#ifndef INGOT_TESTS_KERNELS_NN_CASES_H
#define INGOT_TESTS_KERNELS_NN_CASES_H

#include "kernels/nn/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NN_CASE_OUTPUTS = 8 };

typedef struct nn_output {
  char    name[24];
  int64_t n;
  float  *values; /* owned */
} nn_output;

typedef struct nn_outputs {
  int       count;
  nn_output item[NN_CASE_OUTPUTS];
} nn_outputs;

typedef struct nn_run nn_run;

typedef struct nn_case {
  const char *name;
  void (*run)(nn_run *run, const int64_t *shape);
  int64_t shape[8];
  bool    any_stride; /* row distances that only the CPU promises to take */
} nn_case;

extern const nn_case nn_cases[];
extern const int     nn_case_count;

/** Run a case; *out is cleared first and is to be released. Aborts on a failing operator or without memory. */
void nn_case_run(const nn_case *c, ingot_nn *nn, nn_outputs *out);
void nn_outputs_release(nn_outputs *out);

/** The float64 results of a case, from reference.bin; false when it has none. */
bool nn_case_reference(const nn_case *c, nn_outputs *out);

/**
 * The largest difference, over all outputs, relative to the output's largest expected magnitude; INFINITY when counts,
 * names or places of NaN and infinity differ. `worst` (may be NULL) gets the name of the output. Integers (labels, ids)
 * are outputs too: a different one is a large difference.
 */
double nn_outputs_difference(const nn_outputs *got, const nn_outputs *expected, const char **worst);

/** The hash that inputs come from: element i of stream `seed`, in [-1, 1). */
float nn_case_value(uint32_t seed, int64_t i);

#ifdef __cplusplus
}
#endif
#endif
