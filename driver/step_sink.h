/** What the outputs of all steps have in common. */
#ifndef INGOT_DRIVER_STEP_SINK_H
#define INGOT_DRIVER_STEP_SINK_H

#include "driver/step.h"

/** Path, form and manner of plan->sink, from plan->output. INGOT_ERR_NOMEM. */
ingot_status ingot_step_sink_begin(const ingot_planner *planner, bool durable, ingot_step_plan *plan);
/** Give plan->sink its root attributes: the job, the recipe, the version. plan->recipe is there. INGOT_ERR_NOMEM. */
ingot_status ingot_step_sink_attributes(const ingot_job *job, ingot_step_plan *plan);
/**
 * A sink that was planned for a part of the step, with the step's own recipe and card (NULL: none) in place of the
 * part's. INGOT_ERR_NOMEM.
 */
ingot_status ingot_step_sink_adopt(const ingot_sink_spec *part, const char *recipe, const char *card,
                                   ingot_arena *arena, ingot_sink_spec *out);
/**
 * Fingerprint of a step whose result follows from its recipe, its inputs and the kind of its output. `version` counts
 * up when the same settings and inputs come to mean other results.
 */
uint64_t ingot_step_fingerprint(const ingot_step_plan *plan, const char *version);

#endif
