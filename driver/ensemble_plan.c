#define _DEFAULT_SOURCE
#include "driver/ensemble_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "driver/ensemble_memory.h"
#include "driver/input_model.h"
#include "driver/mixture.h"
#include "driver/pack.h"
#include "driver/recipe.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-ensemble-1";

/* What builds up while a step is resolved. */
typedef struct builder {
  ingot_planner                 *planner;
  const ingot_job_step          *step;
  const ingot_ensemble_settings *settings;
  ingot_step_plan               *out;
  ingot_arena                   *arena;
  ingot_ensemble_body           *body;
  ingot_ensemble_plan           *plan;   /* the body's */
  ingot_gather_body             *gather; /* of the members' plan */
  bool                           logits;
  const char                    *place;
  ingot_input                  **inputs; /* [n_model] */
  ingot_model_spec              *specs;  /* [n_model] */
  uint64_t                       weights_identity;
} builder;

static ingot_status take_problem(builder *b, ingot_status found)
{
  if (found == INGOT_OK || found == INGOT_ERR_NOMEM) return found;
  ingot_wrap(found, "%s", b->place);
  ingot_problems_take(&b->planner->problems, found);
  return INGOT_OK;
}

/* ---- members ---- */

static ingot_status plan_members(builder *b)
{
  ingot_status   st = INGOT_OK;
  ingot_job_step evaluate = *b->step;
  int            n = b->settings->gather.n_model;
  evaluate.settings = (void *)(uintptr_t)&b->settings->gather;
  b->body->members.type = ingot_step_type_find("evaluate");
  b->body->members.number = b->out->number;
  b->body->members.output = b->out->output;
  INGOT_TRY(ingot_gather_plan_make(b->planner, &evaluate, &b->body->members));
  b->gather = b->body->members.body;
  b->out->inputs = b->body->members.inputs;
  b->out->n_input = b->body->members.n_input;
  b->out->ready = b->body->members.ready;
  b->inputs = ingot_arena_alloc(b->arena, (size_t)n, sizeof(ingot_input *));
  INGOT_TRY_ALLOC(b->inputs);
  for (int i = 0; i < n; i++) INGOT_TRY(ingot_planner_input(b->planner, &b->settings->gather.models[i], b->step->value, &b->inputs[i]));
done:
  return st;
}

/* One vocabulary, by what the numbers stand for. */
static ingot_status check_vocabularies(builder *b)
{
  ingot_status st = INGOT_OK;
  for (int i = 1; i < b->settings->gather.n_model; i++) {
    if (!b->inputs[0] || !b->inputs[i]) continue;
    INGOT_TRY(take_problem(b, ingot_vocabulary_compare(b->inputs[0], b->inputs[i])));
  }
done:
  return st;
}

static ingot_status read_specs(builder *b)
{
  ingot_status st = INGOT_OK;
  b->specs = calloc((size_t)b->settings->gather.n_model + 1, sizeof *b->specs);
  INGOT_CHECK(b->specs, INGOT_ERR_NOMEM, "no memory for %d models", b->settings->gather.n_model);
  for (int i = 0; i < b->settings->gather.n_model; i++) {
    INGOT_TRY(ingot_input_model_spec(b->inputs[i], b->settings->gather.window, &b->specs[i]));
    INGOT_CHECK(b->specs[i].n_vocab == b->specs[0].n_vocab, INGOT_ERR_MISMATCH,
                "%s: \"%s\" has a vocabulary of %lld tokens, and \"%s\" one of %lld", b->place, b->inputs[i]->id,
                (long long)b->specs[i].n_vocab, b->inputs[0]->id, (long long)b->specs[0].n_vocab);
  }
done:
  return st;
}

/* ---- weights ---- */

/* Whether the file that an earlier step makes is there and stays. */
static bool weights_ready(const builder *b)
{
  struct stat            info;
  int                    step = b->settings->weights_step;
  const ingot_step_plan *maker = step > 0 ? &b->planner->steps[step - 1] : NULL;
  if (!maker || !maker->type) return true;
  return maker->complete && stat(b->settings->weights_path, &info) == 0;
}

