#include "driver/gather_settings.h"

#include <string.h>

#include "driver/step.h"
#include "io/sink.h"

#define FIELD(name) offsetof(ingot_gather_settings, name)
#define GATHER_FIELD FIELD
#include "driver/gather_rows.h"

const char *const ingot_gather_dtype_names[] = {"auto", "float32", "tf32", "bfloat16", NULL};

static const char *const label_names[] = {"given", "sampled", "exact", NULL};
static const char *const gram_label_names[] = {"given", "sampled", NULL};
static const char *const loss_names[] = {"mean", "sum", NULL};

/* Further rows that the types of this file share. */
/* clang-format off: rows of tables */
#define ROW_NAME                                                                                              \
  {                                                                                                           \
    "name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(name), "name by which later steps may take the output" \
  }
#define ROW_MODEL                                                                                          \
  {                                                                                                        \
    "model", INGOT_KEY_STRING, true, NULL, NULL, FIELD(model_name), "the model: an id, or an earlier step" \
  }
#define ROW_MEMORY                                                                \
  {                                                                               \
    "memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(memory_limit_bytes),  \
        "memory for weights, activations and sums of a rank at most; 0: no limit" \
  }
#define ROW_SAVE                                                                                     \
  {                                                                                                  \
    "save_every", INGOT_KEY_INT, false, "300", NULL, FIELD(save_every_s),                            \
        "seconds between saved states, from which the same command continues; 0: when stopped alone" \
  }
#define ROW_OUTPUT                                                                                          \
  {                                                                                                         \
    "output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output), "where to write: .h5, or else a directory" \
  }
/* clang-format on */

const ingot_key ingot_evaluate_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"evaluate\""},
    ROW_NAME,
    {"models", INGOT_KEY_LIST, true, NULL, NULL, FIELD(models_value), "the models: ids, or earlier steps"},
    ROW_DATA,
    ROW_WINDOW,
    ROW_STRIDE,
    ROW_PARTIAL,
    ROW_LIMIT,
    ROW_BATCH,
    ROWS_OF_READING,
    ROW_MEMORY,
    {"output", INGOT_KEY_STRING, true, NULL, NULL, FIELD(output),
     "where to write: .json, or .h5 with the same text as an attribute"},
    ROW_DURABLE,
    {.name = NULL},
};

const ingot_key ingot_fisher_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"fisher\""},
    ROW_NAME,
    ROW_MODEL,
    ROW_DATA,
    ROW_WINDOW,
    ROW_LIMIT,
    {"labels", INGOT_KEY_CHOICE, false, "given", label_names, FIELD(labels),
     "given: the next tokens of the data; sampled from the model; exact: all classes, a pass for each"},
    {"top_k", INGOT_KEY_INT, false, "8", INGOT_FROM_TO(1, 1024), FIELD(top_k),
     "exact: classes of their own; all others are one more"},
    {"loss", INGOT_KEY_CHOICE, false, "mean", loss_names, FIELD(loss), "of an example: mean or sum over its tokens"},
    {"example", INGOT_KEY_INT, false, "0", NULL, FIELD(example), "predicted tokens of an example; 0: a window is one"},
    ROWS_OF_READING,
    ROW_MEMORY,
    ROW_SAVE,
    ROW_OUTPUT,
    ROW_DURABLE,
    {.name = NULL},
};

const ingot_key ingot_gram_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"gram\""},
    ROW_NAME,
    ROW_MODEL,
    ROW_DATA,
    ROW_WINDOW,
    ROW_LIMIT,
    ROW_BATCH,
    {"head", INGOT_KEY_BOOL, false, "false", NULL, FIELD(head), "the input of the output head too"},
    {"outputs", INGOT_KEY_BOOL, false, "false", NULL, FIELD(outputs),
     "Gram matrices of the gradients at the layers' outputs too (K-FAC)"},
    {"labels", INGOT_KEY_CHOICE, false, "given", gram_label_names, FIELD(labels),
     "of those gradients: the next tokens of the data, or sampled from the model"},
    ROWS_OF_READING,
    ROW_MEMORY,
    ROW_SAVE,
    ROW_OUTPUT,
    ROW_DURABLE,
    {.name = NULL},
};

