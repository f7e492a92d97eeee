/**
 * Step types. A type is a const descriptor in driver/step_<name>.c and a row in steps.def.
 *
 * The way of a step: `read` while the job file is read; `plan` on rank 0, for all steps before anything runs, and again
 * right before the step if an earlier step has made its input meanwhile; pack and unpack to take the plan to the other
 * ranks; `run` on all ranks.
 */
#ifndef INGOT_DRIVER_STEP_H
#define INGOT_DRIVER_STEP_H

#include <jansson.h>
#include <stdatomic.h>

#include "base/comm.h"
#include "driver/events.h"
#include "driver/job.h"
#include "driver/planner.h"
#include "workers/merge.h"

/** An input of a step, for the manifest. */
typedef struct ingot_plan_input {
  const char *id;
  const char *path;
  uint64_t    bytes;    /* of its tensor files */
  uint64_t    identity; /* ingot_source_identity; 0 when it is not there yet */
} ingot_plan_input;

/** A step resolved against its inputs. Owned strings and arrays live in its arena. */
typedef struct ingot_step_plan {
  const ingot_step_type *type;
  int                    number; /* from 1 */
  const char            *title;  /* "merge by ties", for people */
  const char            *output; /* path */
  const char       *other; /* path of a second checkpoint with the same tensors, made before the output; NULL: none */
  const char       *form;  /* what the output is; NULL: what sink.format says */
  const char       *work;  /* what is done, besides the tensors written; NULL: tiles */
  ingot_sink_spec   sink;  /* what will be written */
  bool              ready; /* all inputs are there: it can run */
  bool              complete; /* the output is there already, made by the same settings from the same inputs */
  uint64_t          fingerprint;
  uint64_t          bytes_read; /* with all passes over the inputs */
  uint64_t          bytes_written;
  uint64_t          memory_bytes; /* of one rank: of its GPU where models run on one, else of the host */
  uint64_t          host_bytes; /* of one rank with models on a GPU: of the host, without the GPU's libraries; else 0 */
  int64_t           n_tile;
  int               n_pass;   /* over the inputs, at most */
  int               n_thread; /* after memory_limit; 0: as asked for */
  const char       *recipe;   /* resolved settings, JSON text */
  ingot_plan_input *inputs;   /* [n_input] */
  int               n_input;
  ingot_arena       arena;
  void             *body; /* the type's own part, in the arena or released by the type */
} ingot_step_plan;

/** How `ingot run` was called, and what steps report to. The same on all ranks but for `events` (rank 0, or NULL). */
typedef struct ingot_run_context {
  ingot_comm         *comm;
  const atomic_int   *stop;
  int                 n_thread;
  ingot_device_choice device;
  bool                fresh;
  bool                quiet;
  bool                no_sync;
  ingot_events       *events;
  ingot_lock         *lock; /* of the running step's output; rank 0 */
} ingot_run_context;

/** What a step has done, for the manifest and the summary. */
typedef struct ingot_step_result {
  ingot_merge_timing timing;    /* of this rank */
  uint64_t          *checksums; /* [other ? 2 : 1][sink.n_tensor]: the output's first; owned */
} ingot_step_result;

struct ingot_step_type {
  const char      *name;
  const char      *summary;        /* one line */
  const ingot_key *keys;           /* must have "type", "name" and "output"; ends with a row whose name is NULL */
  size_t           settings_bytes; /* step->settings, filled from keys; then `read` does the rest */
  bool             no_tensors;     /* the output is no checkpoint: no step can take it */
  bool             keeps_states;   /* what was saved stays when values that cannot be used end the step */
  /** Adds problems of the job file; INGOT_ERR_NOMEM only. */
  ingot_status (*read)(ingot_job *job, ingot_job_step *step, ingot_problems *problems);
  /**
   * Resolve against the inputs; rank 0. Problems with inputs, output or space are added to planner->problems; the
   * plan is then not to be run. *plan has type, number and output set.
   */
  ingot_status (*plan)(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
  ingot_status (*pack)(const ingot_step_plan *plan, ingot_text *bytes);
  ingot_status (*unpack)(const void *bytes, size_t size, ingot_step_plan *plan);
  /** Collective; all ranks return the same status. */
  ingot_status (*run)(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result);
  void (*release)(ingot_step_plan *plan); /* what the arena does not hold; NULL: nothing */
};

/** All types in steps.def order. */
int                    ingot_step_type_count(void);
const ingot_step_type *ingot_step_type_at(int i);
const ingot_step_type *ingot_step_type_find(const char *name);
const char            *ingot_step_type_nearest(const char *name);

void ingot_step_plan_release(ingot_step_plan *plan);
void ingot_step_result_release(ingot_step_result *result);

#endif
