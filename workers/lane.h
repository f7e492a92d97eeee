/**
 * A lane: one thread's pipeline from inputs to a merged tile in host memory. lane_cpu.c and lane_cuda.c implement it.
 *
 * The worker's loop begins tasks and finishes them in the same order, with at most `depth` between; the CPU lane does
 * everything in begin (depth 1), the GPU lane enqueues in begin and waits in finish, so that reading the next tile
 * overlaps with copies and kernels of the last. A lane is used by the thread that opened it only.
 */
#ifndef INGOT_WORKERS_LANE_H
#define INGOT_WORKERS_LANE_H

#include "workers/merge.h"

typedef enum ingot_task_kind {
  INGOT_TASK_SCAN,  /* a pass of a summary over one tile */
  INGOT_TASK_APPLY, /* merge one tile */
} ingot_task_kind;

typedef struct ingot_task {
  ingot_task_kind           kind;
  const ingot_merge_tensor *tensor;
  int                       tensor_index;
  int64_t                   tile;            /* within the tensor */
  void                     *state;           /* of the method; read-only while tasks run */
  const ingot_scan_ops     *ops;             /* SCAN on a CPU lane: tensor or model passes */
  const ingot_scan_plan    *scan;            /* SCAN */
  void                     *slot;            /* SCAN: host memory of the tile's slot, zeroed */
  int64_t                  *sums;            /* SCAN: [scan->n_sum], shared by all lanes: add under sums_lock */
  void                     *sums_lock;       /* pthread_mutex_t * */
  bool                      on_device;       /* for a GPU lane */
  bool                      count_nonfinite; /* first time that this data is looked at */
  void                     *cache; /* GPU: room of the tensor's inputs kept between passes, or NULL; see lane_cuda.h */
} ingot_task;

/** Values of one kind that cannot be used, seen in one input of one task. */
typedef struct ingot_lane_bad {
  uint64_t count;
  int64_t  first;  /* flat index in the tensor, -1 when count is 0 */
  bool     is_nan; /* of values that are not finite */
} ingot_lane_bad;

/**
 * The first input of a tile that is Fisher information, a mean of squares and so never below zero; n_input when there
 * is none. It is the only kind of statistics that comes to a lane.
 */
static inline int ingot_lane_first_fisher(const ingot_method_tensor *t)
{
  return t->n_input - t->n_statistic;
}

/**
 * Whether under INGOT_NONFINITE_ZERO a bad value counts as the base's; otherwise as 0. Where statistics weigh the
 * models, a base (that of mats) takes no part.
 */
static inline bool ingot_lane_base_fills(const ingot_method_tensor *t)
{
  return t->has_base && t->n_statistic == 0;
}

typedef struct ingot_lane_output {
  const void           *bytes; /* APPLY: the merged tile; lent until the next begin or finish */
  size_t                size;
  const ingot_lane_bad *nonfinite; /* [n_input] when the task counted; lent likewise; NULL otherwise */
  const ingot_lane_bad *negative;  /* the same of Fisher information below zero */
} ingot_lane_output;

typedef struct ingot_lane ingot_lane;

/** What both kinds fill in; the worker calls through these. */
typedef struct ingot_lane_ops {
  ingot_status (*begin)(ingot_lane *lane, const ingot_task *task);
  ingot_status (*finish)(ingot_lane *lane, ingot_lane_output *output);
  void (*close)(ingot_lane *lane);
} ingot_lane_ops;

/** The head of every lane. */
struct ingot_lane {
  const ingot_lane_ops   *ops;
  int                     depth; /* tasks between begin and finish at most */
  const ingot_merge_plan *plan;
  ingot_merge_timing      timing; /* this lane's seconds and bytes */
};

/** Open a lane for a plan. The calling thread is the lane's thread. */
ingot_status ingot_lane_cpu_open(const ingot_merge_plan *plan, ingot_lane **out);
/** Whether GPU lanes take this plan: INGOT_ERR_DEVICE, with the reason, when its method or number of inputs is not for
 * them. */
ingot_status ingot_lane_cuda_check(const ingot_merge_plan *plan);
/** On one device; all lanes of a rank share it. INGOT_ERR_DEVICE; never when built without CUDA. */
ingot_status ingot_lane_cuda_open(const ingot_merge_plan *plan, int device, ingot_lane **out);

/** Host and device bytes that one lane takes. */
uint64_t ingot_lane_cpu_bytes(const ingot_merge_plan *plan);
uint64_t ingot_lane_cuda_bytes(const ingot_merge_plan *plan, uint64_t *device_bytes);

#endif
