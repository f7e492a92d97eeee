/*
 * Weights from a checkpoint into a model come through host memory in pieces. nn->n_thread threads read and convert them
 * into the slots of a ring; the calling thread, the only one that uses the back end, copies them out of it in order.
 */
#include "workers/model/load_file.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/convert.h"

enum { PIECE_ELEM = 1 << 20, BLOCK_ELEM = 1 << 14, THREAD_MAX = 16, TURNING_MAX = 4, SLOT_MAX = THREAD_MAX + 4 };

typedef struct piece {
  int     param;
  int64_t first, n; /* elements, in the order of the checkpoint; a transposed parameter is one piece */
} piece;

typedef struct slot {
  void *values; /* nn->dtype */
  bool  ready;
} slot;

typedef struct loader {
  ingot_model        *model;
  const ingot_source *src;
  const int          *tensor;
  piece              *pieces; /* [n_piece] */
  int64_t             n_piece;
  int64_t             capacity; /* elements of the largest */
  int                 n_slot;
  pthread_mutex_t     lock;
  pthread_cond_t      changed;
  int64_t             next, n_taken; /* to be read; copied into the back end: piece i is in slot i % n_slot */
  ingot_status        status;
  char                message[1024];
  slot                slots[SLOT_MAX];
} loader;

void ingot_model_transpose(const float *in, int64_t n_row, int64_t n_column, float *out)
{
  enum { BLOCK = 32 };
  for (int64_t r0 = 0; r0 < n_row; r0 += BLOCK)
    for (int64_t c = 0; c < n_column; c++)
      for (int64_t r = r0; r < n_row && r < r0 + BLOCK; r++) out[c * n_row + r] = in[r * n_column + c];
}

/* Room of one reading thread. */
typedef struct reader {
  void  *stored;        /* [BLOCK_ELEM], as in the file */
  float *wide, *turned; /* wide [BLOCK_ELEM], or with turned [capacity] both */
} reader;

static ingot_status read_piece(const loader *l, const reader *r, const piece *p, void *values)
{
  ingot_status             st = INGOT_OK;
  const ingot_model_param *param = &l->model->layout.params[p->param];
  const ingot_tensor_info *info = ingot_source_tensor(l->src, l->tensor[p->param]);
  const ingot_dtype        to = l->model->nn->dtype;
  const size_t             size = ingot_dtype_size(info->dtype), to_size = ingot_dtype_size(to);
  for (int64_t at = 0; at < p->n; at += BLOCK_ELEM) {
    const int64_t n = p->n - at < BLOCK_ELEM ? p->n - at : BLOCK_ELEM;
    char         *out = (char *)values + (size_t)at * to_size;
    float        *wide = param->transposed ? r->wide + at : to == INGOT_DTYPE_F32 ? (float *)(void *)out : r->wide;
    INGOT_TRY(
        ingot_source_read(l->src, l->tensor[p->param], (uint64_t)(p->first + at) * size, (size_t)n * size, r->stored));
    const int64_t bad = ingot_widen_counting(info->dtype, r->stored, wide, n);
    INGOT_CHECK(bad == 0, INGOT_ERR_NUMERIC,
                "%s: %s holds values that are not finite (%" PRId64 " of %" PRId64 " looked at)",
                ingot_source_path(l->src), info->name, bad, n);
    if (!param->transposed && to != INGOT_DTYPE_F32) ingot_narrow(to, wide, out, n);
  }
  if (!param->transposed) goto done;
  ingot_model_transpose(r->wide, param->shape.dim[0], param->shape.dim[1], r->turned);
  ingot_narrow(to, r->turned, values, p->n);
done:
  return st;
}

static void fail(loader *l, ingot_status st) /* with the lock */
{
  if (l->status == INGOT_OK) {
    l->status = st;
    snprintf(l->message, sizeof l->message, "%s", ingot_error_message());
  }
  pthread_cond_broadcast(&l->changed);
}

static bool has_transposed(const ingot_model_layout *layout)
{
  bool found = false;
  for (int i = 0; i < layout->n_param; i++) found = found || layout->params[i].transposed;
  return found;
}

/* Threads that read; whole parameters take room. */
static int reading_threads(const ingot_model_layout *layout, int n_thread)
{
  int most = has_transposed(layout) ? TURNING_MAX : THREAD_MAX;
  return n_thread < most ? n_thread : most;
}

uint64_t ingot_model_load_bytes(const ingot_model_spec *spec, ingot_dtype dtype, int n_thread)
{
  ingot_model_layout layout;
  int64_t            most = 0, turned = 0;
  if (ingot_model_layout_make(spec, &layout) != INGOT_OK) return 0;
  for (int i = 0; i < layout.n_param; i++) {
    int64_t n = layout.params[i].n_elem;
    if (layout.params[i].transposed && n > turned) turned = n;
    if (n > PIECE_ELEM) n = PIECE_ELEM;
    if (n > most) most = n;
  }
  if (turned > most) most = turned;
  int64_t  n = reading_threads(&layout, n_thread), slots = (n + 2) * most;
  uint64_t each = BLOCK_ELEM * sizeof(double) + (uint64_t)(turned > 0 ? 2 * most : BLOCK_ELEM) * sizeof(float);
  if (slots > layout.n_elem) slots = layout.n_elem;
  ingot_model_layout_release(&layout);
  return (uint64_t)slots * ingot_dtype_size(dtype) + (uint64_t)n * each;
}

