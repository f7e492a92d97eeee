#include "driver/data_merge.h"

#include <string.h>

#include "base/hash.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "kernels/device.h"
#include "workers/memory.h"

/* ---- settings ---- */

static void read_dtype(ingot_data_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *where = ingot_value_member(step, "output_dtype");
  s->merge.keep_dtype = strcmp(s->output_dtype, "source") == 0;
  if (s->merge.keep_dtype) return;
  if (!ingot_dtype_parse(s->output_dtype, &s->merge.dtype))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown dtype \"%s\"", ingot_value_place(where), s->output_dtype);
  else if (!ingot_dtype_is_float(s->merge.dtype))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a merge has a floating-point dtype, not %s",
                       ingot_value_place(where), ingot_dtype_long_name(s->merge.dtype));
}

/* Two ids of one checkpoint; the same id twice is reported with the list. */
static void check_models(const ingot_gather_settings *g, ingot_problems *problems)
{
  for (int i = 0; i < g->n_model; i++)
    for (int k = 0; k < i; k++)
      if (g->models[i].path && g->models[k].path && strcmp(g->models[i].path, g->models[k].path) == 0 &&
          strcmp(g->models[i].id, g->models[k].id) != 0)
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" and \"%s\" are the same checkpoint",
                           ingot_value_place(g->models_value), g->models[k].id, g->models[i].id);
}

ingot_status ingot_data_merge_settings_read(ingot_job *job, const ingot_job_step *step, ingot_data_merge_settings *s,
                                            const char *method, const ingot_value *parameters,
                                            const char *const *others, int n_other, ingot_problems *problems)
{
  ingot_status          st = INGOT_OK;
  ingot_merge_settings *m = &s->merge;
  ingot_job_step        gather = *step;
  gather.settings = &s->gather;
  INGOT_TRY(ingot_gather_settings_read(job, &gather, problems));
  read_dtype(s, step->value, problems);
  check_models(&s->gather, problems);
  m->type = "merge";
  m->method_name = method;
  m->method = ingot_method_find(method);
  m->output = s->output;
  m->models_value = s->gather.models_value;
  m->durable = s->gather.durable;
  m->seed = s->gather.seed;
  m->memory_limit_bytes = s->gather.memory_limit_bytes;
  m->n_model = s->gather.n_model;
  m->models = ingot_arena_alloc(&job->arena, (size_t)m->n_model + 1, sizeof *m->models);
  INGOT_TRY_ALLOC(m->models);
  INGOT_TRY(ingot_param_set_read(m->method, INGOT_ALLOW_GLOBAL | INGOT_ALLOW_PER_MODEL, parameters, others, n_other,
                                 &job->arena, problems, &m->params));
  for (int i = 0; i < m->n_model; i++) {
    m->models[i].ref = s->gather.models[i];
    m->models[i].value = m->models_value;
    INGOT_TRY(ingot_param_set_read(m->method, INGOT_ALLOW_PER_MODEL, NULL, NULL, 0, &job->arena, problems,
                                   &m->models[i].params));
  }
done:
  return st;
}

/* ---- plans ---- */

/* Models are in memory while layers are merged and solved: what that takes comes on top, on a GPU as well. */
static void plan_beside(const ingot_planner *planner, const ingot_data_merge *d, ingot_gather_settings *gather)
{
  const ingot_merge_plan *merge = &((const ingot_merge_body *)d->merge.body)->plan;
  uint64_t                bytes = d->merge.memory_bytes;
  if (planner->options.on_device && ingot_device_count() > 0)
    bytes = ingot_merge_host_bytes(merge, d->merge.n_thread, true, &gather->beside_device_bytes);
  gather->beside_bytes = bytes > INGOT_PROCESS_BYTES ? bytes - INGOT_PROCESS_BYTES : 0;
}

ingot_status ingot_data_merge_plan(ingot_planner *planner, const ingot_job_step *step, ingot_data_merge_settings *s,
                                   ingot_data_merge *d, ingot_step_plan *plan, bool *good)
{
  ingot_status   st = INGOT_OK;
  ingot_job_step gather = *step, merge = *step;
  int            n_problem = planner->problems.count;
  gather.settings = &s->gather;
  merge.settings = &s->merge;
  d->gather.type = ingot_step_type_find("evaluate");
  d->merge.type = ingot_step_type_find("merge");
  d->gather.number = d->merge.number = plan->number;
  d->gather.output = d->merge.output = plan->output;
  INGOT_TRY(ingot_merge_plan_make(planner, &merge, &d->merge));
  if (s->merge.live_statistics && d->merge.body) plan_beside(planner, d, &s->gather);
  INGOT_TRY(ingot_gather_plan_make(planner, &gather, &d->gather));
  plan->inputs = d->gather.inputs;
  plan->n_input = d->gather.n_input;
  /* without a recipe: an input could not be opened, which was reported with another step */
  *good = planner->problems.count == n_problem && d->gather.recipe && d->merge.recipe;
done:
  return st;
}

