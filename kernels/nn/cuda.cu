/* The CUDA back end: opening, closing, memory, and the table of operators. */
#include <new>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "kernels/device.h"
#include "kernels/nn/cuda_nn.cuh"
#include "kernels/nn/cuda_open.h"

enum { N_SLOT = INGOT_NN_CUDA_SLOTS };
static const size_t slot_bytes = INGOT_NN_CUDA_SLOT_BYTES;
static const size_t workspace_bytes = 64u << 20;

/** Page-locked slots, used in turn; a slot is free again when its event has passed. */
struct ingot_nn_staging {
  void       *slot[N_SLOT];
  cudaEvent_t copied[N_SLOT];
  bool        busy[N_SLOT];
  int         next;
};

static ingot_status device_alloc(ingot_nn_cuda *nn, size_t bytes, void **out)
{
  *out = nullptr;
  cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
  if (error == cudaSuccess) return INGOT_OK;
  *out = nullptr;
  if (error != cudaErrorMemoryAllocation) return ingot_cuda_status(error, "cudaMalloc");
  size_t free_bytes = 0, total_bytes = 0;
  char   wanted[32], left[32];
  (void)cudaGetLastError();
  (void)cudaMemGetInfo(&free_bytes, &total_bytes);
  return ingot_fail(INGOT_ERR_NOMEM, "GPU %d: out of memory: %s wanted (%zu bytes), %s free", nn->head.device,
                    ingot_bytes_text(bytes, wanted), bytes, ingot_bytes_text(free_bytes, left));
}

ingot_status ingot_nn_cuda_scratch(ingot_nn_cuda *nn, size_t bytes, void **out)
{
  ingot_status st = INGOT_OK;
  *out = nullptr;
  if (bytes > nn->scratch_bytes) {
    INGOT_TRY_CUDA(cudaStreamSynchronize(nn->stream)); /* work under way still uses the old piece */
    (void)cudaFree(nn->scratch);
    nn->scratch = nullptr;
    nn->scratch_bytes = 0;
    INGOT_TRY(ingot_wrap(device_alloc(nn, bytes, &nn->scratch), "scratch memory of an operator"));
    nn->scratch_bytes = bytes;
  }
  *out = nn->scratch;
done:
  return st;
}

static ingot_status cuda_alloc(ingot_nn *nn, size_t bytes, void **out)
{
  return device_alloc(ingot_nn_cuda_of(nn), bytes, out);
}

static void cuda_free(ingot_nn *nn, void *memory)
{
  (void)ingot_nn_cuda_of(nn);
  if (memory != nullptr) (void)cudaFree(memory); /* waits for work that uses it */
}

static void staging_release(ingot_nn_staging *staging)
{
  if (staging == nullptr) return;
  for (int i = 0; i < N_SLOT; i++) {
    if (staging->copied[i] != nullptr) (void)cudaEventDestroy(staging->copied[i]);
  }
  ingot_device_pinned_free(staging->slot[0]); /* the others are parts of it */
  delete staging;
}

static ingot_status staging_make(ingot_nn_staging **out)
{
  ingot_status      st = INGOT_OK;
  void             *memory = nullptr;
  ingot_nn_staging *staging = new (std::nothrow) ingot_nn_staging();

  *out = nullptr;
  INGOT_CHECK(staging != nullptr, INGOT_ERR_NOMEM, "out of host memory: %zu bytes wanted", sizeof *staging);
  INGOT_TRY(ingot_device_pinned_alloc(N_SLOT * slot_bytes, &memory));
  for (int i = 0; i < N_SLOT; i++) staging->slot[i] = static_cast<char *>(memory) + i * slot_bytes;
  for (int i = 0; i < N_SLOT; i++) {
    INGOT_TRY_CUDA(cudaEventCreateWithFlags(&staging->copied[i], cudaEventDisableTiming));
  }
  *out = staging;
  staging = nullptr;
done:
  staging_release(staging);
  return st;
}

/** The next slot, once the copy that used it before is over. */
static ingot_status staging_take(ingot_nn_staging *staging, int *out)
{
  ingot_status st = INGOT_OK;
  int          i = staging->next;
  if (staging->busy[i]) INGOT_TRY_CUDA(cudaEventSynchronize(staging->copied[i]));
  staging->busy[i] = false;
  staging->next = (i + 1) % N_SLOT;
  *out = i;
done:
  return st;
}

