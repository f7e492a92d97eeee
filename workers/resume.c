#define _POSIX_C_SOURCE 200809L
#include "workers/resume.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rank 0's finding, told to all. */
typedef enum found { FOUND_NOTHING, FOUND_PARTIAL } found;

/* A run that died between the rename and its manifest has left a complete output under the final name: take it back. */
static ingot_status take_back_final(const ingot_merge_plan *plan, ingot_journal *journal)
{
  ingot_status st = INGOT_OK;
  bool        *done = calloc((size_t)plan->n_tile + 1, sizeof *done);
  uint64_t    *checksum = calloc((size_t)plan->n_tile + 1, sizeof *checksum);
  INGOT_CHECK(done && checksum, INGOT_ERR_NOMEM, "no memory to read the journal of %lld tiles",
              (long long)plan->n_tile);
  INGOT_TRY(ingot_journal_load(journal, done, checksum));
  for (int64_t i = 0; i < plan->n_tile; i++)
    if (!done[i]) goto done;
  st = ingot_sink_withdraw(plan->sink.path);
done:
  free(done);
  free(checksum);
  return st;
}

/* Rank 0: is there something to continue? */
static ingot_status look(const ingot_merge_plan *plan, bool fresh, found *what)
{
  ingot_status   st = INGOT_OK;
  ingot_journal *journal = NULL;
  *what = FOUND_NOTHING;
  if (fresh) return ingot_sink_remove_partial(plan->sink.path);
  st = ingot_journal_open(plan->sink.path, plan->fingerprint, plan->n_tile, &journal);
  if (st == INGOT_ERR_NOTFOUND) {
    ingot_error_clear();
    return INGOT_OK;
  }
  if (st == INGOT_ERR_EXISTS)
    return ingot_wrap(st,
                      "%s: an unfinished output of another job, of other settings or of other inputs is in the way "
                      "(--fresh discards it)",
                      plan->sink.path);
  if (st == INGOT_OK) {
    *what = FOUND_PARTIAL;
    st = take_back_final(plan, journal);
  }
  ingot_journal_close(&journal);
  return st;
}

static ingot_status open_output(ingot_comm *comm, const ingot_merge_plan *plan, bool fresh, ingot_sink **sink,
                                ingot_journal **journal, bool *resumed)
{
  found        what = FOUND_NOTHING;
  ingot_status st = ingot_comm_rank(comm) == 0 ? look(plan, fresh, &what) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_bcast(comm, &what, sizeof what, 0));

  *resumed = false;
  if (what == FOUND_PARTIAL) {
    st = ingot_sink_reopen(comm, &plan->sink, sink);
    if (st == INGOT_OK) *resumed = true;
    else if (st == INGOT_ERR_NOTFOUND) ingot_error_clear();
    else goto done;
  }
  if (!*resumed) {
    INGOT_TRY(ingot_sink_create(comm, &plan->sink, sink));
    /* The journal comes after the layout: where there is a journal, there is an output to continue. */
    st = ingot_comm_rank(comm) == 0 ? ingot_journal_create(plan->sink.path, plan->fingerprint, plan->n_tile) : INGOT_OK;
    INGOT_TRY(ingot_comm_agree(comm, st));
  }
  st = ingot_journal_open(plan->sink.path, plan->fingerprint, plan->n_tile, journal);
  st = ingot_comm_agree(comm, st);
done:
  return st;
}

/* Threads that read tiles back and compare. */
typedef struct verification {
  const ingot_merge_plan *plan;
  ingot_sink             *sink;
  int64_t                 tile_end;
  bool                   *done;
  const uint64_t         *checksum;
  pthread_mutex_t         lock;
  int64_t                 next;   /* tile to look at; under the lock */
  ingot_status            status; /* first failure; under the lock */
  char                    message[1024];
} verification;

static int tensor_of_tile(const ingot_merge_plan *plan, int64_t tile)
{
  int low = 0, high = plan->n_tensor; /* tensors[low].first_tile <= tile < tensors[high].first_tile */
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (plan->tensors[middle].first_tile <= tile) low = middle;
    else high = middle;
  }
  return low;
}

static ingot_status verify_tile(const verification *v, int64_t tile, void *buffer)
{
  int                       index = tensor_of_tile(v->plan, tile);
  const ingot_merge_tensor *t = &v->plan->tensors[index];
  size_t                    size = ingot_dtype_size(t->dtype);
  int64_t                   first = (tile - t->first_tile) * INGOT_TILE;
  int64_t                   n = t->view.n_elem - first < INGOT_TILE ? t->view.n_elem - first : INGOT_TILE;
  ingot_status              st = ingot_sink_read(v->sink, index, (uint64_t)first * size, (size_t)n * size, buffer);
  if (st != INGOT_OK) return st;
  /* What does not match was lost with its node: it is merged again. */
  v->done[tile] = ingot_hash(buffer, (size_t)n * size) == v->checksum[tile];
  return INGOT_OK;
}

static void *verify_thread(void *argument)
{
  verification *v = argument;
  void         *buffer = malloc((size_t)INGOT_TILE * sizeof(double)); /* the widest dtype */
  ingot_status  st = buffer ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory to verify tiles");
  for (;;) {
    pthread_mutex_lock(&v->lock);
    if (st != INGOT_OK && v->status == INGOT_OK) {
      v->status = st;
      snprintf(v->message, sizeof v->message, "%s", ingot_error_message());
    }
    while (v->next < v->tile_end && !v->done[v->next]) v->next++;
    int64_t tile = v->status == INGOT_OK ? v->next++ : v->tile_end;
    pthread_mutex_unlock(&v->lock);
    if (tile >= v->tile_end) break;
    st = verify_tile(v, tile, buffer);
  }
  free(buffer);
  return NULL;
}

static ingot_status verify(verification *v, int n_thread)
{
  pthread_t *threads = calloc((size_t)n_thread, sizeof *threads);
  int        n_started = 0;
  if (!threads) return ingot_fail(INGOT_ERR_NOMEM, "no memory for %d threads", n_thread);
  while (n_started < n_thread && pthread_create(&threads[n_started], NULL, verify_thread, v) == 0) n_started++;
  if (n_started == 0) verify_thread(v);
  for (int i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
  free(threads);
  return v->status == INGOT_OK ? INGOT_OK : ingot_fail(v->status, "%s", v->message);
}

ingot_status ingot_resume_open(ingot_comm *comm, const ingot_merge_plan *plan, bool fresh, int n_thread,
                               int64_t tile_begin, int64_t tile_end, bool *done, uint64_t *checksum, ingot_sink **sink,
                               ingot_journal **journal)
{
  bool         resumed = false;
  ingot_status st = open_output(comm, plan, fresh, sink, journal, &resumed);
  if (st != INGOT_OK || !resumed) return st;

  st = ingot_journal_load(*journal, done, checksum);
  if (st == INGOT_OK) {
    for (int64_t i = 0; i < plan->n_tile; i++)
      if (i < tile_begin || i >= tile_end) done[i] = false; /* their owners look after them */
    verification v =
        {.plan = plan, .sink = *sink, .tile_end = tile_end, .done = done, .checksum = checksum, .next = tile_begin};
    pthread_mutex_init(&v.lock, NULL);
    st = verify(&v, n_thread);
    pthread_mutex_destroy(&v.lock);
  }
  return ingot_comm_agree(comm, st);
}
