#include "driver/soup_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "driver/pack.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-soup-1";

/* What the evaluation says of itself, and how to search. */
static ingot_status make_recipe(const ingot_soup_settings *s, ingot_step_plan *plan, const ingot_step_plan *evaluate)
{
  ingot_status st = INGOT_OK;
  json_t      *recipe = json_loads(evaluate->recipe, 0, NULL);
  INGOT_CHECK(recipe, INGOT_ERR_NOMEM, "no memory for the recipe");
  json_object_set_new(recipe, "search", json_string(ingot_soup_search_names[s->search]));
  if (s->search == INGOT_SOUP_GREEDY) json_object_set_new(recipe, "accept", json_string(ingot_soup_accept_names[s->accept]));
  json_object_set_new(recipe, "metric", json_string(ingot_soup_metric_names[s->metric]));
  json_object_set_new(recipe, "output_dtype", json_string(s->merge.keep_dtype ? "source" : ingot_dtype_long_name(s->merge.dtype)));
  INGOT_TRY(ingot_recipe_keep(recipe, &plan->arena, &plan->recipe));
done:
  json_decref(recipe);
  return st;
}

/* The beginning of README.md; the run adds the members. */
static ingot_status make_card(const ingot_planner *planner, const ingot_soup_settings *s, const ingot_step_plan *plan, ingot_text *card)
{
  ingot_status st = INGOT_OK;
  const char  *name = planner->job->name;
  json_t      *recipe = json_loads(plan->recipe, 0, NULL);
  INGOT_CHECK(recipe, INGOT_ERR_NOMEM, "no memory for the model card");
  INGOT_TRY(ingot_text_printf(card, "---\ntags:\n- merge\n- ingot\nlibrary_name: transformers\ningot_recipe:\n"));
  INGOT_TRY(ingot_yaml_append(recipe, 2, card));
  INGOT_TRY(ingot_text_printf(card,
                              "---\n\n# %s\n\nThis model is the average of checkpoints that a %s soup has chosen among %d.\n\n"
                              "Source of the method: Wortsman et al. 2022, arXiv 2203.05482.\n",
                              name ? name : "Soup", ingot_soup_search_names[s->search], s->gather.n_model));
done:
  json_decref(recipe);
  return st;
}

/* The merge's attributes with the soup's own recipe and card. */
static ingot_status make_attributes(const ingot_planner *planner, const ingot_soup_settings *s, ingot_step_plan *plan)
{
  ingot_status    st = INGOT_OK;
  ingot_text      card = {0};
  ingot_sink_spec part = plan->sink;
  INGOT_TRY(make_card(planner, s, plan, &card));
  char *card_text = ingot_arena_strdup(&plan->arena, ingot_text_string(&card));
  INGOT_TRY_ALLOC(card_text);
  INGOT_TRY(ingot_step_sink_adopt(&part, plan->recipe, card_text, &plan->arena, &plan->sink));
done:
  ingot_text_release(&card);
  return st;
}

/* Whether the sum of the members stays in memory, and what a rank needs then. */
static void fit_memory(const ingot_soup_settings *s, ingot_soup_body *body, ingot_step_plan *plan)
{
  const ingot_merge_plan  *merge = &((const ingot_merge_body *)body->merge.body)->plan;
  const ingot_gather_body *gather = body->evaluate.body;
  uint64_t                 limit = s->gather.memory_limit_bytes, buffers = 0;
  int64_t                  n_elem = 0;
  for (int i = 0; i < merge->n_tensor; i++) {
    uint64_t bytes = ingot_soup_buffer_bytes(merge->tensors[i].view.n_elem, merge->tensors[i].dtype, gather->plan.compute);
    n_elem += merge->tensors[i].view.n_elem;
    if (bytes > buffers) buffers = bytes;
  }
  uint64_t  sum = s->search == INGOT_SOUP_GREEDY ? ingot_soup_sum_bytes(n_elem) : 0;
  uint64_t *host = gather->on_device ? &plan->host_bytes : &plan->memory_bytes; /* averages and the merge are there */
  plan->memory_bytes = body->evaluate.memory_bytes;
  plan->host_bytes = body->evaluate.host_bytes;
  *host += buffers;
  body->soup.keep_sum = limit == 0 || *host + sum <= limit;
  if (body->soup.keep_sum) *host += sum;
  if (body->merge.memory_bytes > *host) *host = body->merge.memory_bytes;
}

static void set_fingerprint(ingot_soup_body *body, ingot_step_plan *plan)
{
  const uint64_t parts[2] = {body->evaluate.fingerprint, body->merge.fingerprint};
  uint64_t       h = ingot_hash_seeded(parts, sizeof parts, ingot_hash_string(OUTPUT_VERSION));
  plan->fingerprint = ingot_hash_seeded(plan->recipe, strlen(plan->recipe) + 1, h);
  /* States and journal belong to the soup. */
  ingot_gather_body *gather = body->evaluate.body;
  ingot_merge_body  *merge = body->merge.body;
  body->evaluate.fingerprint = gather->plan.fingerprint = plan->fingerprint;
  body->merge.fingerprint = merge->plan.fingerprint = plan->fingerprint;
}

