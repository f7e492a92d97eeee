/* The CUDA back end of a build without it. */
#include "kernels/nn/cuda_open.h"

#include <stddef.h>

ingot_status ingot_nn_cuda_open(const ingot_nn_options *options, ingot_nn **out)
{
  *out = NULL;
  return ingot_fail(INGOT_ERR_DEVICE, "GPU %d: this program was built without CUDA", options->device);
}

void *ingot_nn_cuda_stream(ingot_nn *nn)
{
  (void)nn;
  return NULL;
}
