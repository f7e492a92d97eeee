/** Resolving the step generate. */
#ifndef INGOT_DRIVER_GENERATE_PLAN_H
#define INGOT_DRIVER_GENERATE_PLAN_H

#include "driver/ensemble_plan.h"
#include "driver/generate_settings.h"
#include "workers/generate/generate.h"

/** The body of its plan. */
typedef struct ingot_generate_body {
  ingot_ensemble_body ensemble; /* the first member: it travels as an ensemble's body */
  ingot_generate_plan plan;     /* ensemble: a copy of ensemble.plan */
  const char         *about;    /* what the file is made of, JSON; rank 0 alone */
} ingot_generate_body;

/* As ingot_step_type.plan, .pack, .unpack. */
ingot_status ingot_generate_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
ingot_status ingot_generate_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_generate_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);

#endif