/* The file among the inputs. */
static ingot_status add_weights_input(builder *b)
{
  ingot_status      st = INGOT_OK;
  struct stat       info;
  ingot_plan_input *inputs = ingot_arena_alloc(b->arena, (size_t)b->out->n_input + 1, sizeof *inputs);
  INGOT_TRY_ALLOC(inputs);
  memcpy(inputs, b->out->inputs, (size_t)b->out->n_input * sizeof *inputs);
  uint64_t bytes = stat(b->settings->weights_path, &info) == 0 ? (uint64_t)info.st_size : 0;
  inputs[b->out->n_input++] = (ingot_plan_input){"weights", b->settings->weights_path, bytes, b->weights_identity};
  b->out->inputs = inputs;
done:
  return st;
}

static ingot_status read_mixture(builder *b, ingot_mixture *mixture)
{
  ingot_status                   st = INGOT_OK;
  const ingot_ensemble_settings *s = b->settings;
  int                            n = s->gather.n_model;
  ingot_mixture_model           *models = ingot_arena_alloc(b->arena, (size_t)n, sizeof *models);
  const char                   **names = ingot_arena_alloc(b->arena, (size_t)s->n_score, sizeof *names);
  INGOT_TRY_ALLOC(models && names);
  for (int i = 0; i < n; i++) models[i] = (ingot_mixture_model){s->gather.models[i].id, b->gather->model_identity[i]};
  for (int d = 0; d < s->n_score; d++) names[d] = s->gather.data[d].name;
  INGOT_TRY(ingot_mixture_read(s->weights_path, models, n, names, s->n_score, b->arena, mixture));
  int kind = ingot_ensemble_kind_find(mixture->kind);
  INGOT_CHECK(kind >= 0, INGOT_ERR_FORMAT, "%s: unknown combination \"%s\"", s->weights_path, mixture->kind);
  INGOT_CHECK(kind == s->kind || !ingot_value_member(b->step->value, "kind"), INGOT_ERR_MISMATCH,
              "%s holds weights for kind = \"%s\", and \"%s\" is asked for", s->weights_path, mixture->kind,
              ingot_ensemble_kind_name((ingot_ensemble_kind)s->kind));
  INGOT_CHECK(kind != INGOT_ENSEMBLE_VOTE || !b->logits, INGOT_ERR_MISMATCH, "%s is of a vote, which gives no probabilities",
              s->weights_path);
done:
  return st;
}

static ingot_status set_weights(builder *b)
{
  ingot_status                   st = INGOT_OK;
  const ingot_ensemble_settings *s = b->settings;
  ingot_mixture                  mixture;
  b->plan->kind = (ingot_ensemble_kind)s->kind;
  b->plan->n_score = s->n_score;
  b->plan->learn = s->source == INGOT_WEIGHTS_LEARNT;
  b->plan->n_row = s->n_row;
  b->plan->weights = s->weights;
  b->plan->floor = s->floor;
  b->plan->plausibility = s->plausibility.share;
  b->plan->reference = s->plausibility.reference;
  b->plan->l2 = s->l2;
  if (s->source != INGOT_WEIGHTS_FILE) goto done;
  bool ready = weights_ready(b);
  b->out->ready = b->out->ready && ready;
  if (ready) {
    st = read_mixture(b, &mixture);
    if (st != INGOT_OK) {
      st = take_problem(b, st);
      goto done;
    }
    b->plan->kind = (ingot_ensemble_kind)ingot_ensemble_kind_find(mixture.kind);
    b->plan->n_row = mixture.n_row;
    b->plan->weights = mixture.weights;
    if (!s->floor_value) b->plan->floor = mixture.floor;
    if (!ingot_value_member(b->step->value, "plausibility")) {
      b->plan->plausibility = mixture.plausibility;
      b->plan->reference = mixture.reference;
    }
    b->weights_identity = mixture.identity;
  }
  INGOT_TRY(add_weights_input(b));
done:
  if (st == INGOT_OK && !b->plan->learn)
    ingot_plausibility_check_weights(b->place, b->plan->plausibility, b->plan->reference, s->gather.models[b->plan->reference].id, b->plan->weights,
                                     b->plan->n_row, s->gather.n_model, &b->planner->problems);
  return st;
}

/* ---- memory ---- */

