/* The student as a checkpoint: float32 parameters are gathered tile by tile, rounded, and each rank writes its tiles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/tile.h"
#include "io/journal.h"
#include "kernels/convert.h"
#include "workers/distill/trainer.h"

typedef struct writer {
  ingot_trainer *t;
  ingot_sink    *sink;
  float         *piece, *turned; /* room for a tile, or for the largest transposed parameter */
  void          *narrow;
  int64_t        room;
  int64_t       *begin;  /* [ranks + 1] */
  uint64_t      *hashes; /* of the tiles of a tensor */
  int64_t        n_tile; /* so far: tiles go to ranks in turn */
  bool           best;
} writer;

/* Elements [at, at + n) of the flat array from all ranks' slices. Collective. */
static ingot_status gather(writer *w, int64_t at, int64_t n, float *values)
{
  ingot_status     st = INGOT_OK;
  ingot_trainer   *t = w->t;
  ingot_optimizer *o = &t->optimizer;
  int              size = ingot_comm_size(t->comm);
  int64_t          a = at > o->begin ? at : o->begin, b = at + n < o->end ? at + n : o->end;
  if (a < b && w->best) memcpy(values + (a - at), t->best + (a - o->begin), (size_t)(b - a) * sizeof *values);
  if (a < b && !w->best)
    st = t->g.nn->ops->copy_out(t->g.nn, values + (a - at), o->master + (a - o->begin), (size_t)(b - a) * sizeof *values);
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

static ingot_status write_tile(writer *w, int tensor, int64_t tile, int64_t n, const float *values)
{
  ingot_status             st = INGOT_OK;
  const ingot_sink_tensor *to = &w->t->plan->sink.tensors[tensor];
  size_t                   width = ingot_dtype_size(to->dtype);
  for (int64_t i = 0; i < n; i++)
    INGOT_CHECK(isfinite(values[i]), INGOT_ERR_NUMERIC, "%s: element %lld is not finite after the training", to->name,
                (long long)(tile * INGOT_TILE + i));
  ingot_narrow(to->dtype, values, w->narrow, n);
  w->hashes[tile] = ingot_hash(w->narrow, (size_t)n * width);
  if (w->n_tile++ % ingot_comm_size(w->t->comm) == ingot_comm_rank(w->t->comm)) {
    INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
    INGOT_TRY(ingot_sink_write(w->sink, tensor, (uint64_t)tile * INGOT_TILE * width, (size_t)n * width, w->narrow));
  }
done:
  return st;
}

static ingot_status write_tensor(writer *w, int tensor, uint64_t *checksum)
{
  ingot_status             st = INGOT_OK;
  const ingot_model_param *p = &w->t->g.model->layout.params[w->t->plan->tensor_param[tensor]];
  int64_t                  n_tile = ingot_tile_count(p->n_elem);
  if (p->transposed) {
    INGOT_TRY(gather(w, p->offset, p->n_elem, w->piece));
    transpose(w->piece, p->shape.dim[1], p->shape.dim[0], w->turned);
  }
  for (int64_t i = 0; i < n_tile; i++) {
    int64_t at = i * INGOT_TILE, n = p->n_elem - at < INGOT_TILE ? p->n_elem - at : INGOT_TILE;
    if (!p->transposed) INGOT_TRY(gather(w, p->offset + at, n, w->piece));
    INGOT_TRY(ingot_comm_agree(w->t->comm, write_tile(w, tensor, i, n, p->transposed ? w->turned + at : w->piece)));
  }
  *checksum = ingot_tensor_checksum(w->hashes, n_tile);
done:
  return st;
}

static ingot_status init_writer(writer *w)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_layout *layout = &w->t->g.model->layout;
  int64_t                   most_tiles = 1;
  w->room = INGOT_TILE;
  for (int p = 0; p < layout->n_param; p++) {
    const ingot_model_param *param = &layout->params[p];
    if (param->transposed && param->n_elem > w->room) w->room = param->n_elem;
    if (ingot_tile_count(param->n_elem) > most_tiles) most_tiles = ingot_tile_count(param->n_elem);
  }
  w->piece = malloc((size_t)w->room * sizeof *w->piece);
  w->turned = malloc((size_t)w->room * sizeof *w->turned);
  w->narrow = malloc(INGOT_TILE * sizeof(double));
  w->begin = calloc((size_t)ingot_comm_size(w->t->comm) + 1, sizeof *w->begin);
  w->hashes = calloc((size_t)most_tiles, sizeof *w->hashes);
  INGOT_CHECK(w->piece && w->turned && w->narrow && w->begin && w->hashes, INGOT_ERR_NOMEM, "no memory to write the output");
done:
  return st;
}

/* The sink's files, and the report of the training. */
static ingot_status make_files(ingot_trainer *t, ingot_sink_spec *spec, ingot_sink_file **files, ingot_text *report)
{
  ingot_status                 st = INGOT_OK;
  const ingot_distill_options *options = t->options;
  *files = calloc((size_t)spec->n_file + 1, sizeof **files);
  INGOT_CHECK(*files, INGOT_ERR_NOMEM, "no memory for the files of the output");
  memcpy(*files, spec->files, (size_t)spec->n_file * sizeof **files);
  spec->files = *files;
  if (!options->report) goto done;
  INGOT_TRY(options->report(options->report_context, t->plan, t->history, report));
  (*files)[spec->n_file++] = (ingot_sink_file){options->report_name, ingot_text_string(report), report->size};
done:
  return st;
}

ingot_status ingot_trainer_write(ingot_trainer *t, uint64_t *checksums)
{
  ingot_status     st = INGOT_OK;
  double           start_s = ingot_clock_s();
  ingot_sink_spec  spec = t->plan->sink;
  ingot_sink_file *files = NULL;
  ingot_text       report = {0};
  writer           w = {.t = t, .best = t->best && t->history->best >= 0};
  st = init_writer(&w);
  if (st == INGOT_OK) st = make_files(t, &spec, &files, &report);
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  INGOT_TRY(ingot_sink_create(t->comm, &spec, &w.sink));
  for (int i = 0; i < spec.n_tensor; i++) INGOT_TRY(write_tensor(&w, i, &checksums[i]));
  INGOT_TRY(ingot_comm_agree(t->comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  /* Killed between here and the manifest, the output is one that the same command may make again. */
  st = ingot_comm_rank(t->comm) == 0 ? ingot_journal_create(spec.path, t->plan->validation.fingerprint, 0) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(t->comm, st));
  st = ingot_sink_commit(t->comm, &w.sink, checksums);
done:
  ingot_sink_close(&w.sink);
  free(w.piece);
  free(w.turned);
  free(w.narrow);
  free(w.begin);
  free(w.hashes);
  free(files);
  ingot_text_release(&report);
  t->timing->write_s += ingot_clock_s() - start_s;
  return st;
}
