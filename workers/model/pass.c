/* Working memory of a pass, and its run: ids and tables in, forward, head, backward. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "workers/model/pass_internal.h"

enum { ALIGN_BYTES = 256 };
/* Logits of a head chunk: large enough for the matrix product, small beside the rest. */
enum { HEAD_BYTES_F32 = 64 << 20, HEAD_BYTES_NARROW = 256 << 20, HEAD_ROWS_MULTIPLE = 128 };

/* Cuts buffers from one block; without a block it only counts. */
typedef struct carver {
  char    *base;
  uint64_t used;
} carver;

static void *take(carver *c, int64_t n, size_t elem_bytes)
{
  void *at = c->base ? c->base + c->used : NULL;
  c->used += ((uint64_t)n * elem_bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
  return at;
}

/* Of each layer by itself, even where layers share the rest. */
static void *take_input(carver *c, const ingot_model_spec *spec, size_t size, int64_t n)
{
  return take(c, n * spec->hidden, size);
}

static ingot_pass_layer take_layer(carver *c, const ingot_model_spec *spec, size_t size, int64_t n, bool backward)
{
  const int64_t    q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  const int        n_stat = spec->layer_norm ? 2 : 1;
  ingot_pass_layer l = {0};
  l.input = take_input(c, spec, size, n);
  l.norm1 = take(c, n * spec->hidden, size);
  l.qkv = take(c, n * (q + 2 * kv), size);
  l.heads = take(c, n * q, size);
  l.middle = take(c, n * spec->hidden, size);
  l.norm2 = take(c, n * spec->hidden, size);
  l.inner = take(c, n * spec->inner * (spec->gated ? 2 : 1), size);
  l.active = take(c, n * spec->inner, size);
  l.stats1 = take(c, n * n_stat, sizeof(float));
  l.stats2 = take(c, n * n_stat, sizeof(float));
  if (spec->qk_norm) {
    l.qk = take(c, n * (q + kv), size);
    l.stats_q = take(c, n * spec->n_head, sizeof(float));
    l.stats_k = take(c, n * spec->n_kv_head, sizeof(float));
  }
  if (backward) l.lse = take(c, n * spec->n_head, sizeof(float));
  return l;
}

static int64_t table_positions(const ingot_pass_options *options)
{
  return options->n_position > options->n_time ? options->n_position : options->n_time;
}

/* Everything that a pass needs. Layers are stored when there is a place for them. */
static void carve(carver *c, const ingot_model_spec *spec, ingot_dtype dtype, ingot_pass *pass)
{
  const size_t  size = ingot_dtype_size(dtype);
  const int64_t n = pass->options.n_batch * pass->options.n_time, hidden = spec->hidden;
  const int64_t q = ingot_spec_q(spec), kv = ingot_spec_kv(spec);
  int32_t     **ids[] = {&pass->tokens, &pass->labels, &pass->positions, &pass->first_key, &pass->valid};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) *ids[i] = take(c, n, sizeof(int32_t));
  if (!spec->learned_positions) {
    pass->cos = take(c, table_positions(&pass->options) * (spec->head_dim / 2), sizeof(float));
    pass->sin = take(c, table_positions(&pass->options) * (spec->head_dim / 2), sizeof(float));
  }
  ingot_pass_layer shared = {0};
  for (int i = 0; i < spec->n_layer; i++) {
    if (i == 0 || (pass->options.backward && !pass->options.recompute))
      shared = take_layer(c, spec, size, n, pass->options.backward);
    else if (pass->options.backward) shared.input = take_input(c, spec, size, n);
    if (pass->layers) pass->layers[i] = shared;
  }
  pass->delta = take(c, n * hidden, size);
  /* Forward alone, the first stream of the shared layer is free again when the last layer is done. */
  pass->final_input = pass->options.backward ? take(c, n * hidden, size) : shared.input;
  pass->final_norm = take(c, n * hidden, size);
  pass->final_stats = take(c, n * 2, sizeof(float));
  pass->logits = take(c, pass->head_rows * pass->ld_logits, sizeof(float));
  if (!pass->options.backward) return;
  pass->d_logits = take(c, pass->head_rows * pass->ld_logits, size);
  pass->d_stream = take(c, n * hidden, size);
  pass->d_norm = take(c, n * hidden, size);
  pass->d_qkv = take(c, n * (q + 2 * kv), size);
  if (spec->qk_norm) pass->d_qk = take(c, n * (q + kv), size);
  pass->d_heads = take(c, n * q, size);
  pass->d_active = take(c, n * spec->inner, size);
}

static void choose_head_rows(const ingot_model_spec *spec, ingot_dtype dtype, ingot_pass *pass)
{
  const int64_t n = pass->options.n_batch * pass->options.n_time;
  pass->ld_logits = (spec->n_vocab + 7) / 8 * 8;
  int64_t rows = pass->options.head_rows;
  if (rows == 0) {
    const int64_t bytes = dtype == INGOT_DTYPE_F32 ? HEAD_BYTES_F32 : HEAD_BYTES_NARROW;
    rows = bytes / (pass->ld_logits * (int64_t)sizeof(float)) / HEAD_ROWS_MULTIPLE * HEAD_ROWS_MULTIPLE;
    if (rows == 0) rows = HEAD_ROWS_MULTIPLE;
  }
  pass->head_rows = rows < n ? rows : n;
}

