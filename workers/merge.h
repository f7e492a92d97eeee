/**
 * The merge step on the ranks: run a plan that the driver has made and checked.
 *
 * Every rank holds the same plan; the partition says which tiles are whose. Inside a rank, threads (lanes) take tiles
 * from a schedule; a lane reads the inputs, merges and writes. See docs/architecture.md, "The way of the data".
 */
#ifndef INGOT_WORKERS_MERGE_H
#define INGOT_WORKERS_MERGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/comm.h"
#include "io/sink.h"
#include "io/source.h"
#include "kernels/matrix.h"
#include "kernels/method.h"

/** One output tensor. */
typedef struct ingot_merge_tensor {
  ingot_method_tensor view;       /* what the method sees; its arrays are owned by the plan */
  ingot_dtype         dtype;      /* of the output */
  const int          *source;     /* [view.n_input]: index into plan->sources */
  const int          *tensor;     /* [view.n_input]: index of the tensor in that source */
  bool                copy;       /* byte copy of input 0 (integers, passthrough without scale): no method */
  ingot_grain         grain;      /* ELEMENT when copy */
  int64_t             first_tile; /* number of its first tile, counting through all tensors */
} ingot_merge_tensor;

/** Whether passes over the tensor come before it is merged. */
static inline bool ingot_merge_has_summary(const ingot_merge_tensor *t)
{
  return !t->copy && t->grain == INGOT_GRAIN_TENSOR;
}

typedef struct ingot_merge_plan {
  const ingot_method       *method;
  ingot_source *const      *sources;      /* [n_source]; each model once */
  const char *const        *source_names; /* [n_source]: names for messages */
  int                       n_source;
  const ingot_merge_tensor *tensors; /* [n_tensor], in output file order */
  int                       n_tensor;
  int64_t                   n_tile; /* of all tensors */
  ingot_nonfinite           nonfinite;
  ingot_sink_spec           sink; /* sink.tensors[i] belongs to tensors[i] */
  uint64_t fingerprint;           /* of settings, inputs and layout: decides whether a journal may be continued */
} ingot_merge_plan;

typedef enum ingot_device_choice { INGOT_DEVICE_AUTO, INGOT_DEVICE_CPU, INGOT_DEVICE_CUDA } ingot_device_choice;

/** When a merge that began on the CPU goes over to a GPU (workers/hand_over.h). */
typedef struct ingot_hand_over_limits {
  uint64_t min_bytes;   /* read and written by this rank: below, no GPU is started */
  double   look_s;      /* after so long, at most three times so long, it is decided whether a GPU is started */
  double   min_start_s; /* with less work left then, no GPU is started */
  double   min_rest_s;  /* with less work left, no more lanes are opened */
  int      trial_lanes; /* that try the GPU first */
  int64_t  trial_tiles; /* merged on either side before they are compared */
} ingot_hand_over_limits;

/** How to run, none of which changes the result. */
typedef struct ingot_merge_options {
  int n_thread; /* lanes of this rank, at least 1; on a GPU at most 8 of them are used, elsewhere fewer where their
                   buffers would be too much */
  ingot_device_choice device; /* AUTO: begins on the CPU, and goes over to a GPU where that is faster */
  bool                fresh;  /* ignore a partial output of an earlier run */
  const atomic_int   *stop;   /* set to non-zero by a signal handler: finish tiles in flight and leave */
  /** Called by the calling thread several times a second, on rank 0 only; NULL for none. */
  void (*progress)(void *context, int64_t tiles_done, int64_t n_tile, uint64_t bytes_done, uint64_t n_bytes,
                   double elapsed_s);
  void                         *progress_context;
  const ingot_hand_over_limits *hand_over; /* AUTO; NULL: the defaults */
} ingot_merge_options;

/** Seconds are summed over the rank's lanes; divide by lanes for wall time. */
typedef struct ingot_merge_timing {
  double   read_s, move_s, merge_s, write_s, wait_s; /* merge_s: scan and apply (CPU), kernels' wait (GPU) */
  double   device_s; /* of move_s and merge_s: by lanes on a GPU, copying to it and waiting for it */
  double   wall_s, cpu_s;
  uint64_t bytes_read, bytes_written;
  int64_t  tiles_done, tiles_resumed; /* merged now; found done from an earlier run */
  int64_t  n_lane;
  int64_t  tiles_on_device;   /* of tiles_done */
  int64_t  on_device;         /* 1 when lanes ran on a GPU */
  uint64_t peak_anon_bytes;   /* anonymous memory of the process, high water: of a step, which its runner watches */
  uint64_t peak_device_bytes; /* memory taken on the rank's GPU, high water; 0: not looked at */
  uint64_t library_bytes; /* anonymous memory of the process when the GPU's libraries were up, before the step's own; 0:
                             no models on a GPU */
} ingot_merge_timing;