/* README.md. */
static ingot_status make_card(const ingot_planner *planner, const ingot_data_merge_output *output, ingot_text *card)
{
  ingot_status st = INGOT_OK;
  const char  *name = planner->job->name;
  INGOT_TRY(ingot_text_printf(card, "---\ntags:\n- merge\n- ingot\nlibrary_name: transformers\ningot_recipe:\n"));
  INGOT_TRY(ingot_yaml_append(output->recipe, 2, card));
  INGOT_TRY(ingot_text_printf(card, "---\n\n# %s\n\n%s\n", name ? name : output->heading, output->about));
done:
  return st;
}

/* The merge's attributes with the step's own recipe and card. */
static ingot_status make_attributes(const ingot_planner *planner, const ingot_data_merge_output *output,
                                    const ingot_sink_spec *part, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  ingot_text   card = {0};
  INGOT_TRY(make_card(planner, output, &card));
  char *card_text = ingot_arena_strdup(&plan->arena, ingot_text_string(&card));
  INGOT_TRY_ALLOC(card_text);
  INGOT_TRY(ingot_step_sink_adopt(part, plan->recipe, card_text, &plan->arena, &plan->sink));
done:
  ingot_text_release(&card);
  return st;
}

/* States and journal belong to the step. */
static void set_fingerprint(const char *version, ingot_data_merge *d, ingot_step_plan *plan)
{
  const uint64_t parts[2] = {d->gather.fingerprint, d->merge.fingerprint};
  uint64_t       h = ingot_hash_seeded(parts, sizeof parts, ingot_hash_string(version));
  plan->fingerprint = ingot_hash_seeded(plan->recipe, strlen(plan->recipe) + 1, h);
  d->gather.fingerprint = ((ingot_gather_body *)d->gather.body)->plan.fingerprint = plan->fingerprint;
  d->merge.fingerprint = ((ingot_merge_body *)d->merge.body)->plan.fingerprint = plan->fingerprint;
}

ingot_status ingot_data_merge_finish(const ingot_planner *planner, const ingot_data_merge_settings *s,
                                     const ingot_data_merge_output *output, ingot_data_merge *d, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  plan->ready = d->gather.ready && d->merge.ready;
  plan->n_tile = d->merge.n_tile;
  plan->n_pass = 1;
  plan->n_thread = d->merge.n_thread;
  plan->bytes_written = d->merge.bytes_written;
  json_object_set_new(output->recipe, "output_dtype",
                      json_string(s->merge.keep_dtype ? "source" : ingot_dtype_long_name(s->merge.dtype)));
  INGOT_TRY(ingot_recipe_keep(output->recipe, &plan->arena, &plan->recipe));
  INGOT_TRY(make_attributes(planner, output, &d->merge.sink, plan));
  set_fingerprint(output->version, d, plan);
  d->merge.sink = ((ingot_merge_body *)d->merge.body)->plan.sink = plan->sink;
done:
  return st;
}

/* ---- between ranks ---- */

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

ingot_status ingot_data_merge_pack(const ingot_data_merge *d, ingot_text *bytes)
{
  ingot_status st = pack_plan(&d->gather, bytes);
  return st == INGOT_OK ? pack_plan(&d->merge, bytes) : st;
}

static ingot_status unpack_plan(ingot_unpacker *u, ingot_step_plan *plan)
{
  size_t       size;
  const void  *part = ingot_unpack_blob(u, &size);
  ingot_status st = ingot_unpack_status(u);
  return st == INGOT_OK ? ingot_step_plan_unpack(part, size, plan) : st;
}

ingot_status ingot_data_merge_unpack(ingot_unpacker *u, ingot_data_merge *d)
{
  ingot_status st = unpack_plan(u, &d->gather);
  return st == INGOT_OK ? unpack_plan(u, &d->merge) : st;
}

void ingot_data_merge_release(ingot_data_merge *d)
{
  ingot_step_plan_release(&d->gather);
  ingot_step_plan_release(&d->merge);
}

/* ---- results ---- */

void ingot_data_merge_add_timing(ingot_merge_timing *t, const ingot_merge_timing *gather)
{
  t->read_s += gather->read_s;
  t->merge_s += gather->merge_s;
  t->wall_s += gather->wall_s;
  t->cpu_s += gather->cpu_s;
  t->bytes_read += gather->bytes_read;
  t->tiles_done = gather->tiles_done; /* windows: what the step's work is */
  t->tiles_resumed = gather->tiles_resumed;
  t->tiles_on_device = gather->tiles_on_device;
  t->on_device = t->on_device || gather->on_device;
  if (gather->peak_device_bytes > t->peak_device_bytes) t->peak_device_bytes = gather->peak_device_bytes;
  if (gather->library_bytes > t->library_bytes) t->library_bytes = gather->library_bytes;
}
