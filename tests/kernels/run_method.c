#include "tests/kernels/run_method.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/convert.h"

enum { ALIGN = 64 };

ingot_method_tensor run_view(const run_setup *r, int i, const void *model_state)
{
  ingot_method_tensor t = {
      .name = r->tensors[i].name,
      .key = ingot_hash_string(r->tensors[i].name),
      .shape = r->tensors[i].shape,
      .n_input = r->n_model + r->has_base + r->n_statistic,
      .n_model = r->n_model,
      .n_statistic = r->n_statistic,
      .has_base = r->has_base,
      .global = r->global,
      .per_model = r->per_model,
      .seed = r->seed,
      .model_state = model_state,
  };
  INGOT_ASSERT(ingot_shape_count(&t.shape, &t.n_elem));
  for (int k = 0; k < i; k++) {
    int64_t n = 0;
    INGOT_ASSERT(ingot_shape_count(&r->tensors[k].shape, &n));
    t.model_offset += n;
  }
  return t;
}

/* Whether the method may take the tensor's inputs as they are stored. */
static bool is_all_bf16(const run_tensor *t, int n_input)
{
  for (int i = 0; i < n_input; i++)
    if (t->in_dtype[i] != INGOT_DTYPE_BF16) return false;
  return true;
}

static void raw_block(const run_tensor *t, int n_input, int64_t first, const void **in)
{
  for (int i = 0; i < n_input; i++) in[i] = (const uint16_t *)t->in[i] + first;
}

/* Room for one block of every input. */
typedef struct block_room {
  float        *wide;
  const float **in;
  const void  **raw; /* where the block lies as it is stored */
} block_room;

static void room_init(block_room *room, int n_input)
{
  room->wide = aligned_alloc(ALIGN, (size_t)n_input * INGOT_BLOCK * sizeof(float));
  room->in = malloc((size_t)n_input * sizeof *room->in);
  room->raw = malloc((size_t)n_input * sizeof *room->raw);
  INGOT_ASSERT(room->wide && room->in && room->raw);
  for (int i = 0; i < n_input; i++) room->in[i] = room->wide + (size_t)i * INGOT_BLOCK;
}

static void room_release(block_room *room)
{
  free(room->wide);
  free(room->in);
  free(room->raw);
}

static ingot_chunk widen_chunk(const run_tensor *t, int n_input, int64_t first, int64_t n, block_room *room)
{
  for (int i = 0; i < n_input; i++)
    ingot_widen(t->in_dtype[i], (const char *)t->in[i] + (size_t)first * ingot_dtype_size(t->in_dtype[i]),
                room->wide + (size_t)i * INGOT_BLOCK, n);
  return (ingot_chunk){.first = first, .n = n, .in = room->in};
}

static void scan_tile(const run_setup *r, int tensor, const ingot_method_tensor *view, const ingot_scan_ops *ops,
                      const void *state, const ingot_scan_plan *plan, int64_t tile, void *slot, int64_t *sums,
                      block_room *room, run_report *report)
{
  int64_t  begin = tile * INGOT_TILE, end = begin + INGOT_TILE < view->n_elem ? begin + INGOT_TILE : view->n_elem;
  int64_t  step = plan->sample_stride ? plan->sample_stride : INGOT_BLOCK;
  int64_t  most = plan->sample_stride ? INGOT_SAMPLE_RUN : INGOT_BLOCK;
  int64_t *own = calloc((size_t)plan->n_sum + 1, sizeof *own);
  bool     bf16 = ops->scan_bf16 && is_all_bf16(&r->tensors[tensor], view->n_input);
  INGOT_ASSERT(own);
  for (int64_t at = (begin + step - 1) / step * step; at < end; at += step) {
    int64_t n = end - at < most ? end - at : most;
    report->elements_scanned += n;
    if (bf16) raw_block(&r->tensors[tensor], view->n_input, at, room->raw);
    if (bf16 && ops->scan_bf16(view, state, plan, at, n, room->raw, slot, own)) continue;
    ingot_chunk c = widen_chunk(&r->tensors[tensor], view->n_input, at, n, room);
    ops->scan(view, state, plan, &c, slot, own);
  }
  for (int64_t i = 0; i < plan->n_sum; i++) sums[i] += own[i];
  free(own);
}