int64_t ingot_pass_plan_head_rows(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options)
{
  ingot_pass pass = {.options = *options};
  choose_head_rows(spec, dtype, &pass);
  return pass.head_rows;
}

uint64_t ingot_pass_bytes(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options)
{
  carver     c = {0};
  ingot_pass pass = {.options = *options};
  choose_head_rows(spec, dtype, &pass);
  carve(&c, spec, dtype, &pass);
  return c.used;
}

ingot_status ingot_model_check_device(const ingot_model_spec *spec, const char *where)
{
  if (spec->hidden % 8 == 0 && spec->inner % 8 == 0 && spec->head_dim % 8 == 0 && spec->head_dim <= 256)
    return INGOT_OK;
  return ingot_fail(
      INGOT_ERR_MISMATCH,
      "%s: on a GPU, hidden size %lld, feed-forward size %lld and head size %d must be multiples of 8, and "
      "the head size at most 256",
      where, (long long)spec->hidden, (long long)spec->inner, spec->head_dim);
}

/* Rotary tables for windows of n_time. Angles are rounded to float32 as Transformers does. */
static ingot_status fill_tables(ingot_pass *pass, int64_t n_time)
{
  ingot_status            st = INGOT_OK;
  const ingot_model_spec *spec = &pass->model->spec;
  const int               half = spec->head_dim / 2;
  const size_t            n = (size_t)n_time * (size_t)half;
  double                 *inv_freq = malloc((size_t)half * sizeof *inv_freq), factor = 1;
  float                  *cosine = malloc(n * sizeof *cosine), *sine = malloc(n * sizeof *sine);
  INGOT_CHECK(inv_freq && cosine && sine, INGOT_ERR_NOMEM, "no memory for rotary tables of %lld positions",
              (long long)n_time);
  ingot_model_rope_frequencies(spec, n_time, inv_freq, &factor);
  for (int64_t t = 0; t < n_time; t++)
    for (int j = 0; j < half; j++) {
      const float angle = (float)t * (float)inv_freq[j];
      cosine[t * half + j] = (float)(cos((double)angle) * factor);
      sine[t * half + j] = (float)(sin((double)angle) * factor);
    }
  INGOT_TRY(pass->nn->ops->copy_in(pass->nn, pass->cos, cosine, n * sizeof *cosine));
  INGOT_TRY(pass->nn->ops->copy_in(pass->nn, pass->sin, sine, n * sizeof *sine));
  pass->table_time = n_time;
done:
  free(inv_freq);
  free(cosine);
  free(sine);
  return st;
}

/* Frequencies of type dynamic belong to one length; the others' tables serve every shorter window. */
ingot_status ingot_pass_refresh_tables(ingot_pass *pass, int64_t n_time)
{
  const ingot_model_spec *spec = &pass->model->spec;
  if (spec->learned_positions || pass->table_time == n_time) return INGOT_OK;
  if (pass->table_time > n_time && spec->rope.type != INGOT_ROPE_DYNAMIC) return INGOT_OK;
  return fill_tables(pass, n_time);
}

static void index_params(ingot_pass *pass)
{
  const ingot_model_layout *layout = &pass->model->layout;
  const int                 n_layer = pass->model->spec.n_layer;
  for (int i = 0; i < (n_layer + 1) * INGOT_ROLE_COUNT; i++) pass->params[i] = -1;
  for (int i = 0; i < layout->n_param; i++) {
    const int layer = layout->params[i].layer < 0 ? n_layer : layout->params[i].layer;
    pass->params[layer * INGOT_ROLE_COUNT + (int)layout->params[i].role] = i;
  }
}

ingot_status ingot_pass_open(ingot_model *model, const ingot_pass_options *options, ingot_pass **out)
{
  ingot_status  st = INGOT_OK;
  carver        c = {0};
  const int64_t n = options->n_batch * options->n_time;
  const int     n_layer = model->spec.n_layer;
  *out = NULL;
  INGOT_ASSERT(options->n_batch > 0 && options->n_time > 0 && options->head_rows >= 0);
  ingot_pass *pass = calloc(1, sizeof *pass);
  INGOT_CHECK(pass, INGOT_ERR_NOMEM, "no memory for a pass");
  *pass = (ingot_pass){.model = model, .nn = model->nn, .options = *options};
  INGOT_TRY(ingot_model_check_window(&model->spec, model->spec.family, table_positions(options)));
  if (pass->nn->kind == INGOT_NN_CUDA) INGOT_TRY(ingot_model_check_device(&model->spec, model->spec.family));
  pass->layers = calloc((size_t)n_layer, sizeof *pass->layers);
  pass->params = malloc(((size_t)n_layer + 1) * INGOT_ROLE_COUNT * sizeof *pass->params);
  pass->host_ids = malloc((size_t)n * sizeof *pass->host_ids);
  INGOT_CHECK(pass->layers && pass->params && pass->host_ids, INGOT_ERR_NOMEM, "no memory for a pass");
  index_params(pass);
  choose_head_rows(&model->spec, pass->nn->dtype, pass);
  INGOT_TRY(
      pass->nn->ops->alloc(pass->nn, (size_t)ingot_pass_bytes(&model->spec, pass->nn->dtype, options), &pass->memory));
  c.base = pass->memory;
  carve(&c, &model->spec, pass->nn->dtype, pass);
  INGOT_TRY(ingot_pass_refresh_tables(pass, table_positions(options)));
  *out = pass;
  pass = NULL;
done:
  ingot_pass_close(&pass);
  return st;
}

