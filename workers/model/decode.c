#include "workers/model/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "workers/model/pass_internal.h"

enum { PASS_TOKENS = 2048 }; /* of a pass over prompts or whole sequences, unless one alone has more */

/* What a pass sees of the sequences while it runs: some rows of a decoder. */
typedef struct ingot_cache {
  ingot_nn_cache memory;
  const int32_t *place;  /* back end, [run->n_token]: of the run's tokens in the cache */
  const int32_t *slot;   /* back end, [run->n_batch]; for runs of one token of each sequence, as are the next */
  const int32_t *length; /* back end, [run->n_batch]: tokens of the sequence with the new one */
  int64_t        most;   /* the largest of these */
  bool           whole;  /* the run begins the sequences */
} ingot_cache;

struct ingot_decoder {
  ingot_model          *model; /* borrowed */
  ingot_nn             *nn;
  ingot_pass           *pass;
  ingot_decoder_options options;
  bool                  caches;
  ingot_nn_cache        cache;
  int32_t              *ids;    /* back end: places of a pass's tokens; slots, lengths [n_row]; copies [n_row][3] */
  void                 *hidden; /* [n_row][hidden]: of last tokens */
  int32_t              *tokens; /* [n_row][n_time] by slot */
  int32_t              *length; /* [n_row] by slot */
  int32_t              *slot;   /* [n_row]: of the rows of the last call */
  int32_t              *old_slot, *batch, *batch_length, *positions, *place, *copies;
  int64_t               rows; /* of the last call */
};

bool ingot_decoder_caches(const ingot_model_spec *spec, int64_t n_time)
{
  return !(spec->rope.type == INGOT_ROPE_DYNAMIC && !spec->learned_positions && n_time > spec->rope.original_positions);
}

static ingot_pass_options pass_options(const ingot_decoder_options *o, bool caches)
{
  int64_t            n_time = caches ? o->n_prompt : o->n_time, rows = PASS_TOKENS / n_time;
  ingot_pass_options pass = {.n_time = n_time, .hidden = true, .head_rows = o->n_row, .n_position = o->n_time};
  if (rows > o->n_row) rows = o->n_row;
  if (rows * n_time < o->n_row) rows = (o->n_row + n_time - 1) / n_time;
  pass.n_batch = rows > 0 ? rows : 1;
  return pass;
}

static int64_t pass_tokens(const ingot_pass_options *pass)
{
  return pass->n_batch * pass->n_time;
}

static uint64_t id_bytes(const ingot_pass_options *pass, int64_t n_row)
{
  return (uint64_t)(pass_tokens(pass) + 5 * n_row) * sizeof(int32_t);
}

static int64_t cache_elements(const ingot_model_spec *spec, const ingot_decoder_options *o)
{
  return (int64_t)spec->n_layer * o->n_row * o->n_time * ingot_spec_kv(spec);
}

uint64_t ingot_decoder_bytes(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_decoder_options *options)
{
  bool               caches = ingot_decoder_caches(spec, options->n_time);
  ingot_pass_options pass = pass_options(options, caches);
  uint64_t           size = ingot_dtype_size(dtype), bytes = ingot_pass_bytes(spec, dtype, &pass);
  bytes += (uint64_t)(options->n_row * spec->hidden) * size;
  if (caches) bytes += 2 * (uint64_t)cache_elements(spec, options) * size + id_bytes(&pass, options->n_row);
  return bytes;
}

static ingot_status open_cache(ingot_decoder *d, const ingot_pass_options *pass)
{
  ingot_status            st = INGOT_OK;
  const ingot_model_spec *spec = &d->model->spec;
  const size_t            bytes = (size_t)cache_elements(spec, &d->options) * ingot_dtype_size(d->nn->dtype);
  d->cache = (ingot_nn_cache){.n_layer = spec->n_layer,
                              .n_slot = d->options.n_row,
                              .n_time = d->options.n_time,
                              .width = ingot_spec_kv(spec)};
  INGOT_TRY(d->nn->ops->alloc(d->nn, bytes, &d->cache.keys));
  INGOT_TRY(d->nn->ops->alloc(d->nn, bytes, &d->cache.values));
  INGOT_TRY(d->nn->ops->alloc(d->nn, (size_t)id_bytes(pass, d->options.n_row), (void **)&d->ids));
done:
  return st;
}

