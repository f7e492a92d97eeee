/*
 * The student as a checkpoint. A tile of the output that lies in one rank's slice of the parameters is written by that
 * rank, by all its threads: checked, rounded, hashed and written, on a CPU from where it lies. What lies in several
 * slices, and parameters that are transposed in the file, are gathered first.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/tile.h"
#include "io/journal.h"
#include "kernels/convert.h"
#include "workers/crew.h"
#include "workers/distill/trainer.h"

enum { THREADS_MAX = 64, SLOTS_MAX = 2 * THREADS_MAX };

/* A tile of this rank's, on its way to the file. */
typedef struct item {
  int          tensor;
  int64_t      tile, n;
  const float *values;
} item;

struct writer;

/* Tiles that threads write together, while the calling thread gets the next ones ready. */
typedef struct load {
  struct writer *w;
  item           items[SLOTS_MAX];
  float         *slots[SLOTS_MAX]; /* [INGOT_TILE] each, for values that do not lie in host memory; NULL until needed */
  int            n;
} load;

typedef struct writer {
  ingot_trainer    *t;
  ingot_sink       *sink;
  bool              best;
  int               n_thread;
  load              loads[2];
  int               filling; /* of loads */
  ingot_crew_flight flight;
  void             *narrow[THREADS_MAX]; /* [INGOT_TILE] of the output's dtype */
  float    *whole, *turned; /* room for the largest parameter that is transposed, and at least a tile; NULL: none is */
  int64_t  *begin;          /* [ranks + 1] */
  int64_t  *first_tile;     /* [n_tensor + 1] */
  uint64_t *hashes;         /* of all tensors' tiles: of this rank's, else 0 */
  int64_t   n_shared;       /* tiles that are gathered: they go to ranks in turn */
} writer;

static const ingot_model_param *param_of(const writer *w, int tensor)
{
  return &w->t->g.model->layout.params[w->t->plan->tensor_param[tensor]];
}

/* ---- a tile ---- */

static ingot_status finish_tile(void *context, int64_t number, int thread)
{
  ingot_status             st = INGOT_OK;
  const load              *l = context;
  const writer            *w = l->w;
  const item              *it = &l->items[number];
  const ingot_sink_tensor *to = &w->t->plan->sink.tensors[it->tensor];
  size_t                   width = ingot_dtype_size(to->dtype);
  for (int64_t i = 0; i < it->n; i++)
    INGOT_CHECK(isfinite(it->values[i]), INGOT_ERR_NUMERIC, "%s: element %lld is not finite after the training",
                to->name, (long long)(it->tile * INGOT_TILE + i));
  const void *bytes = it->values;
  if (to->dtype != INGOT_DTYPE_F32) {
    ingot_narrow(to->dtype, it->values, w->narrow[thread], it->n);
    bytes = w->narrow[thread];
  }
  w->hashes[w->first_tile[it->tensor] + it->tile] = ingot_hash(bytes, (size_t)it->n * width);
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_KILL));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(
      ingot_sink_write(w->sink, it->tensor, (uint64_t)it->tile * INGOT_TILE * width, (size_t)it->n * width, bytes));
done:
  return st;
}

uint64_t ingot_distill_write_bytes(int64_t n_elem, int n_thread)
{
  int64_t slots = 4 * (int64_t)(n_thread < 1             ? 1
                                : n_thread > THREADS_MAX ? THREADS_MAX
                                                         : n_thread); /* two loads of two a thread */
  return (uint64_t)(slots * INGOT_TILE < n_elem ? slots * INGOT_TILE : n_elem) * sizeof(float);
}

/* Let the threads write what is ready, when they have written what was before it. */
static ingot_status flush(writer *w)
{
  load        *l = &w->loads[w->filling];
  ingot_status st = ingot_crew_wait(&w->flight);
  if (st != INGOT_OK) return st;
  w->filling = 1 - w->filling;
  w->loads[w->filling].n = 0;
  if (l->n > 0) ingot_crew_start(&w->flight, w->n_thread, l->n, finish_tile, l);
  return INGOT_OK;
}

/* `copy`: the values are only lent, or in a device's memory (device). */
static ingot_status add_tile(writer *w, const item *it, bool copy, bool device)
{
  ingot_status st = INGOT_OK;
  load        *l = &w->loads[w->filling];
  int          i = l->n;
  l->items[i] = *it;
  if (copy) {
    if (!l->slots[i]) l->slots[i] = malloc(INGOT_TILE * sizeof(float));
    INGOT_CHECK(l->slots[i], INGOT_ERR_NOMEM, "no memory to write the output");
    if (device)
      INGOT_TRY(w->t->g.nn->ops->copy_out(w->t->g.nn, l->slots[i], it->values, (size_t)it->n * sizeof(float)));
    else memcpy(l->slots[i], it->values, (size_t)it->n * sizeof(float));
    l->items[i].values = l->slots[i];
  }
  if (++l->n == 2 * w->n_thread) st = flush(w);
done:
  return st;
}

