/* The soup step: search with scores on data, then a linear merge of what was chosen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/soup_plan.h"
#include "io/atomic_file.h"

/* The members of the soup as inputs of a tensor, in the order in which they were added. */
static ingot_status reduce_tensor(const ingot_merge_plan *plan, const ingot_soup *soup, ingot_arena *arena,
                                  ingot_merge_tensor *t)
{
  ingot_status        st = INGOT_OK;
  const ingot_method *method = plan->method;
  if (t->copy) goto done; /* integers: the first candidate's */
  int *source = ingot_arena_alloc(arena, (size_t)soup->n_member, sizeof *source);
  int *tensor = ingot_arena_alloc(arena, (size_t)soup->n_member, sizeof *tensor);
  INGOT_TRY_ALLOC(source && tensor);
  for (int i = 0; i < soup->n_member; i++) {
    source[i] = t->source[soup->members[i]];
    tensor[i] = t->tensor[soup->members[i]];
  }
  t->source = source;
  t->tensor = tensor;
  t->view.n_input = t->view.n_model = soup->n_member; /* all weights are 1, so the first ones are as good */
  t->grain = method->grain(&t->view);
  if (soup->n_member == 1 && ingot_source_tensor(plan->sources[source[0]], tensor[0])->dtype == t->dtype)
    t->copy = method->is_copy(&t->view);
  if (t->copy) t->grain = INGOT_GRAIN_ELEMENT;
done:
  return st;
}

/* What goes into the output besides: the members, and their names in the model card. */
static ingot_status add_members(const ingot_step_plan *merge, const char *members, ingot_arena *arena,
                                ingot_sink_spec *sink)
{
  ingot_status          st = INGOT_OK;
  int                   n = merge->sink.n_attribute;
  ingot_sink_attribute *list = ingot_arena_alloc(arena, (size_t)n + 1, sizeof *list);
  INGOT_TRY_ALLOC(list);
  for (int i = 0; i < n; i++) {
    list[i] = merge->sink.attributes[i];
    if (strcmp(list[i].name, "model_card") != 0) continue;
    list[i].text = ingot_arena_printf(arena, "%s\nThe soup, in the order in which it was made:\n\n```json\n%s\n```\n",
                                      list[i].text, members);
    INGOT_TRY_ALLOC(list[i].text);
  }
  list[n] = (ingot_sink_attribute){"ingot_soup", members};
  sink->attributes = list;
  sink->n_attribute = n + 1;
done:
  return st;
}

/* The merge of the members alone. *body and *out point into the arena and the plan. */
static ingot_status reduce(const ingot_soup_body *all, const ingot_soup *soup, const char *members, ingot_arena *arena,
                           ingot_merge_body *body, ingot_step_plan *out)
{
  ingot_status st = INGOT_OK;
  *out = all->parts.merge;
  *body = *(const ingot_merge_body *)all->parts.merge.body;
  ingot_merge_plan   *plan = &body->plan;
  ingot_merge_tensor *tensors = ingot_arena_alloc(arena, (size_t)plan->n_tensor, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  memcpy(tensors, plan->tensors, (size_t)plan->n_tensor * sizeof *tensors);
  for (int i = 0; i < plan->n_tensor; i++) INGOT_TRY(reduce_tensor(plan, soup, arena, &tensors[i]));
  plan->tensors = tensors;
  INGOT_TRY(add_members(out, members, arena, &out->sink));
  plan->sink = out->sink;
  out->body = body;
done:
  return st;
}

/* Table to stdout, JSON beside the output; rank 0. */
static ingot_status report(const ingot_step_plan *plan, const ingot_soup *soup, const ingot_score *scores)
{
  ingot_status           st = INGOT_OK;
  const ingot_soup_body *body = plan->body;
  ingot_text             json = {0}, lines = {0};
  size_t                 n = strlen(plan->output);
  while (n > 1 && plan->output[n - 1] == '/') n--;
  char *output = ingot_strndup(plan->output, n);
  char *path = output ? ingot_file_sibling(output, ".soup.json") : NULL;
  INGOT_CHECK(path, INGOT_ERR_NOMEM, "%s: no memory for the name of its table", plan->output);
  INGOT_TRY(ingot_soup_json(body, soup, scores, &json));
  INGOT_TRY(ingot_soup_table(body, soup, &lines));
  INGOT_TRY(ingot_file_make_parents(path));
  INGOT_TRY(ingot_file_replace(path, ingot_text_string(&json), json.size, plan->sink.durable));
  printf("%s", ingot_text_string(&lines));
  fflush(stdout);
done:
  free(path);
  free(output);
  ingot_text_release(&json);
  ingot_text_release(&lines);
  return st;
}

/* The chosen models into the output. */
static ingot_status merge_members(const ingot_run_context *context, const ingot_soup_body *body, const ingot_soup *soup,
                                  ingot_step_result *result)
{
  ingot_text       members = {0};
  ingot_arena      arena = {0};
  ingot_step_plan  merge;
  ingot_merge_body merge_body;
  ingot_status     st = ingot_soup_members(body, soup, &members);
  if (st == INGOT_OK) st = reduce(body, soup, ingot_text_string(&members), &arena, &merge_body, &merge);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_merge_step_run(context, &merge, result);
done:
  ingot_arena_release(&arena);
  ingot_text_release(&members);
  return st;
}

static ingot_status run_soup(const ingot_run_context *context, const ingot_step_plan *plan, ingot_step_result *result)
{
  const ingot_soup_body *body = plan->body;
  ingot_soup_plan        soup_plan = body->soup;
  ingot_soup             soup = {0};
  ingot_progress         progress;
  ingot_merge_timing     timing = {0};
  ingot_gather_options   options = ingot_gather_step_options(context, &body->parts.gather, &progress);
  soup_plan.gather = &((const ingot_gather_body *)body->parts.gather.body)->plan;
  int          n = ingot_soup_evaluations(soup_plan.gather->n_model, soup_plan.kind) * soup_plan.gather->n_data;
  ingot_score *scores = calloc((size_t)n, sizeof *scores);
  bool         root = ingot_comm_rank(context->comm) == 0;
  ingot_status st = scores ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d scores", n);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_soup_run(context->comm, &soup_plan, &options, &soup, scores, &timing);
  ingot_progress_finish(&progress);
  INGOT_TRY(st);
  st = root ? report(plan, &soup, scores) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  INGOT_TRY(merge_members(context, body, &soup, result));
  ingot_data_merge_add_timing(&result->timing, &timing);
done:
  ingot_soup_release(&soup);
  free(scores);
  return st;
}

const ingot_step_type ingot_step_soup = {
    .name = "soup",
    .summary = "the average of those candidates that do best together on held-out data",
    .keys = ingot_soup_keys,
    .settings_bytes = sizeof(ingot_soup_settings),
    .read = ingot_soup_settings_read,
    .plan = ingot_soup_plan_make,
    .pack = ingot_soup_step_pack,
    .unpack = ingot_soup_step_unpack,
    .run = run_soup,
    .release = ingot_soup_step_release,
};
