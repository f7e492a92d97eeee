/** Runs a method's GPU side over tensors in host memory, as a lane does. For tests and benchmarks. */
#ifndef INGOT_TESTS_GPU_GPU_METHOD_H
#define INGOT_TESTS_GPU_GPU_METHOD_H

#include "kernels/method.h"
#include "tests/kernels/run_method.h"

/** How to run; the results do not depend on it. */
typedef struct gpu_setup {
  int64_t         chunk; /* elements of a chunk, a multiple of INGOT_BLOCK, at most INGOT_TILE */
  ingot_nonfinite nonfinite;
  uint64_t       *n_nonfinite; /* [n_input], set to what all tensors held; NULL: not counted */
} gpu_setup;

/** As run_method, on the device that the calling thread is bound to. Passes over the whole model run on the CPU. */
ingot_status gpu_method_run(const run_setup *r, const gpu_setup *g);

#endif