/* ---- where values come from ---- */

/* Elements [at, at + n) of the flat array from all ranks' slices. Collective; `before`: what this rank has met with. */
static ingot_status gather(writer *w, int64_t at, int64_t n, float *values, ingot_status before)
{
  ingot_status     st = before;
  ingot_trainer   *t = w->t;
  ingot_optimizer *o = &t->optimizer;
  int              size = ingot_comm_size(t->comm);
  int64_t          a = at > o->begin ? at : o->begin, b = at + n < o->end ? at + n : o->end;
  if (st == INGOT_OK && a < b && w->best)
    memcpy(values + (a - at), t->best + (a - o->begin), (size_t)(b - a) * sizeof *values);
  if (st == INGOT_OK && a < b && !w->best)
    st = t->g.nn->ops->copy_out(t->g.nn, values + (a - at), o->master + (a - o->begin),
                                (size_t)(b - a) * sizeof *values);
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  for (int r = 0; r <= size; r++) {
    int64_t begin = at + n, end;
    if (r < size) ingot_optimizer_slice(o->model->layout.n_elem, r, size, &begin, &end);
    begin = begin < at ? at : begin > at + n ? at + n : begin;
    w->begin[r] = (begin - at) * (int64_t)sizeof *values;
  }
  INGOT_TRY(ingot_comm_share(t->comm, values, w->begin));
done:
  return st;
}

static void transpose(const float *from, int64_t n_out, int64_t n_in, float *to)
{
  for (int64_t i = 0; i < n_in; i++)
    for (int64_t j = 0; j < n_out; j++) to[i * n_out + j] = from[j * n_in + i];
}

/* Whether elements [a, b) lie in one slice, and in whose. */
static bool in_one_slice(const writer *w, int64_t a, int64_t b, int *rank)
{
  int64_t n_elem = w->t->optimizer.model->layout.n_elem, begin, end;
  int     size = ingot_comm_size(w->t->comm);
  for (int r = 0; r < size; r++) {
    ingot_optimizer_slice(n_elem, r, size, &begin, &end);
    *rank = r;
    if (a >= begin && b <= end) return true;
  }
  return false;
}

static ingot_status put_tile(writer *w, int tensor, int64_t tile, ingot_status before)
{
  ingot_status             st = before;
  const ingot_model_param *p = param_of(w, tensor);
  const ingot_optimizer   *o = &w->t->optimizer;
  int64_t                  at = tile * INGOT_TILE, first = p->offset + at;
  item                     it = {tensor, tile, p->n_elem - at < INGOT_TILE ? p->n_elem - at : INGOT_TILE, NULL};
  int                      owner, rank = ingot_comm_rank(w->t->comm);
  bool                     device = w->t->g.nn->kind != INGOT_NN_CPU && !w->best;
  if (!p->transposed && in_one_slice(w, first, first + it.n, &owner)) {
    if (owner != rank || st != INGOT_OK) return st;
    it.values = (w->best ? w->t->best : o->master) + (first - o->begin);
    return add_tile(w, &it, device, device);
  }
  if (!p->transposed) INGOT_TRY(gather(w, first, it.n, w->whole, st));
  it.values = p->transposed ? w->turned + at : w->whole;
  owner = (int)(w->n_shared++ % ingot_comm_size(w->t->comm));
  if (owner == rank && st == INGOT_OK) st = add_tile(w, &it, true, false);
done:
  return st;
}

/* All tensors; a rank that fails goes on to where all meet. Collective. */
static ingot_status put_tensors(writer *w)
{
  ingot_status st = INGOT_OK, written;
  int          n_tensor = w->t->plan->sink.n_tensor;
  for (int i = 0; i < n_tensor; i++) {
    const ingot_model_param *p = param_of(w, i);
    if (p->transposed) {
      INGOT_TRY(gather(w, p->offset, p->n_elem, w->whole, st));
      transpose(w->whole, p->shape.dim[1], p->shape.dim[0], w->turned);
    }
    for (int64_t k = 0; k < w->first_tile[i + 1] - w->first_tile[i]; k++) st = put_tile(w, i, k, st);
  }
  if (st == INGOT_OK) st = flush(w);
done:
  written = ingot_crew_wait(&w->flight);
  if (st == INGOT_OK) st = written;
  return ingot_comm_agree(w->t->comm, st);
}

/* ---- the whole ---- */