static ingot_status cuda_copy_in(ingot_nn *back_end, void *dst, const void *host_src, size_t bytes)
{
  ingot_status      st = INGOT_OK;
  ingot_nn_cuda    *nn = ingot_nn_cuda_of(back_end);
  ingot_nn_staging *staging = nn->staging;

  for (size_t at = 0; at < bytes; at += slot_bytes) {
    size_t part = bytes - at < slot_bytes ? bytes - at : slot_bytes;
    int    i = 0;
    INGOT_TRY(staging_take(staging, &i));
    memcpy(staging->slot[i], static_cast<const char *>(host_src) + at, part);
    INGOT_TRY_CUDA(
        cudaMemcpyAsync(static_cast<char *>(dst) + at, staging->slot[i], part, cudaMemcpyHostToDevice, nn->stream));
    INGOT_TRY_CUDA(cudaEventRecord(staging->copied[i], nn->stream));
    staging->busy[i] = true;
  }
done:
  return st;
}

/** Copies run up to N_SLOT slots ahead of the host's own copy out of them. */
static ingot_status cuda_copy_out(ingot_nn *back_end, void *host_dst, const void *src, size_t bytes)
{
  ingot_status      st = INGOT_OK;
  ingot_nn_cuda    *nn = ingot_nn_cuda_of(back_end);
  ingot_nn_staging *staging = nn->staging;
  size_t            n_part = (bytes + slot_bytes - 1) / slot_bytes, n_sent = 0;
  int               slot_of[N_SLOT] = {0};

  for (size_t p = 0; p < n_part; p++) {
    for (; n_sent < n_part && n_sent < p + N_SLOT; n_sent++) {
      size_t at = n_sent * slot_bytes, part = bytes - at < slot_bytes ? bytes - at : slot_bytes;
      int    i = 0;
      INGOT_TRY(staging_take(staging, &i));
      INGOT_TRY_CUDA(cudaMemcpyAsync(staging->slot[i], static_cast<const char *>(src) + at, part,
                                     cudaMemcpyDeviceToHost, nn->stream));
      INGOT_TRY_CUDA(cudaEventRecord(staging->copied[i], nn->stream));
      staging->busy[i] = true;
      slot_of[n_sent % N_SLOT] = i;
    }
    size_t at = p * slot_bytes, part = bytes - at < slot_bytes ? bytes - at : slot_bytes;
    int    i = slot_of[p % N_SLOT];
    INGOT_TRY_CUDA(cudaEventSynchronize(staging->copied[i]));
    memcpy(static_cast<char *>(host_dst) + at, staging->slot[i], part);
  }
  if (bytes == 0) INGOT_TRY_CUDA(cudaStreamSynchronize(nn->stream));
done:
  return st;
}

static ingot_status cuda_copy(ingot_nn *nn, void *dst, const void *src, size_t bytes)
{
  return ingot_cuda_status(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, ingot_nn_cuda_of(nn)->stream),
                           "cudaMemcpyAsync");
}

static ingot_status cuda_zero(ingot_nn *nn, void *dst, size_t bytes)
{
  return ingot_cuda_status(cudaMemsetAsync(dst, 0, bytes, ingot_nn_cuda_of(nn)->stream), "cudaMemsetAsync");
}

static ingot_status cuda_wait(ingot_nn *nn)
{
  return ingot_cuda_status(cudaStreamSynchronize(ingot_nn_cuda_of(nn)->stream), "cudaStreamSynchronize");
}

ingot_status ingot_nn_cuda_fork(ingot_nn_cuda *nn, int n_lane)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY_CUDA(cudaEventRecord(nn->forked, nn->stream));
  for (int i = 0; i < n_lane; i++) INGOT_TRY_CUDA(cudaStreamWaitEvent(nn->lane[i], nn->forked, 0));
done:
  return st;
}

ingot_status ingot_nn_cuda_join(ingot_nn_cuda *nn, int n_lane)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < n_lane; i++) {
    INGOT_TRY_CUDA(cudaEventRecord(nn->joined[i], nn->lane[i]));
    INGOT_TRY_CUDA(cudaStreamWaitEvent(nn->stream, nn->joined[i], 0));
  }
done:
  return st;
}

static ingot_status open_streams(ingot_nn_cuda *nn)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY_CUDA(cudaStreamCreateWithFlags(&nn->stream, cudaStreamNonBlocking));
  INGOT_TRY_CUDA(cudaEventCreateWithFlags(&nn->forked, cudaEventDisableTiming));
  for (int i = 0; i < INGOT_NN_LANES; i++) {
    INGOT_TRY_CUDA(cudaStreamCreateWithFlags(&nn->lane[i], cudaStreamNonBlocking));
    INGOT_TRY_CUDA(cudaEventCreateWithFlags(&nn->joined[i], cudaEventDisableTiming));
  }
done:
  return st;
}

