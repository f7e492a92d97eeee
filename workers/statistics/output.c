/* Tensors of float32 means into the output: sums are added over ranks tile by tile, and every rank writes its tiles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/tile.h"
#include "io/journal.h"
#include "workers/crew.h"
#include "workers/statistics/loop.h"

enum { SLOT_MAX = 16 };

/* A tile of this rank's, on its way to the file. */
typedef struct tile {
  void   *values; /* [INGOT_TILE] F32 or F64: sums */
  float  *means;  /* [INGOT_TILE] */
  int64_t index;  /* in the tensor */
} tile;

struct ingot_stat_writer {
  ingot_comm              *comm;
  const ingot_gather_plan *plan;
  ingot_sink              *sink;
  int                      n_thread;
  tile                     slots[SLOT_MAX];
  int                      n_slot, n_full;
  int64_t                 *first_tile; /* [n_tensor + 1] */
  uint64_t                *hashes;     /* [tiles of all tensors]: those of this rank's tiles */
  int                      tensor;     /* that is being written, and how */
  const ingot_stat_values *how;
};

static int64_t count_of(const ingot_sink_tensor *t)
{
  int64_t n = 0;
  INGOT_ASSERT(ingot_shape_count(&t->shape, &n)); /* the plan has counted it */
  return n;
}

static bool is_own(const ingot_stat_writer *w, int64_t tile_of_all)
{
  return tile_of_all % ingot_comm_size(w->comm) == ingot_comm_rank(w->comm);
}

/* Values of a tile. */
static int64_t tile_size(int64_t count, int64_t index)
{
  return count - index * INGOT_TILE < INGOT_TILE ? count - index * INGOT_TILE : INGOT_TILE;
}

void ingot_stat_writer_close(ingot_stat_writer **writer)
{
  ingot_stat_writer *w = *writer;
  if (!w) return;
  ingot_sink_close(&w->sink);
  for (int i = 0; i < w->n_slot; i++) {
    free(w->slots[i].values);
    free(w->slots[i].means);
  }
  free(w->first_tile);
  free(w->hashes);
  free(w);
  *writer = NULL;
}

uint64_t ingot_stat_writer_bytes(int64_t n_elem, ingot_dtype dtype, int n_thread)
{
  int64_t slots = n_thread < 1          ? 1
                  : n_thread > SLOT_MAX ? SLOT_MAX
                                        : n_thread,
          n = slots * INGOT_TILE < n_elem ? slots * INGOT_TILE : n_elem;
  return (uint64_t)n * (ingot_dtype_size(dtype) + sizeof(float));
}

int64_t ingot_stat_writer_tiles(const ingot_gather_plan *plan)
{
  int64_t n = 0;
  for (int i = 0; i < plan->sink.n_tensor; i++) n += ingot_tile_count(count_of(&plan->sink.tensors[i]));
  return n;
}

uint64_t *ingot_stat_writer_hashes(ingot_stat_writer *w)
{
  return w->hashes;
}

static ingot_status make_writer(ingot_comm *comm, const ingot_gather_plan *plan, int n_thread, ingot_stat_writer **out)
{
  ingot_status       st = INGOT_OK;
  ingot_stat_writer *w = *out = calloc(1, sizeof *w);
  INGOT_CHECK(w, INGOT_ERR_NOMEM, "no memory to write the output");
  *w = (ingot_stat_writer){.comm = comm, .plan = plan, .n_thread = n_thread};
  w->first_tile = calloc((size_t)plan->sink.n_tensor + 1, sizeof *w->first_tile);
  w->hashes = calloc((size_t)ingot_stat_writer_tiles(plan) + 1, sizeof *w->hashes);
  INGOT_CHECK(w->first_tile && w->hashes, INGOT_ERR_NOMEM, "no memory to write the output");
  for (int i = 0; i < plan->sink.n_tensor; i++)
    w->first_tile[i + 1] = w->first_tile[i] + ingot_tile_count(count_of(&plan->sink.tensors[i]));
  for (int i = 0; i < SLOT_MAX && (i < n_thread || i == 0); i++) {
    w->n_slot = i + 1;
    w->slots[i].values = malloc(INGOT_TILE * sizeof(double));
    w->slots[i].means = malloc(INGOT_TILE * sizeof(float));
    INGOT_CHECK(w->slots[i].values && w->slots[i].means, INGOT_ERR_NOMEM, "no memory to write the output");
  }
done:
  return st;
}

ingot_status ingot_stat_writer_open(ingot_comm *comm, const ingot_gather_plan *plan, int n_thread, bool reopen,
                                    ingot_stat_writer **out)
{
  ingot_status st = make_writer(comm, plan, n_thread, out);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY((reopen ? ingot_sink_reopen : ingot_sink_create)(comm, &plan->sink, &(*out)->sink));
done:
  if (st != INGOT_OK) ingot_stat_writer_close(out);
  return st;
}

/* A full slot: sums to means, their hash, and to the file. By any thread. */
static ingot_status finish_tile(void *context, int64_t item, int thread)
{
  ingot_status             st = INGOT_OK;
  ingot_stat_writer       *w = context;
  const tile              *t = &w->slots[item];
  const ingot_sink_tensor *tensor = &w->plan->sink.tensors[w->tensor];
  const int64_t            n = tile_size(count_of(tensor), t->index);
  const float             *f = t->values;
  const double            *d = t->values;
  bool                     wide = w->how->dtype == INGOT_DTYPE_F64;
  (void)thread;
  for (int64_t i = 0; i < n; i++) t->means[i] = (float)((wide ? d[i] : (double)f[i]) * w->how->scale);
  for (int64_t i = 0; i < n; i++)
    INGOT_CHECK(isfinite(t->means[i]), INGOT_ERR_NUMERIC, "%s: the mean of element %lld is not finite", tensor->name,
                (long long)(t->index * INGOT_TILE + i));
  w->hashes[w->first_tile[w->tensor] + t->index] = ingot_hash(t->means, (size_t)n * sizeof *t->means);
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(ingot_sink_write(w->sink, w->tensor, (uint64_t)t->index * INGOT_TILE * sizeof *t->means,
                             (size_t)n * sizeof *t->means, t->means));
done:
  return st;
}

