#include "driver/gather_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "driver/input_model.h"
#include "driver/placement.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"
#include "kernels/device.h"
#include "workers/statistics/regmean_plus.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-gather-1";

enum {
  BATCH_MAX = 64,
  GPU_SHARE = 90 /* per cent of a GPU's memory: libraries and scratch memory need the rest */
};

typedef enum step_kind {
  STEP_EVALUATE, /* and what else runs models whole, and gathers other things than statistics */
  STEP_FISHER,
  STEP_GRAM,
  STEP_BLOCKS /* regmean_plus: models of one architecture, block after block */
} step_kind;

/* What builds up while a step is resolved. */
typedef struct builder {
  ingot_planner               *planner;
  const ingot_job_step        *step;
  const ingot_gather_settings *settings;
  ingot_step_plan             *out;
  ingot_arena                 *arena;
  ingot_gather_body           *body;
  ingot_gather_plan           *plan; /* the body's */
  step_kind                    kind;
  const char                  *place;
  ingot_input                **inputs; /* [n_model] */
  ingot_model_spec            *specs;  /* [n_model]; a failed one has family "" */
  ingot_model_layout           layout; /* Fisher, Gram: of the only model; blocks: of the first */
  int                         *tensor; /* [layout.n_param]: of the input */
} builder;

static step_kind kind_of(const ingot_step_type *type)
{
  return strcmp(type->name, "fisher") == 0         ? STEP_FISHER
         : strcmp(type->name, "gram") == 0         ? STEP_GRAM
         : strcmp(type->name, "regmean_plus") == 0 ? STEP_BLOCKS
                                                   : STEP_EVALUATE;
}

/* Whether the output is a file of statistics. */
static bool makes_statistics(step_kind kind)
{
  return kind == STEP_FISHER || kind == STEP_GRAM;
}

/* ---- models ---- */

/* Model i: its config, and its tensors. What is wrong is a problem. */
static ingot_status check_model(builder *b, int i)
{
  ingot_model_layout layout = {0};
  int               *tensor = NULL;
  ingot_status       st = ingot_input_model_spec(b->inputs[i], b->plan->window.length, &b->specs[i]);
  if (st != INGOT_OK) goto done;
  INGOT_TRY(ingot_model_layout_make(&b->specs[i], &layout));
  tensor = ingot_arena_alloc(b->arena, (size_t)layout.n_param, sizeof *tensor);
  INGOT_TRY_ALLOC(tensor);
  INGOT_TRY(ingot_input_model_bind(b->inputs[i], &b->specs[i], &layout, tensor));
  if (b->kind == STEP_BLOCKS && i > 0 && b->specs[0].family[0])
    INGOT_TRY(ingot_input_model_compare(b->inputs[0], &b->specs[0], b->inputs[i], &b->specs[i]));
  if (b->kind != STEP_EVALUATE && b->layout.n_param == 0) {
    b->layout = layout;
    b->tensor = tensor;
    layout = (ingot_model_layout){0};
  }
done:
  ingot_model_layout_release(&layout);
  return ingot_planner_take(b->planner, b->place, st);
}

/* One message, of the smallest vocabulary that is known. */
static void check_document(builder *b)
{
  int64_t n_token = 0;
  for (int i = 0; i < b->plan->n_model; i++)
    if (b->specs[i].n_vocab > 0 && (n_token == 0 || b->specs[i].n_vocab < n_token)) n_token = b->specs[i].n_vocab;
  if (b->settings->has_document && n_token > 0)
    ingot_vocabulary_check_id(&b->planner->problems, b->step, "document", b->settings->document, n_token);
}

