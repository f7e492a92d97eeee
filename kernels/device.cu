#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/text.h"
#include "kernels/device_error.cuh"

ingot_status ingot_cuda_status(cudaError_t error, const char *call)
{
  if (error == cudaSuccess) return INGOT_OK;
  (void)cudaGetLastError();
  int device = -1;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  return ingot_fail(INGOT_ERR_DEVICE, "GPU %d: %s (%s) in %s", device, cudaGetErrorString(error),
                    cudaGetErrorName(error), call);
}

bool ingot_device_built(void)
{
  return true;
}

int ingot_device_count(void)
{
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError(); /* no driver or no GPU: the CPU path is the answer, not an error */
  return 0;
}

ingot_status ingot_device_use(int device)
{
  ingot_status st = INGOT_OK;
  int          count = ingot_device_count();
  INGOT_CHECK(device >= 0 && device < count, INGOT_ERR_DEVICE, "GPU %d was asked for, and this machine shows %d",
              device, count);
  INGOT_TRY_CUDA(cudaSetDevice(device));
done:
  return st;
}

ingot_status ingot_device_info(int device, char name[128], size_t *total_bytes, size_t *free_bytes)
{
  ingot_status   st = INGOT_OK;
  cudaDeviceProp properties;

  INGOT_TRY(ingot_device_use(device));
  INGOT_TRY_CUDA(cudaGetDeviceProperties(&properties, device));
  snprintf(name, 128, "%.127s", properties.name);
  INGOT_TRY_CUDA(cudaMemGetInfo(free_bytes, total_bytes));
done:
  return st;
}

ingot_status ingot_device_identity(int device, unsigned char identity[INGOT_DEVICE_IDENTITY_BYTES])
{
  ingot_status   st = INGOT_OK;
  cudaDeviceProp properties;

  static_assert(sizeof properties.uuid == INGOT_DEVICE_IDENTITY_BYTES, "a UUID");
  INGOT_TRY_CUDA(cudaGetDeviceProperties(&properties, device));
  memcpy(identity, &properties.uuid, sizeof properties.uuid);
done:
  return st;
}

ingot_status ingot_device_alloc(size_t bytes, void **out)
{
  ingot_status st = INGOT_OK;
  *out = NULL;
  cudaError_t error = cudaMalloc(out, bytes);
  if (error == cudaErrorMemoryAllocation) {
    size_t free_bytes = 0, total_bytes = 0;
    char   wanted[32], left[32];
    int    device = -1;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    (void)cudaGetDevice(&device);
    st = ingot_fail(INGOT_ERR_DEVICE, "GPU %d: out of memory: %s wanted (%zu bytes), %s free", device,
                    ingot_bytes_text(bytes, wanted), bytes, ingot_bytes_text(free_bytes, left));
  } else {
    st = ingot_cuda_status(error, "cudaMalloc");
  }
  if (st != INGOT_OK) *out = NULL;
  return st;
}

void ingot_device_free(void *device_memory)
{
  if (device_memory != NULL) (void)cudaFree(device_memory);
}

/*
 * Page-locking costs by the page: 340 MB take 160 ms as 4 KiB pages (cudaHostAlloc) and 12 ms as huge ones, after they
 * were touched, which threads do side by side. Where the system gives no huge pages it is only slower.
 */
ingot_status ingot_device_pinned_alloc(size_t bytes, void **out)
{
  const size_t small_page = 4096, huge_page = 2 << 20;
  ingot_status st = INGOT_OK;
  size_t       page = bytes >= huge_page ? huge_page : small_page;
  size_t       size = (bytes + page - 1) / page * page;
  void        *memory = nullptr;
  char         wanted[32];

  *out = nullptr;
  (void)ingot_bytes_text(bytes, wanted);
  INGOT_CHECK(size > 0 && posix_memalign(&memory, page, size) == 0, INGOT_ERR_NOMEM,
              "out of host memory: %s wanted for copies to the GPU", wanted);
  if (page == huge_page) (void)madvise(memory, size, MADV_HUGEPAGE);
  memset(memory, 0, size);
  st = ingot_wrap(ingot_cuda_status(cudaHostRegister(memory, size, cudaHostRegisterPortable), "cudaHostRegister"),
                  "page-locking %s of host memory", wanted);
  if (st != INGOT_OK) goto done;
  *out = memory;
  memory = nullptr;
done:
  free(memory);
  return st;
}

void ingot_device_pinned_free(void *pinned_memory)
{
  if (pinned_memory == nullptr) return;
  (void)cudaHostUnregister(pinned_memory);
  free(pinned_memory);
}

ingot_status ingot_device_stream_create(void **stream)
{
  cudaStream_t created = NULL;
  ingot_status st = ingot_cuda_status(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "cudaStreamCreate");
  *stream = st == INGOT_OK ? created : NULL;
  return st;
}

void ingot_device_stream_destroy(void *stream)
{
  if (stream != NULL) (void)cudaStreamDestroy((cudaStream_t)stream);
}

ingot_status ingot_device_stream_wait(void *stream)
{
  return ingot_cuda_status(cudaStreamSynchronize((cudaStream_t)stream), "cudaStreamSynchronize");
}

ingot_status ingot_device_event_create(void **event)
{
  /* Blocking: a thread that waits leaves its core to the threads that read. */
  cudaEvent_t  created = NULL;
  ingot_status st =
      ingot_cuda_status(cudaEventCreateWithFlags(&created, cudaEventDisableTiming | cudaEventBlockingSync),
                        "cudaEventCreate");
  *event = st == INGOT_OK ? created : NULL;
  return st;
}

void ingot_device_event_destroy(void *event)
{
  if (event != NULL) (void)cudaEventDestroy((cudaEvent_t)event);
}

ingot_status ingot_device_event_record(void *event, void *stream)
{
  return ingot_cuda_status(cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream), "cudaEventRecord");
}

ingot_status ingot_device_event_wait(void *event)
{
  return ingot_cuda_status(cudaEventSynchronize((cudaEvent_t)event), "cudaEventSynchronize");
}

ingot_status ingot_device_stream_wait_event(void *stream, void *event)
{
  return ingot_cuda_status(cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0), "cudaStreamWaitEvent");
}

ingot_status ingot_device_copy_in(void *device_dst, const void *host_src, size_t bytes, void *stream)
{
  return ingot_cuda_status(cudaMemcpyAsync(device_dst, host_src, bytes, cudaMemcpyHostToDevice, (cudaStream_t)stream),
                           "cudaMemcpyAsync, host to device");
}

ingot_status ingot_device_copy_out(void *host_dst, const void *device_src, size_t bytes, void *stream)
{
  return ingot_cuda_status(cudaMemcpyAsync(host_dst, device_src, bytes, cudaMemcpyDeviceToHost, (cudaStream_t)stream),
                           "cudaMemcpyAsync, device to host");
}

ingot_status ingot_device_zero(void *device_dst, size_t bytes, void *stream)
{
  return ingot_cuda_status(cudaMemsetAsync(device_dst, 0, bytes, (cudaStream_t)stream), "cudaMemsetAsync");
}
