/* The GPU runtime of a build without CUDA: no devices, and every call says why. */
#include "kernels/device.h"

static ingot_status without_cuda(void)
{
  return ingot_fail(INGOT_ERR_DEVICE, "this program was built without CUDA");
}

bool ingot_device_built(void)
{
  return false;
}

int ingot_device_count(void)
{
  return 0;
}

ingot_status ingot_device_use(int device)
{
  (void)device;
  return without_cuda();
}

ingot_status ingot_device_info(int device, char name[128], size_t *total_bytes, size_t *free_bytes)
{
  (void)device, (void)total_bytes, (void)free_bytes;
  name[0] = 0;
  return without_cuda();
}

ingot_status ingot_device_identity(int device, unsigned char identity[INGOT_DEVICE_IDENTITY_BYTES])
{
  (void)device, (void)identity;
  return without_cuda();
}

ingot_status ingot_device_alloc(size_t bytes, void **out)
{
  (void)bytes;
  *out = NULL;
  return without_cuda();
}

void ingot_device_free(void *device_memory)
{
  (void)device_memory;
}

ingot_status ingot_device_pinned_alloc(size_t bytes, void **out)
{
  (void)bytes;
  *out = NULL;
  return without_cuda();
}

void ingot_device_pinned_free(void *pinned_memory)
{
  (void)pinned_memory;
}

ingot_status ingot_device_stream_create(void **stream)
{
  *stream = NULL;
  return without_cuda();
}

void ingot_device_stream_destroy(void *stream)
{
  (void)stream;
}

ingot_status ingot_device_stream_wait(void *stream)
{
  (void)stream;
  return without_cuda();
}

ingot_status ingot_device_event_create(void **event)
{
  *event = NULL;
  return without_cuda();
}

void ingot_device_event_destroy(void *event)
{
  (void)event;
}

ingot_status ingot_device_event_record(void *event, void *stream)
{
  (void)event, (void)stream;
  return without_cuda();
}

ingot_status ingot_device_event_wait(void *event)
{
  (void)event;
  return without_cuda();
}

ingot_status ingot_device_stream_wait_event(void *stream, void *event)
{
  (void)stream, (void)event;
  return without_cuda();
}

ingot_status ingot_device_copy_in(void *device_dst, const void *host_src, size_t bytes, void *stream)
{
  (void)device_dst, (void)host_src, (void)bytes, (void)stream;
  return without_cuda();
}

ingot_status ingot_device_copy_out(void *host_dst, const void *device_src, size_t bytes, void *stream)
{
  (void)host_dst, (void)device_src, (void)bytes, (void)stream;
  return without_cuda();
}

ingot_status ingot_device_zero(void *device_dst, size_t bytes, void *stream)
{
  (void)device_dst, (void)bytes, (void)stream;
  return without_cuda();
}
