/* The export step: one checkpoint written in another form, tensor by tensor as it is. Planned and run as a merge of
 * one. */
#include <string.h>

#include "driver/merge_plan.h"

#define FIELD(name) offsetof(ingot_merge_settings, name)

static const ingot_key export_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"export\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(name), "name by which later steps may take the output"},
    {"model", INGOT_KEY_STRING, true, NULL, NULL, FIELD(model_name), "the model to write"},
    INGOT_MERGE_OUTPUT_ROWS,
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(memory_limit_bytes),
     "memory for the buffers of a rank at most; 0: no limit"},
    {"durable", INGOT_KEY_BOOL, false, "true", NULL, FIELD(durable),
     "flush the output to disk before it gets its name"},
    {.name = NULL},
};

static ingot_status export_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status          st = INGOT_OK;
  ingot_merge_settings *s = step->settings;
  s->is_export = true;
  ingot_merge_check_alignment(s, step->value, problems);
  s->method = ingot_method_find("passthrough");
  s->keep_dtype = true;
  s->nonfinite = INGOT_NONFINITE_KEEP;
  s->tied = INGOT_TIED_KEEP;
  s->vocabulary = INGOT_VOCABULARY_IGNORE;
  INGOT_CHECK(s->method, INGOT_ERR_INTERNAL, "the method passthrough is not built in");
  s->models = ingot_arena_alloc(&job->arena, 1, sizeof *s->models);
  INGOT_TRY_ALLOC(s->models);
  INGOT_TRY(ingot_param_set_read(s->method, 0, NULL, NULL, 0, &job->arena, problems, &s->params));
  INGOT_TRY(ingot_param_set_read(s->method, 0, NULL, NULL, 0, &job->arena, problems, &s->models[0].params));
  s->models[0].value = step->value;
  if (s->model_name && ingot_job_resolve(job, step->number, s->model_name, ingot_value_member(step->value, "model"),
                                         problems, &s->models[0].ref))
    s->n_model = 1;
done:
  return st;
}

const ingot_step_type ingot_step_export = {
    .name = "export",
    .summary = "write a checkpoint in another form, such as a Hugging Face directory",
    .keys = export_keys,
    .settings_bytes = sizeof(ingot_merge_settings),
    .read = export_read,
    .plan = ingot_merge_plan_make,
    .pack = ingot_merge_step_pack,
    .unpack = ingot_merge_step_unpack,
    .run = ingot_merge_step_run,
    .release = ingot_merge_step_release,
};
