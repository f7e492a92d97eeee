/** What an output may be and where: not on top of an input, not over something else, and with room for it. */
#ifndef INGOT_DRIVER_OUTPUT_CHECK_H
#define INGOT_DRIVER_OUTPUT_CHECK_H

#include "driver/job.h"
#include "driver/planner.h"
#include "driver/step.h"

/**
 * Check a step's output against its inputs and against what is there; sets plan->complete. With `good` false the plan
 * has problems already, and only what does not depend on it is checked. Problems are added to the planner's list;
 * INGOT_ERR_NOMEM only.
 */
ingot_status ingot_output_check(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan, bool good);
/** Check that the file systems have room for all outputs still to be made. As above. */
ingot_status ingot_output_check_space(ingot_planner *planner);

/** True when a and b are the same file or directory, or one is inside the other. Neither needs to exist. */
ingot_status ingot_paths_overlap(const char *a, const char *b, bool *overlap);
/** The nearest directory above (or at) a path that exists; appended to text. */
ingot_status ingot_existing_folder(const char *path, ingot_text *text);

#endif
