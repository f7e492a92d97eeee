/** Which windows a step trains on: drawn from the data sets by weight, each data set in a new order every time
 * around. */
#ifndef INGOT_WORKERS_DISTILL_STREAM_H
#define INGOT_WORKERS_DISTILL_STREAM_H

#include "workers/distill/distill.h"

typedef struct ingot_draw {
  int     data;
  int64_t window; /* of the data set, in the file's order */
  int64_t shift;  /* of its beginning, in tokens */
} ingot_draw;

/**
 * The windows of step `step` (from 0), sorted by data set: draws [plan->batch]. drawn [n_data] counts what was taken
 * before, and goes on; the same on every rank.
 */
void ingot_stream_draw(const ingot_distill_plan *plan, int64_t step, int64_t *drawn, ingot_draw *draws);

#endif
