#include "driver/soup_plan.h"

#include <string.h>

#include "driver/pack.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-soup-1";

/* What the evaluation says of itself, and how to search. */
static ingot_status finish(const ingot_planner *planner, const ingot_soup_settings *s, ingot_soup_body *body,
                           ingot_step_plan *plan)
{
  ingot_status            st = INGOT_OK;
  ingot_data_merge_output output = {.recipe = json_loads(body->parts.gather.recipe, 0, NULL),
                                    .heading = "Soup",
                                    .version = OUTPUT_VERSION};
  INGOT_CHECK(output.recipe, INGOT_ERR_NOMEM, "no memory for the recipe");
  json_object_set_new(output.recipe, "search", json_string(ingot_soup_search_names[s->search]));
  if (s->search == INGOT_SOUP_GREEDY)
    json_object_set_new(output.recipe, "accept", json_string(ingot_soup_accept_names[s->accept]));
  json_object_set_new(output.recipe, "metric", json_string(ingot_soup_metric_names[s->metric]));
  output.about = ingot_arena_printf(&plan->arena,
                                    "This model is the average of checkpoints that a %s soup has chosen among %d.\n\n"
                                    "Source of the method: Wortsman et al. 2022, arXiv 2203.05482.",
                                    ingot_soup_search_names[s->search], s->parts.gather.n_model);
  INGOT_TRY_ALLOC(output.about);
  INGOT_TRY(ingot_data_merge_finish(planner, &s->parts, &output, &body->parts, plan));
done:
  json_decref(output.recipe);
  return st;
}

/* Whether the sum of the members stays in memory, and what a rank needs then. */
static void fit_memory(const ingot_soup_settings *s, ingot_soup_body *body, ingot_step_plan *plan)
{
  const ingot_merge_plan  *merge = &((const ingot_merge_body *)body->parts.merge.body)->plan;
  const ingot_gather_body *gather = body->parts.gather.body;
  uint64_t                 limit = s->parts.gather.memory_limit_bytes, buffers = 0;
  int64_t                  n_elem = 0;
  for (int i = 0; i < merge->n_tensor; i++) {
    uint64_t bytes =
        ingot_soup_buffer_bytes(merge->tensors[i].view.n_elem, merge->tensors[i].dtype, gather->plan.compute);
    n_elem += merge->tensors[i].view.n_elem;
    if (bytes > buffers) buffers = bytes;
  }
  uint64_t  sum = s->search == INGOT_SOUP_GREEDY ? ingot_soup_sum_bytes(n_elem) : 0;
  uint64_t *host = gather->on_device ? &plan->host_bytes : &plan->memory_bytes; /* averages and the merge are there */
  plan->memory_bytes = body->parts.gather.memory_bytes;
  plan->host_bytes = body->parts.gather.host_bytes;
  *host += buffers;
  body->soup.keep_sum = limit == 0 || *host + sum <= limit;
  if (body->soup.keep_sum) *host += sum;
  if (body->parts.merge.memory_bytes > *host) *host = body->parts.merge.memory_bytes;
}

static ingot_status combine(ingot_planner *planner, const ingot_soup_settings *s, ingot_soup_body *body,
                            ingot_step_plan *plan)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &((const ingot_gather_body *)body->parts.gather.body)->plan;
  int                      n = ingot_soup_evaluations(g->n_model, (ingot_soup_kind)s->search);
  plan->bytes_read =
      3 * body->parts.gather.bytes_read + body->parts.merge.bytes_read; /* scored, tried, added to the sum */
  INGOT_TRY(finish(planner, s, body, plan));
  body->soup = (ingot_soup_plan){.kind = (ingot_soup_kind)s->search,
                                 .accept = (ingot_soup_accept)s->accept,
                                 .metric = (ingot_soup_metric)s->metric,
                                 .keep_dtype = s->parts.merge.keep_dtype,
                                 .dtype = s->parts.merge.dtype};
  fit_memory(s, body, plan);
  plan->title = ingot_arena_printf(&plan->arena, "%s soup of %d candidates by %s", ingot_soup_search_names[s->search],
                                   g->n_model, ingot_soup_metric_names[s->metric]);
  plan->work = ingot_arena_printf(&plan->arena, "%s%d evaluation%s of %lld window%s of %lld tokens, %lld in a pass; %s",
                                  s->search == INGOT_SOUP_GREEDY ? "up to " : "", n, n == 1 ? "" : "s",
                                  (long long)ingot_gather_window_count(g), ingot_gather_window_count(g) == 1 ? "" : "s",
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
  bool                 good = false;
  INGOT_TRY_ALLOC(body);
  plan->title = "soup";
  plan->body = body;
  INGOT_TRY(ingot_data_merge_plan(planner, step, &s->parts, &body->parts, plan, &good));
  if (good) INGOT_TRY(combine(planner, s, body, plan));
done:
  return st;
}

ingot_status ingot_soup_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status           st = INGOT_OK;
  const ingot_soup_body *body = plan->body;
  INGOT_TRY(ingot_pack_blob(bytes, &body->soup, sizeof body->soup)); /* its pointer is set by the run */
  INGOT_TRY(ingot_data_merge_pack(&body->parts, bytes));
done:
  return st;
}

ingot_status ingot_soup_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status     st = INGOT_OK;
  ingot_unpacker   u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_soup_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  INGOT_TRY_ALLOC(body);
  plan->body = body;
  INGOT_TRY(ingot_unpack_exact(&u, &body->soup, sizeof body->soup));
  body->soup.gather = NULL;
  INGOT_TRY(ingot_data_merge_unpack(&u, &body->parts));
done:
  return st;
}

void ingot_soup_step_release(ingot_step_plan *plan)
{
  ingot_soup_body *body = plan->body;
  if (body) ingot_data_merge_release(&body->parts);
}
