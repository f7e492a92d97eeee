/*
 * kernels/device.h and kernels/count_bad.h without a GPU: device memory is host memory, filled with NaN bytes, and what
 * is enqueued is done at once. It takes the place of the library's own in test programs of builds without CUDA, so that
 * the GPU lane, the device cache and the schedule of GPU passes are tested where there is no GPU; a sanitizer then sees
 * every overrun.
 */
#include "tests/workers/fake_device.h"
#include "kernels/convert.h"
#include "kernels/count_bad.h"
#include "kernels/device.h"

#include <stdlib.h>
#include <string.h>

void (*fake_device_starting)(void);
atomic_int fake_device_number = 1, fake_device_useless;

bool ingot_device_built(void)
{
  return true;
}

int ingot_device_count(void)
{
  if (fake_device_starting) fake_device_starting();
  return atomic_load(&fake_device_number);
}

ingot_status ingot_device_use(int device)
{
  if (atomic_load(&fake_device_useless)) return ingot_fail(INGOT_ERR_DEVICE, "the fake GPU is of no use");
  return device == 0 ? INGOT_OK : ingot_fail(INGOT_ERR_DEVICE, "there is one fake GPU, number 0");
}

ingot_status ingot_device_info(int device, char name[128], size_t *total_bytes, size_t *free_bytes)
{
  (void)device;
  strcpy(name, "fake");
  *total_bytes = *free_bytes = (size_t)32 << 20;
  return INGOT_OK;
}

ingot_status ingot_device_alloc(size_t bytes, void **out)
{
  *out = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!*out) return ingot_fail(INGOT_ERR_DEVICE, "out of fake memory");
  memset(*out, 0xff, bytes);
  return INGOT_OK;
}

void ingot_device_free(void *device_memory)
{
  free(device_memory);
}

ingot_status ingot_device_pinned_alloc(size_t bytes, void **out)
{
  return ingot_device_alloc(bytes, out);
}

void ingot_device_pinned_free(void *pinned_memory)
{
  free(pinned_memory);
}

ingot_status ingot_device_stream_create(void **stream)
{
  return ingot_device_alloc(1, stream);
}

void ingot_device_stream_destroy(void *stream)
{
  free(stream);
}

ingot_status ingot_device_stream_wait(void *stream)
{
  (void)stream;
  return INGOT_OK;
}

ingot_status ingot_device_event_create(void **event)
{
  return ingot_device_alloc(1, event);
}

void ingot_device_event_destroy(void *event)
{
  free(event);
}

ingot_status ingot_device_event_record(void *event, void *stream)
{
  (void)event, (void)stream;
  return INGOT_OK;
}

ingot_status ingot_device_event_wait(void *event)
{
  (void)event;
  return INGOT_OK;
}

ingot_status ingot_device_stream_wait_event(void *stream, void *event)
{
  (void)stream, (void)event;
  return INGOT_OK;
}

ingot_status ingot_device_copy_in(void *device_dst, const void *host_src, size_t bytes, void *stream)
{
  (void)stream;
  memcpy(device_dst, host_src, bytes);
  return INGOT_OK;
}

ingot_status ingot_device_copy_out(void *host_dst, const void *device_src, size_t bytes, void *stream)
{
  (void)stream;
  memcpy(host_dst, device_src, bytes);
  return INGOT_OK;
}

ingot_status ingot_device_zero(void *device_dst, size_t bytes, void *stream)
{
  (void)stream;
  memset(device_dst, 0, bytes);
  return INGOT_OK;
}

ingot_status ingot_device_count_negative(ingot_dtype d, const void *src, int64_t n, uint64_t *count, void *stream)
{
  (void)stream;
  float *v = malloc((size_t)n * sizeof *v + 1);
  if (!v) return ingot_fail(INGOT_ERR_DEVICE, "out of fake memory");
  ingot_widen(d, src, v, n);
  *count += (uint64_t)ingot_count_negative(v, n);
  free(v);
  return INGOT_OK;
}
