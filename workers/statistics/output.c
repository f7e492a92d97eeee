/* Tensors of float32 means into the output: sums are added over ranks piece by piece, and every rank writes its tiles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/tile.h"
#include "io/journal.h"
#include "workers/statistics/loop.h"

struct ingot_stat_writer {
  ingot_comm              *comm;
  const ingot_gather_plan *plan;
  ingot_sink              *sink;
  float                   *tile;     /* [INGOT_TILE]: values of the tile begun */
  int64_t                  n_tile;   /* values in it */
  int                      tensor;   /* that is being written */
  int64_t                  n_done;   /* of its values, whole tiles */
  uint64_t                *hashes;   /* of its tiles */
  int64_t                  n_hash;
  uint64_t                *checksums; /* [sink.n_tensor] */
  int64_t                  n_written; /* tiles of all tensors: the share of a rank */
};

static void free_writer(ingot_stat_writer **w)
{
  if (!*w) return;
  ingot_sink_close(&(*w)->sink);
  free((*w)->tile);
  free((*w)->hashes);
  free((*w)->checksums);
  free(*w);
  *w = NULL;
}

static int64_t count_of(const ingot_sink_tensor *t)
{
  int64_t n = 0;
  INGOT_ASSERT(ingot_shape_count(&t->shape, &n)); /* the plan has counted it */
  return n;
}

ingot_status ingot_stat_writer_open(ingot_comm *comm, const ingot_gather_plan *plan, ingot_stat_writer **out)
{
  ingot_status       st = INGOT_OK;
  int64_t            most = 0;
  ingot_stat_writer *w = calloc(1, sizeof *w);
  for (int i = 0; i < plan->sink.n_tensor; i++) {
    int64_t n = ingot_tile_count(count_of(&plan->sink.tensors[i]));
    if (n > most) most = n;
  }
  if (w) {
    *w = (ingot_stat_writer){.comm = comm, .plan = plan};
    w->tile = malloc(INGOT_TILE * sizeof *w->tile);
    w->hashes = calloc((size_t)most + 1, sizeof *w->hashes);
    w->checksums = calloc((size_t)plan->sink.n_tensor + 1, sizeof *w->checksums);
  }
  if (!w || !w->tile || !w->hashes || !w->checksums) st = ingot_fail(INGOT_ERR_NOMEM, "no memory to write the output");
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_sink_create(comm, &plan->sink, &w->sink));
done:
  if (st != INGOT_OK && w) free_writer(&w);
  *out = w;
  return st;
}

/* The tile begun is complete: to the file, if it is this rank's. */
static ingot_status end_tile(ingot_stat_writer *w)
{
  ingot_status st = INGOT_OK;
  size_t       bytes = (size_t)w->n_tile * sizeof *w->tile;
  if (w->n_tile == 0) return INGOT_OK;
  for (int64_t i = 0; i < w->n_tile; i++)
    INGOT_CHECK(isfinite(w->tile[i]), INGOT_ERR_NUMERIC, "%s: the mean of element %lld is not finite",
                w->plan->sink.tensors[w->tensor].name, (long long)(w->n_done + i));
  w->hashes[w->n_hash++] = ingot_hash(w->tile, bytes);
  if (w->n_written++ % ingot_comm_size(w->comm) == ingot_comm_rank(w->comm)) {
    INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
    INGOT_TRY(ingot_sink_write(w->sink, w->tensor, (uint64_t)w->n_done * sizeof *w->tile, bytes, w->tile));
  }
  w->n_done += w->n_tile;
  w->n_tile = 0;
done:
  return st;
}

static ingot_status add(ingot_stat_writer *w, int tensor, const float *f, const double *d, int64_t n, double scale)
{
  ingot_status st = INGOT_OK;
  int64_t      count = count_of(&w->plan->sink.tensors[tensor]);
  if (tensor != w->tensor) w->tensor = tensor;
  for (int64_t i = 0; i < n; i++) {
    w->tile[w->n_tile++] = (float)((f ? (double)f[i] : d[i]) * scale);
    if (w->n_tile == INGOT_TILE) INGOT_TRY(end_tile(w));
  }
  if (w->n_done + w->n_tile < count) goto done;
  INGOT_TRY(end_tile(w));
  INGOT_ASSERT(w->n_done == count);
  w->checksums[tensor] = ingot_tensor_checksum(w->hashes, w->n_hash);
  w->n_done = w->n_hash = 0;
done:
  return st;
}

ingot_status ingot_stat_writer_add_f32(ingot_stat_writer *w, int tensor, float *sums, int64_t n, double scale)
{
  ingot_status st = ingot_comm_sum_f32(w->comm, sums, n);
  if (st == INGOT_OK) st = add(w, tensor, sums, NULL, n, scale);
  return ingot_comm_agree(w->comm, st);
}

ingot_status ingot_stat_writer_add_f64(ingot_stat_writer *w, int tensor, double *sums, int64_t n, double scale)
{
  ingot_status st = ingot_comm_sum_f64(w->comm, sums, n);
  if (st == INGOT_OK) st = add(w, tensor, NULL, sums, n, scale);
  return ingot_comm_agree(w->comm, st);
}

ingot_status ingot_stat_writer_commit(ingot_stat_writer **writer, uint64_t *checksums)
{
  ingot_status       st = INGOT_OK;
  ingot_stat_writer *w = *writer;
  ingot_comm        *comm = w->comm;
  memcpy(checksums, w->checksums, (size_t)w->plan->sink.n_tensor * sizeof *checksums);
  INGOT_TRY(ingot_comm_agree(comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  /* Killed between here and the manifest, the output is one that the same command may make again. */
  st = ingot_comm_rank(comm) == 0 ? ingot_journal_create(w->plan->output, w->plan->fingerprint, 0) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, st));
  st = ingot_sink_commit(comm, &w->sink, checksums);
done:
  free_writer(writer);
  return st;
}

void ingot_stat_writer_discard(ingot_stat_writer **writer)
{
  if (!writer || !*writer) return;
  ingot_comm *comm = (*writer)->comm;
  const char *path = (*writer)->plan->sink.path;
  free_writer(writer);
  /* The first error is the one to tell: this one's message would hide it. */
  if (ingot_comm_barrier(comm) == INGOT_OK && ingot_comm_rank(comm) == 0) {
    ingot_text   kept = {0};
    ingot_status st = ingot_text_printf(&kept, "%s", ingot_error_message());
    if (ingot_sink_remove_partial(path) != INGOT_OK || st != INGOT_OK) ingot_error_clear();
    if (kept.size) ingot_fail(INGOT_ERR_INTERNAL, "%s", ingot_text_string(&kept)); /* the message alone: the status is the caller's */
    ingot_text_release(&kept);
  }
}
