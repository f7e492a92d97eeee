/*
 * Tensors of float32 means into the output: sums are added over ranks tile by tile, and every rank writes its tiles.
 * The calling thread gets their values; the others turn them into means and write them meanwhile, whatever tensor they
 * belong to.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/tile.h"
#include "io/journal.h"
#include "workers/statistics/loop.h"

enum { SLOT_MAX = 16 };

typedef enum slot_state { SLOT_FREE, SLOT_TAKEN, SLOT_FULL } slot_state; /* TAKEN: a thread is at it */

/* A tile of this rank's, on its way to the file. */
typedef struct tile {
  slot_state  state;
  void       *values; /* [INGOT_TILE] of dtype: sums */
  float      *means;  /* [INGOT_TILE] */
  ingot_dtype dtype;
  double      scale;
  int         tensor;
  int64_t     index; /* in the tensor */
} tile;

struct ingot_stat_writer {
  ingot_comm              *comm;
  const ingot_gather_plan *plan;
  ingot_sink              *sink;
  tile                     slots[SLOT_MAX];
  int                      n_slot;
  int64_t                 *first_tile; /* [n_tensor + 1] */
  uint64_t                *hashes;     /* [tiles of all tensors]: those of this rank's tiles */
  pthread_t                helpers[SLOT_MAX];
  int                      n_helper;
  pthread_mutex_t          lock; /* of the slots' states and of what follows */
  pthread_cond_t           changed;
  bool                     ending;
  ingot_status             status; /* of the first tile that could not be written: no more are */
  char                     message[1024];
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
  *w = (ingot_stat_writer){.comm = comm, .plan = plan};
  pthread_mutex_init(&w->lock, NULL);
  pthread_cond_init(&w->changed, NULL);
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

/* ---- tiles to the file ---- */

/* Sums to means, their hash, and to the file. By any thread. */
static ingot_status write_tile(ingot_stat_writer *w, const tile *t)
{
  ingot_status             st = INGOT_OK;
  const ingot_sink_tensor *tensor = &w->plan->sink.tensors[t->tensor];
  const int64_t            n = tile_size(count_of(tensor), t->index);
  const float             *f = t->values;
  const double            *d = t->values;
  bool                     wide = t->dtype == INGOT_DTYPE_F64;
  for (int64_t i = 0; i < n; i++) t->means[i] = (float)((wide ? d[i] : (double)f[i]) * t->scale);
  for (int64_t i = 0; i < n; i++)
    INGOT_CHECK(isfinite(t->means[i]), INGOT_ERR_NUMERIC, "%s: the mean of element %lld is not finite", tensor->name,
                (long long)(t->index * INGOT_TILE + i));
  w->hashes[w->first_tile[t->tensor] + t->index] = ingot_hash(t->means, (size_t)n * sizeof *t->means);
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(ingot_sink_write(w->sink, t->tensor, (uint64_t)t->index * INGOT_TILE * sizeof *t->means,
                             (size_t)n * sizeof *t->means, t->means));
done:
  return st;
}

/* With the lock; NULL: none. */
static tile *find_slot(ingot_stat_writer *w, slot_state state)
{
  for (int i = 0; i < w->n_slot; i++)
    if (w->slots[i].state == state) return &w->slots[i];
  return NULL;
}

/* A full slot becomes free. With the lock, which is given up meanwhile. */
static void empty_slot(ingot_stat_writer *w, tile *t)
{
  ingot_status st = w->status;
  t->state = SLOT_TAKEN;
  if (st == INGOT_OK) {
    pthread_mutex_unlock(&w->lock);
    st = write_tile(w, t);
    pthread_mutex_lock(&w->lock);
  }
  if (st != INGOT_OK && w->status == INGOT_OK) {
    w->status = st;
    snprintf(w->message, sizeof w->message, "%s", ingot_error_message());
  }
  t->state = SLOT_FREE;
  pthread_cond_broadcast(&w->changed);
}

static void *help(void *argument)
{
  ingot_stat_writer *w = argument;
  pthread_mutex_lock(&w->lock);
  for (;;) {
    tile *t = find_slot(w, SLOT_FULL);
    if (t) empty_slot(w, t);
    else if (w->ending) break;
    else pthread_cond_wait(&w->changed, &w->lock);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

/* A slot for values. The calling thread helps until there is one. */
static tile *take_slot(ingot_stat_writer *w)
{
  tile *t;
  pthread_mutex_lock(&w->lock);
  while (!(t = find_slot(w, SLOT_FREE))) {
    tile *full = find_slot(w, SLOT_FULL);
    if (full) empty_slot(w, full);
    else pthread_cond_wait(&w->changed, &w->lock);
  }
  t->state = SLOT_TAKEN;
  pthread_mutex_unlock(&w->lock);
  return t;
}

/* Back with values (FULL), or without (FREE). Fewer helpers than wanted are no failure. */
static void give_slot(ingot_stat_writer *w, tile *t, slot_state state)
{
  while (state == SLOT_FULL && w->n_helper < w->n_slot - 1 &&
         pthread_create(&w->helpers[w->n_helper], NULL, help, w) == 0)
    w->n_helper++;
  pthread_mutex_lock(&w->lock);
  t->state = state;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->lock);
}

/* All tiles are written, or given up, and the helpers are gone. */
static void end_tiles(ingot_stat_writer *w)
{
  pthread_mutex_lock(&w->lock);
  w->ending = true;
  pthread_cond_broadcast(&w->changed);
  for (tile *t = find_slot(w, SLOT_FULL); t; t = find_slot(w, SLOT_FULL)) empty_slot(w, t);
  pthread_mutex_unlock(&w->lock);
  for (; w->n_helper > 0; w->n_helper--) pthread_join(w->helpers[w->n_helper - 1], NULL);
  w->ending = false;
}

static ingot_status failure(ingot_stat_writer *w)
{
  pthread_mutex_lock(&w->lock);
  ingot_status st = w->status == INGOT_OK ? INGOT_OK : ingot_fail(w->status, "%s", w->message);
  pthread_mutex_unlock(&w->lock);
  return st;
}

ingot_status ingot_stat_writer_flush(ingot_stat_writer *w)
{
  end_tiles(w);
  return ingot_comm_agree(w->comm, failure(w));
}

/* ---- tensors ---- */

/* One tile whose values go to a slot if it is this rank's; otherwise they are this rank's share of the sum. */
static ingot_status take_tile(ingot_stat_writer *w, int tensor, const ingot_stat_values *how, int64_t index,
                              ingot_status before)
{
  ingot_status st = before;
  int64_t      n = tile_size(count_of(&w->plan->sink.tensors[tensor]), index);
  bool         own = is_own(w, w->first_tile[tensor] + index);
  if (how->summed && !own) return st;
  tile *t = take_slot(w);
  if (st == INGOT_OK) st = how->read(how->context, tensor, index * INGOT_TILE, n, t->values);
  if (!how->summed) {
    INGOT_TRY(ingot_comm_agree(w->comm, st));
    INGOT_TRY(how->dtype == INGOT_DTYPE_F64 ? ingot_comm_sum_f64(w->comm, t->values, n)
                                            : ingot_comm_sum_f32(w->comm, t->values, n));
  }
  t->dtype = how->dtype;
  t->scale = how->scale;
  t->tensor = tensor;
  t->index = index;
done:
  give_slot(w, t, own && st == INGOT_OK ? SLOT_FULL : SLOT_FREE);
  return st;
}

ingot_status ingot_stat_writer_put(ingot_stat_writer *w, int tensor, const ingot_stat_values *values)
{
  ingot_status st = INGOT_OK;
  int64_t      n_tile = w->first_tile[tensor + 1] - w->first_tile[tensor];
  for (int64_t i = 0; i < n_tile; i++) {
    st = take_tile(w, tensor, values, i, st); /* goes on after a failure until all ranks know of it */
    if (st != INGOT_OK && values->summed) break;
  }
  if (st == INGOT_OK) st = failure(w);
  return ingot_comm_agree(w->comm, st);
}

void ingot_stat_writer_close(ingot_stat_writer **writer)
{
  ingot_stat_writer *w = *writer;
  if (!w) return;
  pthread_mutex_lock(&w->lock);
  for (int i = 0; i < w->n_slot; i++) /* after a failure: what waits is not written any more */
    if (w->slots[i].state == SLOT_FULL) w->slots[i].state = SLOT_FREE;
  pthread_mutex_unlock(&w->lock);
  end_tiles(w);
  ingot_sink_close(&w->sink);
  for (int i = 0; i < w->n_slot; i++) {
    free(w->slots[i].values);
    free(w->slots[i].means);
  }
  pthread_cond_destroy(&w->changed);
  pthread_mutex_destroy(&w->lock);
  free(w->first_tile);
  free(w->hashes);
  free(w);
  *writer = NULL;
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
  INGOT_ASSERT(w->n_helper == 0 && !find_slot(w, SLOT_FULL)); /* flushed */
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
    ingot_error first;
    ingot_error_save(&first);
    (void)ingot_sink_remove_partial(path);
    ingot_error_restore(&first);
  }
}
