/** Members and weights of a step that combines models: ensemble, logits, generate. */
#ifndef INGOT_DRIVER_ENSEMBLE_RESOLVE_H
#define INGOT_DRIVER_ENSEMBLE_RESOLVE_H

#include "driver/ensemble_plan.h"

/** What a step is to release, and what it needs besides its body. */
typedef struct ingot_ensemble_resolved {
  bool              good;   /* no problem was met; otherwise the rest may be incomplete */
  const char       *place;  /* of the step, for messages */
  ingot_input     **inputs; /* [n_model] */
  ingot_model_spec *specs;  /* [n_model]; NULL while nothing was read */
  uint64_t          weights_identity; /* of the file that they come from; else 0 */
} ingot_ensemble_resolved;

/** Fills body, and of *plan: inputs, ready. logits: probabilities are wanted, so a vote will not do. Problems are added to the planner's; INGOT_ERR_NOMEM only. */
ingot_status ingot_ensemble_resolve(ingot_planner *planner, const ingot_job_step *step, const ingot_ensemble_settings *settings,
                                    bool logits, ingot_step_plan *plan, ingot_ensemble_body *body, ingot_ensemble_resolved *out);
void         ingot_ensemble_resolved_release(ingot_ensemble_resolved *found, int n_model);

#endif
