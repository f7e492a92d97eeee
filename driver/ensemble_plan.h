/** Resolving the steps ensemble and logits, and what an ensemble says of its results. */
#ifndef INGOT_DRIVER_ENSEMBLE_PLAN_H
#define INGOT_DRIVER_ENSEMBLE_PLAN_H

#include "driver/ensemble_settings.h"
#include "driver/gather_plan.h"
#include "workers/ensemble/ensemble.h"

/** The body of such a step's plan. */
typedef struct ingot_ensemble_body {
  ingot_step_plan
      members; /* as an evaluate step of the members on all data; its gather plan is completed for this step */
  ingot_ensemble_plan plan; /* gather: a copy of it */
} ingot_ensemble_body;

/* As ingot_step_type.plan, .pack, .unpack and .release, of both types. */
ingot_status ingot_ensemble_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
ingot_status ingot_ensemble_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_ensemble_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);
void         ingot_ensemble_step_release(ingot_step_plan *plan);

/** Weights, how they were learnt, and scores as JSON text; rank 0. Appended. */
ingot_status ingot_ensemble_json(const ingot_ensemble_body *body, const ingot_ensemble_result *result,
                                 ingot_text *text);
/** The same as tables for people. */
ingot_status ingot_ensemble_table(const ingot_ensemble_body *body, const ingot_ensemble_result *result,
                                  ingot_text *text);

#endif
