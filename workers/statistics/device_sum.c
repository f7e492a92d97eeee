/* Sums over ranks on the GPUs themselves, where every rank has one of its own. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/process.h"
#include "kernels/device.h"
#include "kernels/nccl.h"
#include "kernels/nn/cuda_open.h"
#include "workers/statistics/loop.h"

struct ingot_device_sum {
  ingot_comm *comm;
  ingot_nn   *nn;
  ingot_nccl *nccl;
};

/* What a rank says of itself. */
typedef struct record {
  unsigned char device[INGOT_DEVICE_IDENTITY_BYTES];
  int64_t       usable;
} record;

/* On rank 0: whether all ranks can, each with another GPU. */
static int64_t all_differ(const record *all, int n)
{
  for (int i = 0; i < n; i++) {
    if (!all[i].usable) return 0;
    for (int k = 0; k < i; k++)
      if (memcmp(all[i].device, all[k].device, sizeof all[i].device) == 0) return 0;
  }
  return 1;
}

static ingot_status own_devices(ingot_gather *g, bool *out)
{
  ingot_status st = INGOT_OK;
  int          size = ingot_comm_size(g->comm);
  int64_t      use = 0;
  record       mine = {.usable = ingot_nccl_built() && g->nn->kind == INGOT_NN_CUDA};
  record      *all = ingot_comm_rank(g->comm) == 0 ? calloc((size_t)size, sizeof *all) : NULL;
  *out = false;
  if (mine.usable && ingot_device_identity(g->nn->device, mine.device) != INGOT_OK) mine.usable = 0;
  st = ingot_comm_rank(g->comm) != 0 || all ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d ranks", size);
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  INGOT_TRY(ingot_comm_gather(g->comm, &mine, sizeof mine, all));
  if (all) use = all_differ(all, size);
  INGOT_TRY(ingot_comm_bcast(g->comm, &use, sizeof use, 0));
  *out = use != 0;
done:
  free(all);
  return st;
}

ingot_status ingot_device_sum_open(ingot_gather *g, ingot_device_sum **out)
{
  ingot_status      st = INGOT_OK;
  unsigned char     id[INGOT_NCCL_ID_BYTES] = {0};
  ingot_device_sum *sum = NULL;
  bool              use = false;
  *out = NULL;
  if (ingot_comm_size(g->comm) == 1) return INGOT_OK;
  INGOT_TRY(own_devices(g, &use));
  if (!use) goto done;
  sum = calloc(1, sizeof *sum);
  st = sum ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for sums over GPUs");
  if (st == INGOT_OK) *sum = (ingot_device_sum){.comm = g->comm, .nn = g->nn};
  if (st == INGOT_OK && ingot_comm_rank(g->comm) == 0) st = ingot_nccl_id_make(id);
  st = ingot_comm_agree(g->comm, st);
  if (st == INGOT_OK) {
    INGOT_TRY(ingot_comm_bcast(g->comm, id, sizeof id, 0));
    uint64_t before = ingot_process_anon_bytes();
    st = ingot_nccl_open(g->nn->device, ingot_comm_rank(g->comm), ingot_comm_size(g->comm), id, &sum->nccl);
    ingot_timing_add_library(g->timing, before);
    st = ingot_comm_agree(g->comm, st);
  }
  if (st != INGOT_OK) {
    if (ingot_comm_rank(g->comm) == 0)
      ingot_log_info("what ranks add or send goes through the host: %s", ingot_error_message());
    ingot_error_clear();
    st = INGOT_OK;
    goto done;
  }
  *out = sum;
  sum = NULL;
done:
  ingot_device_sum_close(&sum);
  return st;
}

void ingot_device_sum_close(ingot_device_sum **sum)
{
  if (!*sum) return;
  if ((*sum)->nccl) ingot_nccl_close(&(*sum)->nccl);
  free(*sum);
  *sum = NULL;
}

struct ingot_nccl *ingot_device_sum_nccl(const ingot_device_sum *sum)
{
  return sum->nccl;
}

ingot_status ingot_device_sum_add(ingot_device_sum *sum, ingot_dtype dtype, int64_t n, void *data)
{
  ingot_status st = ingot_nccl_sum(sum->nccl, dtype, n, data, ingot_nn_cuda_stream(sum->nn));
  if (st == INGOT_OK) st = sum->nn->ops->wait(sum->nn);
  return ingot_comm_agree(sum->comm, st);
}