/* One pass over tensors first .. first + n. Tiles and slots count through all of them. */
static ingot_status run_pass(const run_setup *r, int first, int n, const ingot_scan_ops *ops, const void *model_state,
                             const void *state, const ingot_scan_plan *plan, unsigned char *slots, int64_t *sums,
                             run_report *report)
{
  block_room room;
  room_init(&room, r->n_model + r->has_base + r->n_statistic);
  int64_t n_all = 0;
  for (int i = first; i < first + n; i++) n_all += ingot_tile_count(run_view(r, i, NULL).n_elem);
  int64_t n_do = plan->tiles ? plan->n_tiles : n_all;
  for (int64_t k = 0; k < n_do; k++) {
    int64_t at = r->backwards ? n_do - 1 - k : k, tile = plan->tiles ? plan->tiles[at] : at;
    int     tensor = first;
    while (tile >= ingot_tile_count(run_view(r, tensor, NULL).n_elem))
      tile -= ingot_tile_count(run_view(r, tensor++, NULL).n_elem);
    ingot_method_tensor view = run_view(r, tensor, model_state);
    scan_tile(r, tensor, &view, ops, state, plan, tile, slots + (size_t)at * plan->slot_bytes, sums, &room, report);
  }
  room_release(&room);
  report->n_pass++;
  report->n_full_pass += plan->tiles == NULL && plan->sample_stride == 0;
  return INGOT_OK;
}

/* All passes over tensors first .. first + n that `ops` asks for; *kept gets slots that the state refers to, to be
 * freed. */
static ingot_status run_passes(const run_setup *r, int first, int n, const ingot_scan_ops *ops, const void *model_state,
                               void *state, run_report *report, void **kept)
{
  ingot_method_tensor last = run_view(r, first + n - 1, model_state);
  ingot_scan_plan     plan = {0};
  ingot_status        st = ops->next(&last, state, NULL, &plan);
  while (st == INGOT_OK && plan.pass != INGOT_SCAN_DONE) {
    int64_t n_slot = plan.n_tiles;
    if (!plan.tiles) {
      n_slot = 0;
      for (int i = first; i < first + n; i++) n_slot += ingot_tile_count(run_view(r, i, NULL).n_elem);
    }
    size_t         bytes = (size_t)n_slot * plan.slot_bytes;
    unsigned char *slots = calloc(bytes + 1, 1);
    int64_t       *sums = calloc((size_t)plan.n_sum + 1, sizeof *sums);
    INGOT_ASSERT(slots && sums);
    if (bytes > report->max_slot_bytes) report->max_slot_bytes = bytes;
    st = run_pass(r, first, n, ops, model_state, state, &plan, slots, sums, report);
    if (st == INGOT_OK) {
      ingot_scan_plan   done = plan;
      ingot_scan_result result = {.plan = &done, .n_slot = n_slot, .slots = slots, .sums = sums};
      st = ops->next(&last, state, &result, &plan);
      if (done.keep_slots && plan.pass == INGOT_SCAN_DONE) {
        *kept = slots;
        slots = NULL;
      }
    }
    free(slots);
    free(sums);
  }
  return st;
}

static ingot_status run_tensor_apply(const run_setup *r, int i, const void *model_state, run_report *report)
{
  const ingot_method *m = r->method;
  const run_tensor   *tensor = &r->tensors[i];
  ingot_method_tensor t = run_view(r, i, model_state);
  if (m->is_copy && m->is_copy(&t) && tensor->in_dtype[0] == tensor->out_dtype) {
    if (t.n_elem) memcpy(tensor->out, tensor->in[0], (size_t)t.n_elem * ingot_dtype_size(tensor->out_dtype));
    return INGOT_OK;
  }
  void        *state = calloc(m->state_bytes(&t) + 1, 1), *kept = NULL;
  float       *out = aligned_alloc(ALIGN, INGOT_BLOCK * sizeof *out);
  block_room   room;
  ingot_status st = INGOT_OK;
  bool         bf16 = m->apply_bf16 && tensor->out_dtype == INGOT_DTYPE_BF16 && is_all_bf16(tensor, t.n_input);
  room_init(&room, t.n_input);
  INGOT_ASSERT(state && out);
  INGOT_TRY(m->begin(&t, state));
  if (m->tensor.next && m->grain(&t) != INGOT_GRAIN_ELEMENT)
    INGOT_TRY(run_passes(r, i, 1, &m->tensor, model_state, state, report, &kept));
  for (int64_t first = 0; first < t.n_elem; first += INGOT_BLOCK) {
    int64_t n = t.n_elem - first < INGOT_BLOCK ? t.n_elem - first : INGOT_BLOCK;
    if (bf16) raw_block(tensor, t.n_input, first, room.raw);
    if (bf16 && m->apply_bf16(&t, state, first, n, room.raw, (uint16_t *)tensor->out + first)) continue;
    ingot_chunk c = widen_chunk(tensor, t.n_input, first, n, &room);
    m->apply(&t, state, &c, out);
    ingot_narrow(tensor->out_dtype, out, (char *)tensor->out + (size_t)first * ingot_dtype_size(tensor->out_dtype), n);
  }
done:
  room_release(&room);
  free(kept);
  free(state);
  free(out);
  return st;
}

