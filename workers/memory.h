/** Memory of a rank that merges: what it will take, and what it may take. All functions may be called from any
 * thread. */
#ifndef INGOT_WORKERS_MEMORY_H
#define INGOT_WORKERS_MEMORY_H

#include "workers/merge.h"

/** Anonymous memory of the program and its libraries without a GPU's, before it has read anything. */
enum { INGOT_PROCESS_BYTES = 5 << 20 };

/** More lanes on a GPU than this only wait for each other to write: measured on an H100 with 16 cores
 * (docs/performance.md). */
enum { INGOT_GPU_LANES_MAX = 8 };

/** Lanes of a rank for tiles: on a GPU a few, else as many as threads unless their buffers would be too much. At
 * least 1. */
int ingot_memory_lanes(const ingot_merge_plan *plan, int n_thread, bool on_device);
/** Lanes of a rank for a pass over the model, each with n_sum sums of its own. At least 1. */
int ingot_memory_model_lanes(const ingot_merge_plan *plan, int n_thread, int64_t n_sum);
/** What the summaries that are made at the same time may take beside the lanes; one alone may always be made. */
uint64_t ingot_memory_for_summaries(const ingot_merge_plan *plan, int n_thread);
/** What the summary of tensor i takes on the CPU, about; 0 without summary. */
uint64_t ingot_memory_of_summary(const ingot_merge_plan *plan, int i);

#endif
