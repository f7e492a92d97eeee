#include "kernels/linalg/linalg.h"

ingot_status ingot_linalg_open_cuda(int device, ingot_linalg **out)
{
  *out = NULL;
  return ingot_fail(INGOT_ERR_DEVICE, "GPU %d: this program was built without CUDA", device);
}