ingot_status run_model_passes(const run_setup *r, run_report *report, void **model_state)
{
  const ingot_method *m = r->method;
  ingot_method_tensor any = run_view(r, r->n_tensor - 1, NULL);
  *model_state = NULL;
  if (m->grain(&any) != INGOT_GRAIN_MODEL) return INGOT_OK;
  *model_state = calloc(m->model_state_bytes(&any) + 1, 1);
  INGOT_ASSERT(*model_state);
  return run_passes(r, 0, r->n_tensor, &m->model, NULL, *model_state, report, NULL);
}

ingot_status run_method(const run_setup *r, run_report *report)
{
  const ingot_method *m = r->method;
  run_report          own = {0};
  void               *model_state = NULL;
  ingot_status        st = INGOT_OK;
  if (!report) report = &own;
  *report = (run_report){0};
  for (int i = 0; i < r->n_tensor; i++) {
    ingot_method_tensor t = run_view(r, i, NULL);
    if (m->check) INGOT_TRY(m->check(&t));
  }
  INGOT_TRY(run_model_passes(r, report, &model_state));
  for (int i = 0; i < r->n_tensor; i++) INGOT_TRY(run_tensor_apply(r, i, model_state, report));
done:
  free(model_state);
  return st;
}

/* Parameters. */

static ingot_status parse_value(const ingot_param_spec *spec, const char *text, double *value)
{
  if (spec->type == INGOT_PARAM_CHOICE) return ingot_param_choice(spec, text, value);
  if (spec->type == INGOT_PARAM_BOOL) {
    *value = strcmp(text, "true") == 0;
    return INGOT_OK;
  }
  *value = strtod(text, NULL);
  return ingot_param_check(spec, *value);
}

static ingot_status set_parameter(const ingot_method *m, int n_model, char *item, double *global, double *per_model)
{
  const ingot_param_spec *spec = NULL;
  char                   *equals = strchr(item, '='), *at = strchr(item, '@');
  double                  value;
  INGOT_ASSERT(equals);
  *equals = 0;
  if (at && at < equals) *at = 0;
  else at = NULL;
  int index = ingot_method_param(m, item, &spec);
  if (index < 0) return ingot_fail(INGOT_ERR_JOB, "%s has no parameter %s", m->name, item);
  ingot_status st = parse_value(spec, equals + 1, &value);
  if (st != INGOT_OK) return st;
  if (spec->scope == INGOT_PARAM_GLOBAL) {
    global[index] = value;
    return INGOT_OK;
  }
  int n = ingot_method_n_param(m, INGOT_PARAM_PER_MODEL);
  for (int i = 0; i < n_model; i++)
    if (!at || i == atoi(at + 1)) per_model[i * n + index] = value;
  return INGOT_OK;
}

ingot_status run_parameters(const ingot_method *m, int n_model, const char *text, double *global, double *per_model)
{
  int n_global = 0, n_per_model = 0;
  for (int i = 0; i < m->n_param; i++) {
    const ingot_param_spec *spec = &m->params[i];
    if (spec->scope == INGOT_PARAM_GLOBAL) {
      global[n_global++] = spec->default_value;
    } else {
      for (int k = 0; k < n_model; k++)
        per_model[k * ingot_method_n_param(m, INGOT_PARAM_PER_MODEL) + n_per_model] = spec->default_value;
      n_per_model++;
    }
  }
  ingot_status st = INGOT_OK;
  char        *copy = ingot_strdup(text);
  INGOT_ASSERT(copy);
  for (char *item = copy; st == INGOT_OK && *item;) {
    size_t length = strcspn(item, " ");
    char  *next = item + length + (item[length] != 0);
    item[length] = 0;
    if (*item) st = set_parameter(m, n_model, item, global, per_model);
    item = next;
  }
  free(copy);
  return st;
}