/** Seconds of phases that were measured once, while n_lane lanes worked together, become sums over these. */
void ingot_timing_of_lanes(ingot_merge_timing *timing, int64_t n_lane);

/** A library was brought in, before which the process had anon_before bytes of anonymous memory: the rest is the
 * library's. */
void ingot_timing_add_library(ingot_merge_timing *timing, uint64_t anon_before);

/** Values of one kind that cannot be used, found in one source. */
typedef struct ingot_bad_report {
  uint64_t count;  /* over all tensors */
  int      tensor; /* first place: lowest output tensor, then lowest element; -1 when count is 0 */
  int64_t  element;
  bool     is_nan; /* of values that are not finite */
} ingot_bad_report;

/** Matrices solved in this run, over all ranks. */
typedef struct ingot_matrix_summary {
  int64_t n_matrix;
  int64_t n_ridge;      /* that needed something on the diagonal, or were asked to have it */
  double  ridge;        /* the largest of these, in units of the mean diagonal */
  int64_t n_dead;       /* input features that no model has seen active, over all matrices */
  int64_t n_iteration;  /* the most */
  double  residual;     /* the largest, relative */
  int64_t n_unfinished; /* iterations that did not reach the tolerance */
} ingot_matrix_summary;

typedef struct ingot_merge_result {
  ingot_merge_timing   timing; /* of this rank */
  ingot_matrix_summary matrices;
  ingot_bad_report    *nonfinite; /* [n_source], of all ranks; owned, free with ingot_merge_result_release */
  ingot_bad_report    *negative;  /* [n_source], Fisher information below zero; in the same memory */
  uint64_t            *checksums; /* [n_tensor] of the output, on every rank; owned likewise */
} ingot_merge_result;

/** Anonymous memory in bytes that one rank will take, for the plan; on_device: with the lanes of a GPU beside the
 * others. */
uint64_t ingot_merge_memory_bytes(const ingot_merge_plan *plan, int n_thread, bool on_device);
/** The same where matrices are solved on a GPU; *device_bytes: what the largest takes there. */
uint64_t ingot_merge_host_bytes(const ingot_merge_plan *plan, int n_thread, bool on_device, uint64_t *device_bytes);
/** Rank boundaries over tiles, [n_rank + 1], cut where grains allow; the same on every rank. */
ingot_status ingot_merge_partition(const ingot_merge_plan *plan, int n_rank, int64_t *begin);
/** Cost in units of a byte moved by one core: of the whole plan, and of the rank that has most when n_rank share it. */
ingot_status ingot_merge_cost(const ingot_merge_plan *plan, int n_rank, double *total, double *largest);

/**
 * Run the plan: create or resume the output, merge, commit. Collective; all ranks return the same status.
 * After success the output is in place and its journal is still there: the caller writes the manifest and then removes
 * the journal (ingot_sink_remove_partial). A run that died in between is taken up again here.
 *
 * INGOT_STOPPED after a stop request, with partial output and journal kept; INGOT_ERR_NUMERIC for non-finite inputs
 * under INGOT_NONFINITE_FAIL, with the partial output removed; any read, write or device error, with it kept.
 */
ingot_status ingot_merge_run(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                             ingot_merge_result *result);

/** The partial output of a merge, as far as it is done. */
typedef struct ingot_merge_partial ingot_merge_partial;

/**
 * Elements first .. first + n - 1 of an output tensor that is done, as they are stored, widened. Collective, and the
 * same call on all ranks; each tile is read by the rank that wrote it.
 */
ingot_status ingot_merge_partial_read(const ingot_merge_partial *partial, int tensor, int64_t first, int64_t n,
                                      float *values);

/**
 * Statistics that are made while the merge runs, from what it has merged so far. All tensors but those of MATRIX grain
 * are merged first, then these, group by group; plan->tensors have no inputs of statistics.
 */
typedef struct ingot_merge_live {
  void      *context;
  bool       on_device; /* a GPU is at work already: with AUTO, matrices are solved there however small they are */
  int        n_group;
  const int *group; /* [n_tensor]: of a tensor of MATRIX grain; others are not looked at */
  /** Before a group with something to solve: the statistics of its tensors. Earlier groups and other tensors are in
   * `partial`. Collective, and all ranks return the same status. */
  ingot_status (*make)(void *context, int group, const ingot_merge_partial *partial);
  /** As ingot_matrix_feed.gram: statistic k of a tensor of the group that was made last. */
  ingot_status (*gram)(void *context, int tensor, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to);
} ingot_merge_live;

/** As ingot_merge_run. */
ingot_status ingot_merge_run_live(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                                  const ingot_merge_live *live, ingot_merge_result *result);
void         ingot_merge_result_release(ingot_merge_result *result);

#endif
