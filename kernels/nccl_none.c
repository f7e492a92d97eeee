/* Sums over GPUs in a build without NCCL: every call says why. */
#include "kernels/nccl.h"

#include <stddef.h>

static ingot_status without_nccl(void)
{
  return ingot_fail(INGOT_ERR_DEVICE, "this program was built without NCCL");
}

bool ingot_nccl_built(void)
{
  return false;
}

ingot_status ingot_nccl_look(void)
{
  return without_nccl();
}

ingot_status ingot_nccl_id_make(unsigned char id[INGOT_NCCL_ID_BYTES])
{
  (void)id;
  return without_nccl();
}

ingot_status ingot_nccl_open(int device, int rank, int size, const unsigned char id[INGOT_NCCL_ID_BYTES],
                             ingot_nccl **out)
{
  (void)device, (void)rank, (void)size, (void)id;
  *out = NULL;
  return without_nccl();
}

void ingot_nccl_close(ingot_nccl **nccl)
{
  (void)nccl;
}

ingot_status ingot_nccl_sum(ingot_nccl *nccl, ingot_dtype dtype, int64_t n, void *data, void *stream)
{
  (void)nccl, (void)dtype, (void)n, (void)data, (void)stream;
  return without_nccl();
}

ingot_status ingot_nccl_sum_slices(ingot_nccl *nccl, int64_t n, float *data, void *stream)
{
  (void)nccl, (void)n, (void)data, (void)stream;
  return without_nccl();
}

ingot_status ingot_nccl_share(ingot_nccl *nccl, void *data, const int64_t *begin, void *stream)
{
  (void)nccl, (void)data, (void)begin, (void)stream;
  return without_nccl();
}

ingot_status ingot_nccl_swap(ingot_nccl *nccl, int dest, const ingot_nccl_piece *out, int n_out, int src,
                             const ingot_nccl_piece *in, int n_in, void *stream)
{
  (void)nccl, (void)dest, (void)out, (void)n_out, (void)src, (void)in, (void)n_in, (void)stream;
  return without_nccl();
}
