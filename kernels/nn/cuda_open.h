/** The CUDA back end's door, for nn.c: cuda.cu with CUDA, cuda_none.c without. */
#ifndef INGOT_KERNELS_NN_CUDA_OPEN_H
#define INGOT_KERNELS_NN_CUDA_OPEN_H

#include "kernels/nn/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  INGOT_NN_CUDA_SLOTS = 8,            /* copies of a batch's small arrays run ahead of the work that they wait for */
  INGOT_NN_CUDA_SLOT_BYTES = 4 << 20, /* page-locked */
};

/** INGOT_ERR_DEVICE: no such device, too old, or a build without CUDA; INGOT_ERR_NOMEM. */
ingot_status ingot_nn_cuda_open(const ingot_nn_options *options, ingot_nn **out);

/** The stream that a CUDA back end works on (a cudaStream_t), for other libraries; lent. */
void *ingot_nn_cuda_stream(ingot_nn *nn);

#ifdef __cplusplus
}
#endif
#endif
