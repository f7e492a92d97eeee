#include "driver/job.h"

#include <string.h>

#include "driver/step.h"

typedef struct job_group {
  const char        *name;
  int64_t            seed;
  const ingot_value *models, *io, *steps;
} job_group;

const ingot_key ingot_job_keys[] = {
    {"name", INGOT_KEY_STRING, false, NULL, NULL, offsetof(job_group, name), "name of the job, for people"},
    {"seed", INGOT_KEY_INT, false, "0", NULL, offsetof(job_group, seed), "seed of all random choices"},
    {"models", INGOT_KEY_GROUP, true, NULL, NULL, offsetof(job_group, models),
     "the checkpoints: id = \"path\", or id = { path = \"path\"; }"},
    {"io", INGOT_KEY_GROUP, false, NULL, NULL, offsetof(job_group, io),
     "stripes of new .h5 outputs on parallel file systems, and hints for MPI-IO"},
    {"steps", INGOT_KEY_LIST, true, NULL, NULL, offsetof(job_group, steps), "what to do, in order: groups with a type"},
};
const int ingot_job_n_key = sizeof ingot_job_keys / sizeof ingot_job_keys[0];

typedef struct model_group {
  const char *path;
} model_group;

static const ingot_key model_keys[] = {
    {"path", INGOT_KEY_STRING, true, NULL, NULL, offsetof(model_group, path),
     "Hugging Face directory, .safetensors file or ingot .h5"},
};

void ingot_job_release(ingot_job *job)
{
  ingot_arena_release(&job->arena);
  *job = (ingot_job){0};
}

const char *ingot_job_path(ingot_job *job, const char *written)
{
  const char *slash = strrchr(job->path, '/');
  if (written[0] == '/' || !slash) return ingot_arena_strdup(&job->arena, written);
  return ingot_arena_printf(&job->arena, "%.*s/%s", (int)(slash - job->path), job->path, written);
}

static ingot_status read_models(ingot_job *job, const ingot_value *group, ingot_problems *problems)
{
  ingot_status st = INGOT_OK;
  job->models = ingot_arena_alloc(&job->arena, (size_t)group->n_item, sizeof *job->models);
  INGOT_TRY_ALLOC(job->models);
  if (group->n_item == 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no model is given", ingot_value_place(group));
  for (int i = 0; i < group->n_item; i++) {
    const ingot_value *v = group->item[i];
    model_group        model = {NULL};
    if (v->kind == INGOT_VALUE_GROUP) ingot_keys_read(model_keys, 1, v, &model, NULL, 0, problems);
    else if (v->kind == INGOT_VALUE_STRING && v->string[0]) model.path = v->string;
    else
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a path or a group { path = \"...\"; }, found %s",
                         ingot_value_place(v),
                         v->kind == INGOT_VALUE_STRING ? "an empty string" : ingot_value_kind_text(v->kind));
    const char *path = ingot_job_path(job, model.path ? model.path : "");
    INGOT_TRY_ALLOC(path);
    job->models[job->n_model++] = (ingot_job_model){v->name, model.path ? model.path : "", path, v};
  }
done:
  return st;
}

bool ingot_job_resolve(const ingot_job *job, int number, const char *name, const ingot_value *where,
                       ingot_problems *problems, ingot_job_reference *out)
{
  enum { NAMES_MAX = 256 };
  const char *names[NAMES_MAX];
  int         n = 0;
  *out = (ingot_job_reference){.id = name};
  for (int i = 0; i < job->n_model; i++) {
    if (strcmp(job->models[i].id, name) == 0) {
      out->path = job->models[i].path;
      out->written = job->models[i].written;
      return true;
    }
    if (n < NAMES_MAX) names[n++] = job->models[i].id;
  }
  /* The latest step that has the name. */
  for (int i = number - 2; i >= 0; i--) {
    const ingot_job_step *s = &job->steps[i];
    bool                  by_name = s->name && strcmp(s->name, name) == 0;
    bool                  by_path = s->written_output && strcmp(s->written_output, name) == 0;
    if ((by_name || by_path) && s->type && s->type->no_tensors) {
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the output of step %d (%s), \"%s\", is no checkpoint",
                         ingot_value_place(where), s->number, s->type->name, name);
      return false;
    }
    if ((by_name || by_path) && s->output) {
      out->path = s->output;
      out->written = s->written_output;
      out->step = s->number;
      return true;
    }
    if (s->name && n < NAMES_MAX) names[n++] = s->name;
    if (s->written_output && n < NAMES_MAX) names[n++] = s->written_output;
  }
  const char *nearest = ingot_nearest_name(name, names, n);
  ingot_problems_add(problems, INGOT_ERR_JOB,
                     "%s: \"%s\" is neither a model of this job nor an earlier step's name or output%s%s%s",
                     ingot_value_place(where), name, nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                     nearest ? "\"?" : "");
  return false;
}

