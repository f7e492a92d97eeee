/*
 * Matrices into and out of the GPU. An input is copied as it is stored into a landing, on a stream of its own, and from
 * there placed in its array: widened, transposed or unpacked, scaled. There are two landings, so that one model's
 * matrix and weights arrive while the product of the model before runs. A result leaves tile by tile, rounded on the
 * device.
 */
#include "kernels/convert.h"
#include "kernels/device.h"
#include "kernels/linalg/cuda_linalg.cuh"
#include "kernels/linalg/input.h"
#include "kernels/vector.cuh"

namespace {

enum { SIDE = 32, ROWS = 8 }; /* a block of SIDE x ROWS threads works on a tile of SIDE x SIDE elements */

/** An input in its landing. */
struct landed {
  const void *at;
  ingot_dtype dtype;
  bool        zero; /* NaN and infinities read as 0 */
};

__device__ __forceinline__ float element(landed in, int64_t i)
{
  float v = ingot_widen_one(in.at, in.dtype, i);
  return in.zero && ingot_f32_nonfinite(v) ? 0.0f : v;
}

__global__ void find_nonfinite(landed in, int64_t n, ingot_cuda_found *found)
{
  INGOT_CUDA_EACH(i, n)
  {
    if (!ingot_f32_nonfinite(ingot_widen_one(in.at, in.dtype, i))) continue;
    atomicAdd(&found->n_nonfinite, 1ull);
    atomicMin(&found->first_nonfinite, static_cast<unsigned long long>(i));
  }
}

/* Tiles on and below the diagonal against their images. */
__global__ void find_asymmetric(landed in, int64_t n, ingot_cuda_found *found)
{
  __shared__ float above[SIDE][SIDE + 1];
  if (blockIdx.x > blockIdx.y) return;
  int64_t row = static_cast<int64_t>(blockIdx.y) * SIDE, column = static_cast<int64_t>(blockIdx.x) * SIDE;
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t j = column + r, i = row + threadIdx.x;
    if (i < n && j < n) above[r][threadIdx.x] = element(in, j * n + i);
  }
  __syncthreads();
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t i = row + r, j = column + threadIdx.x;
    if (i >= n || j >= i) continue;
    if (!ingot_symmetric_alike(above[threadIdx.x][r], element(in, i * n + j), element(in, j * n + j)))
      atomicMin(&found->asymmetric, static_cast<unsigned long long>(i * n + j));
  }
}

__global__ void place_rows(landed in, int64_t n, double *to)
{
  INGOT_CUDA_EACH(i, n) to[i] = static_cast<double>(element(in, i));
}

/* Column by column in the landing. */
__global__ void place_columns(landed in, int64_t rows, int64_t columns, double *to)
{
  __shared__ float tile[SIDE][SIDE + 1];
  int64_t          row = static_cast<int64_t>(blockIdx.x) * SIDE, column = static_cast<int64_t>(blockIdx.y) * SIDE;
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t j = column + r, i = row + threadIdx.x;
    if (i < rows && j < columns) tile[r][threadIdx.x] = element(in, j * rows + i);
  }
  __syncthreads();
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t i = row + r, j = column + threadIdx.x;
    if (i < rows && j < columns) to[i * columns + j] = static_cast<double>(tile[threadIdx.x][r]);
  }
}

/* Both triangles of a matrix of which the landing has the upper one (packed) or all. */
template <bool packed> __global__ void place_symmetric(landed in, int64_t n, double alpha, double *to)
{
  __shared__ double tile[SIDE][SIDE + 1];
  __shared__ float  below[SIDE][SIDE + 1];
  if (blockIdx.x < blockIdx.y) return;
  int64_t row = static_cast<int64_t>(blockIdx.y) * SIDE, column = static_cast<int64_t>(blockIdx.x) * SIDE;
  if (!packed) {
    for (int r = threadIdx.y; r < SIDE; r += ROWS) {
      int64_t j = column + r, i = row + threadIdx.x;
      if (i < n && j < n) below[r][threadIdx.x] = element(in, j * n + i);
    }
    __syncthreads();
  }
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t i = row + r, j = column + threadIdx.x;
    if (j >= n || i > j) continue;
    float value = element(in, packed ? ingot_packed_row_start(n, i) + (j - i) : i * n + j);
    if (!packed && i != j) value = ingot_symmetric_mean(value, below[threadIdx.x][r]);
    double wide = i == j ? static_cast<double>(value) : alpha * static_cast<double>(value);
    to[i * n + j] = wide;
    tile[r][threadIdx.x] = wide;
  }
  __syncthreads();
  for (int r = threadIdx.y; r < SIDE; r += ROWS) {
    int64_t j = column + r, i = row + threadIdx.x;
    if (j < n && i < j) to[j * n + i] = tile[threadIdx.x][r];
  }
}

