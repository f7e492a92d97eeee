/*
 * Embedding rows out, and their gradients in. Backward: token numbers are sorted by the row that they add to, which
 * keeps their order within a row (radix sort is stable); then one block a row and column range adds in that order. The
 * sums are those of a loop over the tokens, bit for bit.
 */
#include <cub/device/device_radix_sort.cuh>

#include "kernels/nn/cuda_grid.cuh"

enum { BLOCK = 256 };

template <typename T>
static __global__ void __launch_bounds__(BLOCK)
    embedding_kernel(int64_t n_token, int64_t width, const int32_t *__restrict__ tokens, const T *__restrict__ table,
                     const int32_t *__restrict__ positions, const T *__restrict__ position_table, T *__restrict__ out,
                     bool wide)
{
  int64_t per_row = (width + 7) / 8;
  for (int64_t i = ingot_nn_first<BLOCK>(); i < n_token * per_row; i += ingot_nn_step<BLOCK>()) {
    int64_t token = i / per_row, at = (i - token * per_row) * 8, left = width - at;
    float   v[8];
    ingot_nn_load(table + tokens[token] * width + at, left, wide, v);
    if (position_table != nullptr) {
      float p[8];
      ingot_nn_load(position_table + positions[token] * width + at, left, wide, p);
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] += p[j];
    }
    ingot_nn_store(out + token * width + at, left, wide, v);
  }
}

template <typename T>
static ingot_status embedding_of(ingot_nn_cuda *nn, int64_t n_token, int64_t width, const int32_t *tokens,
                                 const void *table, const int32_t *positions, const void *position_table, void *out)
{
  const T *rows = static_cast<const T *>(table), *position_rows = static_cast<const T *>(position_table);
  T       *result = static_cast<T *>(out);
  bool     wide = ingot_nn_wide(rows, width) && ingot_nn_wide(position_rows, width) && ingot_nn_wide(result, width);
  embedding_kernel<T>
      <<<ingot_nn_grid<BLOCK>(nn, n_token * ((width + 7) / 8)), BLOCK, 0, nn->stream>>>(n_token, width, tokens, rows,
                                                                                        positions, position_rows,
                                                                                        result, wide);
  return ingot_nn_cuda_launched("embedding_kernel");
}

ingot_status ingot_nn_cuda_embedding(ingot_nn *back_end, int64_t n_token, int64_t width, const int32_t *tokens,
                                     const void *table, const int32_t *positions, const void *position_table, void *out)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (n_token == 0) return INGOT_OK;
  return nn->head.dtype == INGOT_DTYPE_BF16
             ? embedding_of<__nv_bfloat16>(nn, n_token, width, tokens, table, positions, position_table, out)
             : embedding_of<float>(nn, n_token, width, tokens, table, positions, position_table, out);
}

static __global__ void number_tokens_kernel(int32_t n_token, int32_t *number)
{
  int32_t i = static_cast<int32_t>(blockIdx.x * BLOCK + threadIdx.x);
  if (i < n_token) number[i] = i;
}

/** Block (p, column range): if row[p] begins a run of equal rows, add the run's gradients in order. */
template <typename T>
static __global__ void __launch_bounds__(BLOCK)
    embedding_backward_kernel(int64_t n_token, int64_t width, const int32_t *__restrict__ row,
                              const int32_t *__restrict__ number, const T *__restrict__ d_out, float *d_table,
                              bool wide, bool wide_table)
{
  int64_t p = blockIdx.x, at = (blockIdx.y * static_cast<int64_t>(BLOCK) + threadIdx.x) * 8, left = width - at;
  int32_t mine = row[p];
  float   total[8];
  if ((p > 0 && row[p - 1] == mine) || left <= 0) return;
  ingot_nn_load(d_table + mine * width + at, left, wide_table, total);
  enum { AHEAD = 4 }; /* loads under way together */
  while (p < n_token && row[p] == mine) {
    float v[AHEAD][8];
    bool  same[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      same[i] = p + i < n_token && row[p + i] == mine;
      if (same[i]) ingot_nn_load(d_out + number[p + i] * width + at, left, wide, v[i]);
    }
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (same[i]) total[j] += v[i][j];
      }
    }
    p += AHEAD;
  }
  ingot_nn_store(d_table + mine * width + at, left, wide_table, total);
}

template <typename T>
static ingot_status add_rows(ingot_nn_cuda *nn, int64_t n_token, int64_t width, const int32_t *row,
                             const int32_t *number, const void *d_out, float *d_table)
{
  const T *gradient = static_cast<const T *>(d_out);
  int64_t  vectors = (width + 7) / 8;
  dim3     grid(static_cast<unsigned>(n_token), static_cast<unsigned>((vectors + BLOCK - 1) / BLOCK));
  embedding_backward_kernel<T><<<grid, BLOCK, 0, nn->stream>>>(n_token, width, row, number, gradient, d_table,
                                                               ingot_nn_wide(gradient, width),
                                                               ingot_nn_wide(d_table, width));
  return ingot_nn_cuda_launched("embedding_backward_kernel");
}

ingot_status ingot_nn_cuda_embedding_backward(ingot_nn *back_end, int64_t n_token, int64_t width, int64_t n_index,
                                              const int32_t *index, const void *d_out, float *d_table)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  size_t         sort_bytes = 0, array = ingot_nn_cuda_aligned(static_cast<size_t>(n_token) * sizeof(int32_t));
  int            n = static_cast<int>(n_token), n_bit = 1;
  void          *memory = nullptr;
  int32_t       *number = nullptr, *sorted = nullptr, *row = nullptr;

  INGOT_ASSERT(n_token <= INT32_MAX);
  if (n_token == 0 || width == 0) return INGOT_OK;
  while (n_bit < 31 && (static_cast<int64_t>(1) << n_bit) < n_index) n_bit++;
  INGOT_TRY_CUDA(
      cub::DeviceRadixSort::SortPairs(nullptr, sort_bytes, index, row, number, sorted, n, 0, n_bit, nn->stream));
  INGOT_TRY(ingot_nn_cuda_scratch(nn, 3 * array + sort_bytes, &memory));
  number = static_cast<int32_t *>(memory);
  sorted = number + array / sizeof(int32_t);
  row = sorted + array / sizeof(int32_t);
  number_tokens_kernel<<<static_cast<unsigned>((n_token + BLOCK - 1) / BLOCK), BLOCK, 0, nn->stream>>>(n, number);
  INGOT_TRY(ingot_nn_cuda_launched("number_tokens_kernel"));
  INGOT_TRY_CUDA(cub::DeviceRadixSort::SortPairs(row + array / sizeof(int32_t), sort_bytes, index, row, number, sorted,
                                                 n, 0, n_bit, nn->stream));
  INGOT_TRY(nn->head.dtype == INGOT_DTYPE_BF16
                ? add_rows<__nv_bfloat16>(nn, n_token, width, row, sorted, d_out, d_table)
                : add_rows<float>(nn, n_token, width, row, sorted, d_out, d_table));
done:
  return st;
}
