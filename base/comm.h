/**
 * Communication between ranks: the little of MPI that the program needs. comm_mpi.c and comm_serial.c are twins of
 * this header; tools, unit tests and builds without MPI link the serial one.
 *
 * Only the thread that called ingot_comm_init may call anything here (MPI_THREAD_FUNNELED). Calls marked
 * "collective" must be made by all ranks in the same order. Errors return INGOT_ERR_MPI.
 */
#ifndef INGOT_BASE_COMM_H
#define INGOT_BASE_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_comm ingot_comm;

/** Start MPI (unless it runs) and take a duplicate of the world. Collective. */
ingot_status ingot_comm_init(int *argc, char ***argv, ingot_comm **out);
/** Free the duplicate, and end MPI if ingot_comm_init started it and a launcher this process; *comm becomes NULL. NULL
 * is fine. Collective. */
void ingot_comm_finalize(ingot_comm **comm);
/** End all ranks at once with this exit code: the last resort, when other ranks cannot be reached. */
void ingot_comm_abort(ingot_comm *comm, int exit_code);

int ingot_comm_rank(const ingot_comm *comm);
int ingot_comm_size(const ingot_comm *comm);
/** Rank and number of ranks among those that share this node's memory. */
int ingot_comm_local_rank(const ingot_comm *comm);
int ingot_comm_local_size(const ingot_comm *comm);

/** Collective. */
ingot_status ingot_comm_barrier(ingot_comm *comm);
/** Collective: `bytes` from root to all. */
ingot_status ingot_comm_bcast(ingot_comm *comm, void *data, size_t bytes, int root);
/** Collective: element-wise integer sum, maximum; any order gives the same result. In place. */
ingot_status ingot_comm_sum_i64(ingot_comm *comm, int64_t *values, int64_t count);
ingot_status ingot_comm_max_i64(ingot_comm *comm, int64_t *values, int64_t count);
/**
 * Collective: element-wise sum, in place; float32 values are added in float64 and rounded once. Added in the order of
 * the ranks, so that all ranks get the same bits, and the same ones in every run with as many ranks.
 */
ingot_status ingot_comm_sum_f64(ingot_comm *comm, double *values, int64_t count);
ingot_status ingot_comm_sum_f32(ingot_comm *comm, float *values, int64_t count);
/**
 * Collective: every rank has filled its own byte range [begin[rank], begin[rank + 1]) of `data`; afterwards all ranks
 * hold all of it. begin has size + 1 entries and is the same everywhere.
 */
ingot_status ingot_comm_share(ingot_comm *comm, void *data, const int64_t *begin);
/**
 * Send out_bytes to rank dest while in_bytes come from rank src; a side of 0 bytes takes no part, and neither rank is
 * this one. Where every rank of a ring does the same, nobody waits for anybody in turn. What two ranks swap arrives in
 * order.
 */
ingot_status ingot_comm_swap(ingot_comm *comm, int dest, const void *out, size_t out_bytes, int src, void *in,
                             size_t in_bytes);
/**
 * Collective: gather a fixed-size record of every rank to rank 0. `all` holds size * bytes there; NULL elsewhere.
 */
ingot_status ingot_comm_gather(ingot_comm *comm, const void *record, size_t bytes, void *all);

/**
 * Collective agreement after a phase in which one rank may have failed alone. If any rank passes a failure, all
 * ranks return the status of the lowest failing rank, and its message becomes the message of every rank.
 */
ingot_status ingot_comm_agree(ingot_comm *comm, ingot_status st);

/**
 * Small messages outside the collectives, while ranks work on their own parts.
 * Sent without waiting; received by polling.
 */
typedef enum ingot_notice_kind {
  INGOT_NOTICE_STOP,     /* value[0]: ingot_status with which the sender leaves; others should leave too */
  INGOT_NOTICE_PROGRESS, /* to rank 0; value[0..3]: as the sender and rank 0 agree */
  INGOT_NOTICE_COUNT
} ingot_notice_kind;

typedef struct ingot_notice {
  int64_t kind;
  int64_t value[4];
} ingot_notice;

/** Send to one rank, or to all others with dest -1. Returns without waiting for the receiver. */
ingot_status ingot_comm_notify(ingot_comm *comm, int dest, const ingot_notice *notice);
/** Take one waiting notice, if there is one; *source is its sender. */
ingot_status ingot_comm_poll(ingot_comm *comm, ingot_notice *notice, int *source, bool *got);
/**
 * Collective: wait until all ranks are here, taking and dropping notices meanwhile, so that none is left over for the
 * next phase. Works while other ranks are still sending.
 */
ingot_status ingot_comm_drain(ingot_comm *comm);

/** The MPI_Comm of our duplicate, as `MPI_Comm *`, for parallel HDF5; NULL in the serial twin. Borrowed. */
void *ingot_comm_native(ingot_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
