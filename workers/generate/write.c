#define _POSIX_C_SOURCE 200809L
/* From records to a token file: which sequences are written, and how they follow each other. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/tile.h"
#include "io/atomic_file.h"
#include "workers/generate/records.h"

enum { BUFFER_TOKENS = INGOT_TILE }; /* one hash of the checksum a buffer */

/* Where tokens go: nowhere (they are counted), to a file, or to a tensor. */
typedef struct writer {
  const ingot_records       *r;
  const ingot_generate_plan *plan;
  int                        fd; /* -1: none */
  const char                *path;
  ingot_sink                *sink;   /* NULL: none */
  unsigned char             *buffer; /* BUFFER_TOKENS ids */
  int64_t                    n_buffer, n_token, n_tile;
  uint64_t                  *hashes;   /* of the tiles; NULL while counting */
  int64_t                    used;     /* tokens of the row under way */
  bool                       pending;  /* an end token that is not written yet */
  bool                      *left_out; /* [n_sequence] */
} writer;

/* ---- tokens ---- */

static ingot_status flush_tokens(writer *w)
{
  ingot_status st = INGOT_OK;
  size_t bytes = (size_t)(w->n_buffer * w->plan->width), at = (size_t)((w->n_token - w->n_buffer) * w->plan->width);
  if (w->n_buffer == 0 || !w->hashes) goto done;
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(w->sink ? ingot_sink_write(w->sink, 0, at, bytes, w->buffer)
                    : ingot_file_pwrite(w->fd, w->path, at, w->buffer, bytes));
  w->hashes[w->n_tile++] = ingot_hash(w->buffer, bytes);
done:
  w->n_buffer = 0;
  return st;
}

static ingot_status put(writer *w, int32_t id)
{
  unsigned char *at = w->buffer + w->n_buffer * w->plan->width;
  for (int i = 0; i < w->plan->width; i++) at[i] = (unsigned char)((uint32_t)id >> (8 * i));
  w->n_token++;
  w->used++;
  return ++w->n_buffer == BUFFER_TOKENS ? flush_tokens(w) : INGOT_OK;
}

static ingot_status put_end(writer *w)
{
  bool pending = w->pending;
  w->pending = false;
  return pending ? put(w, w->plan->end) : INGOT_OK;
}

static ingot_status close_row(writer *w)
{
  ingot_status st = put_end(w);
  while (st == INGOT_OK && w->used % w->plan->row != 0) st = put(w, w->plan->fill);
  w->used = 0;
  return st;
}

static ingot_status put_sequence(writer *w, const ingot_sequence *s)
{
  ingot_status st = INGOT_OK;
  int64_t      n_body = s->n_token - (s->ended ? 1 : 0);
  bool         glued = w->pending && s->tokens[0] == w->plan->end;
  if (w->plan->row > 0 && w->used > 0 && w->used + (w->pending && !glued) + s->n_token > w->plan->row)
    INGOT_TRY(close_row(w));
  if (glued) w->pending = false; /* its first token stands for both */
  INGOT_TRY(put_end(w));
  for (int64_t i = 0; i < n_body; i++) INGOT_TRY(put(w, s->tokens[i]));
  w->pending = s->ended != 0;
done:
  return st;
}

static ingot_status put_all(writer *w)
{
  ingot_status   st = INGOT_OK;
  int32_t       *room = malloc((size_t)(w->plan->prompt + w->plan->length) * sizeof *room);
  ingot_sequence s;
  INGOT_CHECK(room, INGOT_ERR_NOMEM, "no memory for a sequence");
  w->n_token = w->n_buffer = w->n_tile = w->used = 0;
  w->pending = false;
  for (int64_t i = 0; i < w->r->n_sequence; i++) {
    if (w->left_out[i]) continue;
    INGOT_TRY(ingot_records_get(w->r, i, room, &s));
    INGOT_TRY(put_sequence(w, &s));
  }
  INGOT_TRY(w->plan->row > 0 && w->used > 0 ? close_row(w) : put_end(w));
  INGOT_TRY(flush_tokens(w));
done:
  free(room);
  return st;
}

/* ---- which sequences ---- */

typedef struct mark {
  uint64_t hash;
  int64_t  sequence;
} mark;

static int compare_marks(const void *x, const void *y)
{
  const mark *a = x, *b = y;
  if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
  return (a->sequence > b->sequence) - (a->sequence < b->sequence);
}

