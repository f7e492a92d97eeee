/**
 * Which task a lane does next: the order of work inside one rank.
 *
 * Tensors become active in file order, a few at a time, so that reads stay nearly sequential and memory stays bounded:
 * by the number of their tiles, and by what their summaries take. An active tensor goes through the passes its method
 * asks for, then its tiles are merged. While one tensor waits for the last tiles of a pass, lanes work on the next one.
 * Results do not depend on which lane does what.
 *
 * All functions may be called from any lane's thread.
 */
#ifndef INGOT_WORKERS_SCHEDULE_H
#define INGOT_WORKERS_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "workers/device_cache.h"
#include "workers/lane.h"

typedef struct ingot_schedule ingot_schedule;

typedef struct ingot_schedule_spec {
  const ingot_merge_plan *plan;
  int64_t                 tile_begin, tile_end; /* of all tiles: this rank's part */
  const bool             *done;                 /* [plan->n_tile]: tiles that need no merging; borrowed */
  int                     n_task;               /* tasks that lanes hold at once: lanes times depth */
  uint64_t                summaries_bytes; /* summaries of several tensors at a time take about this at most; 0: any */
  ingot_device_cache     *cache;           /* NULL without a GPU */
  const void             *model_state;     /* finished whole-model state of a MODEL-grain method, else NULL; borrowed */
} ingot_schedule_spec;

/** The merge itself: summary passes and merging of this rank's tiles. */
ingot_status ingot_schedule_create(const ingot_schedule_spec *spec, ingot_schedule **out);

/**
 * One pass over this rank's part of the whole model (MODEL grain, CPU lanes): every tile of every merged tensor is
 * scanned once. slots [plan->n_tile][scan->slot_bytes] and sums [scan->n_sum] are the caller's.
 */
ingot_status ingot_schedule_create_model_scan(const ingot_schedule_spec *spec, void *model_state,
                                              const ingot_scan_plan *scan, void *slots, int64_t *sums,
                                              ingot_schedule **out);
void         ingot_schedule_destroy(ingot_schedule **schedule);

typedef enum ingot_schedule_answer {
  INGOT_SCHEDULE_TASK,     /* *task is the caller's to do; hand it back with ingot_schedule_complete */
  INGOT_SCHEDULE_LATER,    /* nothing right now (only when !wait) */
  INGOT_SCHEDULE_FINISHED, /* nothing any more, or cancelled */
} ingot_schedule_answer;

/** What the caller can do. Passes of a tensor, and what follows them, all go to the kind of lane that began it. */
typedef struct ingot_schedule_lanes {
  bool cpu, device;
  bool prefer_device; /* begin tensors, and merge those without summary, on the GPU lane; with `device` */
} ingot_schedule_lanes;

/**
 * Take a task; task->on_device says for which lane. With `wait`, sleeps until there is one or the end; a lane that
 * holds tasks must not wait. As long as there is work for GPU lanes, a caller that had one must keep it.
 */
ingot_status ingot_schedule_next(ingot_schedule *schedule, ingot_schedule_lanes lanes, bool wait, ingot_task *task,
                                 ingot_schedule_answer *answer);
/** Let tensors that begin on the GPU from now on use a cache. */
void ingot_schedule_set_cache(ingot_schedule *schedule, ingot_device_cache *cache);
/** A task is done. May run the method's `next` on the calling thread; its failure is returned. */
ingot_status ingot_schedule_complete(ingot_schedule *schedule, const ingot_task *task);
/** Hand out nothing any more; sleeping lanes return FINISHED. Tasks taken may still be completed. */
void ingot_schedule_cancel(ingot_schedule *schedule);

#endif