ingot_status ingot_decoder_open(ingot_model *model, const ingot_decoder_options *options, ingot_decoder **out)
{
  ingot_status   st = INGOT_OK;
  ingot_decoder *d = calloc(1, sizeof *d);
  size_t         rows = (size_t)options->n_row, size = ingot_dtype_size(model->nn->dtype);
  *out = NULL;
  INGOT_ASSERT(options->n_row > 0 && options->n_prompt > 0 && options->n_time >= options->n_prompt);
  INGOT_CHECK(d, INGOT_ERR_NOMEM, "no memory for a decoder");
  *d = (ingot_decoder){.model = model, .nn = model->nn, .options = *options};
  INGOT_CHECK(options->n_row <= INT32_MAX / options->n_time, INGOT_ERR_NOMEM,
              "%lld sequences of %lld tokens are too many at a time", (long long)options->n_row,
              (long long)options->n_time);
  d->caches = ingot_decoder_caches(&model->spec, options->n_time);
  ingot_pass_options pass = pass_options(options, d->caches);
  size_t             batch = (size_t)pass_tokens(&pass);
  d->tokens = calloc(rows * (size_t)options->n_time, sizeof *d->tokens);
  d->length = calloc(rows, sizeof *d->length);
  d->slot = calloc(rows, sizeof *d->slot);
  d->old_slot = calloc(rows, sizeof *d->old_slot);
  d->batch = calloc(batch, sizeof *d->batch);
  d->batch_length = calloc(rows, sizeof *d->batch_length);
  d->positions = calloc(batch, sizeof *d->positions);
  d->place = calloc(batch, sizeof *d->place);
  d->copies = calloc(3 * rows, sizeof *d->copies);
  INGOT_CHECK(d->tokens && d->length && d->slot && d->old_slot && d->batch && d->batch_length && d->positions &&
                  d->place && d->copies,
              INGOT_ERR_NOMEM, "no memory for a decoder of %zu sequences", rows);
  INGOT_TRY(ingot_pass_open(model, &pass, &d->pass));
  INGOT_TRY(d->nn->ops->alloc(d->nn, rows * (size_t)model->spec.hidden * size, &d->hidden));
  if (d->caches) INGOT_TRY(open_cache(d, &pass));
  *out = d;
  d = NULL;
done:
  ingot_decoder_close(&d);
  return st;
}

void ingot_decoder_close(ingot_decoder **decoder)
{
  ingot_decoder *d = *decoder;
  if (!d) return;
  void *memory[] = {d->cache.keys, d->cache.values, d->ids, d->hidden};
  for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) d->nn->ops->free(d->nn, memory[i]);
  ingot_pass_close(&d->pass);
  free(d->tokens);
  free(d->length);
  free(d->slot);
  free(d->old_slot);
  free(d->batch);
  free(d->batch_length);
  free(d->positions);
  free(d->place);
  free(d->copies);
  free(d);
  *decoder = NULL;
}

/* ---- inside a pass ---- */

ingot_status ingot_pass_cache_layer(const ingot_pass_state *run, int index, const ingot_pass_layer *layer)
{
  ingot_status             st = INGOT_OK;
  const ingot_cache       *c = run->cache;
  const ingot_model_spec  *spec = &run->model->spec;
  const ingot_nn_attention shape = ingot_pass_attention_shape(run, index);
  const int64_t            q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  void *qk = ingot_pass_qk(layer), *k = ingot_pass_at(run, qk, q), *v = ingot_pass_at(run, layer->qkv, q + kv);
  INGOT_TRY(run->ops->cache_store(run->nn, &c->memory, index, run->n_token, c->place, k, shape.ld_k, v, shape.ld_v));
  if (c->whole) return run->ops->attention(run->nn, &shape, qk, k, v, layer->heads, NULL);
  const ingot_nn_cached cached = {.n_row = run->n_batch,
                                  .layer = index,
                                  .n_head = spec->n_head,
                                  .n_kv_head = spec->n_kv_head,
                                  .head_dim = spec->head_dim,
                                  .scale = shape.scale,
                                  .window = shape.window,
                                  .slot = c->slot,
                                  .n_key = c->length,
                                  .most_key = c->most,
                                  .ld_q = shape.ld_q,
                                  .ld_o = shape.ld_o};
  INGOT_TRY(run->ops->attention_cached(run->nn, &cached, &c->memory, qk, layer->heads));
done:
  return st;
}

/* ---- calls ---- */

