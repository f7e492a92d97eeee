/**
 * The GPU runtime as workers see it: device.cu with CUDA, device_none.c without (count 0, everything else fails with
 * INGOT_ERR_DEVICE). All failures are INGOT_ERR_DEVICE with the runtime's own text.
 */
#ifndef INGOT_KERNELS_DEVICE_H
#define INGOT_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_DEVICE_IDENTITY_BYTES = 16 };

/** True when the program was built with CUDA. */
bool ingot_device_built(void);
/** Usable devices: 0 without CUDA, driver or GPU; never fails. */
int ingot_device_count(void);
/** Bind the calling thread to a device. Every thread that works with it calls this first. */
ingot_status ingot_device_use(int device);
/** Name for people, total and free bytes of a device. */
ingot_status ingot_device_info(int device, char name[128], size_t *total_bytes, size_t *free_bytes);

/** Which device it is: differs between any two devices (and MIG slices) in the world. */
ingot_status ingot_device_identity(int device, unsigned char identity[INGOT_DEVICE_IDENTITY_BYTES]);

ingot_status ingot_device_alloc(size_t bytes, void **out);
void         ingot_device_free(void *device_memory);
/** Page-locked host memory, zeroed. INGOT_ERR_NOMEM when there is none. */
ingot_status ingot_device_pinned_alloc(size_t bytes, void **out);
void         ingot_device_pinned_free(void *pinned_memory);

/** Streams and events are opaque; destroy accepts NULL. */
ingot_status ingot_device_stream_create(void **stream);
void         ingot_device_stream_destroy(void *stream);
ingot_status ingot_device_stream_wait(void *stream); /* the calling thread waits for all work enqueued so far */
ingot_status ingot_device_event_create(void **event);
void         ingot_device_event_destroy(void *event);
ingot_status ingot_device_event_record(void *event, void *stream);
ingot_status ingot_device_event_wait(void *event);                      /* the calling thread waits */
ingot_status ingot_device_stream_wait_event(void *stream, void *event); /* the stream waits */

/** Enqueue on a stream. Host memory must be pinned for the copy to overlap. */
ingot_status ingot_device_copy_in(void *device_dst, const void *host_src, size_t bytes, void *stream);
ingot_status ingot_device_copy_out(void *host_dst, const void *device_src, size_t bytes, void *stream);
ingot_status ingot_device_zero(void *device_dst, size_t bytes, void *stream);

#ifdef __cplusplus
}
#endif
#endif