__global__ void round_rows(const double *x, int64_t first, int64_t count, float *to)
{
  INGOT_CUDA_EACH(k, count) to[k] = static_cast<float>(x[first + k]);
}

__global__ void round_columns(const double *x, int64_t m, int64_t n, int64_t first, int64_t count, float *to)
{
  INGOT_CUDA_EACH(k, count)
  {
    int64_t e = first + k;
    to[k] = static_cast<float>(x[e % m * n + e / m]);
  }
}

unsigned sides(int64_t n)
{
  return static_cast<unsigned>((n + SIDE - 1) / SIDE);
}

/* The landing of the next input, of at least `bytes`. */
ingot_status reserve(ingot_cuda_linalg *c, size_t bytes)
{
  ingot_status        st = INGOT_OK;
  ingot_cuda_landing *landing = &c->landings[c->landing];
  if (bytes <= landing->bytes) return INGOT_OK;
  INGOT_TRY_CUDA(cudaStreamSynchronize(c->intake));
  INGOT_TRY_CUDA(cudaStreamSynchronize(c->compute));
  (void)cudaFree(landing->at);
  landing->at = nullptr;
  landing->bytes = 0;
  INGOT_TRY(ingot_cuda_memory(c, bytes, &landing->at));
  landing->bytes = bytes;
done:
  return st;
}

ingot_status place(ingot_cuda_linalg *c, landed in)
{
  const ingot_linalg_input *input = &c->input;
  int64_t                   m = input->rows, n = input->columns;
  dim3                      threads(SIDE, ROWS);
  switch (input->form) {
  case INGOT_LINALG_COLUMNS:
    place_columns<<<dim3(sides(m), sides(n)), threads, 0, c->compute>>>(in, m, n, c->to);
    break;
  case INGOT_LINALG_PACKED:
    place_symmetric<true><<<dim3(sides(n), sides(n)), threads, 0, c->compute>>>(in, n, input->alpha, c->to);
    break;
  case INGOT_LINALG_SYMMETRIC:
    place_symmetric<false><<<dim3(sides(n), sides(n)), threads, 0, c->compute>>>(in, n, input->alpha, c->to);
    break;
  default: place_rows<<<ingot_cuda_blocks(m * n), INGOT_CUDA_THREADS, 0, c->compute>>>(in, m * n, c->to); break;
  }
  return ingot_cuda_status(cudaGetLastError(), "placing a matrix");
}

/* Look at all of the input, once it has landed; waits for the answer, not for the compute stream. */
ingot_status look(ingot_cuda_linalg *c, landed in, ingot_linalg_found *found)
{
  ingot_status st = INGOT_OK;
  int64_t      count = ingot_linalg_input_count(&c->input), n = c->input.columns;
  size_t       size = ingot_dtype_size(c->input.dtype);
  INGOT_TRY_CUDA(cudaMemsetAsync(c->found, 0xff, sizeof *c->found, c->intake));
  INGOT_TRY_CUDA(cudaMemsetAsync(&c->found->n_nonfinite, 0, sizeof c->found->n_nonfinite, c->intake));
  find_nonfinite<<<ingot_cuda_blocks(count), INGOT_CUDA_THREADS, 0, c->intake>>>(in, count, c->found);
  INGOT_TRY_CUDA(cudaGetLastError());
  if (c->input.form == INGOT_LINALG_SYMMETRIC) {
    find_asymmetric<<<dim3(sides(n), sides(n)), dim3(SIDE, ROWS), 0, c->intake>>>(in, n, c->found);
    INGOT_TRY_CUDA(cudaGetLastError());
  }
  INGOT_TRY_CUDA(cudaMemcpyAsync(c->found_host, c->found, sizeof *c->found, cudaMemcpyDeviceToHost, c->intake));
  INGOT_TRY_CUDA(cudaStreamSynchronize(c->intake));
  *found = {};
  found->n_nonfinite = static_cast<int64_t>(c->found_host->n_nonfinite);
  found->first_nonfinite = static_cast<int64_t>(c->found_host->first_nonfinite);
  found->asymmetric = static_cast<int64_t>(c->found_host->asymmetric);
  if (found->n_nonfinite > 0) {
    const char *first = static_cast<const char *>(in.at) + static_cast<size_t>(found->first_nonfinite) * size;
    INGOT_TRY_CUDA(cudaMemcpyAsync(c->found_host, first, size, cudaMemcpyDeviceToHost, c->intake));
    INGOT_TRY_CUDA(cudaStreamSynchronize(c->intake));
    ingot_widen(c->input.dtype, c->found_host, &found->nonfinite, 1);
  }
done:
  return st;
}

} // namespace

