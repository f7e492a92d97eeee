/**
 * Merge cases with known answers, shared by the tests of the CPU and of the GPU path: worked examples from the papers
 * and from mergekit (a table in cases.c), and the numbers of tests/golden/merge_reference.py.
 *
 * To add a worked example, add a row to the table in cases.c; to add a computed one, add it to the script and run it.
 */
#ifndef INGOT_TESTS_KERNELS_CASES_H
#define INGOT_TESTS_KERNELS_CASES_H

#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct merge_case_tensor {
  char         name[33];
  ingot_shape  shape;
  int64_t      n_elem;
  void       **in;       /* [n_input]; owned */
  ingot_dtype *in_dtype; /* [n_input]; owned */
  ingot_dtype  out_dtype;
  double      *expected; /* [n_elem]; owned */
} merge_case_tensor;

typedef struct merge_case {
  char               name[65];
  char               method[33];
  char               parameters[161]; /* for run_parameters */
  uint64_t           seed;
  double             absolute, relative; /* |got - expected| <= absolute + relative * |expected| */
  bool               has_base;
  int                n_model;
  int                n_statistic; /* inputs after the models */
  int                n_tensor;
  merge_case_tensor *tensors; /* owned */
} merge_case;

typedef struct merge_cases {
  merge_case *item;
  int         count;
} merge_cases;

/** All cases of a method, or of all methods with NULL. Aborts on a broken reference file. */
void merge_cases_load(const char *method, merge_cases *cases);
void merge_cases_release(merge_cases *cases);

/** Room for the case's outputs: out[i] holds tensor i; free with merge_case_free_outputs. */
void **merge_case_alloc_outputs(const merge_case *c);
void   merge_case_free_outputs(const merge_case *c, void **out);
/** True when out is as expected; else a line in `message` says where and how far off the first difference is. */
bool merge_case_compare(const merge_case *c, void *const *out, char message[256]);

#ifdef __cplusplus
}
#endif
#endif
