#include "driver/generate_plan.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "driver/ensemble_resolve.h"
#include "driver/pack.h"
#include "driver/placement.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"
#include "workers/model/decode.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-generate-2";

enum { ROWS = 32, U16_VOCABULARY = 1 << 16 };

typedef struct builder {
  ingot_planner                 *planner;
  const ingot_job_step          *step;
  const ingot_generate_settings *settings;
  ingot_step_plan               *out;
  ingot_arena                   *arena;
  ingot_generate_body           *body;
  ingot_generate_plan           *plan;
  const ingot_gather_body       *gather;
  ingot_ensemble_resolved        found;
  int64_t                       *per_data;
  int64_t                        n_chunk;
} builder;

/* ---- settings ---- */

static int32_t id_of(bool has, int64_t id)
{
  return has ? (int32_t)id : -1;
}

static bool ends_with(const char *s, const char *end)
{
  size_t n = strlen(s), m = strlen(end);
  return n > m && strcmp(s + n - m, end) == 0;
}

static void take_settings(builder *b)
{
  const ingot_generate_settings *s = b->settings;
  const ingot_gather_settings   *g = &s->ensemble.gather;
  int64_t                        rows = s->search == INGOT_SEARCH_BEAM ? ROWS / s->beams : ROWS;
  *b->plan = (ingot_generate_plan){.ensemble = b->body->ensemble.plan,
                                   .documents = s->prompts == 1,
                                   .prompt = s->prompt,
                                   .prompt_end = id_of(s->has_prompt_end, s->prompt_end),
                                   .begin = id_of(s->has_begin, s->begin),
                                   .end = id_of(s->has_end, s->end),
                                   .samples = s->samples,
                                   .length = s->length,
                                   .search = (ingot_generate_search)s->search,
                                   .choice = {s->temperature, s->top_k, s->top_p},
                                   .beams = (int)s->beams,
                                   .penalty = s->penalty,
                                   .select = (ingot_generate_select)s->select,
                                   .seed = (uint64_t)g->seed,
                                   .batch = g->batch > 0 ? g->batch
                                            : rows > 0   ? rows
                                                         : 1,
                                   .n_lane = b->planner->options.n_thread,
                                   .drop = s->truncated == 1,
                                   .unique = s->unique,
                                   .row = s->row,
                                   .fill = s->has_fill ? (int32_t)s->fill : id_of(s->has_end, s->end)};
  if (b->gather->on_device) b->plan->n_lane = 1;
}

static void check_id(builder *b, const char *key, bool has, int64_t id)
{
  if (has) ingot_vocabulary_check_id(&b->planner->problems, b->step, key, id, b->found.specs[0].n_vocab);
}

static void check_vocabulary(builder *b)
{
  const ingot_generate_settings *s = b->settings;
  check_id(b, "end", s->has_end, s->end);
  check_id(b, "begin", s->has_begin, s->begin);
  check_id(b, "prompt_end", s->has_prompt_end, s->prompt_end);
  check_id(b, "fill", s->has_fill, s->fill);
  b->plan->width = b->found.specs[0].n_vocab > U16_VOCABULARY ? 4 : 2;
  if (ends_with(s->output, ".u32")) b->plan->width = 4;
  if (ends_with(s->output, ".u16") && b->plan->width == 4)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB,
                       "%s: the vocabulary has %lld tokens, too many for 16-bit ids: a .u32 or .h5 file",
                       ingot_value_place(ingot_value_member(b->step->value, "output")),
                       (long long)b->found.specs[0].n_vocab);
}

/* ---- prompts ---- */

/* Files that are still to be generated have no prompts yet; as many as they have windows. */
static ingot_status count_prompts(builder *b)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &b->plan->ensemble.gather;
  ingot_prompts            prompts = {0};
  int64_t                  unused;
  b->per_data = ingot_arena_alloc(b->arena, (size_t)g->n_data + 1, sizeof *b->per_data);
  INGOT_TRY_ALLOC(b->per_data);
  bool promised = false;
  for (int d = 0; d < g->n_data; d++) {
    promised = promised || ingot_tokens_promised(b->planner, b->step, g->data[d].path, &unused);
    b->per_data[d] = g->data[d].n_window;
    b->plan->n_prompt += g->data[d].n_window;
  }
  if (promised) goto done;
  st = ingot_prompts_find(b->plan, b->found.specs[0].n_vocab, &prompts);
  if (st != INGOT_OK && st != INGOT_ERR_NOMEM) {
    st = ingot_planner_take(b->planner, b->found.place, st);
    goto done;
  }
  INGOT_TRY(st);
  b->plan->n_prompt = prompts.n;
  memcpy(b->per_data, prompts.per_data, (size_t)(g->n_data > 0 ? g->n_data : 1) * sizeof *b->per_data);