static ingot_status add_models(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_gather_model          *models = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof *models);
  b->inputs = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(ingot_input *));
  b->specs = calloc((size_t)s->n_model + 1, sizeof *b->specs);
  b->body->model_written = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(char *));
  b->body->model_identity = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(uint64_t));
  INGOT_CHECK(b->specs, INGOT_ERR_NOMEM, "no memory for %d models", s->n_model);
  INGOT_TRY_ALLOC(models && b->inputs && b->body->model_written && b->body->model_identity);
  b->plan->models = models;
  b->plan->n_model = s->n_model;
  b->out->ready = true;
  for (int i = 0; i < s->n_model; i++) {
    const ingot_job_reference *ref = &s->models[i];
    INGOT_TRY(ingot_planner_input(b->planner, ref, b->step->value, &b->inputs[i]));
    if (!b->inputs[i]) continue;
    models[i] = (ingot_gather_model){ref->id, ref->path};
    b->body->model_written[i] = ref->written;
    b->body->model_identity[i] = b->inputs[i]->source ? ingot_source_identity(b->inputs[i]->source) : 0;
    b->out->ready = b->out->ready && b->inputs[i]->source;
    INGOT_TRY(check_model(b, i));
  }
  check_document(b);
done:
  return st;
}

/* The blocks of the models, which all have as many. */
static int n_block(const builder *b)
{
  return b->layout.n_linear > 0 ? b->specs[0].n_layer : 1;
}

/* ---- data ---- */

static ingot_status look_at_data(builder *b, const ingot_job_data *d, ingot_gather_data *out, uint64_t *identity)
{
  ingot_tokens            *tokens = NULL;
  const ingot_window_spec *w = &b->plan->window;
  ingot_status             st = INGOT_OK;
  int64_t                  promised;
  if (ingot_tokens_promised(b->planner, b->step, d->path, &promised)) {
    *out = (ingot_gather_data){d->name, d->path, d->dtype, ingot_promised_windows(promised, w)};
    *identity = 0;
    b->out->ready = false;
    INGOT_CHECK(out->n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens at most, fewer than a window of %lld", d->path,
                (long long)promised, (long long)w->length);
    goto done;
  }
  INGOT_TRY(ingot_tokens_open(d->path, d->dtype, &tokens));
  *out = (ingot_gather_data){d->name, d->path, d->dtype, ingot_window_count(tokens, w)};
  *identity = ingot_tokens_identity(tokens);
  INGOT_CHECK(out->n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens, fewer than a window of %lld", d->path,
              (long long)ingot_tokens_count(tokens), (long long)w->length);
  b->out->bytes_read += (uint64_t)out->n_window * (uint64_t)w->length * sizeof(uint16_t) *
                        (uint64_t)(b->kind == STEP_BLOCKS ? n_block(b) : 1);
done:
  ingot_tokens_close(&tokens);
  return st;
}

static ingot_status add_data(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_gather_data           *data = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof *data);
  b->body->data_written = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof(char *));
  b->body->data_identity = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof(uint64_t));
  INGOT_TRY_ALLOC(data && b->body->data_written && b->body->data_identity);
  b->plan->data = data;
  b->plan->n_data = s->n_data;
  for (int i = 0; i < s->n_data; i++) {
    const ingot_job_data *d = &s->data[i];
    b->body->data_written[i] = d->written;
    st = look_at_data(b, d, &data[i], &b->body->data_identity[i]);
    if (st == INGOT_ERR_NOMEM) goto done;
    ingot_wrap(st, "%s: data \"%s\"", ingot_value_place(d->value), d->name);
    if (st != INGOT_OK) ingot_problems_take(&b->planner->problems, st);
    st = INGOT_OK;
  }
done:
  return st;
}

static ingot_status fill_inputs(builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *p = b->out;
  p->inputs = ingot_arena_alloc(b->arena, (size_t)(b->plan->n_model + b->plan->n_data), sizeof *p->inputs);
  INGOT_TRY_ALLOC(p->inputs);
  for (int i = 0; i < b->plan->n_model; i++) {
    if (!b->inputs[i]) continue;
    uint64_t bytes = ingot_input_bytes(b->inputs[i]);
    p->bytes_read += bytes * (uint64_t)b->planner->options.n_rank;
    p->inputs[p->n_input++] =
        (ingot_plan_input){b->plan->models[i].id, b->plan->models[i].path, bytes, b->body->model_identity[i]};
  }
  for (int i = 0; i < b->plan->n_data; i++)
    p->inputs[p->n_input++] =
        (ingot_plan_input){b->settings->data[i].name, b->settings->data[i].path,
                           (uint64_t)b->plan->data[i].n_window * (uint64_t)b->plan->window.length * sizeof(uint16_t),
                           b->body->data_identity[i]};
done:
  return st;
}