static void *reading_thread(void *argument)
{
  loader      *l = argument;
  const bool   turn = has_transposed(&l->model->layout);
  const size_t room = (size_t)(turn ? l->capacity : BLOCK_ELEM);
  reader       r = {.stored = malloc(BLOCK_ELEM * sizeof(double)), .wide = malloc(room * sizeof(float))};
  if (turn) r.turned = malloc(room * sizeof(float));
  ingot_status st = r.stored && r.wide && (r.turned || !turn)
                        ? INGOT_OK
                        : ingot_fail(INGOT_ERR_NOMEM, "no memory to read weights in pieces of %zu elements", room);
  pthread_mutex_lock(&l->lock);
  for (;;) {
    if (st != INGOT_OK) fail(l, st);
    if (l->status != INGOT_OK || l->next >= l->n_piece) break;
    const int64_t mine = l->next++;
    while (l->status == INGOT_OK && mine >= l->n_taken + l->n_slot) pthread_cond_wait(&l->changed, &l->lock);
    if (l->status != INGOT_OK) break;
    pthread_mutex_unlock(&l->lock);
    slot *s = &l->slots[mine % l->n_slot];
    st = read_piece(l, &r, &l->pieces[mine], s->values);
    pthread_mutex_lock(&l->lock);
    s->ready = st == INGOT_OK;
    pthread_cond_broadcast(&l->changed);
  }
  pthread_mutex_unlock(&l->lock);
  free(r.stored);
  free(r.wide);
  free(r.turned);
  return NULL;
}

/* Pieces into the back end, in order, as they become ready. */
static void copy_pieces(loader *l)
{
  ingot_nn    *nn = l->model->nn;
  const size_t size = ingot_dtype_size(nn->dtype);
  pthread_mutex_lock(&l->lock);
  for (int64_t i = 0; i < l->n_piece; i++) {
    slot *s = &l->slots[i % l->n_slot];
    while (l->status == INGOT_OK && !s->ready) pthread_cond_wait(&l->changed, &l->lock);
    if (l->status != INGOT_OK) break;
    pthread_mutex_unlock(&l->lock);
    const piece *p = &l->pieces[i];
    char        *to = (char *)ingot_model_weight(l->model, p->param) + (size_t)p->first * size;
    ingot_status st = nn->ops->copy_in(nn, to, s->values, (size_t)p->n * size);
    pthread_mutex_lock(&l->lock);
    if (st != INGOT_OK) fail(l, st);
    s->ready = false;
    l->n_taken = i + 1;
    pthread_cond_broadcast(&l->changed);
  }
  pthread_mutex_unlock(&l->lock);
}

static ingot_status list_pieces(loader *l, int first_param, int n_param)
{
  const ingot_model_layout *layout = &l->model->layout;
  int64_t                   n = 0;
  for (int i = first_param; i < first_param + n_param; i++) n += 1 + layout->params[i].n_elem / PIECE_ELEM;
  l->pieces = malloc((size_t)n * sizeof *l->pieces);
  if (!l->pieces) return ingot_fail(INGOT_ERR_NOMEM, "no memory for a model");
  for (int i = first_param; i < first_param + n_param; i++) {
    const ingot_model_param *p = &layout->params[i];
    const int64_t            step = p->transposed ? p->n_elem : PIECE_ELEM;
    for (int64_t first = 0; first < p->n_elem; first += step)
      l->pieces[l->n_piece++] = (piece){i, first, p->n_elem - first < step ? p->n_elem - first : step};
  }
  for (int64_t i = 0; i < l->n_piece; i++)
    if (l->pieces[i].n > l->capacity) l->capacity = l->pieces[i].n;
  return INGOT_OK;
}

ingot_status ingot_model_fill_from_file(ingot_model *model, const ingot_source *src, const int *tensor, int first,
                                        int count)
{
  ingot_status st = INGOT_OK;
  loader       l = {.model = model, .src = src, .tensor = tensor};
  pthread_t    threads[THREAD_MAX];
  int          n = 0, wanted = reading_threads(&model->layout, model->nn->n_thread);
  pthread_mutex_init(&l.lock, NULL);
  pthread_cond_init(&l.changed, NULL);
  INGOT_TRY(list_pieces(&l, first, count));
  l.n_slot = wanted + 2;
  for (int i = 0; i < l.n_slot; i++) {
    l.slots[i].values = malloc((size_t)l.capacity * sizeof(float));
    INGOT_CHECK(l.slots[i].values, INGOT_ERR_NOMEM, "no memory to read weights in pieces of %" PRId64 " elements",
                l.capacity);
  }
  while (n < wanted && pthread_create(&threads[n], NULL, reading_thread, &l) == 0) n++;
  INGOT_CHECK(n > 0, INGOT_ERR_NOMEM, "no thread could be started to read weights");
  copy_pieces(&l);
  for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
  if (l.status != INGOT_OK) st = ingot_fail(l.status, "%s", l.message);
  else st = model->nn->ops->wait(model->nn);
done:
  for (int i = 0; i < l.n_slot; i++) free(l.slots[i].values);
  free(l.pieces);
  pthread_cond_destroy(&l.changed);
  pthread_mutex_destroy(&l.lock);
  return st;
}
