/**
 * From the CPU to the GPU while a merge runs: starting CUDA takes a quarter of a second, and a rank's lanes begin on
 * its cores meanwhile. Results are the same bytes, wherever a tile is merged.
 *
 * The GPU is started on a thread of its own when the rank's part is large enough to gain from it: by its bytes, and
 * then by the time that the rest will take at the pace of its begin. Once it is there, a few of the rank's threads open
 * GPU lanes and try it: when a tile takes a thread less time that way, more follow, at most `lanes_max`; otherwise they
 * go back. Threads beyond go on with their cores.
 *
 * All functions may be called from any lane's thread; start and finish from the one that runs the pool.
 */
#ifndef INGOT_WORKERS_HAND_OVER_H
#define INGOT_WORKERS_HAND_OVER_H

#include "workers/device_cache.h"
#include "workers/schedule.h"

typedef struct ingot_hand_over ingot_hand_over;

typedef struct ingot_hand_over_spec {
  const ingot_merge_plan       *plan;
  ingot_schedule               *schedule; /* gets the device cache */
  ingot_device_cache          **cache;    /* set by the thread; close it after finish and the schedule's end */
  int                           local_rank, n_local_rank;
  int                           lanes_max;
  int64_t                       n_task; /* of this rank: tiles to merge, and to read whole in a pass before that */
  const ingot_hand_over_limits *limits; /* NULL: the defaults */
} ingot_hand_over_spec;

/** Whether a part of so many bytes, read and written, is worth starting a GPU. */
bool ingot_hand_over_is_worth(const ingot_hand_over_limits *limits, uint64_t n_bytes);
/** Begin to start the rank's GPU; without a GPU all stays on the CPU. INGOT_ERR_NOMEM. */
ingot_status ingot_hand_over_start(const ingot_hand_over_spec *spec, ingot_hand_over **out);
/** Wait for the thread and free. NULL is fine. All lanes are closed. */
void ingot_hand_over_finish(ingot_hand_over **hand_over);

/** Whether the calling thread is to open a GPU lane now, on device *device. It then must, or report that it failed. */
bool ingot_hand_over_wants_lane(ingot_hand_over *h, int *device);
/** A lane could not be opened: a warning with the thread's error message, and no more tries. */
void ingot_hand_over_failed(ingot_hand_over *h);
/** Whether threads that have a GPU lane take new work to it. */
bool ingot_hand_over_prefers_device(ingot_hand_over *h);
/** Seconds that a thread spent, tasks of n_task that it finished, and tiles among them that it merged. */
void ingot_hand_over_note(ingot_hand_over *h, bool on_device, double seconds, int n_task, int n_tile);

#endif
