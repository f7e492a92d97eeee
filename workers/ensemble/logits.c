/* A logits file: the k largest log-probabilities of a mixture, written window by window under a journal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/tile.h"
#include "io/journal.h"
#include "kernels/convert.h"
#include "workers/ensemble/run.h"

enum { TENSOR_IDS, TENSOR_LOGP, TENSOR_TAIL, N_TENSOR };
static const double TAIL_MIN = 1e-6; /* what rounding can take from a sum of k probabilities */

typedef struct writer {
  ingot_ensemble_job job;
  ingot_sink        *sink;
  ingot_journal     *journal;
  int64_t            n_window, n_position; /* n_position: of a window */
  bool              *done;                 /* [n_window], the same on all ranks */
  uint64_t          *hashes;               /* [n_window] */
  int32_t           *ids;                  /* back end: [rows of a chunk][k], as logp */
  float             *logp;
  int32_t           *host_ids; /* [rows of a batch][k], as host_logp */
  float             *host_logp;
  char              *out; /* a window as it is written */
} writer;

static size_t size_of(const writer *w, int tensor)
{
  return ingot_dtype_size(w->job.plan->gather.sink.tensors[tensor].dtype);
}

/* Bytes of one window in a tensor. */
static size_t window_bytes(const writer *w, int tensor)
{
  return (size_t)w->n_position * (tensor == TENSOR_TAIL ? 1 : (size_t)w->job.plan->k) * size_of(w, tensor);
}

static size_t all_window_bytes(const writer *w)
{
  size_t bytes = 0;
  for (int t = 0; t < N_TENSOR; t++) bytes += window_bytes(w, t);
  return bytes;
}

/* ---- output and journal ---- */

/* Rank 0: whether there is something to continue. */
static ingot_status look(const ingot_ensemble_plan *plan, int64_t n_window, bool fresh, int64_t *found)
{
  ingot_journal *journal = NULL;
  const char    *path = plan->gather.output;
  *found = 0;
  if (fresh) return ingot_sink_remove_partial(path);
  ingot_status st = ingot_journal_open(path, plan->gather.fingerprint, n_window, &journal);
  ingot_journal_close(&journal);
  if (st == INGOT_ERR_NOTFOUND) {
    ingot_error_clear();
    return INGOT_OK;
  }
  if (st == INGOT_ERR_EXISTS)
    return ingot_wrap(st,
                      "%s: an unfinished output of another job, of other settings or of other inputs is in the way "
                      "(--fresh discards it)",
                      path);
  *found = st == INGOT_OK;
  /* Renamed into place, and no manifest: back to its partial name. */
  return st == INGOT_OK ? ingot_sink_withdraw(path) : st;
}

/* Windows that the journal calls done are read back; each rank looks at a part, all learn the result. */
static ingot_status verify(writer *w)
{
  ingot_status st = INGOT_OK;
  ingot_comm  *comm = w->job.g.comm;
  int64_t      begin, end, n_kept = 0;
  int64_t     *kept = calloc((size_t)w->n_window + 1, sizeof *kept);
  st = kept ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for a journal of %lld windows", (long long)w->n_window);
  INGOT_TRY(ingot_comm_agree(comm, st));
  st = ingot_journal_load(w->journal, w->done, w->hashes);
  ingot_gather_part(comm, 0, w->n_window, &begin, &end);
  for (int64_t i = begin; i < end && st == INGOT_OK; i++) {
    uint64_t hash = 0;
    char    *at = w->out;
    if (!w->done[i]) continue;
    for (int t = 0; t < N_TENSOR && st == INGOT_OK; t++) {
      size_t bytes = window_bytes(w, t);
      st = ingot_sink_read(w->sink, t, (uint64_t)i * bytes, bytes, at);
      if (st == INGOT_OK) hash = ingot_hash_seeded(at, bytes, hash);
    }
    kept[i] = hash == w->hashes[i];
  }
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_sum_i64(comm, kept, w->n_window));
  for (int64_t i = 0; i < w->n_window; i++) {
    w->done[i] = kept[i] != 0;
    n_kept += kept[i];
  }
  if (n_kept > 0 && ingot_comm_rank(comm) == 0)
    ingot_log_info("%s: goes on behind %lld of %lld windows", w->job.plan->gather.output, (long long)n_kept,
                   (long long)w->n_window);
  w->job.g.timing->tiles_resumed = n_kept;
done:
  free(kept);
  return st;
}

static ingot_status open_output(writer *w)
{
  ingot_status             st = INGOT_OK;
  ingot_comm              *comm = w->job.g.comm;
  const ingot_gather_plan *plan = &w->job.plan->gather;
  int64_t                  found = 0;
  bool                     resumed = false;
  st = ingot_comm_rank(comm) == 0 ? look(w->job.plan, w->n_window, w->job.g.options->fresh, &found) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_bcast(comm, &found, sizeof found, 0));
  if (found) {
    st = ingot_sink_reopen(comm, &plan->sink, &w->sink);
    if (st == INGOT_ERR_NOTFOUND) ingot_error_clear();
    else INGOT_TRY(st);
    resumed = st == INGOT_OK;
  }
  if (!resumed) {
    INGOT_TRY(ingot_sink_create(comm, &plan->sink, &w->sink));
    st = ingot_comm_rank(comm) == 0 ? ingot_journal_create(plan->output, plan->fingerprint, w->n_window) : INGOT_OK;
    INGOT_TRY(ingot_comm_agree(comm, st));
  }
  st = ingot_journal_open(plan->output, plan->fingerprint, w->n_window, &w->journal);
  INGOT_TRY(ingot_comm_agree(comm, st));
  if (resumed) INGOT_TRY(verify(w));