/* A pass over n_batch windows of n_time tokens in d->batch, at d->positions. */
static ingot_status run_pass(ingot_decoder *d, int64_t n_batch, int64_t n_time, const ingot_cache *cache)
{
  ingot_status     st = INGOT_OK;
  ingot_pass      *pass = d->pass;
  ingot_pass_state run = {.pass = pass,
                          .ops = d->nn->ops,
                          .nn = d->nn,
                          .model = d->model,
                          .n_batch = n_batch,
                          .n_time = n_time,
                          .n_token = n_batch * n_time,
                          .cache = cache};
  size_t           bytes = (size_t)run.n_token * sizeof(int32_t);
  INGOT_ASSERT(run.n_token <= pass->options.n_batch * pass->options.n_time);
  INGOT_TRY(ingot_pass_refresh_tables(pass, cache ? d->options.n_time : n_time));
  INGOT_TRY(d->nn->ops->copy_in(d->nn, pass->tokens, d->batch, bytes));
  INGOT_TRY(d->nn->ops->copy_in(d->nn, pass->positions, d->positions, bytes));
  INGOT_TRY(ingot_pass_forward(&run));
  pass->n_row = run.n_token;
done:
  return st;
}

/* n rows of the pass's last run from `row` on, inputs of the head, to d->hidden from row `to` on. */
static ingot_status keep_hidden(ingot_decoder *d, int64_t row, int64_t to, int64_t n)
{
  const size_t bytes = (size_t)d->model->spec.hidden * ingot_dtype_size(d->nn->dtype);
  return d->nn->ops->copy(d->nn, (char *)d->hidden + (size_t)to * bytes,
                          (const char *)ingot_pass_hidden(d->pass) + (size_t)row * bytes, (size_t)n * bytes);
}

/* Rows first .. end - 1 from their first token on, shorter ones padded at their ends. */
static ingot_status run_whole(ingot_decoder *d, int64_t first, int64_t end)
{
  ingot_status st = INGOT_OK;
  int64_t      n_time = 0;
  ingot_cache  cache = {.memory = d->cache, .place = d->ids, .whole = true};
  for (int64_t r = first; r < end; r++)
    if (d->length[d->slot[r]] > n_time) n_time = d->length[d->slot[r]];
  for (int64_t r = first; r < end; r++)
    for (int64_t t = 0; t < n_time; t++) {
      const int64_t at = (r - first) * n_time + t, place = d->slot[r] * d->options.n_time + t;
      const bool    there = t < d->length[d->slot[r]];
      d->batch[at] = there ? d->tokens[place] : 0;
      d->place[at] = there ? (int32_t)place : -1;
      d->positions[at] = (int32_t)t;
    }
  if (d->caches)
    INGOT_TRY(d->nn->ops->copy_in(d->nn, d->ids, d->place, (size_t)((end - first) * n_time) * sizeof *d->place));
  INGOT_TRY(run_pass(d, end - first, n_time, d->caches ? &cache : NULL));
  for (int64_t r = first; r < end; r++)
    INGOT_TRY(keep_hidden(d, (r - first) * n_time + d->length[d->slot[r]] - 1, r, 1));
done:
  return st;
}

static ingot_status run_all_whole(ingot_decoder *d)
{
  ingot_status st = INGOT_OK;
  bool         dynamic = d->model->spec.rope.type == INGOT_ROPE_DYNAMIC; /* its frequencies are of one length */
  for (int64_t first = 0; first < d->rows;) {
    int64_t end = first, longest = 0, most = d->pass->options.n_batch * d->pass->options.n_time;
    for (; end < d->rows; end++) {
      int64_t own = d->length[d->slot[end]], length = own > longest ? own : longest;
      bool    alike = !dynamic || own == longest;
      if (end > first && (!alike || length * (end + 1 - first) > most)) break;
      longest = length;
    }
    INGOT_TRY(run_whole(d, first, end));
    first = end;
  }
done:
  return st;
}

/* The last token of every row against the cache. */
static ingot_status run_last(ingot_decoder *d)
{
  ingot_status st = INGOT_OK;
  size_t       bytes = (size_t)d->rows * sizeof(int32_t);
  int32_t     *slot = d->ids + pass_tokens(&d->pass->options), *length = slot + d->options.n_row;
  ingot_cache  cache = {.memory = d->cache, .place = d->ids, .slot = slot, .length = length};
  for (int64_t r = 0; r < d->rows; r++) {
    d->batch_length[r] = d->length[d->slot[r]];
    d->positions[r] = d->batch_length[r] - 1;
    d->place[r] = (int32_t)(d->slot[r] * d->options.n_time + d->positions[r]);
    d->batch[r] = d->tokens[d->place[r]];
    if (d->batch_length[r] > cache.most) cache.most = d->batch_length[r];
  }
  INGOT_TRY(d->nn->ops->copy_in(d->nn, d->ids, d->place, bytes));
  INGOT_TRY(d->nn->ops->copy_in(d->nn, slot, d->slot, bytes));
  INGOT_TRY(d->nn->ops->copy_in(d->nn, length, d->batch_length, bytes));
  INGOT_TRY(run_pass(d, d->rows, 1, &cache));
  INGOT_TRY(keep_hidden(d, 0, 0, d->rows));
done:
  return st;
}

