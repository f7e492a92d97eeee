/* The ensemble step: several models' distributions combined, weights learnt, scores as JSON or HDF5. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver/ensemble_plan.h"
#include "driver/scores_output.h"

/* What is written: weights, and scores of the ensemble and of its members. */
typedef struct written {
  const ingot_ensemble_body   *body;
  const ingot_ensemble_result *result;
} written;

static ingot_status written_json(const void *context, ingot_text *text)
{
  const written *w = context;
  return ingot_ensemble_json(w->body, w->result, text);
}

static ingot_status written_lines(const void *context, ingot_text *text)
{
  const written *w = context;
  return ingot_ensemble_table(w->body, w->result, text);
}

/* Tables weights, nll, top1, tokens. */
static void written_table(const void *context, int tensor, size_t n, void *values)
{
  const written *w = context;
  double        *real = values;
  int64_t       *whole = values;
  if (tensor == 0) {
    memcpy(real, w->result->weights, n * sizeof *real);
    return;
  }
  for (size_t i = 0; i < n; i++) {
    const ingot_score *s = &w->result->scores[i];
    double             count = s->n_token > 0 ? (double)s->n_token : NAN;
    if (tensor == 3) whole[i] = s->n_token;
    else real[i] = (tensor == 1 ? s->nll : (double)s->n_right) / count;
  }
}

static ingot_status run_ensemble(const ingot_run_context *context, const ingot_step_plan *plan,
                                 ingot_step_result *result)
{
  ingot_progress             progress;
  const ingot_ensemble_body *body = plan->body;
  ingot_ensemble_result      found = {0};
  ingot_gather_options       options = ingot_gather_step_options(context, &body->members, &progress);
  result->checksums = calloc((size_t)plan->sink.n_tensor + 1, sizeof *result->checksums);
  ingot_status st = ingot_ensemble_result_init(&found, &body->plan);
  if (st == INGOT_OK && !result->checksums) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the scores");
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_ensemble_run(context->comm, &body->plan, &options, &found, &result->timing);
  ingot_progress_finish(&progress);
  INGOT_TRY(st);
  const ingot_gather_plan  *g = &body->plan.gather;
  const written             w = {body, &found};
  const ingot_scores_output output = {g->output, g->fingerprint, &g->sink,      "ingot_ensemble",
                                      &w,        written_json,   written_lines, written_table};
  st = ingot_scores_output_write(context, &output, result->checksums);
done:
  ingot_ensemble_result_release(&found);
  return st;
}

const ingot_step_type ingot_step_ensemble = {
    .name = "ensemble",
    .summary = "predictions of several models combined, with weights given or learnt, and scored on data",
    .keys = ingot_ensemble_keys,
    .settings_bytes = sizeof(ingot_ensemble_settings),
    .no_tensors = true,
    .read = ingot_ensemble_settings_read,
    .plan = ingot_ensemble_plan_make,
    .pack = ingot_ensemble_step_pack,
    .unpack = ingot_ensemble_step_unpack,
    .run = run_ensemble,
    .release = ingot_ensemble_step_release,
};
