/* The steps fisher and gram: statistics of a model into a file. */
#include <stdlib.h>

#include "driver/gather_plan.h"

typedef ingot_status (*gather_function)(ingot_comm *, const ingot_gather_plan *, const ingot_gather_options *,
                                        uint64_t *, ingot_merge_timing *);

static ingot_status run_statistics(const ingot_run_context *context, const ingot_step_plan *plan,
                                   ingot_step_result *result, gather_function gather)
{
  ingot_progress       progress;
  ingot_gather_plan    g = ((const ingot_gather_body *)plan->body)->plan;
  ingot_gather_options options = ingot_gather_step_options(context, plan, &progress);
  g.sink.lock = context->lock;
  result->checksums = calloc((size_t)g.sink.n_tensor + 1, sizeof *result->checksums);
  ingot_status st =
      result->checksums ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d checksums", g.sink.n_tensor);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = gather(context->comm, &g, &options, result->checksums, &result->timing);
done:
  ingot_progress_finish(&progress);
  return st;
}

static ingot_status run_fisher(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
{
  return run_statistics(context, plan, result, ingot_fisher_run);
}

static ingot_status run_gram(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
{
  return run_statistics(context, plan, result, ingot_gram_run);
}

const ingot_step_type ingot_step_fisher = {
    .name = "fisher",
    .summary = "the diagonal Fisher information of a model on data",
    .keys = ingot_fisher_keys,
    .settings_bytes = sizeof(ingot_gather_settings),
    .read = ingot_gather_settings_read,
    .plan = ingot_gather_plan_make,
    .pack = ingot_gather_step_pack,
    .unpack = ingot_gather_step_unpack,
    .run = run_fisher,
};

const ingot_step_type ingot_step_gram = {
    .name = "gram",
    .summary = "Gram matrices of the inputs of a model's linear layers on data",
    .keys = ingot_gram_keys,
    .settings_bytes = sizeof(ingot_gather_settings),
    .read = ingot_gather_settings_read,
    .plan = ingot_gather_plan_make,
    .pack = ingot_gather_step_pack,
    .unpack = ingot_gather_step_unpack,
    .run = run_gram,
};
