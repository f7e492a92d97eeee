/** The summary of a step: seconds by phase with their spread over ranks, and rates. */
#ifndef INGOT_DRIVER_REPORT_H
#define INGOT_DRIVER_REPORT_H

#include <jansson.h>

#include "base/text.h"
#include "workers/merge.h"

/** Smallest, mean and largest over ranks. */
typedef struct ingot_spread {
  double min, mean, max;
} ingot_spread;

enum { INGOT_PHASE_READ, INGOT_PHASE_MOVE, INGOT_PHASE_MERGE, INGOT_PHASE_WRITE, INGOT_PHASE_WAIT, INGOT_PHASE_COUNT };

/** All ranks of a step together. Seconds of phases are wall time: a rank's sum over its lanes, by its lanes. */
typedef struct ingot_report {
  int          n_rank;
  bool         windows; /* tiles_done and tiles_resumed count windows of a model's run on data */
  ingot_spread phase_s[INGOT_PHASE_COUNT];
  ingot_spread wall_s, cpu_s;
  ingot_spread device_s;           /* of moving and merging: what lanes on a GPU took */
  ingot_spread memory_bytes;       /* anonymous memory of a rank, its high water */
  uint64_t     planned_bytes;      /* of a rank, of the memory that its models are in; 0: not planned */
  uint64_t     planned_host_bytes; /* of a rank with models on a GPU, without the GPU's libraries; 0: not planned */
  uint64_t library_bytes; /* that the process had when the GPU's libraries were up, the most of all ranks; 0: no models
                             on a GPU */
  uint64_t device_bytes;  /* taken on a GPU, the most of all ranks; 0: not looked at */
  uint64_t bytes_read, bytes_written; /* sums */
  int64_t  tiles_done, tiles_resumed, tiles_on_device, n_lane, n_on_device;
} ingot_report;

/** From the timings of all ranks [n_rank]. */
void ingot_report_make(const ingot_merge_timing *timing, int n_rank, ingot_report *out);
/** A table for people, appended to text. */
ingot_status ingot_report_text(const ingot_report *report, ingot_text *text);
/** For the event at a step's end; NULL when memory is out. */
json_t *ingot_report_json(const ingot_report *report);

#endif