ingot_status ingot_decoder_start(ingot_decoder *d, int64_t n_row, const int32_t *tokens, int64_t ld,
                                 const int32_t *length, ingot_nn_logits *z)
{
  ingot_status st = INGOT_OK;
  INGOT_ASSERT(n_row > 0 && n_row <= d->options.n_row);
  for (int64_t r = 0; r < n_row; r++) {
    INGOT_ASSERT(length[r] > 0 && length[r] <= d->options.n_prompt);
    d->slot[r] = (int32_t)r;
    d->length[r] = length[r];
    memcpy(d->tokens + r * d->options.n_time, tokens + r * ld, (size_t)length[r] * sizeof *tokens);
  }
  d->rows = n_row;
  INGOT_TRY(run_all_whole(d));
  st = ingot_pass_logits_from(d->pass, d->hidden, n_row, z);
done:
  return st;
}

/* Slot copy[1] becomes what slot copy[0] is; keys and values follow by run_copies. */
static void copy_slot(ingot_decoder *d, const int32_t copy[3])
{
  const int64_t n_time = d->options.n_time;
  d->length[copy[1]] = copy[2];
  memcpy(d->tokens + copy[1] * n_time, d->tokens + copy[0] * n_time, (size_t)copy[2] * sizeof *d->tokens);
}

static ingot_status run_copies(ingot_decoder *d, int64_t n)
{
  ingot_status st = INGOT_OK;
  int64_t      most = 0;
  if (n == 0 || !d->caches) return INGOT_OK;
  int32_t *copies = d->ids + pass_tokens(&d->pass->options) + 2 * d->options.n_row;
  for (int64_t i = 0; i < n; i++)
    if (d->copies[3 * i + 2] > most) most = d->copies[3 * i + 2];
  INGOT_TRY(d->nn->ops->copy_in(d->nn, copies, d->copies, (size_t)(3 * n) * sizeof *copies));
  INGOT_TRY(d->nn->ops->cache_copy(d->nn, &d->cache, n, copies, most));
done:
  return st;
}

/* Rows get slots: the first that continues a row takes its slot, others a copy in a slot that nobody continues. */
static ingot_status move_rows(ingot_decoder *d, int64_t n_row, const int32_t *from)
{
  ingot_status st = INGOT_OK;
  int32_t     *user = d->positions; /* [slot]: 1 + the row that has it; room that is free between runs */
  int32_t      next = 0;
  int64_t      n_copy = 0;
  memcpy(d->old_slot, d->slot, (size_t)d->rows * sizeof *d->slot);
  memset(user, 0, (size_t)d->options.n_row * sizeof *user);
  for (int64_t r = 0; r < n_row; r++) {
    INGOT_ASSERT(from[r] >= 0 && from[r] < d->rows);
    const int32_t s = d->old_slot[from[r]];
    d->slot[r] = -1;
    if (user[s]) continue;
    user[s] = (int32_t)r + 1;
    d->slot[r] = s;
  }
  for (int64_t r = 0; r < n_row; r++) {
    if (d->slot[r] >= 0) continue;
    while (user[next]) next++;
    user[next] = (int32_t)r + 1;
    d->slot[r] = next;
    int32_t *copy = d->copies + 3 * n_copy++;
    copy[0] = d->old_slot[from[r]];
    copy[1] = next;
    copy[2] = d->length[copy[0]];
    copy_slot(d, copy);
  }
  d->rows = n_row;
  INGOT_TRY(run_copies(d, n_copy));
done:
  return st;
}

ingot_status ingot_decoder_next(ingot_decoder *d, int64_t n_row, const int32_t *from, const int32_t *tokens,
                                ingot_nn_logits *z)
{
  ingot_status st = INGOT_OK;
  INGOT_ASSERT(n_row > 0 && n_row <= d->options.n_row);
  INGOT_TRY(move_rows(d, n_row, from));
  for (int64_t r = 0; r < n_row; r++) {
    const int32_t s = d->slot[r];
    INGOT_ASSERT(d->length[s] < d->options.n_time && tokens[r] >= 0 && tokens[r] < d->model->spec.n_vocab);
    d->tokens[s * d->options.n_time + d->length[s]++] = tokens[r];
  }
  INGOT_TRY(d->caches ? run_last(d) : run_all_whole(d));
  st = ingot_pass_logits_from(d->pass, d->hidden, n_row, z);
done:
  return st;
}
