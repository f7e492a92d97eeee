/** Column sums in a fixed order: partial rows first, then one pass over them. */
#ifndef INGOT_KERNELS_NN_CUDA_PARTIALS_CUH
#define INGOT_KERNELS_NN_CUDA_PARTIALS_CUH

#include "kernels/nn/cuda_nn.cuh"

/** sum [width] += the n_part rows of partial [n_part][width], a fixed order for these numbers. */
ingot_status ingot_nn_cuda_sum_partials(ingot_nn_cuda *nn, int64_t n_part, int64_t width, const float *partial,
                                        float *sum);

#endif
