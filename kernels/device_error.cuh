/** Status of a CUDA call, with the call's text, the error's name and the device in the message. CUDA sources only. */
#ifndef INGOT_KERNELS_DEVICE_ERROR_CUH
#define INGOT_KERNELS_DEVICE_ERROR_CUH

#include <cuda_runtime.h>

#include "base/status.h"

/** INGOT_OK, or INGOT_ERR_DEVICE with a message. Clears the runtime's last error. */
ingot_status ingot_cuda_status(cudaError_t error, const char *call);

/** Run a CUDA call; on failure go to `done` with `st` set. */
#define INGOT_TRY_CUDA(call) INGOT_TRY(ingot_cuda_status((call), #call))

#endif