typedef struct data_group {
  const char        *name, *path, *dtype;
  double             weight;
  const ingot_value *teachers;
} data_group;

/* clang-format off: rows of tables */
#define ROW_DATA_NAME                                                        \
  {                                                                          \
    "name", INGOT_KEY_STRING, false, NULL, NULL, offsetof(data_group, name), \
        "name in tables; default: the file's, up to its first dot"           \
  }
#define ROW_DATA_PATH                                                       \
  {                                                                         \
    "path", INGOT_KEY_STRING, true, NULL, NULL, offsetof(data_group, path), \
        "the token file: .u16, .u32, or FILE.h5 or FILE.h5:/NAME"           \
  }
#define ROW_DATA_DTYPE                                                                                                 \
  {                                                                                                                    \
    "dtype", INGOT_KEY_STRING, false, NULL, NULL, offsetof(data_group, dtype), "\"u16\" or \"u32\", for other endings" \
  }
/* clang-format on */

const ingot_key ingot_data_keys[] = {
    ROW_DATA_NAME,
    ROW_DATA_PATH,
    ROW_DATA_DTYPE,
};
const int ingot_data_n_key = sizeof ingot_data_keys / sizeof ingot_data_keys[0];

const ingot_key ingot_train_data_keys[] = {
    ROW_DATA_NAME,
    ROW_DATA_PATH,
    ROW_DATA_DTYPE,
    {"weight", INGOT_KEY_REAL, false, "1", INGOT_ABOVE(0.0), offsetof(data_group, weight),
     "share of the windows, relative to the other data sets"},
    {"teachers", INGOT_KEY_LIST, false, NULL, NULL, offsetof(data_group, teachers),
     "the teachers that answer for this data set; default: all"},
};
const int ingot_train_data_n_key = sizeof ingot_train_data_keys / sizeof ingot_train_data_keys[0];

/* "data/de.val.u16" is called "de". */
static const char *name_of_path(ingot_job *job, const char *path)
{
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  size_t      n = strcspn(name, ".");
  return n > 0 ? ingot_arena_printf(&job->arena, "%.*s", (int)n, name) : ingot_arena_strdup(&job->arena, name);
}

static ingot_status read_data_entry(ingot_job *job, const ingot_value *v, bool named, const ingot_key *keys, int n_key,
                                    ingot_problems *problems, ingot_job_data *out)
{
  ingot_status st = INGOT_OK;
  data_group   group = {.weight = 1.0};
  *out = (ingot_job_data){.value = v};
  if (v->kind == INGOT_VALUE_GROUP) ingot_keys_read(keys, n_key, v, &group, NULL, 0, problems);
  else if (v->kind == INGOT_VALUE_STRING && v->string[0]) group.path = v->string;
  else
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a path or a group { path = \"...\"; }, found %s",
                       ingot_value_place(v),
                       v->kind == INGOT_VALUE_STRING ? "an empty string" : ingot_value_kind_text(v->kind));
  if (!group.path) goto done;
  out->written = group.path;
  out->dtype = group.dtype;
  out->weight = group.weight;
  out->teachers_value = group.teachers;
  out->path = ingot_job_path(job, group.path);
  out->name = group.name ? group.name : named ? v->name : name_of_path(job, group.path);
  INGOT_TRY_ALLOC(out->path && out->name);
done:
  return st;
}

ingot_status ingot_job_data_read(ingot_job *job, const ingot_value *v, const ingot_key *keys, int n_key,
                                 ingot_problems *problems, ingot_job_data **data, int *n_data)
{
  ingot_status    st = INGOT_OK;
  ingot_job_data *list = NULL;
  *n_data = 0;
  if (!v) goto done; /* reported */
  if (v->kind != INGOT_VALUE_GROUP && v->kind != INGOT_VALUE_LIST) {
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: expected a group { name = \"path\"; } or a list of paths, found %s", ingot_value_place(v),
                       ingot_value_kind_text(v->kind));
    goto done;
  }
  if (v->n_item == 0) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no data is given", ingot_value_place(v));
  list = ingot_arena_alloc(&job->arena, (size_t)v->n_item + 1, sizeof *list);
  INGOT_TRY_ALLOC(list);
  for (int i = 0; i < v->n_item; i++) {
    ingot_job_data *d = &list[*n_data];
    INGOT_TRY(read_data_entry(job, v->item[i], v->kind == INGOT_VALUE_GROUP, keys, n_key, problems, d));
    if (!d->path) continue;
    for (int k = 0; k < *n_data; k++)
      if (strcmp(list[k].name, d->name) == 0)
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: two data sets are called \"%s\"",
                           ingot_value_place(v->item[i]), d->name);
    (*n_data)++;
  }
