/** Attention on CUDA: which heads it takes. */
#ifndef INGOT_KERNELS_NN_CUDA_ATTENTION_H
#define INGOT_KERNELS_NN_CUDA_ATTENTION_H

#include "kernels/nn/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * INGOT_OK when ingot_nn_cuda_attention takes heads of this size: multiples of 8 up to 256; else INGOT_ERR_DEVICE,
 * naming the size. BF16 up to 128 runs on tensor cores, BF16 above and F32 in float32 arithmetic, many times slower.
 * For planning: works without a GPU, and in a build without CUDA.
 */
ingot_status ingot_nn_cuda_attention_check(int head_dim);

#ifdef __cplusplus
}
#endif
#endif
