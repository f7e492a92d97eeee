/** Runs a method over a small model in memory, in passes, tiles and chunks as a CPU lane does. For tests and
 * benchmarks. */
#ifndef INGOT_TESTS_KERNELS_RUN_METHOD_H
#define INGOT_TESTS_KERNELS_RUN_METHOD_H

#include "kernels/method.h"

#ifdef __cplusplus
extern "C" {
#endif

/** One tensor of the model. All pointers are borrowed. */
typedef struct run_tensor {
  const char        *name;
  ingot_shape        shape;
  const void *const *in;       /* [n_input] in storage dtypes */
  const ingot_dtype *in_dtype; /* [n_input] */
  void              *out;      /* [n_elem] */
  ingot_dtype        out_dtype;
} run_tensor;

typedef struct run_setup {
  const ingot_method *method;
  const run_tensor   *tensors; /* [n_tensor], in file order */
  int                 n_tensor;
  int                 n_model;
  bool                has_base;
  int                 n_statistic; /* inputs after the models */
  const double       *global;      /* as ingot_method_tensor has them */
  const double       *per_model;
  uint64_t            seed;
  bool                backwards; /* take tiles last to first: results must not change */
} run_setup;

/** What it took. */
typedef struct run_report {
  int     n_pass;      /* over tensors, together */
  int     n_full_pass; /* of these, not sampled and not of chosen tiles */
  int64_t elements_scanned;
  size_t  max_slot_bytes; /* largest memory of all slots of one pass */
} run_report;

/** View of tensor i, as the worker would make it; `model_state` may be NULL. */
ingot_method_tensor run_view(const run_setup *r, int i, const void *model_state);
/** The finished whole-model state of a method of MODEL grain, NULL for others; free it. report is added to. */
ingot_status run_model_passes(const run_setup *r, run_report *report, void **model_state);
/** Run check, passes and apply; report may be NULL. */
ingot_status run_method(const run_setup *r, run_report *report);

/**
 * Parameters from text such as "normalize=false scope=model weight@0=1 weight@1=0.5", on top of the defaults;
 * "weight=1" sets all models. Arrays hold the method's parameters. INGOT_ERR_JOB as the job file would get.
 */
ingot_status run_parameters(const ingot_method *m, int n_model, const char *text, double *global, double *per_model);

#ifdef __cplusplus
}
#endif
#endif
