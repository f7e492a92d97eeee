#include "driver/ensemble_plan.h"

#include <string.h>

#include "base/hash.h"
#include "driver/ensemble_memory.h"
#include "driver/ensemble_resolve.h"
#include "driver/pack.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-ensemble-1";

/* ---- memory ---- */

static ingot_status fit_memory(ingot_ensemble_builder *b)
{
  const ingot_ensemble_fit fit = {b->planner,     b->settings,          b->found.place,
                                  b->found.specs, b->gather->on_device, b->plan};
  ingot_status             st = ingot_ensemble_fit_memory(&fit, b->arena, &b->out->work, &b->out->memory_bytes);
  ingot_ensemble_memory    memory = ingot_ensemble_bytes(b->plan, b->found.specs, b->planner->options.n_rank);
  b->out->host_bytes = ingot_rank_host_need(b->gather->on_device, b->plan->gather.compute, b->found.specs,
                                            b->plan->gather.n_model, b->planner->options.n_thread, memory.host_bytes);
  return st;
}

/* ---- output ---- */

static json_t *weights_json(const ingot_ensemble_builder *b)
{
  json_t *rows = json_array();
  for (int r = 0; r < b->plan->n_row; r++) {
    json_t *row = json_array();
    for (int m = 0; m < b->plan->gather.n_model; m++)
      json_array_append_new(row, json_real(b->plan->weights[r * b->plan->gather.n_model + m]));
    json_array_append_new(rows, row);
  }
  return rows;
}

static ingot_status make_recipe(ingot_ensemble_builder *b)
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

static ingot_status score_tensors(ingot_ensemble_builder *b, ingot_sink_spec *sink)
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
static ingot_status logits_file(ingot_ensemble_builder *b, ingot_sink_spec *sink)
{
  ingot_status        st = INGOT_OK;
  ingot_text          json = {0};
  ingot_tokens       *tokens = NULL;
  int                 n = b->plan->gather.n_model;
  ingot_logits_info   info = {.k = b->plan->k,
                              .dtype = b->plan->logp_dtype,
                              .tail = (ingot_logits_tail)b->settings->tail,
                              .n_vocab = b->found.specs[0].n_vocab,
                              .window = b->plan->gather.window,
                              .teacher = n == 1 ? "model" : ingot_ensemble_kind_name(b->plan->kind),
                              .n_model = n,
                              .weights = b->plan->weights,
                              .n_weight_row = b->plan->n_row,
                              .n_data = b->plan->n_score};
  ingot_logits_model *models = ingot_arena_alloc(b->arena, (size_t)n, sizeof *models);
  ingot_logits_data  *data = ingot_arena_alloc(b->arena, (size_t)info.n_data, sizeof *data);
  ingot_sink_file    *file = ingot_arena_alloc(b->arena, 1, sizeof *file);
  INGOT_TRY_ALLOC(models && data && file);
  for (int i = 0; i < n; i++)
    models[i] =
        (ingot_logits_model){b->plan->gather.models[i].id, b->gather->model_written[i], b->gather->model_identity[i]};
  for (int d = 0; d < info.n_data; d++) {
    const ingot_gather_data *from = &b->plan->gather.data[d];
    int64_t                  promised;
    if (ingot_tokens_promised(b->planner, b->step, from->path, &promised)) { /* planned again when it is there */
      data[d] = (ingot_logits_data){from->name, b->gather->data_written[d], 0, promised, from->n_window};
      continue;
    }
    INGOT_TRY(ingot_tokens_open(from->path, from->dtype, &tokens));
    data[d] =
        (ingot_logits_data){from->name, b->gather->data_written[d], 0, ingot_tokens_count(tokens), from->n_window};
    INGOT_TRY(ingot_tokens_hash(tokens, &data[d].hash));
    ingot_tokens_close(&tokens);
  }
  INGOT_TRY(ingot_vocabulary_hash(b->found.inputs[0], &info.tokenizer));
  info.models = models;
  info.data = data;
  INGOT_TRY(ingot_logits_write_info(&info, &json));
  *file =
      (ingot_sink_file){INGOT_LOGITS_FILE, ingot_arena_copy(b->arena, ingot_text_string(&json), json.size), json.size};
  INGOT_TRY_ALLOC(file->bytes);
  sink->files = file;
  sink->n_file = 1;
done:
  ingot_tokens_close(&tokens);
  ingot_text_release(&json);
  return st;
}

static ingot_status logits_tensors(ingot_ensemble_builder *b, ingot_sink_spec *sink)
{
  ingot_status       st = INGOT_OK;
  int64_t            n = 0;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, 3, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  for (int d = 0; d < b->plan->n_score; d++) n += b->plan->gather.data[d].n_window;
  b->out->n_tile = n;
  n *= b->plan->gather.window.length - 1;
  tensors[0] = tensor("ids", ingot_logits_id_dtype(b->found.specs[0].n_vocab), n, b->plan->k);
  tensors[1] = tensor("logp", b->plan->logp_dtype, n, b->plan->k);
  tensors[2] = tensor("log_tail", INGOT_DTYPE_F32, n, 0);
  sink->tensors = tensors;
  sink->n_tensor = 3;
  INGOT_TRY(logits_file(b, sink));
done:
  return st;
}

static void set_fingerprint(ingot_ensemble_builder *b)
{
  ingot_step_plan *p = b->out;
  uint64_t         h = ingot_hash_seeded(p->recipe, strlen(p->recipe) + 1, ingot_hash_string(OUTPUT_VERSION));
  h = ingot_hash_seeded(&b->body->members.fingerprint, sizeof h, h);
  h = ingot_hash_seeded(&b->found.weights_identity, sizeof h, h);
  p->fingerprint = h;
}

