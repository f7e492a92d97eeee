/* The evaluate step: scores of models on data, as JSON and as a table. */
#include <math.h>
#include <stdlib.h>

#include "driver/gather_plan.h"
#include "driver/scores_output.h"

/* What is written: the plan's scores. */
typedef struct written {
  const ingot_gather_body *body;
  const ingot_score       *scores; /* [n_model][n_data] */
} written;

static ingot_status written_json(const void *context, ingot_text *text)
{
  const written *w = context;
  return ingot_evaluation_json(w->body, w->scores, text);
}

static ingot_status written_lines(const void *context, ingot_text *text)
{
  const written *w = context;
  return ingot_evaluation_table(&w->body->plan, w->scores, text);
}

/* Tables nll, top1, tokens. */
static void written_table(const void *context, int tensor, size_t n, void *values)
{
  const written *w = context;
  double        *real = values;
  int64_t       *whole = values;
  for (size_t i = 0; i < n; i++) {
    const ingot_score *s = &w->scores[i];
    double             count = s->n_token > 0 ? (double)s->n_token : NAN;
    if (tensor == 2) whole[i] = s->n_token;
    else real[i] = (tensor == 0 ? s->nll : (double)s->n_right) / count;
  }
}

static ingot_status run_evaluate(const ingot_run_context *context, const ingot_step_plan *plan,
                                 ingot_step_result *result)
{
  ingot_progress           progress;
  const ingot_gather_plan *g = &((const ingot_gather_body *)plan->body)->plan;
  ingot_gather_options     options = ingot_gather_step_options(context, plan, &progress);
  ingot_score             *scores = calloc((size_t)g->n_model * (size_t)g->n_data + 1, sizeof *scores);
  result->checksums = calloc((size_t)g->sink.n_tensor + 1, sizeof *result->checksums);
  ingot_status st = scores && result->checksums ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the scores");
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_evaluate_run(context->comm, g, &options, scores, &result->timing);
  ingot_progress_finish(&progress);
  INGOT_TRY(st);
  const written             w = {plan->body, scores};
  const ingot_scores_output output = {g->output, g->fingerprint, &g->sink,      "ingot_evaluation",
                                      &w,        written_json,   written_lines, written_table};
  st = ingot_scores_output_write(context, &output, result->checksums);
done:
  free(scores);
  return st;
}

const ingot_step_type ingot_step_evaluate = {
    .name = "evaluate",
    .summary = "negative log-likelihood, perplexity and accuracy of models on data",
    .keys = ingot_evaluate_keys,
    .settings_bytes = sizeof(ingot_gather_settings),
    .no_tensors = true,
    .read = ingot_gather_settings_read,
    .plan = ingot_gather_plan_make,
    .pack = ingot_gather_step_pack,
    .unpack = ingot_gather_step_unpack,
    .run = run_evaluate,
};
