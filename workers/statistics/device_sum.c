/*
 * Sums over ranks on the GPUs themselves, where every rank has one of its own. Opening NCCL takes as long as many
 * windows; a thread of its own does it while they run, and closes it while the sums are written.
 *
 * Every rank's thread is begun behind one agreement, so each rank comes to open, whatever becomes of its windows; none
 * is left waiting in NCCL for one that has stopped or failed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/process.h"
#include "kernels/device.h"
#include "kernels/nccl.h"
#include "kernels/nn/cuda_open.h"
#include "workers/crew.h"
#include "workers/statistics/loop.h"

/* Values of the first sum, of which nobody takes the result: NCCL connects the GPUs when it first adds. As large as to
 * be added the way large ones are. */
enum { FIRST_SUM = 1 << 20 };

struct ingot_device_sum {
  ingot_comm       *comm;
  ingot_nn         *nn;
  ingot_nccl       *nccl;
  unsigned char     id[INGOT_NCCL_ID_BYTES];
  void             *first; /* [FIRST_SUM] float32 of the GPU */
  void             *stream;
  uint64_t          anon_before;
  bool              ready;
  ingot_crew_flight flight; /* opens, closes */
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

/* On the thread. A failure is every rank's sooner or later: NCCL closes its connections. */
static ingot_status open_link(void *context, int64_t item, int thread)
{
  ingot_status      st = INGOT_OK;
  ingot_device_sum *s = context;
  (void)item, (void)thread;
  INGOT_TRY(ingot_nccl_open(s->nn->device, ingot_comm_rank(s->comm), ingot_comm_size(s->comm), s->id, &s->nccl));
  if (s->first) INGOT_TRY(ingot_nccl_sum(s->nccl, INGOT_DTYPE_F32, FIRST_SUM, s->first, s->stream));
  if (s->first) INGOT_TRY(ingot_device_stream_wait(s->stream));
done:
  return st;
}

static ingot_status close_link(void *context, int64_t item, int thread)
{
  ingot_device_sum *s = context;
  (void)item, (void)thread;
  ingot_nccl_close(&s->nccl);
  return INGOT_OK;
}

/* All that can fail on one rank alone, before any of them waits for another in NCCL. */
static ingot_status prepare(ingot_gather *g, bool first_sum, ingot_device_sum **out)
{
  ingot_status      st = INGOT_OK;
  ingot_device_sum *s = *out = calloc(1, sizeof *s);
  INGOT_CHECK(s, INGOT_ERR_NOMEM, "no memory for sums over GPUs");
  *s = (ingot_device_sum){.comm = g->comm, .nn = g->nn, .anon_before = ingot_process_anon_bytes()};
  INGOT_TRY(ingot_comm_rank(g->comm) == 0 ? ingot_nccl_id_make(s->id) : ingot_nccl_look());
  if (!first_sum) goto done;
  INGOT_TRY(g->nn->ops->alloc(g->nn, FIRST_SUM * sizeof(float), &s->first));
  INGOT_TRY(ingot_device_stream_create(&s->stream));
  INGOT_TRY(ingot_device_zero(s->first, FIRST_SUM * sizeof(float), s->stream));
done:
  return st;
}

/* NCCL is there and cannot be used: told, and no failure. */
static void go_without(const ingot_gather *g, ingot_device_sum **sum)
{
  if (ingot_comm_rank(g->comm) == 0)
    ingot_log_info("what ranks add or send goes through the host: %s", ingot_error_message());
  ingot_error_clear();
  ingot_device_sum_close(sum);
}

static ingot_status begin(ingot_gather *g, bool first_sum, ingot_device_sum **out)
{
  ingot_status      st = INGOT_OK;
  ingot_device_sum *s = NULL;
  bool              use = false;
  *out = NULL;
  if (ingot_comm_size(g->comm) == 1) return INGOT_OK;
  INGOT_TRY(own_devices(g, &use));
  if (!use) goto done;
  st = ingot_comm_agree(g->comm, prepare(g, first_sum, &s));
  if (st != INGOT_OK) {
    go_without(g, &s);
    st = INGOT_OK;
    goto done;
  }
  INGOT_TRY(ingot_comm_bcast(g->comm, s->id, sizeof s->id, 0));
  ingot_crew_start(&s->flight, 1, 1, open_link, s);
  *out = s;
  s = NULL;
done:
  ingot_device_sum_close(&s);
  return st;
}

ingot_status ingot_device_sum_begin(ingot_gather *g, ingot_device_sum **out)
{
  return begin(g, true, out);
}

ingot_status ingot_device_sum_ready(ingot_gather *g, ingot_device_sum **sum)
{
  ingot_device_sum *s = *sum;
  if (!s || s->ready) return INGOT_OK;
  ingot_status st = ingot_comm_agree(g->comm, ingot_crew_wait(&s->flight));
  /* What came in meanwhile is NCCL's, and what CUDA took for the first passes; of the step's own it is a batch. */
  ingot_timing_add_library(g->timing, s->anon_before);
  ingot_gather_look_at_device(g);
  s->ready = true;
  if (st != INGOT_OK) go_without(g, sum);
  return INGOT_OK;
}

ingot_status ingot_device_sum_open(ingot_gather *g, ingot_device_sum **out)
{
  ingot_status st = begin(g, false, out);
  return st == INGOT_OK ? ingot_device_sum_ready(g, out) : st;
}

void ingot_device_sum_end(ingot_device_sum *s)
{
  if (s) ingot_crew_start(&s->flight, 1, 1, close_link, s);
}

/* A failure of the thread is no news any more: what has ended the run is. */
static void wait_quietly(ingot_device_sum *s)
{
  ingot_error first;
  ingot_error_save(&first);
  (void)ingot_crew_wait(&s->flight);
  ingot_error_restore(&first);
}

void ingot_device_sum_close(ingot_device_sum **sum)
{
  ingot_device_sum *s = *sum;
  if (!s) return;
  wait_quietly(s);
  ingot_nccl_close(&s->nccl);
  ingot_device_stream_destroy(s->stream);
  s->nn->ops->free(s->nn, s->first);
  free(s);
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