/* ---- arithmetic and memory ---- */

static void choose_compute(builder *b)
{
  int  choice = b->settings->dtype;
  bool gpu = b->planner->options.on_device && ingot_device_count() > 0;
  b->body->on_device = gpu;
  b->plan->compute = choice == INGOT_DTYPE_TF32                                              ? INGOT_COMPUTE_TF32
                     : choice == INGOT_DTYPE_BFLOAT16 || (choice == INGOT_DTYPE_AUTO && gpu) ? INGOT_COMPUTE_BF16
                                                                                             : INGOT_COMPUTE_F32;
  if (!gpu && b->plan->compute != INGOT_COMPUTE_F32)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB, "%s: dtype = \"%s\" needs a GPU, and this run uses none",
                       ingot_value_place(ingot_value_member(b->step->value, "dtype")),
                       b->plan->compute == INGOT_COMPUTE_TF32 ? "tf32" : "bfloat16");
}

static uint64_t model_bytes(const builder *b)
{
  uint64_t most = 0;
  if (b->kind == STEP_FISHER) return ingot_fisher_bytes(b->plan, &b->specs[0], &b->layout);
  if (b->kind == STEP_GRAM) return ingot_gram_bytes(b->plan, &b->specs[0], &b->layout);
  if (b->kind == STEP_BLOCKS)
    return ingot_regmean_plus_bytes(b->plan, &b->specs[0], &b->layout) + b->settings->beside_device_bytes;
  for (int i = 0; i < b->plan->n_model; i++) {
    uint64_t bytes = ingot_evaluate_bytes(b->plan, &b->specs[i]);
    if (bytes > most) most = bytes;
  }
  return most;
}

static uint64_t host_bytes(const builder *b)
{
  int n_thread = b->planner->options.n_thread;
  return b->kind == STEP_FISHER   ? ingot_fisher_host_bytes(b->plan, &b->layout, b->specs[0].n_vocab, n_thread)
         : b->kind == STEP_GRAM   ? ingot_gram_host_bytes(b->plan, &b->layout, n_thread, b->body->on_device)
         : b->kind == STEP_BLOCKS ? ingot_regmean_plus_host_bytes(b->plan, &b->layout) + b->settings->beside_bytes
                                  : ingot_evaluate_host_bytes(b->plan);
}

static uint64_t bytes_of_rank(const builder *b)
{
  return ingot_rank_memory_need(b->body->on_device, model_bytes(b), host_bytes(b));
}

/* Gram matrices that do not fit are gathered in several passes over the data. */
static void share_sums(builder *b, uint64_t limit)
{
  if (limit == 0 || b->out->memory_bytes <= limit) return;
  uint64_t rest = b->out->memory_bytes - ingot_gram_sums_bytes(b->plan, &b->layout);
  b->plan->sums_bytes = rest < limit ? limit - rest : 1; /* a group has one matrix at least */
  b->out->memory_bytes = bytes_of_rank(b);
}

