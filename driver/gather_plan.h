/** Resolving the steps that run models on data: from settings and inputs to the plan that workers run. */
#ifndef INGOT_DRIVER_GATHER_PLAN_H
#define INGOT_DRIVER_GATHER_PLAN_H

#include "driver/gather_settings.h"
#include "driver/planner.h"
#include "driver/progress.h"
#include "driver/step.h"
#include "workers/statistics/gather.h"

/** The body of such a step's plan. */
typedef struct ingot_gather_body {
  ingot_gather_plan plan;
  bool              on_device;
  const char      **model_written; /* [n_model], as the next: what results say of their inputs; rank 0 alone */
  uint64_t         *model_identity;
  const char      **data_written; /* [n_data] */
  uint64_t         *data_identity;
} ingot_gather_body;

/** As ingot_step_type.plan, .pack and .unpack, of all three types; other types that run models plan that part with
 * it. */
ingot_status ingot_gather_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
ingot_status ingot_gather_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_gather_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);
/** Options for the workers; progress is started, and finished by the caller. */
ingot_gather_options ingot_gather_step_options(const ingot_run_context *context, const ingot_step_plan *plan,
                                               ingot_progress *progress);

/** The scores [n_model][n_data] as JSON text (one key order, 15 to 17 digits), and as a table for people; appended. */
ingot_status ingot_evaluation_json(const ingot_gather_body *body, const ingot_score *scores, ingot_text *text);
/** {data set: {"nll", "perplexity", "top1", "tokens"}} of one model; numbers that are not finite are null. */
json_t      *ingot_evaluation_row(const ingot_gather_plan *plan, const ingot_score *of_model);
ingot_status ingot_evaluation_table(const ingot_gather_plan *plan, const ingot_score *scores, ingot_text *text);

#endif
