#include "kernels/nn/nn.h"

#include "kernels/nn/cpu.h"
#include "kernels/nn/cuda_open.h"

ingot_status ingot_nn_open(const ingot_nn_options *options, ingot_nn **out)
{
  *out = NULL;
  return options->kind == INGOT_NN_CUDA ? ingot_nn_cuda_open(options, out) : ingot_nn_cpu_open(options, out);
}

void ingot_nn_close(ingot_nn **nn)
{
  if (*nn) (*nn)->ops->close(*nn);
  *nn = NULL;
}
