/* The output of a step that runs models: its recipe, its tensors, what lies beside them. */
#include "driver/gather_builder.h"

#include "driver/placement.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-gather-1";

typedef ingot_gather_builder builder;

static const char *const label_names[] = {"given", "sampled", "exact"};

static json_t *recipe_json(const builder *b)
{
  const ingot_gather_settings *s = b->settings;
  json_t                      *r = json_pack("{s:s}", "type", b->step->type->name);
  json_t                      *models = json_array(), *data = json_array();
  for (int i = 0; i < b->plan->n_model; i++) json_array_append_new(models, ingot_json_text(b->plan->models[i].id));
  for (int i = 0; i < b->plan->n_data; i++)
    json_array_append_new(data, json_pack("{s:o, s:I}", "name", ingot_json_text(b->plan->data[i].name), "windows",
                                          (json_int_t)b->plan->data[i].n_window));
  json_object_set_new(r, "models", models);
  json_object_set_new(r, "data", data);
  json_object_set_new(r, "window", json_integer(s->window));
  json_object_set_new(r, "limit", json_integer(s->limit));
  if (s->has_document) json_object_set_new(r, "document", json_integer(s->document));
  json_object_set_new(r, "separate", json_boolean(s->separate));
  json_object_set_new(r, "shuffle", json_boolean(s->shuffle));
  json_object_set_new(r, "dtype", json_string(ingot_compute_name(b->plan->compute)));
  if (!ingot_gather_makes_statistics(b->kind)) json_object_set_new(r, "stride", json_integer(s->stride));
  if (b->kind == INGOT_GATHER_EVALUATE) json_object_set_new(r, "partial", json_boolean(s->partial));
  if (ingot_gather_makes_statistics(b->kind)) json_object_set_new(r, "labels", json_string(label_names[s->labels]));
  if (b->kind == INGOT_GATHER_FISHER) {
    json_object_set_new(r, "loss", json_string(s->loss == INGOT_LOSS_MEAN ? "mean" : "sum"));
    json_object_set_new(r, "example", json_integer(s->example));
    if (s->labels == INGOT_LABELS_EXACT) json_object_set_new(r, "top_k", json_integer(s->top_k));
  }
  if (b->kind == INGOT_GATHER_GRAM) {
    json_object_set_new(r, "head", json_boolean(s->head));
    json_object_set_new(r, "outputs", json_boolean(s->outputs));
  }
  if (s->shuffle || s->labels == INGOT_LABELS_SAMPLED) json_object_set_new(r, "seed", json_integer(s->seed));
  return r;
}

/* The name that the checkpoint has for a parameter. */
static const char *name_of(const builder *b, int param)
{
  return b->inputs[0]->tensors[b->tensor[param]].name;
}

static ingot_status fisher_tensors(builder *b)
{
  ingot_status       st = INGOT_OK;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, (size_t)b->layout.n_param, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  for (int p = 0; p < b->layout.n_param; p++)
    tensors[p] = (ingot_sink_tensor){name_of(b, p), INGOT_DTYPE_F32, b->layout.params[p].shape};
  b->out->sink.tensors = tensors;
  b->out->sink.n_tensor = b->layout.n_param;
done:
  return st;
}

static ingot_status gram_tensors(builder *b)
{
  ingot_status       st = INGOT_OK;
  int                n = ingot_gram_items(&b->layout, b->plan->head, b->plan->outputs, NULL);
  ingot_gram_item   *items = ingot_arena_alloc(b->arena, (size_t)n + 1, sizeof *items);
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, (size_t)n + 1, sizeof *tensors);
  INGOT_TRY_ALLOC(items && tensors);
  ingot_gram_items(&b->layout, b->plan->head, b->plan->outputs, items);
  for (int i = 0; i < n; i++) {
    int param = items[i].param >= 0 ? items[i].param : b->layout.linears[items[i].linear].first_param;
    tensors[i] = (ingot_sink_tensor){.name = name_of(b, param), .dtype = INGOT_DTYPE_F32};
    if (items[i].param >= 0)
      tensors[i].name = ingot_arena_printf(b->arena, "%s" INGOT_STATISTICS_OUTPUT_SUFFIX, name_of(b, param));
    INGOT_TRY_ALLOC(tensors[i].name);
    tensors[i].shape.n_dim = 1;
    tensors[i].shape.dim[0] = ingot_gram_packed_count(items[i].width);
  }
  b->out->sink.tensors = tensors;
  b->out->sink.n_tensor = n;
done:
  return st;
}