static ingot_status make_sink(ingot_ensemble_builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *members = &b->body->members;
  ingot_sink_spec  sink;
  INGOT_TRY(ingot_step_sink_adopt(&members->sink, b->out->recipe, NULL, b->arena, &sink));
  INGOT_TRY(b->logits ? logits_tensors(b, &sink) : score_tensors(b, &sink));
  set_fingerprint(b);
  /* The members' plan carries it to the other ranks. */
  members->sink = b->out->sink = sink;
  members->fingerprint = b->out->fingerprint;
  b->gather->plan.sink = sink;
  b->gather->plan.fingerprint = b->out->fingerprint;
  b->gather->plan.batch = b->plan->gather.batch;
  b->plan->gather = b->gather->plan;
  if (sink.n_tensor > 0) INGOT_TRY(ingot_sink_bytes(&sink, &b->out->bytes_written));
  b->out->bytes_read = members->bytes_read;
  for (int i = 0; b->plan->placement == INGOT_PLACEMENT_SPREAD && i < b->plan->gather.n_model;
       i++) /* read by one rank, not by all */
    b->out->bytes_read -= ingot_input_bytes(b->found.inputs[i]) * (uint64_t)(b->planner->options.n_rank - 1);
  b->out->n_thread = members->n_thread;
  b->out->n_pass = 1;
done:
  return st;
}

static ingot_status make_title(ingot_ensemble_builder *b)
{
  ingot_status st = INGOT_OK;
  int          n = b->plan->gather.n_model, n_score = b->plan->n_score;
  const char  *kind = ingot_ensemble_kind_name(b->plan->kind), *held = b->out->work;
  int64_t      windows = 0;
  for (int d = 0; d < n_score; d++) windows += b->plan->gather.data[d].n_window;
  const char *weights = b->plan->learn ? ", weights learnt" : "";
  if (b->logits) {
    double bytes = (double)b->plan->k * (double)(ingot_dtype_size(b->out->sink.tensors[0].dtype) +
                                                 ingot_dtype_size(b->plan->logp_dtype)) +
                   4.0;
    b->out->title = n == 1 ? ingot_arena_printf(b->arena, "logits of %s", b->plan->gather.models[0].id)
                           : ingot_arena_printf(b->arena, "logits of a %s ensemble of %d models", kind, n);
    b->out->work = ingot_arena_printf(
        b->arena,
        "%lld window%s of %lld tokens, %lld in a pass, in %s on the %s; models: %s; %.0f bytes a token (all "
        "logits in float32: %lld)",
        (long long)windows, windows == 1 ? "" : "s", (long long)b->plan->gather.window.length,
        (long long)b->plan->gather.batch, ingot_compute_name(b->plan->gather.compute),
        b->gather->on_device ? "GPU" : "CPU", held, bytes, (long long)b->found.specs[0].n_vocab * 4);
    b->out->form = "logits (HDF5)";
  } else {
    b->out->title = ingot_arena_printf(b->arena, "%s ensemble of %d models%s", kind, n, weights);
    b->out->work =
        ingot_arena_printf(b->arena, "%lld window%s of %lld tokens%s, %lld in a pass, in %s on the %s; models: %s",
                           (long long)windows, windows == 1 ? "" : "s", (long long)b->plan->gather.window.length,
                           b->plan->learn ? ", besides those to learn from" : "", (long long)b->plan->gather.batch,
                           ingot_compute_name(b->plan->gather.compute), b->gather->on_device ? "GPU" : "CPU", held);
    b->out->form = b->out->sink.n_tensor ? "scores and weights (HDF5)" : "scores and weights (JSON)";
  }
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

/* ---- the whole ---- */

static ingot_status start(ingot_ensemble_builder *b, ingot_planner *planner, const ingot_job_step *step,
                          ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  *b = (ingot_ensemble_builder){.planner = planner,
                                .step = step,
                                .settings = step->settings,
                                .out = plan,
                                .arena = &plan->arena,
                                .logits = strcmp(step->type->name, "logits") == 0};
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  INGOT_TRY_ALLOC(b->body);
  plan->title = step->type->name;
  plan->body = b->body;
  b->plan = &b->body->plan;
done:
  return st;
}

static void check_k(ingot_ensemble_builder *b)
{
  b->plan->k = (int)b->settings->k;
  b->plan->logp_dtype = b->settings->logp == 0 ? INGOT_DTYPE_F16 : INGOT_DTYPE_F32;
  if (b->logits && b->settings->k > b->found.specs[0].n_vocab)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB, "%s: k = %lld, and the vocabulary has %lld tokens",
                       b->found.place, (long long)b->settings->k, (long long)b->found.specs[0].n_vocab);
}

ingot_status ingot_ensemble_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status           st = INGOT_OK;
  ingot_ensemble_builder b;
  int                    n_problem = planner->problems.count;
  INGOT_TRY(start(&b, planner, step, plan));
  INGOT_TRY(ingot_ensemble_resolve(&b));
  if (!b.found.specs || b.found.specs[0].n_vocab == 0) goto done;
  check_k(&b);
  if (!b.found.good || planner->problems.count != n_problem) goto done;
  INGOT_TRY(fit_memory(&b));
  INGOT_TRY(make_recipe(&b));
  INGOT_TRY(make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  ingot_ensemble_resolved_release(&b.found, b.settings->gather.n_model);
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
  ingot_unpacker       u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_ensemble_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  size_t               weights_size, members_size;
  INGOT_TRY_ALLOC(body);
  plan->body = body;
  INGOT_TRY(ingot_unpack_exact(&u, &body->plan, sizeof body->plan));
  const void *weights = ingot_unpack_blob(&u, &weights_size), *members = ingot_unpack_blob(&u, &members_size);
  INGOT_TRY(ingot_unpack_status(&u));
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