static ingot_status fit_memory(builder *b)
{
  const ingot_ensemble_fit fit = {b->planner, b->settings, b->place, b->specs, b->gather->on_device, b->plan};
  return ingot_ensemble_fit_memory(&fit, b->arena, &b->out->work, &b->out->memory_bytes);
}

/* ---- output ---- */

static json_t *weights_json(const builder *b)
{
  json_t *rows = json_array();
  for (int r = 0; r < b->plan->n_row; r++) {
    json_t *row = json_array();
    for (int m = 0; m < b->plan->gather.n_model; m++) json_array_append_new(row, json_real(b->plan->weights[r * b->plan->gather.n_model + m]));
    json_array_append_new(rows, row);
  }
  return rows;
}

static ingot_status make_recipe(builder *b)
{
  static const char *const sources[] = {"uniform", "given", "learn", "file"};
  ingot_status             st = INGOT_OK;
  json_t                  *recipe = json_loads(b->body->members.recipe, 0, NULL);
  INGOT_CHECK(recipe, INGOT_ERR_NOMEM, "no memory for the recipe");
  json_object_set_new(recipe, "kind", json_string(ingot_ensemble_kind_name(b->plan->kind)));
  json_object_set_new(recipe, "weights", json_string(sources[b->settings->source]));
  json_object_set_new(recipe, "weight_rows", weights_json(b));
  if (b->plan->kind == INGOT_ENSEMBLE_LOG_LINEAR) json_object_set_new(recipe, "log_floor", json_real(b->plan->floor));
  ingot_plausibility_note(recipe, b->plan->plausibility, b->settings->gather.models[b->plan->reference].id);
  if (b->plan->learn) {
    json_object_set_new(recipe, "learn_data", json_integer(b->plan->gather.n_data - b->plan->n_score));
    if (b->plan->kind == INGOT_ENSEMBLE_LOG_LINEAR) json_object_set_new(recipe, "l2", json_real(b->plan->l2));
  }
  if (b->logits) {
    json_object_set_new(recipe, "k", json_integer(b->plan->k));
    json_object_set_new(recipe, "logp_dtype", json_string(ingot_dtype_long_name(b->plan->logp_dtype)));
    json_object_set_new(recipe, "tail", json_string(ingot_logits_tail_name((ingot_logits_tail)b->settings->tail)));
  }
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
done:
  json_decref(recipe);
  return st;
}

static ingot_sink_tensor tensor(const char *name, ingot_dtype dtype, int64_t rows, int64_t columns)
{
  ingot_sink_tensor t = {name, dtype, {.n_dim = columns > 0 ? 2 : 1}};
  t.shape.dim[0] = rows;
  if (columns > 0) t.shape.dim[1] = columns;
  return t;
}

static ingot_status score_tensors(builder *b, ingot_sink_spec *sink)
{
  ingot_status       st = INGOT_OK;
  int                n = b->plan->gather.n_model, n_score = b->plan->n_score;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, 4, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  tensors[0] = tensor("weights", INGOT_DTYPE_F64, b->plan->n_row, n);
  tensors[1] = tensor("nll", INGOT_DTYPE_F64, n + 1, n_score);
  tensors[2] = tensor("top1", INGOT_DTYPE_F64, n + 1, n_score);
  tensors[3] = tensor("tokens", INGOT_DTYPE_I64, n + 1, n_score);
  sink->tensors = tensors;
  sink->n_tensor = sink->format == INGOT_SINK_HDF5 ? 4 : 0;
done:
  return st;
}

