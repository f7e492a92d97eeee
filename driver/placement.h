/** Where the models of a step run: on the GPU or the CPU and in what arithmetic, the setting `placement`, and the
 * memory that a rank has for them. */
#ifndef INGOT_DRIVER_PLACEMENT_H
#define INGOT_DRIVER_PLACEMENT_H

#include "driver/planner.h"
#include "workers/statistics/gather.h"

/** "float32", "tf32", "bfloat16". */
const char *ingot_compute_name(ingot_compute compute);
/**
 * What a step computes in: `choice` is its setting `dtype` (ingot_dtype_choices), "auto" bfloat16 on a GPU and float32
 * on a CPU. *on_device: there is a GPU to run on. A dtype that needs one, and has none, is a problem.
 */
ingot_compute ingot_compute_choose(ingot_planner *planner, const ingot_job_step *step, int choice, bool *on_device);
/** Windows of n_token tokens that go through a model at a time, where the job does not say: at least 1. */
int64_t ingot_batch_default(bool on_device, int64_t n_token);

/** placement = "..." of the steps that run several models. */
typedef enum ingot_placement_choice {
  INGOT_PLACE_AUTO,
  INGOT_PLACE_REPLICATED,
  INGOT_PLACE_SPREAD
} ingot_placement_choice;

/** "auto", "replicated", "spread", NULL. */
extern const char *const ingot_placement_names[];

/** A row of a step's keys. */
/* clang-format off: rows of tables */
#define INGOT_PLACEMENT_ROW(offset, what)                                                                    \
  {                                                                                                          \
    "placement", INGOT_KEY_CHOICE, false, "auto", ingot_placement_names, offset,                             \
        what " are all on each rank (replicated) or each on one rank (spread); auto: replicated if they fit" \
  }
/* clang-format on */

/** What a rank may take. */
typedef struct ingot_rank_memory {
  uint64_t    bytes;
  bool        stated; /* by memory_limit, not by the machine */
  const char *what;   /* "memory_limit is", "the GPU has", ...: before the bytes */
} ingot_rank_memory;

/**
 * The least of memory_limit (0: none) and a rank's share of what there is: of its GPU, or of nine tenths of the host's
 * memory. bytes 0: not known, or the job will run on other hosts. INGOT_ERR_DEVICE.
 */
ingot_status ingot_rank_memory_find(const ingot_planner *planner, bool on_device, uint64_t memory_limit,
                                    ingot_rank_memory *out);

/**
 * What a rank takes of the memory that its models are in, when these take model_bytes and the step has host_bytes of
 * the host besides: on a CPU all of it, with the process.
 */
uint64_t ingot_rank_memory_need(bool on_device, uint64_t model_bytes, uint64_t host_bytes);
/**
 * What ingot takes of the host beside models [n_model] on a GPU: page-locked buffers, and the most of what reading a
 * model and the step need. The process with the GPU's libraries comes on top; the run finds out how much that is. On a
 * CPU 0: it is in the above.
 */
uint64_t ingot_rank_host_need(bool on_device, ingot_compute compute, const ingot_model_spec *specs, int n_model,
                              int n_thread, uint64_t host_bytes);

#endif
