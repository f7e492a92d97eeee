/* The regmean_plus step: RegMean's systems block after block, with Gram matrices gathered behind the merged blocks. */
#include <string.h>

#include "driver/data_merge.h"
#include "driver/progress.h"
#include "workers/statistics/regmean_plus.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-regmean-plus-1";

/* ---- settings ---- */

typedef struct regmean_plus_settings {
  ingot_data_merge_settings parts; /* a merge by regmean with weights of 1 */
} regmean_plus_settings;

#define FIELD(name) offsetof(regmean_plus_settings, name)
#define GATHER_FIELD(name) FIELD(parts.gather.name)
#define DATA_MERGE_FIELD(name) FIELD(parts.name)
#include "driver/gather_rows.h"

static const ingot_key keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, GATHER_FIELD(type), "\"regmean_plus\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, GATHER_FIELD(name), "name by which later steps may take the output"},
    {"models", INGOT_KEY_LIST, true, NULL, NULL, GATHER_FIELD(models_value),
     "the models, of one architecture: ids, or earlier steps"},
    {"data", INGOT_KEY_ANY, true, NULL, NULL, GATHER_FIELD(data_value),
     "a token file for each model: a group { id = \"path\"; ... }, or a list of groups { name = id; path = \"path\"; "
     "}"},
    ROW_WINDOW,
    ROW_STRIDE,
    ROW_LIMIT,
    ROW_BATCH,
    ROWS_OF_READING,
    {"alpha", INGOT_KEY_ANY, false, "0.9", NULL, INGOT_KEY_NO_FIELD,
     "factor of the Gram matrices' off-diagonal elements, 0 to 1; 0: their diagonals alone"},
    {"ridge", INGOT_KEY_ANY, false, "0", NULL, INGOT_KEY_NO_FIELD,
     "added to the diagonal of the sum, in units of its mean, 0 to 1; grows from 1e-6 where the sum is not positive "
     "definite"},
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, GATHER_FIELD(memory_limit_bytes),
     "memory of a rank at most; 0: no limit"},
    ROWS_OF_MERGED_OUTPUT("model"),
    ROW_DURABLE,
    {.name = NULL},
};
enum { N_KEY = sizeof keys / sizeof keys[0] - 1 };

static bool is_parameter(const char *key)
{
  return strcmp(key, "alpha") == 0 || strcmp(key, "ridge") == 0;
}

/* One data set a model. */
static void check_data(const ingot_gather_settings *g, ingot_problems *problems)
{
  for (int i = 0; i < g->n_model; i++) {
    int n = 0;
    for (int k = 0; k < g->n_data; k++) n += strcmp(g->data[k].name, g->models[i].id) == 0;
    if (n == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB,
                         "%s: no data for the model \"%s\": it wants a token file of that name",
                         ingot_value_place(g->data_value), g->models[i].id);
  }
  for (int k = 0; k < g->n_data; k++) {
    int n = 0;
    for (int i = 0; i < g->n_model; i++) n += strcmp(g->data[k].name, g->models[i].id) == 0;
    if (n == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the data \"%s\" are of no model of this step",
                         ingot_value_place(g->data[k].value), g->data[k].name);
  }
}

static ingot_status read_settings(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status           st = INGOT_OK;
  regmean_plus_settings *s = step->settings;
  const char            *others[N_KEY];
  int                    n_other = 0;
  for (int i = 0; i < step->value->n_item; i++) { /* unknown keys are reported already */
    const char *name = step->value->item[i]->name;
    if (!is_parameter(name) && n_other < N_KEY) others[n_other++] = name;
  }
  INGOT_TRY(ingot_data_merge_settings_read(job, step, &s->parts, "regmean", step->value, others, n_other, problems));
  s->parts.merge.live_statistics = true;
  if (s->parts.gather.models_value && s->parts.gather.n_data > 0) check_data(&s->parts.gather, problems);
done:
  return st;
}

/* ---- plan ---- */