/* The type's row for a step's "type", or NULL after adding a problem. */
static const ingot_step_type *find_type(const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *v = ingot_value_member(step, "type");
  if (!v) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"type\" is missing (such as \"merge\")", ingot_value_place(step));
    return NULL;
  }
  if (v->kind != INGOT_VALUE_STRING) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a string, found %s", ingot_value_place(v),
                       ingot_value_kind_text(v->kind));
    return NULL;
  }
  const ingot_step_type *type = ingot_step_type_find(v->string);
  if (type) return type;
  const char *nearest = ingot_step_type_nearest(v->string);
  ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown step type \"%s\"%s%s%s", ingot_value_place(v), v->string,
                     nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
  return NULL;
}

static const char *string_member(const ingot_value *group, const char *name)
{
  const ingot_value *v = ingot_value_member(group, name);
  return v && v->kind == INGOT_VALUE_STRING && v->string[0] ? v->string : NULL;
}

static void check_unique(const ingot_job *job, const ingot_job_step *step, ingot_problems *problems)
{
  for (int i = 0; i + 1 < step->number; i++) {
    const ingot_job_step *earlier = &job->steps[i];
    if (step->name && earlier->name && strcmp(step->name, earlier->name) == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: step %d has the name \"%s\" too", ingot_value_place(step->value),
                         earlier->number, step->name);
    if (step->output && earlier->output && strcmp(step->output, earlier->output) == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: step %d writes the output \"%s\" too",
                         ingot_value_place(step->value), earlier->number, step->written_output);
  }
  for (int i = 0; step->name && i < job->n_model; i++)
    if (strcmp(job->models[i].id, step->name) == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the step's name \"%s\" is a model's id too",
                         ingot_value_place(step->value), step->name);
}

static ingot_status read_step(ingot_job *job, const ingot_value *v, ingot_problems *problems)
{
  ingot_status    st = INGOT_OK;
  ingot_job_step *step = &job->steps[job->n_step++];
  step->number = job->n_step;
  step->value = v;
  if (v->kind != INGOT_VALUE_GROUP) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a group { type = ...; }, found %s", ingot_value_place(v),
                       ingot_value_kind_text(v->kind));
    goto done;
  }
  step->name = string_member(v, "name");
  step->written_output = string_member(v, "output");
  if (step->written_output) {
    step->output = ingot_job_path(job, step->written_output);
    INGOT_TRY_ALLOC(step->output);
  }
  check_unique(job, step, problems);
  step->type = find_type(v, problems);
  if (!step->type) goto done;
  step->settings = ingot_arena_alloc(&job->arena, 1, step->type->settings_bytes);
  INGOT_TRY_ALLOC(step->settings);
  ingot_keys_read(step->type->keys, ingot_keys_count(step->type->keys), v, step->settings, NULL, 0, problems);
  INGOT_TRY(step->type->read(job, step, problems));
done:
  return st;
}

static ingot_status read_root(ingot_job *job, ingot_problems *problems)
{
  ingot_status st = INGOT_OK;
  job_group    group = {0};
  ingot_keys_read(ingot_job_keys, ingot_job_n_key, job->root, &group, NULL, 0, problems);
  job->name = group.name;
  job->seed = group.seed;
  if (group.models) INGOT_TRY(read_models(job, group.models, problems));
  if (group.io) INGOT_TRY(ingot_io_settings_read(group.io, &job->arena, problems, &job->io));
  if (!group.steps) goto done;
  if (group.steps->n_item == 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no step is given", ingot_value_place(group.steps));
  job->steps = ingot_arena_alloc(&job->arena, (size_t)group.steps->n_item, sizeof *job->steps);
  INGOT_TRY_ALLOC(job->steps);
  for (int i = 0; i < group.steps->n_item; i++) INGOT_TRY(read_step(job, group.steps->item[i], problems));
done:
  return st;
}

static ingot_status finish(ingot_job *job, const char *const *set, int n_set)
{
  ingot_status   st = INGOT_OK;
  ingot_problems problems = {0};
  for (int i = 0; i < n_set; i++) ingot_problems_take(&problems, ingot_value_set(job->root, set[i], &job->arena));
  INGOT_TRY(read_root(job, &problems));
  st = ingot_problems_status(&problems);
done:
  ingot_problems_release(&problems);
  return st;
}

ingot_status ingot_job_read(const char *path, const char *const *set, int n_set, ingot_job *job)
{
  ingot_status st = INGOT_OK;
  *job = (ingot_job){0};
  job->path = ingot_arena_strdup(&job->arena, path);
  INGOT_TRY_ALLOC(job->path);
  INGOT_TRY(ingot_value_read(path, &job->arena, &job->root, &job->text));
  INGOT_TRY(finish(job, set, n_set));
done:
  return st;
}

ingot_status ingot_job_parse(const char *text, size_t size, const char *path, const char *const *set, int n_set,
                             ingot_job *job)
{
  ingot_status st = INGOT_OK;
  *job = (ingot_job){0};
  job->path = ingot_arena_strdup(&job->arena, path);
  INGOT_TRY_ALLOC(job->path);
  job->text = ingot_arena_copy(&job->arena, text, size);
  INGOT_TRY_ALLOC(job->text);
  INGOT_TRY(ingot_value_parse(text, size, path, NULL, &job->arena, &job->root));
  INGOT_TRY(finish(job, set, n_set));
done:
  return st;
}
