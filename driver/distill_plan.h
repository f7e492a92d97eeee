/** Resolving the step that trains a student: from settings and inputs to the plan that workers run. */
#ifndef INGOT_DRIVER_DISTILL_PLAN_H
#define INGOT_DRIVER_DISTILL_PLAN_H

#include "driver/distill_settings.h"
#include "driver/planner.h"
#include "driver/step.h"
#include "workers/distill/distill.h"

/** The body of such a step's plan. */
typedef struct ingot_distill_body {
  ingot_distill_plan plan;
  bool               on_device;
} ingot_distill_body;

#define INGOT_TRAINING_FILE "ingot_training.json"

/** As ingot_step_type.plan, .pack and .unpack. */
ingot_status ingot_distill_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
ingot_status ingot_distill_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_distill_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);

/** ingot_training.json: losses, rates, norms and validations of a finished training, with the best student or the last;
 * appended. */
ingot_status ingot_distill_report(const ingot_distill_plan *plan, const ingot_distill_history *history, bool best,
                                  ingot_text *text);
/** The curves as an SVG picture that needs nothing else; appended. */
ingot_status ingot_distill_picture(const ingot_distill_plan *plan, const ingot_distill_history *history,
                                   ingot_text *text);

#endif
