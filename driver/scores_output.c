#include "driver/scores_output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/tile.h"
#include "io/atomic_file.h"
#include "io/journal.h"

/* A table is below one tile, so its checksum is of one hash. */
static ingot_status write_table(const ingot_scores_output *o, ingot_sink *sink, int tensor, bool root,
                                uint64_t *checksum)
{
  ingot_status       st = INGOT_OK;
  const ingot_shape *shape = &o->sink->tensors[tensor].shape;
  size_t             n = 1;
  for (int d = 0; d < shape->n_dim; d++) n *= (size_t)shape->dim[d];
  uint64_t *values = calloc(n + 1, sizeof *values);
  INGOT_CHECK(values, INGOT_ERR_NOMEM, "no memory for %zu scores", n);
  o->table(o->context, tensor, n, values);
  uint64_t hash = ingot_hash(values, n * sizeof *values);
  *checksum = ingot_tensor_checksum(&hash, 1);
  if (root) st = ingot_sink_write(sink, tensor, 0, n * sizeof *values, values);
done:
  free(values);
  return st;
}

static ingot_status write_hdf5(const ingot_run_context *context, const ingot_scores_output *o, const char *json,
                               uint64_t *checksums)
{
  ingot_status          st = INGOT_OK;
  ingot_sink           *sink = NULL;
  ingot_sink_spec       spec = *o->sink;
  bool                  root = ingot_comm_rank(context->comm) == 0;
  ingot_sink_attribute *attributes = calloc((size_t)spec.n_attribute + 1, sizeof *attributes);
  st = attributes ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the attributes of the output");
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  memcpy(attributes, spec.attributes, (size_t)spec.n_attribute * sizeof *attributes);
  attributes[spec.n_attribute++] = (ingot_sink_attribute){o->attribute, json};
  spec.attributes = attributes;
  spec.lock = context->lock;
  INGOT_TRY(ingot_sink_create(context->comm, &spec, &sink));
  for (int i = 0; i < spec.n_tensor && st == INGOT_OK; i++) st = write_table(o, sink, i, root, &checksums[i]);
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

/* On rank 0: the texts, the journal of the output that is to be, and a JSON output itself. */
static ingot_status prepare(const ingot_run_context *context, const ingot_scores_output *o, ingot_text *json,
                            ingot_text *lines)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(o->json(o->context, json));
  INGOT_TRY(o->lines(o->context, lines));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_COMMIT));
  INGOT_TRY(ingot_journal_create(o->path, o->fingerprint, 0));
  if (o->sink->n_tensor > 0) goto done;
  if (context->lock) INGOT_TRY(ingot_lock_check(context->lock));
  INGOT_TRY(ingot_file_replace(o->path, ingot_text_string(json), json->size, o->sink->durable));
done:
  return st;
}

ingot_status ingot_scores_output_write(const ingot_run_context *context, const ingot_scores_output *output,
                                       uint64_t *checksums)
{
  ingot_text   json = {0}, lines = {0};
  char        *copy = NULL;
  bool         root = ingot_comm_rank(context->comm) == 0;
  ingot_status st = root ? prepare(context, output, &json, &lines) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  if (output->sink->n_tensor > 0) {
    INGOT_TRY(share_text(context->comm, &json, &copy));
    INGOT_TRY(write_hdf5(context, output, copy, checksums));
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
