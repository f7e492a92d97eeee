/* The logits step: a teacher's or an ensemble's largest log-probabilities on data, for distillation. */
#include <stdlib.h>

#include "driver/ensemble_plan.h"

static ingot_status run_logits(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
{
  ingot_progress             progress;
  const ingot_ensemble_body *body = plan->body;
  ingot_ensemble_plan        e = body->plan;
  ingot_gather_options       options = ingot_gather_step_options(context, &body->members, &progress);
  e.gather.sink.lock = context->lock;
  result->checksums = calloc((size_t)plan->sink.n_tensor + 1, sizeof *result->checksums);
  ingot_status st =
      result->checksums ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d checksums", plan->sink.n_tensor);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_ensemble_write_logits(context->comm, &e, &options, result->checksums, &result->timing);
done:
  ingot_progress_finish(&progress);
  return st;
}

const ingot_step_type ingot_step_logits = {
    .name = "logits",
    .summary = "the largest log-probabilities of a model or an ensemble on data, as a file to distill from",
    .keys = ingot_logits_keys,
    .settings_bytes = sizeof(ingot_ensemble_settings),
    .no_tensors = true,
    .read = ingot_ensemble_settings_read,
    .plan = ingot_ensemble_plan_make,
    .pack = ingot_ensemble_step_pack,
    .unpack = ingot_ensemble_step_unpack,
    .run = run_logits,
    .release = ingot_ensemble_step_release,
};