ingot_status ingot_cuda_begin(ingot_linalg *l, const ingot_linalg_input *input, ingot_linalg_array *to)
{
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  ingot_status       st = INGOT_OK;
  c->input = *input;
  c->to = to->at;
  c->taken = 0;
  c->landing = (c->landing + 1) % INGOT_CUDA_LANDINGS;
  INGOT_TRY(reserve(c, static_cast<size_t>(ingot_linalg_input_count(input)) * ingot_dtype_size(input->dtype)));
  INGOT_TRY_CUDA(cudaStreamWaitEvent(c->intake, c->landings[c->landing].placed, 0));
done:
  return st;
}

ingot_status ingot_cuda_room(ingot_linalg *l, void **room)
{
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  ingot_status       st = INGOT_OK;
  c->slot = (c->slot + 1) % INGOT_CUDA_SLOTS;
  INGOT_TRY_CUDA(cudaEventSynchronize(c->slots[c->slot].moved));
  *room = c->slots[c->slot].host;
done:
  return st;
}

ingot_status ingot_cuda_take(ingot_linalg *l, const void *from, int64_t n)
{
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  ingot_status       st = INGOT_OK;
  size_t             size = ingot_dtype_size(c->input.dtype);
  INGOT_ASSERT(n >= 0 && c->taken + n <= ingot_linalg_input_count(&c->input));
  char *to = static_cast<char *>(c->landings[c->landing].at) + static_cast<size_t>(c->taken) * size;
  INGOT_TRY_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(n) * size, cudaMemcpyHostToDevice, c->intake));
  if (from == c->slots[c->slot].host) INGOT_TRY_CUDA(cudaEventRecord(c->slots[c->slot].moved, c->intake));
  c->taken += n;
done:
  return st;
}

ingot_status ingot_cuda_end(ingot_linalg *l, ingot_linalg_found *found)
{
  ingot_cuda_linalg  *c = ingot_cuda_linalg_of(l);
  ingot_status        st = INGOT_OK;
  ingot_cuda_landing *landing = &c->landings[c->landing];
  landed              in = {landing->at, c->input.dtype, c->input.zero_nonfinite};
  INGOT_ASSERT(c->taken == ingot_linalg_input_count(&c->input));
  INGOT_TRY(look(c, in, found)); /* and so all of it has landed before the next line's kernel is started */
  INGOT_TRY(place(c, in));
  INGOT_TRY_CUDA(cudaEventRecord(landing->placed, c->compute));
done:
  return st;
}

