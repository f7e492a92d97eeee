/* The ensemble step: several models' distributions combined, weights learnt, scores as JSON or HDF5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/tile.h"
#include "driver/ensemble_plan.h"
#include "io/atomic_file.h"
#include "io/journal.h"

/* One of the tables of a .h5 file, and its checksum. */
static ingot_status write_table(const ingot_ensemble_plan *plan, ingot_sink *sink, int tensor, const ingot_ensemble_result *result,
                                bool root, uint64_t *checksum)
{
  ingot_status st = INGOT_OK;
  size_t       n_model = (size_t)plan->gather.n_model, n_score = (n_model + 1) * (size_t)plan->n_score;
  size_t       n = tensor == 0 ? n_model * (size_t)plan->n_row : n_score;
  double      *real = calloc(n, sizeof *real);
  int64_t     *whole = calloc(n, sizeof *whole);
  INGOT_CHECK(real && whole, INGOT_ERR_NOMEM, "no memory for %zu scores", n);
  for (size_t i = 0; i < n && tensor > 0; i++) {
    const ingot_score *s = &result->scores[i];
    double             count = s->n_token > 0 ? (double)s->n_token : NAN;
    real[i] = (tensor == 1 ? s->nll : (double)s->n_right) / count;
    whole[i] = s->n_token;
  }
  if (tensor == 0) memcpy(real, result->weights, n * sizeof *real);
  const void *data = tensor == 3 ? (const void *)whole : real;
  uint64_t    hash = ingot_hash(data, n * 8);
  *checksum = ingot_tensor_checksum(&hash, 1);
  if (root) st = ingot_sink_write(sink, tensor, 0, n * 8, data);
done:
  free(real);
  free(whole);
  return st;
}

static ingot_status write_hdf5(const ingot_run_context *context, const ingot_ensemble_plan *plan, const char *json,
                               const ingot_ensemble_result *result, uint64_t *checksums)
{
  ingot_status          st = INGOT_OK;
  ingot_sink           *sink = NULL;
  ingot_sink_spec       spec = plan->gather.sink;
  bool                  root = ingot_comm_rank(context->comm) == 0;
  ingot_sink_attribute *attributes = calloc((size_t)spec.n_attribute + 1, sizeof *attributes);
  st = attributes ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the attributes of the output");
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  memcpy(attributes, spec.attributes, (size_t)spec.n_attribute * sizeof *attributes);
  attributes[spec.n_attribute++] = (ingot_sink_attribute){"ingot_ensemble", json};
  spec.attributes = attributes;
  spec.lock = context->lock;
  INGOT_TRY(ingot_sink_create(context->comm, &spec, &sink));
  for (int i = 0; i < spec.n_tensor && st == INGOT_OK; i++) st = write_table(plan, sink, i, result, root, &checksums[i]);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_sink_commit(context->comm, &sink, checksums);
done:
  ingot_sink_close(&sink);
  free(attributes);
  return st;
}

/* The text of rank 0 on every rank. */
static ingot_status share_text(ingot_comm *comm, const ingot_text *text, char **copy)
{
  ingot_status st = INGOT_OK;
  int64_t      size = (int64_t)text->size + 1;
  INGOT_TRY(ingot_comm_bcast(comm, &size, sizeof size, 0));
  *copy = calloc((size_t)size, 1);
  st = *copy ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the scores");
  INGOT_TRY(ingot_comm_agree(comm, st));
  if (ingot_comm_rank(comm) == 0) memcpy(*copy, ingot_text_string(text), text->size);
  st = ingot_comm_bcast(comm, *copy, (size_t)size, 0);
done:
  return st;
}

/* Under the output's name; killed before the manifest is written, the same command makes it again. */
static ingot_status write_output(const ingot_run_context *context, const ingot_ensemble_body *body,
                                 const ingot_ensemble_result *result, uint64_t *checksums)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &body->plan.gather;
  ingot_text               json = {0}, lines = {0};
  char                    *copy = NULL;
  bool                     root = ingot_comm_rank(context->comm) == 0;
  if (root) st = ingot_ensemble_json(body, result, &json);
  if (root && st == INGOT_OK) st = ingot_ensemble_table(body, result, &lines);
  if (root && st == INGOT_OK) st = ingot_fault_check(INGOT_FAULT_COMMIT);
  if (root && st == INGOT_OK) st = ingot_journal_create(g->output, g->fingerprint, 0);
  if (root && st == INGOT_OK && g->sink.n_tensor == 0) {
    if (context->lock) st = ingot_lock_check(context->lock);
    if (st == INGOT_OK) st = ingot_file_replace(g->output, ingot_text_string(&json), json.size, g->sink.durable);
  }
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  if (g->sink.n_tensor > 0) {
    INGOT_TRY(share_text(context->comm, &json, &copy));
    INGOT_TRY(write_hdf5(context, &body->plan, copy, result, checksums));
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

static ingot_status run_ensemble(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
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
  INGOT_TRY(write_output(context, body, &found, result->checksums));
  st = ingot_comm_rank(context->comm) == 0 ? ingot_gather_forget(plan->output) : INGOT_OK;
  st = ingot_comm_agree(context->comm, st);
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
