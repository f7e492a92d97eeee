/** Running a job: all its steps, each skipped when its output is complete, with manifests, events and a summary. */
#ifndef INGOT_DRIVER_RUN_H
#define INGOT_DRIVER_RUN_H

#include "driver/planner.h"
#include "driver/step.h"

typedef struct ingot_run_request {
  const char        *job_path;
  const char *const *set; /* [n_set]: key=value */
  int                n_set;
  ingot_plan_options plan;
  const char        *events_path; /* NULL: none */
  bool               wait;        /* for another run that writes the same output */
  int                wait_s;      /* at most so long; 0: without end */
} ingot_run_request;

/** Threads of this rank: asked (> 0), else OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, else its share of the usable cores. */
int ingot_run_threads(int asked, int n_local_rank);

/** Collective. context->events is set here; everything else by the caller. */
ingot_status ingot_run_job(ingot_run_context *context, const ingot_run_request *request);

#endif