static ingot_status choose(writer *w, ingot_generate_result *result)
{
  ingot_status   st = INGOT_OK;
  int64_t        n = w->r->n_sequence, n_mark = 0;
  int32_t       *room = malloc((size_t)(w->plan->prompt + w->plan->length) * sizeof *room);
  mark          *marks = calloc((size_t)n + 1, sizeof *marks);
  ingot_sequence s;
  w->left_out = calloc((size_t)n + 1, sizeof *w->left_out);
  INGOT_CHECK(room && marks && w->left_out, INGOT_ERR_NOMEM, "no memory for %lld sequences", (long long)n);
  result->n_sequence = n;
  for (int64_t i = 0; i < n; i++) {
    INGOT_TRY(ingot_records_get(w->r, i, room, &s));
    result->n_ended += s.ended != 0;
    w->left_out[i] = w->plan->drop && !s.ended;
    result->n_dropped += w->left_out[i];
    if (!w->left_out[i])
      marks[n_mark++] = (mark){ingot_hash_seeded(room, (size_t)s.n_token * sizeof *room, (uint64_t)s.ended), i};
  }
  if (w->plan->unique) {
    qsort(marks, (size_t)n_mark, sizeof *marks, compare_marks);
    for (int64_t i = 1; i < n_mark; i++)
      if (marks[i].hash == marks[i - 1].hash) {
        w->left_out[marks[i].sequence] = true;
        result->n_duplicate++;
      }
  }
  result->n_written = n - result->n_dropped - result->n_duplicate;
  INGOT_CHECK(result->n_written > 0, INGOT_ERR_MISMATCH,
              "%s: no sequence is left: none of %lld has the end token %d within %lld tokens (truncated = \"keep\" "
              "takes them as they are)",
              w->plan->ensemble.gather.output, (long long)n, w->plan->end, (long long)w->plan->length);
done:
  free(room);
  free(marks);
  return st;
}

/* ---- files ---- */

static ingot_status write_flat(writer *w)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &w->plan->ensemble.gather;
  char                    *path = ingot_file_sibling(g->output, ".partial");
  INGOT_CHECK(path, INGOT_ERR_NOMEM, "no memory for a path");
  w->path = path;
  w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(w->fd >= 0, ingot_file_status(errno), "%s: cannot be created: %s", path, strerror(errno));
  INGOT_TRY(put_all(w));
  if (g->sink.durable) INGOT_TRY(ingot_file_sync(w->fd, path));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_COMMIT));
  if (g->sink.lock) INGOT_TRY(ingot_lock_check(g->sink.lock));
  INGOT_CHECK(rename(path, g->output) == 0, ingot_file_status(errno), "%s: cannot be renamed to %s: %s", path,
              g->output, strerror(errno));
  if (g->sink.durable) INGOT_TRY(ingot_file_sync_parent(g->output));
done:
  if (w->fd >= 0) close(w->fd);
  w->fd = -1;
  free(path);
  return st;
}

static ingot_status write_hdf5(writer *w, ingot_comm *comm, ingot_generate_result *result)
{
  ingot_status      st = INGOT_OK;
  ingot_sink_spec   spec = w->plan->ensemble.gather.sink;
  ingot_sink_tensor tensor = {"tokens", w->plan->width == 2 ? INGOT_DTYPE_U16 : INGOT_DTYPE_U32, {.n_dim = 1}};
  tensor.shape.dim[0] = result->n_token;
  spec.tensors = &tensor;
  spec.n_tensor = 1;
  INGOT_TRY(ingot_sink_create(comm, &spec, &w->sink));
  INGOT_TRY(ingot_comm_agree(comm, ingot_comm_rank(comm) == 0 ? put_all(w) : INGOT_OK));
  if (ingot_comm_rank(comm) == 0) result->checksum = ingot_tensor_checksum(w->hashes, w->n_tile);
  INGOT_TRY(ingot_comm_bcast(comm, &result->checksum, sizeof result->checksum, 0));
  INGOT_TRY(ingot_comm_agree(comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  st = ingot_sink_commit(comm, &w->sink, &result->checksum);
done:
  ingot_sink_close(&w->sink);
  return st;
}

/* Rank 0: which sequences, and how many tokens they are. */
static ingot_status count(writer *w, ingot_generate_result *result)
{
  ingot_status st = INGOT_OK;
  w->buffer = malloc((size_t)BUFFER_TOKENS * (size_t)w->plan->width);
  INGOT_CHECK(w->buffer, INGOT_ERR_NOMEM, "no memory for a row of tokens");
  INGOT_TRY(choose(w, result));
  INGOT_TRY(put_all(w));
  result->n_token = w->n_token;
  w->hashes = calloc((size_t)ingot_tile_count(w->n_token) + 1, sizeof *w->hashes);
  INGOT_CHECK(w->hashes, INGOT_ERR_NOMEM, "no memory for checksums");
done:
  return st;
}

ingot_status ingot_generate_write(const ingot_records *r, ingot_comm *comm, ingot_generate_result *result)
{
  ingot_status st = INGOT_OK;
  bool         root = ingot_comm_rank(comm) == 0;
  writer       w = {.r = r, .plan = r->plan, .fd = -1};
  *result = (ingot_generate_result){0};
  INGOT_TRY(ingot_comm_agree(comm, root ? count(&w, result) : INGOT_OK));
  INGOT_TRY(ingot_comm_bcast(comm, result, sizeof *result, 0));
  if (r->plan->ensemble.gather.sink.format == INGOT_SINK_HDF5) {
    INGOT_TRY(write_hdf5(&w, comm, result));
    goto done;
  }
  INGOT_TRY(ingot_comm_agree(comm, root ? write_flat(&w) : INGOT_OK));
  if (root) result->checksum = ingot_tensor_checksum(w.hashes, w.n_tile);
  st = ingot_comm_bcast(comm, &result->checksum, sizeof result->checksum, 0);
done:
  free(w.buffer);
  free(w.hashes);
  free(w.left_out);
  return st;
}