done:
  return st;
}

static ingot_status open_buffers(writer *w)
{
  ingot_status         st = INGOT_OK;
  const ingot_combine *c = &w->job.combine;
  ingot_nn            *nn = w->job.g.nn;
  size_t rows = (size_t)(w->job.plan->gather.batch * w->job.plan->gather.window.length), k = (size_t)w->job.plan->k;
  w->host_ids = malloc(rows * k * sizeof *w->host_ids);
  w->host_logp = malloc(rows * k * sizeof *w->host_logp);
  INGOT_CHECK(w->host_ids && w->host_logp, INGOT_ERR_NOMEM, "no memory for %zu log-probabilities", rows * k);
  INGOT_TRY(nn->ops->alloc(nn, (size_t)c->rows * k * sizeof(int32_t), (void **)&w->ids));
  INGOT_TRY(nn->ops->alloc(nn, (size_t)c->rows * k * sizeof(float), (void **)&w->logp));
done:
  return st;
}

static void close_writer(writer *w)
{
  if (w->job.g.nn) {
    w->job.g.nn->ops->free(w->job.g.nn, w->ids);
    w->job.g.nn->ops->free(w->job.g.nn, w->logp);
  }
  ingot_combine_close(&w->job.combine);
  ingot_journal_close(&w->journal);
  ingot_sink_close(&w->sink);
  ingot_gather_release(&w->job.g);
  free(w->done);
  free(w->hashes);
  free(w->host_ids);
  free(w->host_logp);
  free(w->out);
}

/* ---- windows ---- */

static bool is_done(void *context, int64_t first, int64_t n)
{
  const writer *w = context;
  for (int64_t i = first; i < first + n; i++)
    if (!w->done[i]) return false;
  return true;
}

static ingot_status take_rows(void *context, const ingot_batch *batch, int64_t first, int64_t first_row,
                              const ingot_nn_logits *mixed, const int32_t *labels)
{
  ingot_status st = INGOT_OK;
  writer      *w = context;
  ingot_nn    *nn = w->job.g.nn;
  size_t       k = (size_t)w->job.plan->k, n = (size_t)mixed->n_row * k, at = (size_t)first_row * k;
  (void)batch;
  (void)first;
  (void)labels;
  INGOT_TRY(nn->ops->top_k(nn, mixed, (int)k, w->ids, w->logp));
  INGOT_TRY(nn->ops->copy_out(nn, w->host_ids + at, w->ids, n * sizeof *w->ids));
  INGOT_TRY(nn->ops->copy_out(nn, w->host_logp + at, w->logp, n * sizeof *w->logp));
done:
  return st;
}

/* The positions of one window as the file has them, into w->out. INGOT_ERR_NUMERIC with the place. */
static ingot_status encode(writer *w, int64_t window, int64_t first_row)
{
  ingot_status   st = INGOT_OK;
  ingot_text     place = {0};
  int            k = w->job.plan->k;
  int64_t        n = w->n_position * k;
  const int32_t *ids = w->host_ids + first_row * k;
  const float   *logp = w->host_logp + first_row * k;
  char          *at_logp = w->out + window_bytes(w, TENSOR_IDS), *at_tail = at_logp + window_bytes(w, TENSOR_LOGP);
  for (int64_t i = 0; i < n; i++) {
    uint16_t narrow = (uint16_t)ids[i];
    memcpy(w->out + (size_t)i * size_of(w, TENSOR_IDS),
           size_of(w, TENSOR_IDS) == 2 ? (void *)&narrow : (void *)(w->host_ids + first_row * k + i),
           size_of(w, TENSOR_IDS));
  }
  ingot_narrow(w->job.plan->logp_dtype, logp, at_logp, n);
  for (int64_t r = 0; r < w->n_position; r++) {
    double sum = 0.0;
    for (int j = 0; j < k; j++) sum += exp((double)logp[r * k + j]);
    float tail = k >= w->job.combine.n_vocab ? -INFINITY : (float)log(fmax(1.0 - sum, TAIL_MIN));
    memcpy(at_tail + (size_t)r * sizeof tail, &tail, sizeof tail);
    if (isfinite(sum)) continue;
    INGOT_TRY(ingot_gather_place(&w->job.g, window, &place));
    st = ingot_fail(INGOT_ERR_NUMERIC, "%s: the teacher's probabilities at position %lld are not finite",
                    ingot_text_string(&place), (long long)r);
    goto done;
  }
done:
  ingot_text_release(&place);
  return st;
}