static ingot_status init_writer(writer *w)
{
  ingot_status           st = INGOT_OK;
  const ingot_sink_spec *sink = &w->t->plan->sink;
  int64_t                room = ingot_comm_size(w->t->comm) > 1 ? INGOT_TILE : 0;
  int                    n_thread = w->t->options->gather.n_thread;
  w->n_thread = n_thread < 1 ? 1 : n_thread > THREADS_MAX ? THREADS_MAX : n_thread;
  w->loads[0].w = w->loads[1].w = w;
  w->first_tile = calloc((size_t)sink->n_tensor + 1, sizeof *w->first_tile);
  w->begin = calloc((size_t)ingot_comm_size(w->t->comm) + 1, sizeof *w->begin);
  INGOT_CHECK(w->first_tile && w->begin, INGOT_ERR_NOMEM, "no memory to write the output");
  for (int i = 0; i < sink->n_tensor; i++) {
    const ingot_model_param *p = param_of(w, i);
    w->first_tile[i + 1] = w->first_tile[i] + ingot_tile_count(p->n_elem);
    if (p->transposed && p->n_elem > room) room = p->n_elem;
  }
  w->hashes = calloc((size_t)w->first_tile[sink->n_tensor] + 1, sizeof *w->hashes);
  if (room > 0) {
    w->whole = malloc((size_t)room * sizeof *w->whole);
    w->turned = malloc((size_t)room * sizeof *w->turned);
    INGOT_CHECK(w->whole && w->turned, INGOT_ERR_NOMEM, "no memory to write the output");
  }
  for (int i = 0; i < w->n_thread; i++) {
    w->narrow[i] = malloc(INGOT_TILE * sizeof(double));
    INGOT_CHECK(w->narrow[i] && w->hashes, INGOT_ERR_NOMEM, "no memory to write the output");
  }
done:
  return st;
}

static void release_writer(writer *w)
{
  if (!w) return;
  ingot_sink_close(&w->sink);
  for (int i = 0; i < THREADS_MAX; i++) free(w->narrow[i]);
  for (int k = 0; k < 2; k++)
    for (int i = 0; i < SLOTS_MAX; i++) free(w->loads[k].slots[i]);
  free(w->whole);
  free(w->turned);
  free(w->begin);
  free(w->first_tile);
  free(w->hashes);
  free(w);
}

/* The sink's files, and the report of the training. */
static ingot_status make_files(ingot_trainer *t, bool best, ingot_sink_spec *spec, ingot_sink_file **files,
                               ingot_text *report)
{
  ingot_status                 st = INGOT_OK;
  const ingot_distill_options *options = t->options;
  *files = calloc((size_t)spec->n_file + 1, sizeof **files);
  INGOT_CHECK(*files, INGOT_ERR_NOMEM, "no memory for the files of the output");
  memcpy(*files, spec->files, (size_t)spec->n_file * sizeof **files);
  spec->files = *files;
  if (!options->report) goto done;
  INGOT_TRY(options->report(options->report_context, t->plan, t->history, best, report));
  (*files)[spec->n_file++] = (ingot_sink_file){options->report_name, ingot_text_string(report), report->size};
done:
  return st;
}

ingot_status ingot_trainer_write(ingot_trainer *t, const char *path, bool best, uint64_t *checksums)
{
  ingot_status     st = INGOT_OK;
  double           start_s = ingot_clock_s();
  ingot_sink_spec  spec = t->plan->sink;
  ingot_sink_file *files = NULL;
  ingot_text       report = {0};
  writer          *w = calloc(1, sizeof *w);
  spec.path = path;
  st = w ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory to write the output");
  if (st == INGOT_OK) *w = (writer){.t = t, .best = best && t->best && t->history->best >= 0};
  if (st == INGOT_OK) st = init_writer(w);
  if (st == INGOT_OK) st = make_files(t, w->best, &spec, &files, &report);
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  INGOT_TRY(ingot_sink_create(t->comm, &spec, &w->sink));
  INGOT_TRY(put_tensors(w));
  /* Of each tile one rank has the hash, the others 0. */
  INGOT_TRY(ingot_comm_sum_i64(t->comm, (int64_t *)w->hashes, w->first_tile[spec.n_tensor]));
  for (int i = 0; i < spec.n_tensor; i++)
    checksums[i] = ingot_tensor_checksum(w->hashes + w->first_tile[i], w->first_tile[i + 1] - w->first_tile[i]);
  INGOT_TRY(ingot_comm_agree(t->comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  /* Killed between here and the manifest, the output is one that the same command may make again. */
  st = ingot_comm_rank(t->comm) == 0 ? ingot_journal_create(path, t->plan->validation.fingerprint, 0) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  st = ingot_sink_commit(t->comm, &w->sink, checksums);
done:
  release_writer(w);
  free(files);
  ingot_text_release(&report);
  t->timing->write_s += ingot_clock_s() - start_s;
  return st;
}