done:
  ingot_prompts_release(&prompts);
  return st;
}

/* ---- memory ---- */

static ingot_ensemble_memory bytes_of_rank(const builder *b)
{
  return ingot_generate_bytes(b->plan, b->found.specs, b->gather->on_device, b->planner->options.n_thread);
}

static uint64_t total_bytes(const builder *b)
{
  ingot_ensemble_memory memory = bytes_of_rank(b);
  return ingot_rank_memory_need(b->gather->on_device, memory.device_bytes, memory.host_bytes);
}

static ingot_status fit_memory(builder *b)
{
  ingot_status      st = INGOT_OK;
  ingot_rank_memory limit;
  char              need[32], have[32];
  int64_t           n_rank = b->planner->options.n_rank, own = (b->n_chunk + n_rank - 1) / n_rank;
  INGOT_TRY(ingot_rank_memory_find(b->planner, b->gather->on_device, b->settings->ensemble.gather.memory_limit_bytes,
                                   &limit));
  if (b->plan->n_lane > own) b->plan->n_lane = own > 0 ? (int)own : 1;
  while (b->plan->n_lane > 1 && limit.bytes > 0 && total_bytes(b) > limit.bytes) b->plan->n_lane--;
  b->out->memory_bytes = total_bytes(b);
  b->out->host_bytes =
      ingot_rank_host_need(b->gather->on_device, b->plan->ensemble.gather.compute, b->found.specs,
                           b->plan->ensemble.gather.n_model, b->planner->options.n_thread, bytes_of_rank(b).host_bytes);
  if (limit.bytes > 0 && b->out->memory_bytes > limit.bytes)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: a rank needs %s with %lld sequences at a time, and %s %s; a smaller batch takes less",
                       b->found.place, ingot_bytes_text(b->out->memory_bytes, need), (long long)b->plan->batch,
                       limit.what, ingot_bytes_text(limit.bytes, have));
done:
  return st;
}

/* ---- output ---- */

static const char *const search_names[] = {"sample", "greedy", "beam"};
static const char *const select_names[] = {"best", "bleu", "f1"};

static json_t *id_json(int32_t id)
{
  return id < 0 ? json_null() : json_integer(id);
}

static void add_search(json_t *r, const ingot_generate_plan *p)
{
  json_object_set_new(r, "search", json_string(search_names[p->search]));
  if (p->search == INGOT_SEARCH_SAMPLE) {
    json_object_set_new(r, "temperature", json_real(p->choice.temperature));
    json_object_set_new(r, "top_k", json_integer(p->choice.top_k));
    json_object_set_new(r, "top_p", json_real(p->choice.top_p));
    json_object_set_new(r, "samples", json_integer(p->samples));
    json_object_set_new(r, "seed", json_integer((json_int_t)p->seed));
  }
  if (p->search == INGOT_SEARCH_BEAM) {
    json_object_set_new(r, "beams", json_integer(p->beams));
    json_object_set_new(r, "length_penalty", json_real(p->penalty));
    json_object_set_new(r, "select", json_string(select_names[p->select]));
  }
}

static void add_sequences(json_t *r, const ingot_generate_plan *p)
{
  json_object_set_new(r, "prompts",
                      json_string(p->ensemble.gather.n_data == 0 ? "begin"
                                  : p->documents                 ? "documents"
                                                                 : "windows"));
  json_object_set_new(r, "prompt", json_integer(p->prompt));
  json_object_set_new(r, "prompt_end", id_json(p->prompt_end));
  json_object_set_new(r, "begin", id_json(p->begin));
  json_object_set_new(r, "end", id_json(p->end));
  json_object_set_new(r, "length", json_integer(p->length));
  json_object_set_new(r, "truncated", json_string(p->drop ? "drop" : "keep"));
  json_object_set_new(r, "unique", json_boolean(p->unique));
  json_object_set_new(r, "row", json_integer(p->row));
  if (p->row > 0) json_object_set_new(r, "fill", id_json(p->fill));
  json_object_set_new(r, "batch", json_integer(p->batch));
}

static json_t *weights_json(const ingot_ensemble_plan *e)
{
  json_t *rows = json_array();
  for (int r = 0; r < e->n_row; r++) {
    json_t *row = json_array();
    for (int m = 0; m < e->gather.n_model; m++)
      json_array_append_new(row, json_real(e->weights[r * e->gather.n_model + m]));
    json_array_append_new(rows, row);
  }
  return rows;
}

