#include "kernels/nn/nn.h"

#include "kernels/nn/cpu.h"
#include "kernels/nn/cuda_open.h"

ingot_status ingot_nn_open(const ingot_nn_options *options, ingot_nn **out)
{
  *out = NULL;
  return options->kind == INGOT_NN_CUDA ? ingot_nn_cuda_open(options, out) : ingot_nn_cpu_open(options, out);
}

uint64_t ingot_nn_host_bytes(ingot_nn_kind kind)
{
  return kind == INGOT_NN_CUDA ? (uint64_t)INGOT_NN_CUDA_SLOTS * INGOT_NN_CUDA_SLOT_BYTES : 0;
}

void ingot_nn_close(ingot_nn **nn)
{
  if (*nn) (*nn)->ops->close(*nn);
  *nn = NULL;
}