/* What the file says of itself: data sets by their contents, the tokenizer by its hash. */
static ingot_status logits_file(builder *b, ingot_sink_spec *sink)
{
  ingot_status        st = INGOT_OK;
  ingot_text          json = {0};
  ingot_tokens       *tokens = NULL;
  int                 n = b->plan->gather.n_model;
  ingot_logits_info   info = {.k = b->plan->k, .dtype = b->plan->logp_dtype, .tail = (ingot_logits_tail)b->settings->tail,
                              .n_vocab = b->specs[0].n_vocab, .window = b->plan->gather.window,
                              .teacher = n == 1 ? "model" : ingot_ensemble_kind_name(b->plan->kind), .n_model = n,
                              .weights = b->plan->weights, .n_weight_row = b->plan->n_row, .n_data = b->plan->n_score};
  ingot_logits_model *models = ingot_arena_alloc(b->arena, (size_t)n, sizeof *models);
  ingot_logits_data  *data = ingot_arena_alloc(b->arena, (size_t)info.n_data, sizeof *data);
  ingot_sink_file    *file = ingot_arena_alloc(b->arena, 1, sizeof *file);
  INGOT_TRY_ALLOC(models && data && file);
  for (int i = 0; i < n; i++)
    models[i] = (ingot_logits_model){b->plan->gather.models[i].id, b->gather->model_written[i], b->gather->model_identity[i]};
  for (int d = 0; d < info.n_data; d++) {
    const ingot_gather_data *from = &b->plan->gather.data[d];
    int64_t                  promised;
    if (ingot_tokens_promised(b->planner, b->step, from->path, &promised)) { /* planned again when it is there */
      data[d] = (ingot_logits_data){from->name, b->gather->data_written[d], 0, promised, from->n_window};
      continue;
    }
    INGOT_TRY(ingot_tokens_open(from->path, from->dtype, &tokens));
    data[d] = (ingot_logits_data){from->name, b->gather->data_written[d], 0, ingot_tokens_count(tokens), from->n_window};
    INGOT_TRY(ingot_tokens_hash(tokens, &data[d].hash));
    ingot_tokens_close(&tokens);
  }
  INGOT_TRY(ingot_vocabulary_hash(b->inputs[0], &info.tokenizer));
  info.models = models;
  info.data = data;
  INGOT_TRY(ingot_logits_write_info(&info, &json));
  *file = (ingot_sink_file){INGOT_LOGITS_FILE, ingot_arena_copy(b->arena, ingot_text_string(&json), json.size), json.size};
  INGOT_TRY_ALLOC(file->bytes);
  sink->files = file;
  sink->n_file = 1;
done:
  ingot_tokens_close(&tokens);
  ingot_text_release(&json);
  return st;
}

static ingot_status logits_tensors(builder *b, ingot_sink_spec *sink)
{
  ingot_status       st = INGOT_OK;
  int64_t            n = 0;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, 3, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  for (int d = 0; d < b->plan->n_score; d++) n += b->plan->gather.data[d].n_window;
  b->out->n_tile = n;
  n *= b->plan->gather.window.length - 1;
  tensors[0] = tensor("ids", ingot_logits_id_dtype(b->specs[0].n_vocab), n, b->plan->k);
  tensors[1] = tensor("logp", b->plan->logp_dtype, n, b->plan->k);
  tensors[2] = tensor("log_tail", INGOT_DTYPE_F32, n, 0);
  sink->tensors = tensors;
  sink->n_tensor = 3;
  INGOT_TRY(logits_file(b, sink));
done:
  return st;
}

static void set_fingerprint(builder *b)
{
  ingot_step_plan *p = b->out;
  uint64_t         h = ingot_hash_seeded(p->recipe, strlen(p->recipe) + 1, ingot_hash_string(OUTPUT_VERSION));
  h = ingot_hash_seeded(&b->body->members.fingerprint, sizeof h, h);
  h = ingot_hash_seeded(&b->weights_identity, sizeof h, h);
  p->fingerprint = h;
}

static ingot_status make_sink(builder *b)
{
  ingot_status          st = INGOT_OK;
  ingot_step_plan      *members = &b->body->members;
  ingot_sink_spec       sink = members->sink;
  ingot_sink_attribute *list = ingot_arena_alloc(b->arena, (size_t)sink.n_attribute + 1, sizeof *list);
  INGOT_TRY_ALLOC(list);
  for (int i = 0; i < sink.n_attribute; i++) {
    list[i] = sink.attributes[i];
    if (strcmp(list[i].name, "ingot_recipe") == 0) list[i].text = b->out->recipe;
  }
  sink.attributes = list;
  INGOT_TRY(b->logits ? logits_tensors(b, &sink) : score_tensors(b, &sink));
  set_fingerprint(b);
  /* The members' plan carries it to the other ranks. */
  members->sink = b->out->sink = sink;
  members->fingerprint = b->out->fingerprint;
  b->gather->plan.sink = sink;
  b->gather->plan.fingerprint = b->out->fingerprint;
  b->gather->plan.batch = b->plan->gather.batch;
  b->plan->gather = b->gather->plan;
  b->out->bytes_written = sink.n_tensor > 0 ? ingot_sink_bytes(&sink) : 0;
  b->out->bytes_read = members->bytes_read;
  for (int i = 0; b->plan->placement == INGOT_PLACEMENT_SPREAD && i < b->plan->gather.n_model; i++) /* read by one rank, not by all */
    b->out->bytes_read -= ingot_input_bytes(b->inputs[i]) * (uint64_t)(b->planner->options.n_rank - 1);
  b->out->n_thread = members->n_thread;
  b->out->n_pass = 1;
done:
  return st;
}

