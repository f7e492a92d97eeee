#include "kernels/nn/cuda_attention.h"

enum { MAX_HEAD_DIM = 256 };

ingot_status ingot_nn_cuda_attention_check(int head_dim)
{
  if (head_dim >= 8 && head_dim % 8 == 0 && head_dim <= MAX_HEAD_DIM) return INGOT_OK;
  return ingot_fail(INGOT_ERR_DEVICE,
                    "attention on the GPU: heads of %d elements, and it takes multiples of 8 up to %d", head_dim,
                    MAX_HEAD_DIM);
}
