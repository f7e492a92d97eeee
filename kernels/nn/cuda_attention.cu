#include "kernels/nn/cuda_attention.cuh"
#include "kernels/nn/cuda_nn.cuh"

enum { TENSOR_HEAD_DIM = 128 };

static bool on_tensor_cores(const ingot_nn *nn, const ingot_nn_attention *a)
{
  return nn->dtype == INGOT_DTYPE_BF16 && a->head_dim <= TENSOR_HEAD_DIM;
}

/* The header's promise for CUDA, which copies of 16 bytes need. */
static void check_alignment(const ingot_nn_attention *a)
{
  INGOT_ASSERT(a->n_head % a->n_kv_head == 0);
  INGOT_ASSERT(a->ld_q % 8 == 0 && a->ld_k % 8 == 0 && a->ld_v % 8 == 0 && a->ld_o % 8 == 0);
}

ingot_status ingot_nn_cuda_attention(ingot_nn *nn, const ingot_nn_attention *a, const void *q, const void *k,
                                     const void *v, void *o, float *lse)
{
  ingot_nn_cuda *cuda = ingot_nn_cuda_of(nn);
  ingot_status   st = ingot_nn_cuda_attention_check(a->head_dim);
  if (st != INGOT_OK || a->n_batch * a->n_time == 0) return st;
  check_alignment(a);
  if (on_tensor_cores(nn, a)) return ingot_attention_tensor_forward(a, q, k, v, o, lse, cuda->stream);
  return ingot_attention_plain_forward(a, nn->dtype, q, k, v, o, lse, cuda->stream);
}

ingot_status ingot_nn_cuda_attention_backward(ingot_nn *nn, const ingot_nn_attention *a, const void *q, const void *k,
                                              const void *v, const void *o, const float *lse, const void *d_o, void *dq,
                                              void *dk, void *dv)
{
  ingot_status          st = INGOT_OK;
  ingot_nn_cuda        *cuda = ingot_nn_cuda_of(nn);
  ingot_attention_grads g = {q, k, v, o, d_o, lse, dq, dk, dv, nullptr, cuda->stream};
  void                 *rows = nullptr;

  INGOT_TRY(ingot_nn_cuda_attention_check(a->head_dim));
  if (a->n_batch * a->n_time == 0) return INGOT_OK;
  check_alignment(a);
  INGOT_TRY(
      ingot_nn_cuda_scratch(cuda, static_cast<size_t>(a->n_batch * a->n_time * a->n_head) * sizeof(float2), &rows));
  g.rows = static_cast<float2 *>(rows);
  if (on_tensor_cores(nn, a)) INGOT_TRY(ingot_attention_tensor_backward(a, &g));
  else INGOT_TRY(ingot_attention_plain_backward(a, nn->dtype, &g));
done:
  return st;
}