static ingot_status write_windows(void *context, const ingot_batch *batch, int64_t first, const float *nll,
                                  const int32_t *top1, int64_t stride)
{
  ingot_status st = INGOT_OK;
  writer      *w = context;
  double       start_s = ingot_clock_s();
  (void)nll;
  (void)top1;
  (void)stride;
  for (int64_t b = 0; b < batch->n_batch; b++) {
    const char *at = w->out;
    uint64_t    hash = 0;
    INGOT_TRY(encode(w, first + b, b * batch->n_time));
    for (int t = 0; t < N_TENSOR; t++) {
      size_t bytes = window_bytes(w, t);
      INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
      INGOT_TRY(ingot_sink_write(w->sink, t, (uint64_t)(first + b) * bytes, bytes, at));
      hash = ingot_hash_seeded(at, bytes, hash);
      at += bytes;
    }
    INGOT_TRY(ingot_journal_record(w->journal, first + b, hash));
    w->job.g.timing->bytes_written += all_window_bytes(w);
  }
  w->job.g.timing->write_s += ingot_clock_s() - start_s;
done:
  return st;
}

/* ---- the end ---- */

/* Tiles are read back, each by one rank; their hashes make the checksums. */
static ingot_status checksum_tensor(writer *w, int tensor, uint64_t *checksum)
{
  ingot_status st = INGOT_OK;
  ingot_comm  *comm = w->job.g.comm;
  size_t       size = size_of(w, tensor);
  int64_t      n_elem = (int64_t)(window_bytes(w, tensor) / size) * w->n_window, n_tile = ingot_tile_count(n_elem);
  int64_t     *hashes = calloc((size_t)n_tile + 1, sizeof *hashes);
  char        *tile = malloc(INGOT_TILE * size);
  st = hashes && tile ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for checksums");
  INGOT_TRY(ingot_comm_agree(comm, st));
  for (int64_t i = ingot_comm_rank(comm); i < n_tile && st == INGOT_OK; i += ingot_comm_size(comm)) {
    int64_t n = n_elem - i * INGOT_TILE < INGOT_TILE ? n_elem - i * INGOT_TILE : INGOT_TILE;
    st = ingot_sink_read(w->sink, tensor, (uint64_t)(i * INGOT_TILE) * size, (size_t)n * size, tile);
    if (st == INGOT_OK) hashes[i] = (int64_t)ingot_hash(tile, (size_t)n * size);
  }
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_sum_i64(comm, hashes, n_tile)); /* every tile has one rank's hash, and zeros */
  *checksum = ingot_tensor_checksum((const uint64_t *)hashes, n_tile);
done:
  free(hashes);
  free(tile);
  return st;
}

static ingot_status run_writer(writer *w, uint64_t *checksums)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *plan = w->job.plan;
  ingot_comm                *comm = w->job.g.comm;
  ingot_combine_user user = {.context = w, .mix = true, .rows = take_rows, .end = write_windows, .skip = is_done};
  bool               needed = false;
  INGOT_TRY(open_output(w));
  for (int64_t i = 0; i < w->n_window; i++) needed = needed || !w->done[i];
  if (needed) {
    INGOT_TRY(ingot_combine_open(&w->job.combine, &w->job.g, plan));
    INGOT_TRY(ingot_comm_agree(comm, open_buffers(w)));
  }
  for (int d = 0; needed && d < plan->n_score; d++) {
    int64_t first = ingot_ensemble_first_window(plan, d);
    INGOT_TRY(ingot_combine_windows(&w->job.combine, first, first + plan->gather.data[d].n_window,
                                    plan->weights + (plan->n_row > 1 ? d : 0) * plan->gather.n_model, &user));
  }
  INGOT_TRY(ingot_comm_barrier(comm)); /* everything is written before tiles are read back */
  for (int t = 0; t < N_TENSOR; t++) INGOT_TRY(checksum_tensor(w, t, &checksums[t]));
  INGOT_TRY(ingot_comm_agree(comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  st = ingot_sink_commit(comm, &w->sink, checksums);
done:
  return st;
}

ingot_status ingot_ensemble_write_logits(ingot_comm *comm, const ingot_ensemble_plan *plan,
                                         const ingot_gather_options *options, uint64_t *checksums,
                                         ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  writer       w = {.job = {.g = {.plan = &plan->gather}, .plan = plan}};
  ingot_status st = ingot_gather_init(&w.job.g, comm, &plan->gather, options, timing);
  w.n_window = ingot_ensemble_first_window(plan, plan->n_score);
  w.n_position = plan->gather.window.length - 1;
  w.job.g.n_window = w.n_window * (plan->one_by_one ? plan->gather.n_model : 1);
  w.done = calloc((size_t)w.n_window + 1, sizeof *w.done);
  w.hashes = calloc((size_t)w.n_window + 1, sizeof *w.hashes);
  w.out = malloc(all_window_bytes(&w));
  if (st == INGOT_OK && (!w.done || !w.hashes || !w.out))
    st = ingot_fail(INGOT_ERR_NOMEM, "no memory to write windows");
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(run_writer(&w, checksums));
done:
  close_writer(&w);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
