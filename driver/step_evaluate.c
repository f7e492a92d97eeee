/* The evaluate step: scores of models on data, as JSON and as a table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/tile.h"
#include "driver/gather_plan.h"
#include "io/atomic_file.h"
#include "io/journal.h"

/* One of the tables of a .h5 file, and its checksum. */
static ingot_status write_table(const ingot_gather_plan *g, ingot_sink *sink, int tensor, const ingot_score *scores, bool root,
                                uint64_t *checksum)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)g->n_model * (size_t)g->n_data;
  double      *real = calloc(n, sizeof *real);
  int64_t     *whole = calloc(n, sizeof *whole);
  INGOT_CHECK(real && whole, INGOT_ERR_NOMEM, "no memory for %zu scores", n);
  for (size_t i = 0; i < n; i++) {
    double count = (double)scores[i].n_token;
    real[i] = (tensor == 0 ? scores[i].nll : (double)scores[i].n_right) / (count > 0 ? count : NAN);
    whole[i] = scores[i].n_token;
  }
  const void *data = tensor == 2 ? (const void *)whole : real;
  uint64_t    hash = ingot_hash(data, n * 8);
  *checksum = ingot_tensor_checksum(&hash, 1);
  if (root) st = ingot_sink_write(sink, tensor, 0, n * 8, data);
done:
  free(real);
  free(whole);
  return st;
}

static ingot_status write_hdf5(const ingot_run_context *context, const ingot_gather_plan *g, const char *json,
                               const ingot_score *scores, uint64_t *checksums)
{
  ingot_status          st = INGOT_OK;
  ingot_sink           *sink = NULL;
  ingot_sink_spec       spec = g->sink;
  bool                  root = ingot_comm_rank(context->comm) == 0;
  ingot_sink_attribute *attributes = calloc((size_t)spec.n_attribute + 1, sizeof *attributes);
  st = attributes ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the attributes of the output");
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  memcpy(attributes, spec.attributes, (size_t)spec.n_attribute * sizeof *attributes);
  attributes[spec.n_attribute++] = (ingot_sink_attribute){"ingot_evaluation", json};
  spec.attributes = attributes;
  spec.lock = context->lock;
  INGOT_TRY(ingot_sink_create(context->comm, &spec, &sink));
  for (int i = 0; i < spec.n_tensor && st == INGOT_OK; i++) st = write_table(g, sink, i, scores, root, &checksums[i]);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_sink_commit(context->comm, &sink, checksums);
done:
  ingot_sink_close(&sink);
  free(attributes);
  return st;
}

/* The scores under the output's name; killed before the manifest is written, the same command makes them again. */
static ingot_status write_output(const ingot_run_context *context, const ingot_step_plan *plan, const ingot_score *scores,
                                 uint64_t *checksums)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_body *body = plan->body;
  const ingot_gather_plan *g = &body->plan;
  ingot_text               json = {0}, lines = {0};
  int64_t                  size = 0;
  char                    *copy = NULL;
  bool                     root = ingot_comm_rank(context->comm) == 0;
  if (root) st = ingot_evaluation_json(body, scores, &json);
  if (root && st == INGOT_OK) st = ingot_evaluation_table(g, scores, &lines);
  if (root && st == INGOT_OK) st = ingot_fault_check(INGOT_FAULT_COMMIT);
  if (root && st == INGOT_OK) st = ingot_journal_create(g->output, g->fingerprint, 0);
  if (root && st == INGOT_OK && g->sink.n_tensor == 0) {
    if (context->lock) st = ingot_lock_check(context->lock);
    if (st == INGOT_OK) st = ingot_file_replace(g->output, ingot_text_string(&json), json.size, g->sink.durable);
  }
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  if (g->sink.n_tensor > 0) {
    size = (int64_t)json.size + 1;
    INGOT_TRY(ingot_comm_bcast(context->comm, &size, sizeof size, 0));
    copy = calloc((size_t)size, 1);
    st = copy ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the scores");
    INGOT_TRY(ingot_comm_agree(context->comm, st));
    if (root) memcpy(copy, ingot_text_string(&json), json.size);
    INGOT_TRY(ingot_comm_bcast(context->comm, copy, (size_t)size, 0));
    INGOT_TRY(write_hdf5(context, g, copy, scores, checksums));
  }
  if (root) {
    printf("%s", ingot_text_string(&lines));
    fflush(stdout);
  }
done:
  free(copy);
  ingot_text_release(&json);
  ingot_text_release(&lines);
  return st;
}

static ingot_status run_evaluate(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
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
  INGOT_TRY(write_output(context, plan, scores, result->checksums));
  st = ingot_comm_rank(context->comm) == 0 ? ingot_gather_forget(g->output) : INGOT_OK;
  st = ingot_comm_agree(context->comm, st);
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