static ingot_status make_recipe(builder *b)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *e = &b->plan->ensemble;
  json_t                    *recipe = json_loads(b->body->ensemble.members.recipe, 0, NULL);
  INGOT_CHECK(recipe, INGOT_ERR_NOMEM, "no memory for the recipe");
  json_object_del(recipe, "partial");
  json_object_set_new(recipe, "kind", json_string(ingot_ensemble_kind_name(e->kind)));
  json_object_set_new(recipe, "weight_rows", weights_json(e));
  if (e->kind == INGOT_ENSEMBLE_LOG_LINEAR) json_object_set_new(recipe, "log_floor", json_real(e->floor));
  ingot_plausibility_note(recipe, e->plausibility, e->gather.models[e->reference].id);
  add_sequences(recipe, b->plan);
  add_search(recipe, b->plan);
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
done:
  json_decref(recipe);
  return st;
}

/* What the file says of its making. */
static ingot_status make_about(builder *b)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &b->plan->ensemble.gather;
  json_t                  *tree = json_object(), *models = json_array(), *data = json_array();
  uint64_t                 tokenizer = 0;
  for (int m = 0; m < g->n_model; m++)
    json_array_append_new(models, ingot_json_input("name", g->models[m].id, b->gather->model_written[m],
                                                   b->gather->model_identity[m]));
  for (int d = 0; d < g->n_data; d++)
    json_array_append_new(data, ingot_json_input("name", g->data[d].name, b->gather->data_written[d],
                                                 b->gather->data_identity[d]));
  json_object_set_new(tree, "format", json_integer(1));
  json_object_set_new(tree, "kind", json_string("generated tokens"));
  json_object_set_new(tree, "models", models);
  json_object_set_new(tree, "data", data);
  json_object_set_new(tree, "recipe", json_loads(b->out->recipe, 0, NULL));
  INGOT_TRY(ingot_vocabulary_hash(b->found.inputs[0], &tokenizer));
  json_object_set_new(tree, "tokenizer", tokenizer ? ingot_json_hash(tokenizer) : json_null());
  json_object_set_new(tree, "vocabulary", json_integer(b->found.specs[0].n_vocab));
  INGOT_TRY(ingot_recipe_keep(tree, b->arena, &b->body->about));
done:
  json_decref(tree);
  return st;
}

static ingot_status make_sink(builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *members = &b->body->ensemble.members, *p = b->out;
  ingot_sink_spec  sink;
  INGOT_TRY(ingot_step_sink_adopt(&members->sink, p->recipe, NULL, b->arena, &sink));
  sink.tensors = NULL;
  sink.n_tensor = 0; /* as long as it is not known how many tokens there are */
  p->fingerprint = ingot_hash_seeded(p->recipe, strlen(p->recipe) + 1, ingot_hash_string(OUTPUT_VERSION));
  p->fingerprint = ingot_hash_seeded(&members->fingerprint, sizeof members->fingerprint, p->fingerprint);
  p->fingerprint = ingot_hash_seeded(&b->found.weights_identity, sizeof b->found.weights_identity, p->fingerprint);
  members->sink = p->sink = sink;
  members->fingerprint = p->fingerprint;
  ingot_gather_plan *g = &((ingot_gather_body *)members->body)->plan; /* carries it to the other ranks */
  g->sink = sink;
  g->fingerprint = p->fingerprint;
  b->body->ensemble.plan.gather = b->plan->ensemble.gather = *g;
  p->n_tile = b->n_chunk;
  p->bytes_written = (uint64_t)ingot_generate_most_tokens(b->plan) * (uint64_t)b->plan->width;
  p->bytes_read = members->bytes_read;
  p->n_thread = members->n_thread;
  p->n_pass = 1;
done:
  return st;
}

