#include "driver/merge_kept.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "driver/merge_plan.h"
#include "kernels/convert.h"
#include "kernels/families/delta.h"

/* JSON as libconfig writes it. */
static ingot_status append_value(const json_t *value, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  const char  *key, *comma = "";
  json_t      *item;
  size_t       i;
  if (json_is_object(value)) {
    INGOT_TRY(ingot_text_printf(text, "{"));
    json_object_foreach((json_t *)(uintptr_t)value, key, item)
    {
      if (json_is_null(item)) continue;
      INGOT_TRY(ingot_text_printf(text, " %s = ", key));
      INGOT_TRY(append_value(item, text));
      INGOT_TRY(ingot_text_printf(text, ";"));
    }
    st = ingot_text_printf(text, " }");
  } else if (json_is_array(value)) {
    INGOT_TRY(ingot_text_printf(text, "("));
    json_array_foreach(value, i, item)
    {
      INGOT_TRY(ingot_text_printf(text, "%s", comma));
      INGOT_TRY(append_value(item, text));
      comma = ", ";
    }
    st = ingot_text_printf(text, ")");
  } else if (json_is_string(value)) {
    INGOT_TRY(ingot_text_printf(text, "\""));
    for (const char *c = json_string_value(value); *c; c++)
      INGOT_TRY(ingot_text_printf(text, "%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c));
    st = ingot_text_printf(text, "\"");
  } else if (json_is_real(value)) {
    st = ingot_text_printf(text, "%.17e", json_real_value(value));
  } else if (json_is_integer(value)) {
    st = ingot_text_printf(text, "%lldL", (long long)json_integer_value(value));
  } else {
    st = ingot_text_printf(text, "%s", json_is_true(value) ? "true" : "false");
  }
done:
  return st;
}

/* A job of one step: the recipe, with the manifest's inputs as models. */
static ingot_status append_job(const json_t *manifest, const char *output, ingot_text *text)
{
  ingot_status  st = INGOT_OK;
  const json_t *recipe = json_object_get(manifest, "recipe"), *inputs = json_object_get(manifest, "inputs");
  json_t       *step = json_deep_copy(recipe), *models = json_object(), *name = json_string(output), *input;
  size_t        i;
  INGOT_CHECK(step && models && name, INGOT_ERR_NOMEM, "no memory for the recipe");
  json_array_foreach(inputs, i, input)
      json_object_set(models, json_string_value(json_object_get(input, "id")), json_object_get(input, "path"));
  json_object_set(step, "output", name);
  INGOT_TRY(ingot_text_printf(text, "models = "));
  INGOT_TRY(append_value(models, text));
  INGOT_TRY(ingot_text_printf(text, ";\nsteps = ( "));
  INGOT_TRY(append_value(step, text));
  st = ingot_text_printf(text, " );\n");
done:
  json_decref(step);
  json_decref(models);
  json_decref(name);
  return st;
}

/* One block of every input, as read and widened. */
typedef struct room {
  const ingot_merge_plan *plan;
  float                  *wide; /* [n_input][INGOT_BLOCK] */
  const float           **in;
  void                   *raw;
  float                  *value; /* [n_model][INGOT_BLOCK]: what the mask leaves, weighted and scaled */
  float                  *plain; /* [INGOT_BLOCK] */
} room;

static void room_release(room *r)
{
  free(r->wide);
  free((void *)r->in);
  free(r->raw);
  free(r->value);
  free(r->plain);
}

static ingot_status room_make(const ingot_merge_plan *plan, room *r)
{
  size_t n = 1;
  for (int i = 0; i < plan->n_tensor; i++)
    if ((size_t)plan->tensors[i].view.n_input > n) n = (size_t)plan->tensors[i].view.n_input;
  *r = (room){.plan = plan,
              .wide = aligned_alloc(64, n * INGOT_BLOCK * sizeof(float)),
              .in = calloc(n, sizeof *r->in),
              .raw = malloc(INGOT_BLOCK * sizeof(double)),
              .value = malloc(n * INGOT_BLOCK * sizeof(float)),
              .plain = malloc(INGOT_BLOCK * sizeof(float))};
  if (!r->wide || !r->in || !r->raw || !r->value || !r->plain)
    return ingot_fail(INGOT_ERR_NOMEM, "no memory for a block of %zu inputs", n);
  for (size_t i = 0; i < n; i++) r->in[i] = r->wide + i * INGOT_BLOCK;
  return INGOT_OK;
}

static ingot_status read_chunk(const ingot_merge_tensor *t, int64_t first, int64_t n, room *r, ingot_chunk *out)
{
  for (int i = 0; i < t->view.n_input; i++) {
    const ingot_source *source = r->plan->sources[t->source[i]];
    ingot_dtype         dtype = ingot_source_tensor(source, t->tensor[i])->dtype;
    size_t              size = ingot_dtype_size(dtype);
    ingot_status        st = ingot_source_read(source, t->tensor[i], (uint64_t)first * size, (size_t)n * size, r->raw);
    if (st != INGOT_OK) return st;
    ingot_widen(dtype, r->raw, r->wide + (size_t)i * INGOT_BLOCK, n);
  }
  *out = (ingot_chunk){.first = first, .n = n, .in = r->in};
  return INGOT_OK;
}

static ingot_status scan_tile(const ingot_merge_tensor *t, const ingot_method_tensor *view, const ingot_scan_ops *ops,
                              const void *state, const ingot_scan_plan *scan, int64_t tile, void *slot, int64_t *sums,
                              room *r)
{
  ingot_status st = INGOT_OK;
  int64_t      begin = tile * INGOT_TILE, end = view->n_elem - begin < INGOT_TILE ? view->n_elem : begin + INGOT_TILE;
  int64_t      step = scan->sample_stride ? scan->sample_stride : INGOT_BLOCK,
          most = scan->sample_stride ? INGOT_SAMPLE_RUN : INGOT_BLOCK;
  for (int64_t at = (begin + step - 1) / step * step; st == INGOT_OK && at < end; at += step) {
    ingot_chunk c;
    st = read_chunk(t, at, end - at < most ? end - at : most, r, &c);
    if (st == INGOT_OK) ops->scan(view, state, scan, &c, slot, sums);
  }
  return st;
}

/* All passes of a tensor (or of the model: tensors 0 .. n). Methods of this family ask for no tiles of their own
 * choice. */
static ingot_status run_passes(const ingot_merge_tensor *tensors, int n, const ingot_method_tensor *last,
                               const ingot_scan_ops *ops, void *state, room *r)
{
  ingot_status      st = INGOT_OK;
  ingot_scan_plan   scan, done;
  ingot_scan_result result;
  char             *slots = NULL;
  int64_t          *sums = NULL;
  INGOT_TRY(ops->next(last, state, NULL, &scan));
  while (scan.pass != INGOT_SCAN_DONE) {
    int64_t n_slot = 0;
    for (int i = 0; i < n; i++) n_slot += tensors[i].copy ? 0 : ingot_tile_count(tensors[i].view.n_elem);
    free(slots);
    free(sums);
    slots = calloc((size_t)n_slot * scan.slot_bytes + 1, 1);
    sums = calloc((size_t)scan.n_sum + 1, sizeof *sums);
    INGOT_CHECK(slots && sums && !scan.tiles, INGOT_ERR_NOMEM, "%s: no memory for the sums of %lld tiles", last->name,
                (long long)n_slot);
    n_slot = 0;
    for (int i = 0; i < n; i++) {
      if (tensors[i].copy) continue;
      for (int64_t k = 0; k < ingot_tile_count(tensors[i].view.n_elem); k++)
        INGOT_TRY(scan_tile(&tensors[i], n == 1 ? last : &tensors[i].view, ops, state, &scan, k,
                            slots + (size_t)n_slot++ * scan.slot_bytes, sums, r));
    }
    done = scan;
    result = (ingot_scan_result){&done, n_slot, slots, sums};
    INGOT_TRY(ops->next(last, state, &result, &scan));
  }
done:
  free(slots);
  free(sums);
  return st;
}

/* The sign that a vote elects for element i, as families/delta.h says. */
static int elected(const ingot_delta_state *s, const float *value, int64_t i)
{
  float total = 0;
  for (int k = 0; k < s->n_model; k++) total = total + value[(size_t)k * INGOT_BLOCK + (size_t)i];
  return total > 0 ? 1 : total == 0 ? s->zero_sign : -1;
}

static void add_chunk(const ingot_delta_state *s, const ingot_chunk *c, room *r, ingot_kept_model *models)
{
  for (int k = 0; k < s->n_model; k++)
    ingot_delta_values(&ingot_delta_models_const(s)[k], c, c->in[1 + k], 0, c->n, r->value + (size_t)k * INGOT_BLOCK);
  for (int k = 0; k < s->n_model; k++) {
    ingot_delta_model plain = ingot_delta_models_const(s)[k];
    plain.weight = plain.scale = 1;
    ingot_delta_values(&plain, c, c->in[1 + k], 0, c->n, r->plain);
    for (int64_t i = 0; i < c->n; i++) {
      double tau = fabs((double)(c->in[1 + k][i] - c->in[0][i]));
      float  y = r->value[(size_t)k * INGOT_BLOCK + (size_t)i];
      models[k].mass += tau;
      models[k].square += tau * tau;
      if (r->plain[i] == 0) continue;
      models[k].kept_mass += tau;
      models[k].kept_square += tau * tau;
      if (s->vote && !(elected(s, r->value, i) > 0 ? y > 0 : y < 0)) continue;
      models[k].agreed_mass += tau;
      models[k].agreed_square += tau * tau;
    }
  }
}

static ingot_status add_tensor(const ingot_merge_tensor *t, const void *model_state, room *r, ingot_kept *out,
                               bool *cuts)
{
  ingot_status        st = INGOT_OK;
  const ingot_method *method = r->plan->method;
  ingot_method_tensor view = t->view;
  view.model_state = model_state;
  void *state = calloc(1, method->state_bytes(&view) + 1);
  INGOT_CHECK(state, INGOT_ERR_NOMEM, "%s: no memory for the method's state", view.name);
  INGOT_TRY(method->begin(&view, state));
  if (t->grain != INGOT_GRAIN_ELEMENT && method->tensor.next)
    INGOT_TRY(run_passes(t, 1, &view, &method->tensor, state, r));
  const ingot_delta_state *s = state;
  for (int k = 0; k < s->n_model; k++)
    *cuts = *cuts || s->vote || ingot_delta_models_const(s)[k].mask != INGOT_MASK_ALL;
  for (int64_t at = 0; at < view.n_elem; at += INGOT_BLOCK) {
    ingot_chunk c;
    INGOT_TRY(read_chunk(t, at, view.n_elem - at < INGOT_BLOCK ? view.n_elem - at : INGOT_BLOCK, r, &c));
    add_chunk(s, &c, r, out->models);
  }
done:
  free(state);
  return st;
}

static ingot_status measure(const ingot_merge_plan *plan, const json_t *recipe, ingot_kept *out)
{
  ingot_status  st = INGOT_OK;
  const json_t *models = json_object_get(recipe, "models");
  int           n = (int)json_array_size(models), last = -1;
  bool          cuts = false;
  void         *model_state = NULL;
  room          r = {0};
  INGOT_TRY(room_make(plan, &r));
  out->models = calloc((size_t)n + 1, sizeof *out->models);
  out->names = calloc((size_t)n + 1, sizeof *out->names);
  INGOT_CHECK(out->models && out->names, INGOT_ERR_NOMEM, "no memory for %d models", n);
  for (int k = 0; k < n; k++) {
    const json_t *m = json_array_get(models, (size_t)k);
    const char   *name = json_string_value(json_is_string(m) ? m : json_object_get(m, "model"));
    out->names[k] = ingot_strdup(name ? name : "?");
  }
  for (int i = 0; i < plan->n_tensor; i++) {
    if (plan->tensors[i].copy) continue;
    if (plan->tensors[i].view.n_model != n) goto done; /* a model that lacks tensors: no one sum for all */
    last = i;
  }
  if (last < 0) goto done;
  if (plan->tensors[last].grain == INGOT_GRAIN_MODEL) {
    model_state = calloc(1, plan->method->model_state_bytes(&plan->tensors[last].view) + 1);
    INGOT_CHECK(model_state, INGOT_ERR_NOMEM, "no memory for the method's state");
    INGOT_TRY(
        run_passes(plan->tensors, plan->n_tensor, &plan->tensors[last].view, &plan->method->model, model_state, &r));
  }
  for (int i = 0; i < plan->n_tensor; i++)
    if (!plan->tensors[i].copy) INGOT_TRY(add_tensor(&plan->tensors[i], model_state, &r, out, &cuts));
  if (cuts) out->n_model = n;
done:
  free(model_state);
  room_release(&r);
  return st;
}

ingot_status ingot_kept_make(const json_t *manifest, const char *output, ingot_kept *out)
{
  ingot_status  st = INGOT_OK;
  ingot_text    text = {0};
  ingot_job     job = {0};
  ingot_planner planner = {0};
  const char   *type = json_string_value(json_object_get(json_object_get(manifest, "recipe"), "type"));
  *out = (ingot_kept){0};
  if (!type || strcmp(type, "merge") != 0) return INGOT_OK;
  INGOT_TRY(append_job(manifest, output, &text));
  /* A recipe that is no job by itself (slices' renaming, another version's keys) has no such figures. */
  ingot_plan_options options = {.n_thread = 1, .n_rank = 1, .fresh = true, .elsewhere = true};
  if (ingot_job_parse(ingot_text_string(&text), text.size, "recipe", NULL, 0, &job) != INGOT_OK) goto without;
  INGOT_TRY(ingot_planner_init(&planner, &job, &options));
  if (ingot_planner_plan(&planner) != INGOT_OK || !planner.steps[0].ready) goto without;
  const ingot_merge_plan *plan = &((const ingot_merge_body *)planner.steps[0].body)->plan;
  if (plan->method->apply == ingot_delta_apply) st = measure(plan, json_object_get(manifest, "recipe"), out);
  goto done;
without:
  ingot_error_clear();
done:
  if (planner.job) ingot_planner_release(&planner);
  ingot_job_release(&job);
  ingot_text_release(&text);
  return st;
}

void ingot_kept_release(ingot_kept *kept)
{
  for (int k = 0; kept->names && kept->names[k]; k++) free(kept->names[k]);
  free((void *)kept->names);
  free(kept->models);
  *kept = (ingot_kept){0};
}
