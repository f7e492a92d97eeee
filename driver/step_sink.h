/** What the outputs of all steps that run models have in common. */
#ifndef INGOT_DRIVER_STEP_SINK_H
#define INGOT_DRIVER_STEP_SINK_H

#include "driver/step.h"

/** Give plan->sink its root attributes: the job, the recipe, the version. plan->recipe is there. INGOT_ERR_NOMEM. */
ingot_status ingot_step_sink_attributes(const ingot_job *job, ingot_step_plan *plan);
/**
 * Fingerprint of a step whose result follows from its recipe, its inputs and the kind of its output. `version` counts up
 * when the same settings and inputs come to mean other results.
 */
uint64_t ingot_step_fingerprint(const ingot_step_plan *plan, const char *version);

#endif