/* What running the models says of itself, and the merge's parameters. */
static ingot_status finish(const ingot_planner *planner, const ingot_data_merge_settings *s, ingot_data_merge *d,
                           ingot_step_plan *plan)
{
  ingot_status            st = INGOT_OK;
  ingot_data_merge_output output = {.recipe = json_loads(d->gather.recipe, 0, NULL),
                                    .heading = "Merged model",
                                    .version = OUTPUT_VERSION};
  json_t                 *merge = json_loads(d->merge.recipe, 0, NULL);
  INGOT_CHECK(output.recipe && merge, INGOT_ERR_NOMEM, "no memory for the recipe");
  const json_t *parameters = json_object_get(merge, "parameters");
  json_object_set(output.recipe, "alpha", json_object_get(parameters, "alpha"));
  json_object_set(output.recipe, "ridge", json_object_get(parameters, "ridge"));
  int n = s->gather.n_model;
  output.about = ingot_arena_printf(
      &plan->arena,
      "This model was merged from %d checkpoint%s by RegMean++: the linear layers of each block by their "
      "inputs' Gram matrices behind the merged blocks before it, the mean for the rest.\n\n"
      "Source of the method: Nguyen et al. 2025, arXiv 2508.03121.",
      n, n == 1 ? "" : "s");
  INGOT_TRY_ALLOC(output.about);
  INGOT_TRY(ingot_data_merge_finish(planner, s, &output, d, plan));
done:
  json_decref(merge);
  json_decref(output.recipe);
  return st;
}

static ingot_status make_plan(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status           st = INGOT_OK;
  regmean_plus_settings *s = step->settings;
  ingot_data_merge      *d = ingot_arena_alloc(&plan->arena, 1, sizeof *d);
  bool                   good = false;
  INGOT_TRY_ALLOC(d);
  plan->title = "RegMean++";
  plan->body = d;
  INGOT_TRY(ingot_data_merge_plan(planner, step, &s->parts, d, plan, &good));
  if (!good) goto done;
  plan->title = d->gather.title;
  plan->work = d->gather.work;
  plan->memory_bytes = d->gather.memory_bytes;
  plan->host_bytes = d->gather.host_bytes;
  plan->bytes_read = d->gather.bytes_read + d->merge.bytes_read; /* blocks to run them, and everything to merge it */
  INGOT_TRY(finish(planner, &s->parts, d, plan));
done:
  return st;
}

static ingot_status pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  return ingot_data_merge_pack(plan->body, bytes);
}

static ingot_status unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status      st = INGOT_OK;
  ingot_unpacker    u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_data_merge *d = ingot_arena_alloc(&plan->arena, 1, sizeof *d);
  INGOT_TRY_ALLOC(d);
  plan->body = d;
  INGOT_TRY(ingot_data_merge_unpack(&u, d));
done:
  return st;
}

static void release(ingot_step_plan *plan)
{
  if (plan->body) ingot_data_merge_release(plan->body);
}

/* ---- run ---- */

static ingot_status run_regmean_plus(const ingot_run_context *context, const ingot_step_plan *plan,
                                     ingot_step_result *result)
{
  const ingot_data_merge  *d = plan->body;
  const ingot_gather_plan *gather = &((const ingot_gather_body *)d->gather.body)->plan;
  ingot_merge_plan         merge = ((const ingot_merge_body *)d->merge.body)->plan;
  ingot_merge_result       merged = {0};
  ingot_merge_timing       timing = {0};
  ingot_progress           progress;
  ingot_merge_options      merge_options = ingot_merge_step_options(context, &d->merge);
  ingot_gather_options     gather_options = ingot_gather_step_options(context, &d->gather, &progress);
  merge.sink.lock = context->lock;
  ingot_status st =
      ingot_regmean_plus_run(context->comm, gather, &gather_options, &merge, &merge_options, &merged, &timing);
  ingot_progress_finish(&progress);
  INGOT_TRY(st);
  ingot_merge_step_report(context, &merge, &merged, result);
  result->timing.wall_s = result->timing.cpu_s = 0; /* the gathering's clocks have run all the time */
  ingot_data_merge_add_timing(&result->timing, &timing);
done:
  ingot_merge_result_release(&merged);
  return st;
}

const ingot_step_type ingot_step_regmean_plus = {
    .name = "regmean_plus",
    .summary = "merge by RegMean++: linear layers block after block, by their inputs on data behind the merged blocks",
    .keys = keys,
    .settings_bytes = sizeof(regmean_plus_settings),
    .read = read_settings,
    .plan = make_plan,
    .pack = pack,
    .unpack = unpack,
    .run = run_regmean_plus,
    .release = release,
};