static ingot_status make_title(builder *b)
{
  static const char *const compute_names[] = {"float32", "tf32", "bfloat16"};
  ingot_status             st = INGOT_OK;
  int                      n = b->plan->gather.n_model, n_score = b->plan->n_score;
  const char              *kind = ingot_ensemble_kind_name(b->plan->kind), *held = b->out->work;
  int64_t                  windows = 0;
  for (int d = 0; d < n_score; d++) windows += b->plan->gather.data[d].n_window;
  const char *weights = b->plan->learn ? ", weights learnt" : "";
  if (b->logits) {
    double bytes = (double)b->plan->k * (double)(ingot_dtype_size(b->out->sink.tensors[0].dtype) + ingot_dtype_size(b->plan->logp_dtype)) + 4.0;
    b->out->title = n == 1 ? ingot_arena_printf(b->arena, "logits of %s", b->plan->gather.models[0].id)
                           : ingot_arena_printf(b->arena, "logits of a %s ensemble of %d models", kind, n);
    b->out->work = ingot_arena_printf(b->arena, "%lld windows of %lld tokens, %lld in a pass, in %s on the %s; models: %s; %.0f bytes a token (all "
                                                "logits in float32: %lld)",
                                      (long long)windows, (long long)b->plan->gather.window.length, (long long)b->plan->gather.batch,
                                      compute_names[b->plan->gather.compute], b->gather->on_device ? "GPU" : "CPU", held, bytes,
                                      (long long)b->specs[0].n_vocab * 4);
    b->out->form = "logits (HDF5)";
  } else {
    b->out->title = ingot_arena_printf(b->arena, "%s ensemble of %d models%s", kind, n, weights);
    b->out->work = ingot_arena_printf(b->arena, "%lld windows of %lld tokens%s, %lld in a pass, in %s on the %s; models: %s",
                                      (long long)windows, (long long)b->plan->gather.window.length,
                                      b->plan->learn ? ", besides those to learn from" : "", (long long)b->plan->gather.batch,
                                      compute_names[b->plan->gather.compute], b->gather->on_device ? "GPU" : "CPU", held);
    b->out->form = b->out->sink.n_tensor ? "scores and weights (HDF5)" : "scores and weights (JSON)";
  }
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

/* ---- the whole ---- */

static ingot_status start(builder *b, ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  *b = (builder){.planner = planner, .step = step, .settings = step->settings, .out = plan, .arena = &plan->arena,
                 .logits = strcmp(step->type->name, "logits") == 0};
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  b->place = ingot_arena_printf(b->arena, "%s:%d: step %d (%s)", step->value->file, step->value->line, step->number, step->type->name);
  INGOT_TRY_ALLOC(b->body && b->place);
  plan->title = step->type->name;
  plan->body = b->body;
  b->plan = &b->body->plan;
done:
  return st;
}

static void check_k(builder *b)
{
  b->plan->k = (int)b->settings->k;
  b->plan->logp_dtype = b->settings->logp == 0 ? INGOT_DTYPE_F16 : INGOT_DTYPE_F32;
  if (b->logits && b->settings->k > b->specs[0].n_vocab)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB, "%s: k = %lld, and the vocabulary has %lld tokens", b->place,
                       (long long)b->settings->k, (long long)b->specs[0].n_vocab);
}