/* ingot_statistics.json. */
static ingot_status add_statistics(builder *b)
{
  ingot_status              st = INGOT_OK;
  const ingot_model_layout *l = &b->layout;
  ingot_text                json = {0};
  ingot_statistics_info     info = {.kind =
                                    b->kind == INGOT_GATHER_FISHER ? INGOT_STATISTICS_FISHER : INGOT_STATISTICS_GRAM,
                                    .model_path = b->body->model_written[0],
                                    .model_identity = b->body->model_identity[0],
                                    .n_example = b->kind == INGOT_GATHER_FISHER ? ingot_fisher_examples(b->plan)
                                                                                : ingot_gather_window_count(b->plan),
                                    .n_token = ingot_gather_window_count(b->plan) * b->plan->window.length,
                                    .n_window_token = b->plan->window.length,
                                    .labels = b->plan->labels,
                                    .loss = b->plan->loss,
                                    .n_data = b->plan->n_data};
  ingot_statistics_data    *data = ingot_arena_alloc(b->arena, (size_t)b->plan->n_data, sizeof *data);
  ingot_statistics_share   *shared = ingot_arena_alloc(b->arena, (size_t)l->n_param, sizeof *shared);
  const char              **transposed = ingot_arena_alloc(b->arena, (size_t)l->n_param, sizeof *transposed);
  ingot_sink_file          *file = ingot_arena_alloc(b->arena, 1, sizeof *file);
  INGOT_TRY_ALLOC(data && shared && transposed && file);
  for (int i = 0; i < b->plan->n_data; i++)
    data[i] = (ingot_statistics_data){b->body->data_written[i], b->body->data_identity[i], b->plan->data[i].n_window};
  for (int i = 0; b->kind == INGOT_GATHER_GRAM && i < l->n_linear; i++)
    for (int k = 1; k < l->linears[i].n_param; k++)
      shared[info.n_shared++] =
          (ingot_statistics_share){name_of(b, l->linears[i].first_param + k), name_of(b, l->linears[i].first_param)};
  for (int p = 0; p < l->n_param; p++)
    if (l->params[p].transposed) transposed[info.n_transposed++] = name_of(b, p);
  info.data = data;
  info.shared = shared;
  info.transposed = transposed;
  INGOT_TRY(ingot_statistics_write(&info, &json));
  *file = (ingot_sink_file){INGOT_STATISTICS_FILE, ingot_arena_copy(b->arena, ingot_text_string(&json), json.size),
                            json.size};
  INGOT_TRY_ALLOC(file->bytes);
  b->out->sink.files = file;
  b->out->sink.n_file = 1;
done:
  ingot_text_release(&json);
  return st;
}

/* An evaluation's .h5 file holds the numbers as tables, [models, data sets]. */
static ingot_status evaluation_tensors(builder *b)
{
  ingot_status       st = INGOT_OK;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, 3, sizeof *tensors);
  ingot_shape        shape = {.n_dim = 2, .dim = {b->plan->n_model, b->plan->n_data}};
  INGOT_TRY_ALLOC(tensors);
  if (b->out->sink.format != INGOT_SINK_HDF5) goto done;
  tensors[0] = (ingot_sink_tensor){"nll", INGOT_DTYPE_F64, shape};
  tensors[1] = (ingot_sink_tensor){"top1", INGOT_DTYPE_F64, shape};
  tensors[2] = (ingot_sink_tensor){"tokens", INGOT_DTYPE_I64, shape};
  b->out->sink.tensors = tensors;
  b->out->sink.n_tensor = 3;
done:
  return st;
}

ingot_status ingot_gather_make_sink(builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_sink_spec *sink = &b->out->sink;
  json_t          *recipe = recipe_json(b);
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
  INGOT_TRY(ingot_step_sink_begin(b->planner, b->settings->durable, b->out));
  if (b->kind == INGOT_GATHER_EVALUATE) INGOT_TRY(evaluation_tensors(b));
  if (b->kind == INGOT_GATHER_FISHER) INGOT_TRY(fisher_tensors(b));
  if (b->kind == INGOT_GATHER_GRAM) INGOT_TRY(gram_tensors(b));
  if (ingot_gather_makes_statistics(b->kind)) INGOT_TRY(add_statistics(b));
  INGOT_TRY(ingot_step_sink_attributes(b->planner->job, b->out));
  b->out->fingerprint = ingot_step_fingerprint(b->out, OUTPUT_VERSION);
  if (sink->n_tensor > 0) INGOT_TRY(ingot_sink_bytes(sink, &b->out->bytes_written));
  b->plan->output = sink->path;
  b->plan->sink = *sink;
  b->plan->fingerprint = b->out->fingerprint;
done:
  json_decref(recipe);
  return st;
}