/* Windows of a pass, and whether that fits. */
static ingot_status fit_memory(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_rank_memory            limit;
  char                         need[32], have[32];
  INGOT_TRY(ingot_rank_memory_find(b->planner, b->body->on_device, s->memory_limit_bytes, &limit));
  int64_t wanted = (b->body->on_device ? 16384 : 2048) / b->plan->window.length;
  if (wanted > BATCH_MAX) wanted = BATCH_MAX;
  b->plan->batch = b->kind == STEP_FISHER ? 1 : s->batch > 0 ? s->batch : wanted > 0 ? wanted : 1;
  b->out->memory_bytes = bytes_of_rank(b);
  while (s->batch == 0 && b->plan->batch > 1 && limit.bytes > 0 && b->out->memory_bytes > limit.bytes) {
    b->plan->batch /= 2;
    b->out->memory_bytes = bytes_of_rank(b);
  }
  if (b->kind == STEP_GRAM)
    share_sums(b, limit.stated || !b->body->on_device ? limit.bytes : limit.bytes / 100 * GPU_SHARE);
  b->out->host_bytes = ingot_rank_host_need(b->body->on_device, b->plan->compute, b->specs, b->plan->n_model,
                                            b->planner->options.n_thread, host_bytes(b));
  if (limit.bytes > 0 && b->out->memory_bytes > limit.bytes)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: a rank needs %s for weights, activations and sums, and %s %s", b->place,
                       ingot_bytes_text(b->out->memory_bytes, need), limit.what, ingot_bytes_text(limit.bytes, have));
done:
  return st;
}

/* ---- output ---- */

static const char *const label_names[] = {"given", "sampled", "exact"};