done:
  *data = list;
  return st;
}

static ingot_status read_models(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status           st = INGOT_OK;
  ingot_gather_settings *s = step->settings;
  const ingot_value     *list = s->models_value;
  s->models = ingot_arena_alloc(&job->arena, (size_t)(list ? list->n_item : 0) + 1, sizeof *s->models);
  INGOT_TRY_ALLOC(s->models);
  if (s->model_name && ingot_job_resolve(job, step->number, s->model_name, ingot_value_member(step->value, "model"),
                                         problems, &s->models[0]))
    s->n_model = 1;
  if (list && list->n_item == 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: no model is given", ingot_value_place(list));
  for (int i = 0; list && i < list->n_item; i++) {
    const ingot_value *v = list->item[i];
    if (v->kind != INGOT_VALUE_STRING) {
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a model's id, found %s", ingot_value_place(v),
                         ingot_value_kind_text(v->kind));
      continue;
    }
    if (!ingot_job_resolve(job, step->number, v->string, v, problems, &s->models[s->n_model])) continue;
    for (int k = 0; k < s->n_model; k++)
      if (strcmp(s->models[k].id, v->string) == 0)
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is listed twice", ingot_value_place(v), v->string);
    s->n_model++;
  }
done:
  return st;
}

/* Rules between keys. */
static void check_rules(const ingot_job_step *step, ingot_problems *problems)
{
  const ingot_gather_settings *s = step->settings;
  enum { PASS_MAX = 1 << 30 };
  if (s->batch > PASS_MAX / (s->window > 0 ? s->window : 1))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %lld windows of %lld tokens; a pass has at most %d tokens",
                       ingot_value_place(ingot_value_member(step->value, "batch")), (long long)s->batch,
                       (long long)s->window, PASS_MAX);
  if (s->separate && !s->has_document)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: separate = true needs \"document\", the id that begins a document",
                       ingot_value_place(ingot_value_member(step->value, "separate")));
}

static void check_output(const ingot_job_step *step, ingot_problems *problems)
{
  const ingot_gather_settings *s = step->settings;
  if (!s->output) return;
  ingot_sink_format  format = ingot_sink_format_of(s->output);
  size_t             n = strlen(s->output);
  bool               is_json = n > 5 && strcmp(s->output + n - 5, ".json") == 0;
  const ingot_value *v = ingot_value_member(step->value, "output");
  if (strcmp(step->type->name, "evaluate") == 0) {
    if (!is_json && format != INGOT_SINK_HDF5)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: scores are written to a .json or a .h5 file",
                         ingot_value_place(v));
  } else if (format == INGOT_SINK_SAFETENSORS || is_json) {
    ingot_problems_add(
        problems, INGOT_ERR_JOB,
        "%s: statistics are written to a .h5 file or a directory: they need ingot_statistics.json beside the tensors",
        ingot_value_place(v));
  }
}

ingot_status ingot_gather_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status           st = INGOT_OK;
  ingot_gather_settings *s = step->settings;
  if (!ingot_value_member(step->value, "seed")) s->seed = job->seed;
  s->has_document = ingot_value_member(step->value, "document") != NULL;
  INGOT_TRY(read_models(job, step, problems));
  INGOT_TRY(ingot_job_data_read(job, s->data_value, ingot_data_keys, ingot_data_n_key, problems, &s->data, &s->n_data));
  check_rules(step, problems);
  check_output(step, problems);
done:
  return st;
}