void ingot_pass_close(ingot_pass **pass_address)
{
  ingot_pass *pass = *pass_address;
  if (!pass) return;
  pass->nn->ops->free(pass->nn, pass->memory);
  free(pass->layers);
  free(pass->params);
  free(pass->host_ids);
  free(pass);
  *pass_address = NULL;
}

static ingot_status copy_ids(const ingot_pass_state *run, int32_t *dst, const int32_t *ids)
{
  return run->ops->copy_in(run->nn, dst, ids, (size_t)run->n_token * sizeof *ids);
}

static ingot_status put_batch(ingot_pass_state *run, const ingot_batch *batch)
{
  ingot_status   st = INGOT_OK;
  ingot_pass    *pass = run->pass;
  const int32_t *positions = batch->positions;
  for (int64_t i = 0; i < run->n_token; i++) {
    INGOT_ASSERT(batch->tokens[i] >= 0 && batch->tokens[i] < run->model->spec.n_vocab);
    INGOT_ASSERT(!positions || (positions[i] >= 0 && positions[i] < run->n_time));
    if (!positions) pass->host_ids[i] = (int32_t)(i % run->n_time);
  }
  INGOT_TRY(copy_ids(run, pass->tokens, batch->tokens));
  run->labels = batch->labels ? pass->labels : NULL;
  INGOT_TRY(copy_ids(run, pass->positions, positions ? positions : pass->host_ids));
  if (batch->labels) INGOT_TRY(copy_ids(run, pass->labels, batch->labels));
  if (batch->first_key) {
    INGOT_TRY(copy_ids(run, pass->first_key, batch->first_key));
    run->first_key = pass->first_key;
  }
  if (batch->valid) {
    INGOT_TRY(copy_ids(run, pass->valid, batch->valid));
    run->valid = pass->valid;
  }
done:
  return st;
}

ingot_status ingot_pass_run(ingot_pass *pass, const ingot_batch *batch, const ingot_head *head, const ingot_taps *taps,
                            const ingot_gradients *gradients)
{
  ingot_status     st = INGOT_OK;
  ingot_pass_state run = {
      .pass = pass,
      .ops = pass->nn->ops,
      .nn = pass->nn,
      .model = pass->model,
      .head = head,
      .taps = taps,
      .gradients = gradients,
      .n_batch = batch->n_batch,
      .n_time = batch->n_time,
      .n_token = batch->n_batch * batch->n_time,
  };
  run.backward = gradients || (taps && taps->output_gradient);
  INGOT_ASSERT(batch->n_batch > 0 && batch->n_time > 0 && batch->n_time <= pass->options.n_time);
  INGOT_ASSERT(run.n_token <= pass->options.n_batch * pass->options.n_time);
  INGOT_ASSERT(!run.backward || (pass->options.backward && head));
  INGOT_ASSERT(!taps || taps->n_layer == 0 ||
               (taps->n_layer <= run.model->spec.n_layer && !head && !taps->head && !run.backward));
  pass->n_row = 0;
  INGOT_TRY(ingot_pass_refresh_tables(pass, batch->n_time));
  INGOT_TRY(put_batch(&run, batch));
  INGOT_TRY(ingot_pass_forward(&run));
  if (head || (taps && taps->head)) INGOT_TRY(ingot_pass_run_head(&run));
  if (run.backward) INGOT_TRY(ingot_pass_backward(&run));
  if (pass->options.hidden) pass->n_row = run.n_token;
done:
  return st;
}

ingot_status ingot_pass_logits(ingot_pass *pass, int64_t first_row, int64_t n_row, ingot_nn_logits *z)
{
  INGOT_ASSERT(first_row >= 0 && n_row > 0 && n_row <= pass->head_rows && first_row + n_row <= pass->n_row);
  return ingot_pass_head_logits(pass, first_row, n_row, z);
}

int64_t ingot_pass_head_rows(const ingot_pass *pass)
{
  return pass->head_rows;
}

int64_t ingot_pass_choose_rows(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options)
{
  ingot_pass pass = {.options = *options};
  choose_head_rows(spec, dtype, &pass);
  return pass.head_rows;
}

const void *ingot_pass_hidden(const ingot_pass *pass)
{
  return pass->final_norm;
}

ingot_status ingot_pass_logits_from(ingot_pass *pass, const void *hidden, int64_t n_row, ingot_nn_logits *z)
{
  INGOT_ASSERT(n_row > 0 && n_row <= pass->head_rows);
  return ingot_pass_rows_logits(pass, hidden, n_row, z);
}