ingot_status ingot_ensemble_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  builder      b;
  int          n_problem = planner->problems.count;
  INGOT_TRY(start(&b, planner, step, plan));
  INGOT_TRY(plan_members(&b));
  INGOT_TRY(check_vocabularies(&b));
  if (planner->problems.count != n_problem) goto done;
  for (int i = 0; i < b.settings->gather.n_model; i++)
    if (!b.inputs[i]) goto done; /* reported with an earlier step */
  st = read_specs(&b);
  if (st != INGOT_OK) {
    st = take_problem(&b, st);
    goto done;
  }
  INGOT_TRY(set_weights(&b));
  check_k(&b);
  if (planner->problems.count != n_problem) goto done;
  b.plan->gather = b.gather->plan;
  INGOT_TRY(fit_memory(&b));
  INGOT_TRY(make_recipe(&b));
  INGOT_TRY(make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  for (int i = 0; b.specs && i < b.settings->gather.n_model; i++) ingot_model_spec_release(&b.specs[i]);
  free(b.specs);
  return st;
}

ingot_status ingot_ensemble_resolve(ingot_planner *planner, const ingot_job_step *step, const ingot_ensemble_settings *settings,
                                    ingot_step_plan *plan, ingot_ensemble_body *body, ingot_ensemble_resolved *out)
{
  ingot_status st = INGOT_OK;
  int          n_problem = planner->problems.count;
  builder      b = {.planner = planner, .step = step, .settings = settings, .out = plan, .arena = &plan->arena, .body = body,
                    .plan = &body->plan, .logits = true};
  *out = (ingot_ensemble_resolved){0};
  b.place = ingot_arena_printf(b.arena, "%s:%d: step %d (%s)", step->value->file, step->value->line, step->number, step->type->name);
  INGOT_TRY_ALLOC(b.place);
  INGOT_TRY(plan_members(&b));
  INGOT_TRY(check_vocabularies(&b));
  if (planner->problems.count != n_problem) goto done;
  for (int i = 0; i < settings->gather.n_model; i++)
    if (!b.inputs[i]) goto done; /* reported with an earlier step */
  st = read_specs(&b);
  if (st != INGOT_OK) {
    st = take_problem(&b, st);
    goto done;
  }
  INGOT_TRY(set_weights(&b));
  body->plan.gather = b.gather->plan;
  out->good = planner->problems.count == n_problem;
done:
  out->place = b.place;
  out->inputs = b.inputs;
  out->specs = b.specs;
  out->weights_identity = b.weights_identity;
  return st;
}

ingot_status ingot_ensemble_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status               st = INGOT_OK;
  ingot_text                 members = {0};
  const ingot_ensemble_body *body = plan->body;
  const ingot_ensemble_plan *e = &body->plan;
  INGOT_TRY(ingot_pack_blob(bytes, e, sizeof *e)); /* pointers in it are replaced on the other side */
  INGOT_TRY(ingot_pack_blob(bytes, e->weights, (size_t)e->n_row * (size_t)e->gather.n_model * sizeof *e->weights));
  INGOT_TRY(ingot_step_plan_pack(&body->members, &members));
  INGOT_TRY(ingot_pack_blob(bytes, ingot_text_string(&members), members.size));
done:
  ingot_text_release(&members);
  return st;
}

ingot_status ingot_ensemble_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status         st = INGOT_OK;
  ingot_unpacker       u = {bytes, (const char *)bytes + size, false};
  ingot_ensemble_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  size_t               plan_size, weights_size, members_size;
  INGOT_TRY_ALLOC(body);
  plan->body = body;
  const void *packed = ingot_unpack_blob(&u, &plan_size), *weights = ingot_unpack_blob(&u, &weights_size);
  const void *members = ingot_unpack_blob(&u, &members_size);
  INGOT_TRY(ingot_unpack_status(&u));
  INGOT_CHECK(plan_size == sizeof body->plan, INGOT_ERR_INTERNAL, "a plan of another size came from rank 0");
  memcpy(&body->plan, packed, plan_size);
  body->plan.weights = (const double *)(const void *)ingot_arena_copy(&plan->arena, weights, weights_size);
  INGOT_TRY_ALLOC(body->plan.weights);
  INGOT_TRY(ingot_step_plan_unpack(members, members_size, &body->members));
  body->plan.gather = ((const ingot_gather_body *)body->members.body)->plan;
done:
  return st;
}

void ingot_ensemble_step_release(ingot_step_plan *plan)
{
  ingot_ensemble_body *body = plan->body;
  if (body) ingot_step_plan_release(&body->members);
}