static void close_streams(ingot_nn_cuda *nn)
{
  for (int i = 0; i < INGOT_NN_LANES; i++) {
    if (nn->lane[i] != nullptr) (void)cudaStreamDestroy(nn->lane[i]);
    if (nn->joined[i] != nullptr) (void)cudaEventDestroy(nn->joined[i]);
  }
  if (nn->forked != nullptr) (void)cudaEventDestroy(nn->forked);
  if (nn->stream != nullptr) (void)cudaStreamDestroy(nn->stream);
}

static void cuda_close(ingot_nn *back_end)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (nn->stream != nullptr) (void)cudaStreamSynchronize(nn->stream);
  ingot_nn_cuda_matmul_close(nn);
  staging_release(nn->staging);
  (void)cudaFree(nn->scratch);
  (void)cudaFree(nn->workspace);
  close_streams(nn);
  delete nn;
}

static const ingot_nn_ops cuda_ops = {
    cuda_close,
    cuda_alloc,
    cuda_free,
    cuda_copy_in,
    cuda_copy_out,
    cuda_copy,
    cuda_zero,
    cuda_wait,
    ingot_nn_cuda_matmul,
    ingot_nn_cuda_gram,
    ingot_nn_cuda_norm,
    ingot_nn_cuda_norm_backward,
    ingot_nn_cuda_rope,
    ingot_nn_cuda_attention,
    ingot_nn_cuda_attention_backward,
    ingot_nn_cuda_cache_store,
    ingot_nn_cuda_cache_copy,
    ingot_nn_cuda_attention_cached,
    ingot_nn_cuda_swiglu,
    ingot_nn_cuda_swiglu_backward,
    ingot_nn_cuda_gelu,
    ingot_nn_cuda_gelu_backward,
    ingot_nn_cuda_embedding,
    ingot_nn_cuda_embedding_backward,
    ingot_nn_cuda_column_sum,
    ingot_nn_cuda_add,
    ingot_nn_cuda_add_squares,
    ingot_nn_cuda_cross_entropy,
    ingot_nn_cuda_sample_labels,
    ingot_nn_cuda_draw,
    ingot_nn_cuda_top_k,
    ingot_nn_cuda_mix,
    ingot_nn_cuda_rule_out,
    ingot_nn_cuda_distill,
    ingot_nn_cuda_distill_top_k,
    ingot_nn_cuda_moments,
    ingot_nn_cuda_log_softmax,
    ingot_nn_cuda_sum_squares,
    ingot_nn_cuda_adamw,
    ingot_nn_cuda_round_to,
    ingot_nn_cuda_widen,
};

static ingot_status read_device(ingot_nn_cuda *nn)
{
  ingot_status st = INGOT_OK;
  int          device = nn->head.device, major = 0, minor = 0, shared = 0;

  INGOT_TRY(ingot_device_use(device));
  INGOT_TRY_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  INGOT_TRY_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  INGOT_TRY_CUDA(cudaDeviceGetAttribute(&nn->sm_count, cudaDevAttrMultiProcessorCount, device));
  INGOT_TRY_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  nn->compute = 10 * major + minor;
  nn->shared_bytes = static_cast<size_t>(shared);
  INGOT_CHECK(nn->compute >= 80, INGOT_ERR_DEVICE,
              "GPU %d has compute capability %d.%d; models run on 8.0 (Ampere) and later", device, major, minor);
done:
  return st;
}

ingot_status ingot_nn_cuda_open(const ingot_nn_options *options, ingot_nn **out)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = nullptr;

  *out = nullptr;
  INGOT_ASSERT(options->dtype == INGOT_DTYPE_F32 || options->dtype == INGOT_DTYPE_BF16);
  INGOT_TRY(ingot_device_use(options->device));
  nn = new (std::nothrow) ingot_nn_cuda();
  INGOT_CHECK(nn != nullptr, INGOT_ERR_NOMEM, "out of host memory: %zu bytes wanted", sizeof *nn);
  nn->head.ops = &cuda_ops;
  nn->head.kind = INGOT_NN_CUDA;
  nn->head.dtype = options->dtype;
  nn->head.n_thread = options->n_thread > 0 ? options->n_thread : 1;
  nn->head.device = options->device;
  nn->tf32 = options->tf32;
  INGOT_TRY(read_device(nn));
  INGOT_TRY(open_streams(nn));
  INGOT_TRY(device_alloc(nn, workspace_bytes, &nn->workspace));
  nn->workspace_bytes = workspace_bytes;
  INGOT_TRY(ingot_nn_cuda_matmul_open(nn));
  INGOT_TRY(staging_make(&nn->staging));
  *out = &nn->head;
  nn = nullptr;
done:
  if (nn != nullptr) cuda_close(&nn->head);
  return st;
}

void *ingot_nn_cuda_stream(ingot_nn *nn)
{
  return ingot_nn_cuda_of(nn)->stream;
}
