/**
 * Several models of one vocabulary over the same windows: where their logits come from. Whoever combines them does not
 * know whether a model is on this rank. Placed "replicated", every rank holds all members and works alone. Placed
 * "spread", each member is on one rank, which runs it over the windows of all ranks and sends each its rows of logits:
 * by NCCL between GPUs of their own, else by MPI. The numbers are the same: a member sees the same windows in the same
 * pass, and the same rows in the same product.
 *
 * Work comes in rounds, one batch of windows of each rank:
 *
 *   run, then any number of { rows, logits of some members for these rows }, then end
 *
 * A rank without windows left, or one that has failed, goes straight to `end`, and serves the others there. Spread,
 * run, rows and end are collective in this sense: every rank is in one of them until all have ended. A failure of any
 * rank ends the round on all of them, with the status and the message of the lowest. Replicated, they need nobody else,
 * and end gives back what it is told.
 */
#ifndef INGOT_WORKERS_ENSEMBLE_MEMBERS_H
#define INGOT_WORKERS_ENSEMBLE_MEMBERS_H

#include "workers/ensemble/placement.h"
#include "workers/model/model.h"
#include "workers/statistics/loop.h"

typedef struct ingot_members_options {
  int64_t     n_batch, n_time; /* of a batch at most */
  int64_t     head_rows;       /* of a chunk; 0: chosen */
  ingot_comm *spread;          /* the ranks that they are spread over; NULL: all on this rank (as with one rank) */
} ingot_members_options;

/** Windows first .. end - 1 of a batch. */
typedef struct ingot_members_part {
  int64_t first, end;
} ingot_members_part;

struct ingot_spread;

typedef struct ingot_members {
  ingot_nn            *nn; /* borrowed */
  int                  n;
  ingot_model_spec    *specs;   /* [n] */
  ingot_source       **sources; /* [n], as the next two: NULL when the member is on another rank */
  ingot_model        **models;
  ingot_pass         **passes;
  ingot_members_part  *parts;       /* [n]: windows of this rank's batch that a member runs over */
  int64_t              n_time;      /* of the batch */
  int64_t              n_vocab, ld; /* of logits */
  int64_t              rows;        /* of a chunk at most, the same on all ranks */
  struct ingot_spread *spread;      /* NULL: replicated */
} ingot_members;

/** Load this rank's members. INGOT_ERR_MISMATCH when vocabularies have different sizes. Not collective. Release in any
 * case. */
ingot_status ingot_members_open(ingot_members *m, ingot_nn *nn, const ingot_gather_model *models, int n,
                                const ingot_members_options *options);
void         ingot_members_close(ingot_members *m);
/** Spread: the way between GPUs. Collective, when all ranks have opened theirs. */
ingot_status ingot_members_join(ingot_members *m, ingot_gather *g);
/** Back-end memory of the rank that has most, of n_rank; 1: replicated. options->spread is not looked at. Without the
 * memory to find their ranks, as if one had all. */
uint64_t ingot_members_bytes(const ingot_model_spec *specs, int n, ingot_dtype dtype,
                             const ingot_members_options *options, int n_rank);

/** Forward through all members; or each through its part (parts [n]; an empty one: not at all). */
ingot_status ingot_members_run(ingot_members *m, const ingot_batch *batch);
ingot_status ingot_members_run_parts(ingot_members *m, const ingot_batch *batch, const ingot_members_part *parts);
/** Logits of these rows of the batch will be asked for, of all members or of those wanted [n]. n_row at most
 * m->rows. */
ingot_status ingot_members_rows(ingot_members *m, int64_t first_row, int64_t n_row, const bool *wanted);
/** Logits of one member for the rows that were said last, in back-end memory until the next call for this member or for
 * rows. */
ingot_status ingot_members_logits(ingot_members *m, int member, int64_t first_row, int64_t n_row, ingot_nn_logits *z);
/** The end of a round with this rank's status; the status of all. */
ingot_status ingot_members_end(ingot_members *m, ingot_status mine);

/* ---- shared by members.c and spread.c ---- */

/** A member of this rank over a part of a batch. */
ingot_status ingot_members_run_one(ingot_members *m, int member, const ingot_batch *batch, ingot_members_part part);

/** home [n] of the members by their specs. INGOT_ERR_NOMEM. */
ingot_status ingot_spread_homes(const ingot_model_spec *specs, int n, ingot_dtype dtype, const ingot_pass_options *pass,
                                int n_rank, int *home);
/** Opens m->spread and says where members live, before they are loaded; then its buffers. Not collective. */
ingot_status ingot_spread_open(ingot_members *m, const ingot_members_options *options);
ingot_status ingot_spread_open_buffers(ingot_members *m);
void         ingot_spread_close(ingot_members *m);
ingot_status ingot_spread_join(ingot_members *m, ingot_gather *g);
bool         ingot_spread_is_here(const ingot_members *m, int member);
ingot_status ingot_spread_run(ingot_members *m, const ingot_batch *batch);
ingot_status ingot_spread_rows(ingot_members *m, int64_t first_row, int64_t n_row, const bool *wanted);
ingot_status ingot_spread_logits(ingot_members *m, int member, int64_t n_row, ingot_nn_logits *z);
ingot_status ingot_spread_end(ingot_members *m, ingot_status mine);

#endif