ingot_status ingot_cuda_give(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *x, ingot_linalg_form form,
                             ingot_linalg_taker taker, void *context)
{
  const int64_t      ahead = INGOT_CUDA_SLOTS - 1;
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  ingot_status       st = INGOT_OK;
  int64_t            all = m * n, n_piece = ingot_tile_count(all), tile = INGOT_TILE;
  for (int64_t k = 0; k < n_piece + ahead; k++) {
    if (k < n_piece) {
      int64_t          first = k * INGOT_TILE, count = all - first < tile ? all - first : tile;
      ingot_cuda_slot *slot = &c->slots[k % INGOT_CUDA_SLOTS];
      float           *to = c->single + k % INGOT_CUDA_SLOTS * INGOT_TILE;
      INGOT_TRY_CUDA(cudaEventSynchronize(slot->moved)); /* pieces of a dropped input */
      if (form == INGOT_LINALG_COLUMNS)
        round_columns<<<ingot_cuda_blocks(count), INGOT_CUDA_THREADS, 0, c->compute>>>(x->at, m, n, first, count, to);
      else round_rows<<<ingot_cuda_blocks(count), INGOT_CUDA_THREADS, 0, c->compute>>>(x->at, first, count, to);
      INGOT_TRY_CUDA(cudaGetLastError());
      INGOT_TRY_CUDA(cudaMemcpyAsync(slot->host, to, static_cast<size_t>(count) * sizeof(float), cudaMemcpyDeviceToHost,
                                     c->compute));
      INGOT_TRY_CUDA(cudaEventRecord(slot->moved, c->compute));
    }
    if (k < ahead) continue;
    int64_t          first = (k - ahead) * INGOT_TILE, count = all - first < tile ? all - first : tile;
    ingot_cuda_slot *slot = &c->slots[(k - ahead) % INGOT_CUDA_SLOTS];
    INGOT_TRY_CUDA(cudaEventSynchronize(slot->moved));
    INGOT_TRY(taker(context, first, count, reinterpret_cast<const float *>(slot->host)));
  }
done:
  return st;
}

ingot_status ingot_cuda_transfer_open(ingot_cuda_linalg *c)
{
  ingot_status st = INGOT_OK;
  void        *memory = nullptr;
  int          last = 0, first = 0;
  INGOT_TRY_CUDA(cudaDeviceGetStreamPriorityRange(&last, &first));
  INGOT_TRY_CUDA(cudaStreamCreateWithPriority(&c->compute, cudaStreamNonBlocking, last));
  INGOT_TRY_CUDA(cudaStreamCreateWithPriority(&c->intake, cudaStreamNonBlocking, first));
  for (int i = 0; i < INGOT_CUDA_LANDINGS; i++)
    INGOT_TRY_CUDA(cudaEventCreateWithFlags(&c->landings[i].placed, cudaEventDisableTiming));
  for (int i = 0; i < INGOT_CUDA_SLOTS; i++)
    INGOT_TRY_CUDA(cudaEventCreateWithFlags(&c->slots[i].moved, cudaEventDisableTiming));
  INGOT_TRY(ingot_cuda_memory(c, sizeof *c->found, &memory));
  c->found = static_cast<ingot_cuda_found *>(memory);
  INGOT_TRY(ingot_cuda_memory(c, static_cast<size_t>(INGOT_CUDA_SLOTS) * INGOT_TILE * sizeof(float), &memory));
  c->single = static_cast<float *>(memory);
  INGOT_TRY(ingot_device_pinned_alloc(static_cast<size_t>(INGOT_CUDA_SLOTS) * INGOT_LINALG_ROOM_BYTES, &memory));
  for (int i = 0; i < INGOT_CUDA_SLOTS; i++)
    c->slots[i].host = static_cast<char *>(memory) + static_cast<size_t>(i) * INGOT_LINALG_ROOM_BYTES;
  INGOT_TRY(ingot_device_pinned_alloc(sizeof *c->found_host, &memory));
  c->found_host = static_cast<ingot_cuda_found *>(memory);
done:
  return st;
}

void ingot_cuda_transfer_close(ingot_cuda_linalg *c)
{
  if (c->intake) (void)cudaStreamSynchronize(c->intake);
  if (c->compute) (void)cudaStreamSynchronize(c->compute);
  for (int i = 0; i < INGOT_CUDA_LANDINGS; i++) {
    (void)cudaFree(c->landings[i].at);
    if (c->landings[i].placed) (void)cudaEventDestroy(c->landings[i].placed);
  }
  for (int i = 0; i < INGOT_CUDA_SLOTS; i++)
    if (c->slots[i].moved) (void)cudaEventDestroy(c->slots[i].moved);
  ingot_device_pinned_free(c->slots[0].host);
  ingot_device_pinned_free(c->found_host);
  (void)cudaFree(c->found);
  (void)cudaFree(c->single);
  if (c->intake) (void)cudaStreamDestroy(c->intake);
  if (c->compute) (void)cudaStreamDestroy(c->compute);
}