const char *ingot_compute_name(ingot_compute compute)
{
  static const char *const names[] = {"float32", "tf32", "bfloat16"};
  return names[compute];
}

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
  if (!makes_statistics(b->kind)) json_object_set_new(r, "stride", json_integer(s->stride));
  if (b->kind == STEP_EVALUATE) json_object_set_new(r, "partial", json_boolean(s->partial));
  if (makes_statistics(b->kind)) json_object_set_new(r, "labels", json_string(label_names[s->labels]));
  if (b->kind == STEP_FISHER) {
    json_object_set_new(r, "loss", json_string(s->loss == INGOT_LOSS_MEAN ? "mean" : "sum"));
    json_object_set_new(r, "example", json_integer(s->example));
    if (s->labels == INGOT_LABELS_EXACT) json_object_set_new(r, "top_k", json_integer(s->top_k));
  }
  if (b->kind == STEP_GRAM) {
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
  ingot_statistics_info     info = {.kind = b->kind == STEP_FISHER ? INGOT_STATISTICS_FISHER : INGOT_STATISTICS_GRAM,
                                    .model_path = b->body->model_written[0],
                                    .model_identity = b->body->model_identity[0],
                                    .n_example = b->kind == STEP_FISHER ? ingot_fisher_examples(b->plan)
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
  for (int i = 0; b->kind == STEP_GRAM && i < l->n_linear; i++)
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

static ingot_status make_sink(builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_sink_spec *sink = &b->out->sink;
  json_t          *recipe = recipe_json(b);
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
  INGOT_TRY(ingot_step_sink_begin(b->planner, b->settings->durable, b->out));
  if (b->kind == STEP_EVALUATE) INGOT_TRY(evaluation_tensors(b));
  if (b->kind == STEP_FISHER) INGOT_TRY(fisher_tensors(b));
  if (b->kind == STEP_GRAM) INGOT_TRY(gram_tensors(b));
  if (makes_statistics(b->kind)) INGOT_TRY(add_statistics(b));
  INGOT_TRY(ingot_step_sink_attributes(b->planner->job, b->out));
  b->out->fingerprint = ingot_step_fingerprint(b->out, OUTPUT_VERSION);
  b->out->bytes_written = sink->n_tensor > 0 ? ingot_sink_bytes(sink) : 0;
  b->plan->output = sink->path;
  b->plan->sink = *sink;
  b->plan->fingerprint = b->out->fingerprint;
done:
  json_decref(recipe);
  return st;
}

/* ---- the whole ---- */

static ingot_status start(builder *b, ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = step->settings;
  *b = (builder){.planner = planner,
                 .step = step,
                 .settings = s,
                 .out = plan,
                 .arena = &plan->arena,
                 .kind = kind_of(step->type)};
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  b->place = ingot_arena_printf(b->arena, "%s:%d: step %d (%s)", step->value->file, step->value->line, step->number,
                                step->type->name);
  INGOT_TRY_ALLOC(b->body && b->place);
  b->plan = &b->body->plan;
  plan->body = b->body;
  plan->n_thread = planner->options.n_thread;
  plan->n_pass = 1;
  *b->plan = (ingot_gather_plan){.window = {.length = s->window,
                                            .stride = s->stride,
                                            .limit = s->limit,
                                            .partial = s->partial,
                                            .document = s->has_document ? (int32_t)s->document : -1,
                                            .separate = s->separate,
                                            .shuffle = s->shuffle,
                                            .seed = (uint64_t)s->seed},
                                 .batch = 1,
                                 .labels = (ingot_statistics_labels)s->labels,
                                 .top_k = (int)s->top_k,
                                 .loss = (ingot_statistics_loss)s->loss,
                                 .example = s->example,
                                 .seed = (uint64_t)s->seed,
                                 .head = s->head,
                                 .outputs = s->outputs,
                                 .save_every_s = (double)s->save_every_s};
done:
  return st;
}

static ingot_status make_title(builder *b)
{
  ingot_status st = INGOT_OK;
  const char  *id = b->plan->n_model > 0 ? b->settings->models[0].id : "";
  int64_t      n = ingot_gather_window_count(b->plan) *
              (b->kind == STEP_BLOCKS ? 1 : b->plan->n_model); /* blocks: a data set a model */
  if (b->kind == STEP_EVALUATE)
    b->out->title =
        ingot_arena_printf(b->arena, "evaluate %d model%s on %d data set%s", b->plan->n_model,
                           b->plan->n_model == 1 ? "" : "s", b->plan->n_data, b->plan->n_data == 1 ? "" : "s");
  else if (b->kind == STEP_BLOCKS)
    b->out->title =
        ingot_arena_printf(b->arena, "RegMean++ of %d model%s", b->plan->n_model, b->plan->n_model == 1 ? "" : "s");
  else
    b->out->title =
        ingot_arena_printf(b->arena, b->kind == STEP_FISHER ? "Fisher information of %s" : "Gram matrices of %s", id);
  b->out->work =
      ingot_arena_printf(b->arena, "%lld window%s of %lld tokens, %lld in a pass, in %s on the %s", (long long)n,
                         n == 1 ? "" : "s", (long long)b->plan->window.length, (long long)b->plan->batch,
                         ingot_compute_name(b->plan->compute), b->body->on_device ? "GPU" : "CPU");
  if (b->kind == STEP_BLOCKS && b->out->work)
    b->out->work =
        ingot_arena_printf(b->arena, n_block(b) == 1 ? "%d block, by %s" : "%d blocks one after the other, each by %s",
                           n_block(b), b->out->work);
  int passes = b->kind == STEP_GRAM ? ingot_gram_passes(b->plan, &b->layout) : 1;
  if (passes > 1 && b->out->work)
    b->out->work = ingot_arena_printf(b->arena, "%s, in %d passes over the data", b->out->work, passes);
  if (!makes_statistics(b->kind)) b->out->form = b->out->sink.n_tensor ? "scores (HDF5)" : "scores (JSON)";
  else b->out->form = b->out->sink.format == INGOT_SINK_HDF5 ? "statistics (HDF5)" : "statistics (directory)";
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

ingot_status ingot_gather_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  builder      b;
  int          n_problem = planner->problems.count;
  plan->title = step->type->name;
  INGOT_TRY(start(&b, planner, step, plan));
  INGOT_TRY(add_models(&b));
  INGOT_TRY(add_data(&b));
  choose_compute(&b);
  bool good = planner->problems.count == n_problem;
  for (int i = 0; i < b.plan->n_model; i++) good = good && b.inputs[i];
  INGOT_TRY(fill_inputs(&b));
  if (!good) goto done;
  INGOT_TRY(fit_memory(&b));
  INGOT_TRY(make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  for (int i = 0; b.specs && i < b.settings->n_model; i++) ingot_model_spec_release(&b.specs[i]);
  free(b.specs);
  ingot_model_layout_release(&b.layout);
  return st;
}
