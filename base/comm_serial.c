/* The serial twin of base/comm.h: one rank, nobody to talk to. */
#include "base/comm.h"

#include <stdlib.h>
#include <string.h>

struct ingot_comm {
  char unused;
};

ingot_status ingot_comm_init(int *argc, char ***argv, ingot_comm **out)
{
  (void)argc;
  (void)argv;
  *out = calloc(1, sizeof **out);
  return *out ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the communicator");
}

void ingot_comm_finalize(ingot_comm **comm)
{
  if (!comm) return;
  free(*comm);
  *comm = NULL;
}

void ingot_comm_abort(ingot_comm *comm, int exit_code)
{
  (void)comm;
  _Exit(exit_code);
}

int ingot_comm_rank(const ingot_comm *comm)
{
  (void)comm;
  return 0;
}

int ingot_comm_size(const ingot_comm *comm)
{
  (void)comm;
  return 1;
}

int ingot_comm_local_rank(const ingot_comm *comm)
{
  (void)comm;
  return 0;
}

int ingot_comm_local_size(const ingot_comm *comm)
{
  (void)comm;
  return 1;
}

ingot_status ingot_comm_barrier(ingot_comm *comm)
{
  (void)comm;
  return INGOT_OK;
}

ingot_status ingot_comm_bcast(ingot_comm *comm, void *data, size_t bytes, int root)
{
  (void)comm;
  (void)data;
  (void)bytes;
  (void)root;
  return INGOT_OK;
}

ingot_status ingot_comm_sum_i64(ingot_comm *comm, int64_t *values, int64_t count)
{
  (void)comm;
  (void)values;
  (void)count;
  return INGOT_OK;
}

ingot_status ingot_comm_max_i64(ingot_comm *comm, int64_t *values, int64_t count)
{
  (void)comm;
  (void)values;
  (void)count;
  return INGOT_OK;
}

ingot_status ingot_comm_sum_f64(ingot_comm *comm, double *values, int64_t count)
{
  (void)comm;
  (void)values;
  (void)count;
  return INGOT_OK;
}

ingot_status ingot_comm_sum_f32(ingot_comm *comm, float *values, int64_t count)
{
  (void)comm;
  (void)values;
  (void)count;
  return INGOT_OK;
}

ingot_status ingot_comm_share(ingot_comm *comm, void *data, const int64_t *begin)
{
  (void)comm;
  (void)data;
  (void)begin;
  return INGOT_OK;
}

ingot_status ingot_comm_swap(ingot_comm *comm, int dest, const void *out, size_t out_bytes, int src, void *in,
                             size_t in_bytes)
{
  (void)comm;
  (void)dest;
  (void)out;
  (void)src;
  (void)in;
  INGOT_ASSERT(out_bytes == 0 && in_bytes == 0); /* there is no other rank */
  return INGOT_OK;
}

ingot_status ingot_comm_gather(ingot_comm *comm, const void *record, size_t bytes, void *all)
{
  (void)comm;
  if (bytes) memcpy(all, record, bytes);
  return INGOT_OK;
}

ingot_status ingot_comm_agree(ingot_comm *comm, ingot_status st)
{
  (void)comm;
  return st;
}

ingot_status ingot_comm_notify(ingot_comm *comm, int dest, const ingot_notice *notice)
{
  (void)comm;
  (void)dest;
  (void)notice;
  return INGOT_OK;
}

ingot_status ingot_comm_poll(ingot_comm *comm, ingot_notice *notice, int *source, bool *got)
{
  (void)comm;
  (void)notice;
  (void)source;
  *got = false;
  return INGOT_OK;
}

ingot_status ingot_comm_drain(ingot_comm *comm)
{
  (void)comm;
  return INGOT_OK;
}

void *ingot_comm_native(ingot_comm *comm)
{
  (void)comm;
  return NULL;
}
