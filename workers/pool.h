/** The threads of one rank: each runs a lane over a schedule, while the calling thread looks after them. */
#ifndef INGOT_WORKERS_POOL_H
#define INGOT_WORKERS_POOL_H

#include "io/journal.h"
#include "workers/hand_over.h"
#include "workers/merge.h"
#include "workers/schedule.h"

/** What finished tiles are recorded in; zero in a pass that merges nothing. Shared by the lanes. */
typedef struct ingot_pool_output {
  ingot_sink       *sink;
  ingot_journal    *journal;
  bool             *done;         /* [n_tile], set as tiles are finished */
  uint64_t         *checksum;     /* [n_tile] */
  ingot_bad_report *nonfinite;    /* [n_source], added to */
  ingot_bad_report *negative;     /* [n_source], added to */
  int64_t           n_tile;       /* of all ranks, for progress */
  uint64_t          n_bytes;      /* likewise, of the output */
  int64_t           tiles_before; /* done before this run, by this rank */
} ingot_pool_output;

/**
 * Run the schedule to its end, or until a lane fails, another rank fails, or a stop is asked for.
 *
 * The calling thread must be the one that started MPI: it polls for notices of other ranks, tells them when a lane here
 * fails, and reports progress. Not collective: returns when this rank's lanes have returned. Afterwards all ranks call
 * ingot_comm_drain and ingot_comm_agree.
 *
 * @param device     GPU number for the lanes, or -1 for the CPU.
 * @param hand_over  With device -1: lanes go over to a GPU as this says. NULL: they stay.
 * @param timing     Added to.
 * @return INGOT_STOPPED when asked to stop with work left; else the first failure of a lane.
 */
ingot_status ingot_pool_run(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                            int device, ingot_hand_over *hand_over, ingot_schedule *schedule,
                            const ingot_pool_output *output, ingot_merge_timing *timing);

#endif
