/** Members and weights of a step that combines models: ensemble, logits, generate. */
#ifndef INGOT_DRIVER_ENSEMBLE_RESOLVE_H
#define INGOT_DRIVER_ENSEMBLE_RESOLVE_H

#include "driver/ensemble_plan.h"

/** What a step is to release, and what it needs besides its body. */
typedef struct ingot_ensemble_resolved {
  bool              good;             /* no problem was met; otherwise the rest may be incomplete */
  const char       *place;            /* of the step, for messages */
  ingot_input     **inputs;           /* [n_model] */
  ingot_model_spec *specs;            /* [n_model]; NULL while nothing was read */
  uint64_t          weights_identity; /* of the file that they come from; else 0 */
} ingot_ensemble_resolved;

/** What builds up while such a step is resolved. */
typedef struct ingot_ensemble_builder {
  ingot_planner                 *planner;
  const ingot_job_step          *step;
  const ingot_ensemble_settings *settings;
  ingot_step_plan               *out;
  ingot_arena                   *arena; /* the plan's */
  ingot_ensemble_body           *body;
  ingot_ensemble_plan           *plan;   /* the body's */
  ingot_gather_body             *gather; /* of the members' plan */
  bool                           logits; /* probabilities are wanted, so a vote will not do */
  ingot_ensemble_resolved        found;
} ingot_ensemble_builder;

/**
 * Given all but gather and found: fills these, the body, and of the step's plan inputs and ready. Problems are added to
 * the planner's; INGOT_ERR_NOMEM only. Release found in any case.
 */
ingot_status ingot_ensemble_resolve(ingot_ensemble_builder *builder);
void         ingot_ensemble_resolved_release(ingot_ensemble_resolved *found, int n_model);

#endif
