/** Planning a job: rank 0 opens the inputs, resolves every step and collects all problems. */
#ifndef INGOT_DRIVER_PLANNER_H
#define INGOT_DRIVER_PLANNER_H

#include "driver/input.h"
#include "driver/job.h"
#include "workers/merge.h"

struct ingot_step_plan;
struct ingot_planner_input;

typedef struct ingot_plan_options {
  int  n_thread; /* of a rank */
  int  n_rank;
  int  n_rank_node; /* of them on this node; 0: all */
  bool on_device;
  bool fresh;      /* existing outputs are to be replaced */
  bool elsewhere;  /* a plan for another machine: free space and memory here are not looked at */
  bool other_host; /* a plan for other hosts with the same files: memory here is not looked at */
  bool no_sync;
  int  only_step; /* plan this step alone; 0: all */
} ingot_plan_options;

typedef struct ingot_planner {
  const ingot_job            *job;
  ingot_plan_options          options;
  ingot_problems              problems;
  struct ingot_step_plan     *steps;  /* [job->n_step]; type NULL where nothing was planned */
  struct ingot_planner_input *inputs; /* opened so far */
  ingot_arena                 arena;
} ingot_planner;

/** job is borrowed. */
ingot_status ingot_planner_init(ingot_planner *planner, const ingot_job *job, const ingot_plan_options *options);
void         ingot_planner_release(ingot_planner *planner);

/**
 * Plan all steps (or the one asked for) and check outputs and disk space. All problems together become the error.
 */
ingot_status ingot_planner_plan(ingot_planner *planner);
/** Plan step `number` again, after an earlier step has written its output. */
ingot_status ingot_planner_replan(ingot_planner *planner, int number);
/** Report a failure as a problem of the step at `place`, and return INGOT_OK; memory alone ends planning:
 * INGOT_ERR_NOMEM. */
ingot_status ingot_planner_take(ingot_planner *planner, const char *place, ingot_status failure);
/** Tell the planner that a step's output is there now: its promise becomes a source. */
void ingot_planner_step_done(ingot_planner *planner, int number);

/**
 * The input that a reference stands for; lent, until the step that makes it is done. *out is NULL after a problem,
 * which is reported once however many steps share it.
 */
ingot_status ingot_planner_input(ingot_planner *planner, const ingot_job_reference *ref, const ingot_value *where,
                                 ingot_input **out);

#endif
