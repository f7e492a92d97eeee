/** How a step that combines models holds them in memory. */
#ifndef INGOT_DRIVER_ENSEMBLE_MEMORY_H
#define INGOT_DRIVER_ENSEMBLE_MEMORY_H

#include "driver/ensemble_settings.h"
#include "driver/placement.h"
#include "workers/ensemble/ensemble.h"

/** All borrowed; `plan` is completed. */
typedef struct ingot_ensemble_fit {
  ingot_planner                 *planner;
  const ingot_ensemble_settings *settings;
  const char                    *place; /* of the step, for messages */
  const ingot_model_spec        *specs; /* [n_model] */
  bool                           on_device;
  ingot_ensemble_plan           *plan;
} ingot_ensemble_fit;

/**
 * Choose placement, windows of a pass, and whether models run one after the other. *how says what was chosen and why;
 * *bytes is what a rank needs. What does not fit is a problem of the planner, with what would.
 */
ingot_status ingot_ensemble_fit_memory(const ingot_ensemble_fit *fit, ingot_arena *arena, const char **how,
                                       uint64_t *bytes);

#endif