static ingot_status finish_tiles(ingot_stat_writer *w)
{
  int n = w->n_full;
  w->n_full = 0;
  return ingot_crew_run(w->n_thread, n, finish_tile, w);
}

/* One tile whose values go to the slot if it is this rank's; otherwise they are this rank's share of the sum. */
static ingot_status take_tile(ingot_stat_writer *w, int64_t index, ingot_status before)
{
  ingot_status             st = before;
  const ingot_stat_values *how = w->how;
  tile                    *t = &w->slots[w->n_full];
  int64_t                  n = tile_size(count_of(&w->plan->sink.tensors[w->tensor]), index);
  bool                     own = is_own(w, w->first_tile[w->tensor] + index);
  if (how->summed && !own) return st;
  if (st == INGOT_OK) st = how->read(how->context, w->tensor, index * INGOT_TILE, n, t->values);
  if (!how->summed) {
    INGOT_TRY(ingot_comm_agree(w->comm, st));
    INGOT_TRY(how->dtype == INGOT_DTYPE_F64 ? ingot_comm_sum_f64(w->comm, t->values, n)
                                            : ingot_comm_sum_f32(w->comm, t->values, n));
  }
  if (!own || st != INGOT_OK) goto done;
  t->index = index;
  if (++w->n_full == w->n_slot) st = finish_tiles(w);
done:
  return st;
}

ingot_status ingot_stat_writer_put(ingot_stat_writer *w, int tensor, const ingot_stat_values *values)
{
  ingot_status st = INGOT_OK;
  int64_t      n_tile = w->first_tile[tensor + 1] - w->first_tile[tensor];
  w->tensor = tensor;
  w->how = values;
  w->n_full = 0;
  for (int64_t i = 0; i < n_tile; i++) {
    st = take_tile(w, i, st); /* goes on after a failure until all ranks know of it */
    if (st != INGOT_OK && values->summed) break;
  }
  if (st == INGOT_OK) st = finish_tiles(w);
  return ingot_comm_agree(w->comm, st);
}

ingot_status ingot_stat_writer_verify(ingot_stat_writer *w, int n_tensor, bool *good)
{
  ingot_status st = INGOT_OK;
  *good = true;
  for (int t = 0; t < n_tensor; t++) {
    for (int64_t i = 0; i < w->first_tile[t + 1] - w->first_tile[t] && *good; i++) {
      size_t bytes = (size_t)tile_size(count_of(&w->plan->sink.tensors[t]), i) * sizeof(float);
      float *means = w->slots[0].means;
      if (!is_own(w, w->first_tile[t] + i)) continue;
      INGOT_TRY(ingot_sink_read(w->sink, t, (uint64_t)i * INGOT_TILE * sizeof *means, bytes, means));
      *good = ingot_hash(means, bytes) == w->hashes[w->first_tile[t] + i];
    }
  }
done:
  return st;
}

ingot_status ingot_stat_writer_commit(ingot_stat_writer **writer, uint64_t *checksums)
{
  ingot_status       st = INGOT_OK;
  ingot_stat_writer *w = *writer;
  ingot_comm        *comm = w->comm;
  int                n_tensor = w->plan->sink.n_tensor;
  int64_t           *hashes = (int64_t *)w->hashes;
  INGOT_TRY(
      ingot_comm_sum_i64(comm, hashes, w->first_tile[n_tensor])); /* of each tile one rank has the hash, the others 0 */
  for (int i = 0; i < n_tensor; i++)
    checksums[i] = ingot_tensor_checksum(w->hashes + w->first_tile[i], w->first_tile[i + 1] - w->first_tile[i]);
  INGOT_TRY(ingot_comm_agree(comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  /* Killed between here and the manifest, the output is one that the same command may make again. */
  st = ingot_comm_rank(comm) == 0 ? ingot_journal_create(w->plan->output, w->plan->fingerprint, 0) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, st));
  st = ingot_sink_commit(comm, &w->sink, checksums);
done:
  ingot_stat_writer_close(writer);
  return st;
}

void ingot_stat_writer_discard(ingot_stat_writer **writer)
{
  if (!writer || !*writer) return;
  ingot_comm *comm = (*writer)->comm;
  const char *path = (*writer)->plan->sink.path;
  ingot_stat_writer_close(writer);
  /* The first error is the one to tell: this one's message would hide it. */
  if (ingot_comm_barrier(comm) == INGOT_OK && ingot_comm_rank(comm) == 0) {
    ingot_text   kept = {0};
    ingot_status st = ingot_text_printf(&kept, "%s", ingot_error_message());
    if (ingot_sink_remove_partial(path) != INGOT_OK || st != INGOT_OK) ingot_error_clear();
    if (kept.size)
      ingot_fail(INGOT_ERR_INTERNAL, "%s",
                 ingot_text_string(&kept)); /* the message alone: the status is the caller's */
    ingot_text_release(&kept);
  }
}