static ingot_status make_title(builder *b)
{
  ingot_status               st = INGOT_OK;
  const ingot_generate_plan *p = b->plan;
  const ingot_gather_plan   *g = &p->ensemble.gather;
  char                       how[64];
  bool                       caches = true;
  for (int i = 0; i < g->n_model; i++)
    caches = caches && ingot_decoder_caches(&b->found.specs[i], p->prompt + p->length);
  if (p->search == INGOT_SEARCH_BEAM) snprintf(how, sizeof how, "%d beam%s", p->beams, p->beams == 1 ? "" : "s");
  else snprintf(how, sizeof how, "%s", p->search == INGOT_SEARCH_GREEDY ? "the likeliest tokens" : "drawn tokens");
  b->out->title = g->n_model == 1 ? ingot_arena_printf(b->arena, "generate from %s", g->models[0].id)
                                  : ingot_arena_printf(b->arena, "generate from a %s ensemble of %d models",
                                                       ingot_ensemble_kind_name(p->ensemble.kind), g->n_model);
  b->out->work =
      ingot_arena_printf(b->arena,
                         "%lld sequence%s from %lld prompt%s, of %lld tokens at most, by %s, %lld at a time "
                         "on %d thread%s, in %s on the %s%s",
                         (long long)(p->n_prompt * p->samples), p->n_prompt * p->samples == 1 ? "" : "s",
                         (long long)p->n_prompt, p->n_prompt == 1 ? "" : "s", (long long)(p->prompt + p->length), how,
                         (long long)p->batch, p->n_lane, p->n_lane == 1 ? "" : "s", ingot_compute_name(g->compute),
                         b->gather->on_device ? "GPU" : "CPU",
                         caches ? "" : "; without a cache: every token runs its whole sequence again");
  b->out->form = p->ensemble.gather.sink.format == INGOT_SINK_HDF5 ? "tokens (HDF5)"
                 : p->width == 2                                   ? "tokens (16-bit ids)"
                                                                   : "tokens (32-bit ids)";
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

/* ---- the whole ---- */

ingot_status ingot_generate_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status            st = INGOT_OK;
  int                     n_problem = planner->problems.count;
  ingot_generate_settings settings = *(const ingot_generate_settings *)step->settings;
  builder b = {.planner = planner, .step = step, .settings = step->settings, .out = plan, .arena = &plan->arena};
  b.body = ingot_arena_alloc(b.arena, 1, sizeof *b.body);
  INGOT_TRY_ALLOC(b.body);
  b.plan = &b.body->plan;
  plan->title = "generate";
  plan->body = b.body;
  settings.ensemble.gather.memory_limit_bytes = 0; /* of what evaluate would need */
  settings.ensemble.gather.batch = 1;
  ingot_ensemble_builder members = {.planner = planner,
                                    .step = step,
                                    .settings = &settings.ensemble,
                                    .out = plan,
                                    .arena = b.arena,
                                    .body = &b.body->ensemble,
                                    .plan = &b.body->ensemble.plan,
                                    .logits = true};
  st = ingot_ensemble_resolve(&members);
  b.found = members.found;
  INGOT_TRY(st);
  if (!b.found.good || planner->problems.count != n_problem) goto done;
  b.gather = members.gather;
  take_settings(&b);
  check_vocabulary(&b);
  if (b.plan->ensemble.n_row < 1)
    ingot_problems_add(&planner->problems, INGOT_ERR_JOB, "%s: weights for data sets, and there is no \"data\"",
                       b.found.place);
  if (planner->problems.count != n_problem) goto done;
  INGOT_TRY(count_prompts(&b));
  if (planner->problems.count != n_problem) goto done;
  b.n_chunk = ingot_generate_chunks(b.plan, b.per_data);
  INGOT_TRY(fit_memory(&b));
  INGOT_TRY(make_recipe(&b));
  INGOT_TRY(make_about(&b));
  INGOT_TRY(make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  ingot_ensemble_resolved_release(&b.found, b.settings->ensemble.gather.n_model);
  return st;
}

ingot_status ingot_generate_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status               st = INGOT_OK;
  ingot_text                 ensemble = {0};
  const ingot_generate_body *body = plan->body;
  INGOT_TRY(ingot_ensemble_step_pack(plan, &ensemble)); /* its body is the first member of ours */
  INGOT_TRY(ingot_pack_blob(bytes, ingot_text_string(&ensemble), ensemble.size));
  INGOT_TRY(ingot_pack_blob(bytes, &body->plan, sizeof body->plan)); /* pointers in it are replaced on the other side */
done:
  ingot_text_release(&ensemble);
  return st;
}

ingot_status ingot_generate_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status         st = INGOT_OK;
  ingot_unpacker       u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_generate_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  size_t               ensemble_size;
  const void          *ensemble = ingot_unpack_blob(&u, &ensemble_size);
  INGOT_TRY_ALLOC(body);
  INGOT_TRY(ingot_unpack_exact(&u, &body->plan, sizeof body->plan));
  INGOT_TRY(ingot_ensemble_step_unpack(ensemble, ensemble_size, plan));
  body->ensemble = *(const ingot_ensemble_body *)plan->body;
  body->plan.ensemble = body->ensemble.plan;
  plan->body = body;
done:
  return st;
}