static ingot_status combine(ingot_planner *planner, const ingot_soup_settings *s, ingot_soup_body *body, ingot_step_plan *plan)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &((const ingot_gather_body *)body->evaluate.body)->plan;
  int                      n = ingot_soup_evaluations(g->n_model, (ingot_soup_kind)s->search);
  plan->ready = body->evaluate.ready && body->merge.ready;
  plan->sink = body->merge.sink;
  plan->n_tile = body->merge.n_tile;
  plan->n_pass = 1;
  plan->n_thread = body->merge.n_thread;
  plan->bytes_written = body->merge.bytes_written;
  plan->bytes_read = 3 * body->evaluate.bytes_read + body->merge.bytes_read; /* scored, tried, added to the sum */
  INGOT_TRY(make_recipe(s, plan, &body->evaluate));
  INGOT_TRY(make_attributes(planner, s, plan));
  body->soup = (ingot_soup_plan){.kind = (ingot_soup_kind)s->search, .accept = (ingot_soup_accept)s->accept,
                                 .metric = (ingot_soup_metric)s->metric, .keep_dtype = s->merge.keep_dtype, .dtype = s->merge.dtype};
  fit_memory(s, body, plan);
  set_fingerprint(body, plan);
  body->merge.sink = plan->sink;
  ((ingot_merge_body *)body->merge.body)->plan.sink = plan->sink;
  plan->title = ingot_arena_printf(&plan->arena, "%s soup of %d candidates by %s", ingot_soup_search_names[s->search], g->n_model,
                                   ingot_soup_metric_names[s->metric]);
  plan->work = ingot_arena_printf(&plan->arena, "%s%d evaluations of %lld windows of %lld tokens, %lld in a pass; %s",
                                  s->search == INGOT_SOUP_GREEDY ? "up to " : "", n, (long long)ingot_gather_window_count(g),
                                  (long long)g->window.length, (long long)g->batch,
                                  s->search == INGOT_SOUP_UNIFORM ? "one average"
                                  : body->soup.keep_sum           ? "the sum of the soup stays in memory"
                                                                  : "the models of the soup are read for every average");
  INGOT_TRY_ALLOC(plan->title && plan->work);
done:
  return st;
}

ingot_status ingot_soup_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status         st = INGOT_OK;
  ingot_soup_settings *s = step->settings;
  ingot_soup_body     *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  ingot_job_step       evaluate = *step, merge = *step;
  int                  n_problem = planner->problems.count;
  INGOT_TRY_ALLOC(body);
  plan->title = "soup";
  plan->body = body;
  evaluate.settings = &s->gather;
  merge.settings = &s->merge;
  body->evaluate.type = ingot_step_type_find("evaluate");
  body->merge.type = ingot_step_type_find("merge");
  body->evaluate.number = body->merge.number = plan->number;
  body->evaluate.output = body->merge.output = plan->output;
  INGOT_TRY(ingot_gather_plan_make(planner, &evaluate, &body->evaluate));
  plan->inputs = body->evaluate.inputs;
  plan->n_input = body->evaluate.n_input;
  if (planner->problems.count != n_problem) goto done;
  INGOT_TRY(ingot_merge_plan_make(planner, &merge, &body->merge));
  if (planner->problems.count != n_problem) goto done;
  INGOT_TRY(combine(planner, s, body, plan));
done:
  return st;
}

static ingot_status pack_plan(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_text   part = {0};
  INGOT_TRY(ingot_step_plan_pack(plan, &part));
  INGOT_TRY(ingot_pack_blob(bytes, ingot_text_string(&part), part.size));
done:
  ingot_text_release(&part);
  return st;
}

ingot_status ingot_soup_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status           st = INGOT_OK;
  const ingot_soup_body *body = plan->body;
  INGOT_TRY(ingot_pack_blob(bytes, &body->soup, sizeof body->soup)); /* its pointer is set by the run */
  INGOT_TRY(pack_plan(&body->evaluate, bytes));
  INGOT_TRY(pack_plan(&body->merge, bytes));
done:
  return st;
}

ingot_status ingot_soup_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status     st = INGOT_OK;
  ingot_unpacker   u = {bytes, (const char *)bytes + size, false};
  ingot_soup_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  size_t           part_size;
  INGOT_TRY_ALLOC(body);
  plan->body = body;
  INGOT_TRY(ingot_unpack_exact(&u, &body->soup, sizeof body->soup));
  body->soup.gather = NULL;
  const void *part = ingot_unpack_blob(&u, &part_size);
  INGOT_TRY(ingot_unpack_status(&u));
  INGOT_TRY(ingot_step_plan_unpack(part, part_size, &body->evaluate));
  part = ingot_unpack_blob(&u, &part_size);
  INGOT_TRY(ingot_unpack_status(&u));
  INGOT_TRY(ingot_step_plan_unpack(part, part_size, &body->merge));
done:
  return st;
}

void ingot_soup_step_release(ingot_step_plan *plan)
{
  ingot_soup_body *body = plan->body;
  if (!body) return;
  ingot_step_plan_release(&body->evaluate);
  ingot_step_plan_release(&body->merge);
}
