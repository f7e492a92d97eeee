#include "kernels/count_bad.h"

static ingot_status without_cuda(void)
{
  return ingot_fail(INGOT_ERR_DEVICE, "this program was built without CUDA");
}

ingot_status ingot_device_count_negative(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  (void)d, (void)src, (void)n, (void)count, (void)stream;
  return without_cuda();
}

ingot_status ingot_device_count_nonfinite(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  (void)d, (void)src, (void)n, (void)count, (void)stream;
  return without_cuda();
}
