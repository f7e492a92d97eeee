/** Attention on CUDA: which shapes it takes, and the scratch memory of its backward pass. */
#ifndef INGOT_KERNELS_NN_CUDA_ATTENTION_H
#define INGOT_KERNELS_NN_CUDA_ATTENTION_H

#include "kernels/nn/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * INGOT_OK when ingot_nn_cuda_attention takes heads of this size: multiples of 8 up to 256; else INGOT_ERR_DEVICE,
 * naming the size. BF16 up to 128 runs on tensor cores, BF16 above and F32 in float32 arithmetic, many times slower.
 * May be called without a GPU: it is for planning.
 */
ingot_status ingot_nn_cuda_attention_check(int head_dim);

#ifdef __cplusplus
}
#endif
#endif
