#include "driver/merge_settings.h"

#include <string.h>

#include "io/sink.h"

#define FIELD(name) offsetof(ingot_merge_settings, name)

static const char *const nonfinite_names[] = {"fail", "keep", "zero", NULL};
static const char *const missing_names[] = {"fail", "skip", "base", NULL};
static const char *const tied_names[] = {"auto", "keep", NULL};
static const char *const vocabulary_names[] = {"check", "ignore", NULL};
static const char *const embeddings_names[] = {"fail", "crop", NULL};
static const char *const scales_names[] = {"fail", "ignore", NULL};
static const char *const statistics_model_names[] = {"check", "ignore", NULL};

const ingot_key ingot_merge_keys[] = {
    {"type", INGOT_KEY_STRING, true, NULL, NULL, FIELD(type), "\"merge\""},
    {"name", INGOT_KEY_STRING, false, NULL, NULL, FIELD(name), "name by which later steps may take the output"},
    {"method", INGOT_KEY_STRING, true, NULL, NULL, FIELD(method_name), "how to merge; see `ingot methods`"},
    {"base", INGOT_KEY_STRING, false, NULL, NULL, FIELD(base_name), "the model that the method calls its base"},
    {"models", INGOT_KEY_LIST, false, NULL, NULL, FIELD(models_value),
     "the models: ids, or groups { model = id; and per-model parameters }"},
    {"parameters", INGOT_KEY_GROUP, false, NULL, NULL, FIELD(parameters_value),
     "the method's parameters, and defaults for per-model ones"},
    {"slices", INGOT_KEY_LIST, false, NULL, NULL, FIELD(slices_value),
     "layers to stack, instead of models: groups { sources = ( ... ); parameters = { ... }; }"},
    {"dtype", INGOT_KEY_STRING, false, "source", NULL, FIELD(dtype_name),
     "dtype of the output: source (each tensor as in the base or first model), or one of " INGOT_FLOAT_DTYPES},
    {"seed", INGOT_KEY_INT, false, "the job's", NULL, FIELD(seed), "seed of this step's random choices"},
    {"nonfinite", INGOT_KEY_CHOICE, false, "fail", nonfinite_names, FIELD(nonfinite),
     "what to do with NaN and infinities in the inputs"},
    {"missing", INGOT_KEY_CHOICE, false, "fail", missing_names, FIELD(missing),
     "what to do with a tensor that a model lacks: fail, skip it, or go on without that model from the base"},
    {"tied", INGOT_KEY_CHOICE, false, "auto", tied_names, FIELD(tied),
     "an output head tied to the embeddings: store it once, or keep it as any other tensor"},
    {"vocabulary", INGOT_KEY_CHOICE, false, "check", vocabulary_names, FIELD(vocabulary),
     "whether all models must have the same tokens"},
    {"embeddings", INGOT_KEY_CHOICE, false, "fail", embeddings_names, FIELD(embeddings),
     "what to do with embeddings and heads of different numbers of rows: fail, or merge the rows that all models have"},
    {"scales", INGOT_KEY_CHOICE, false, "fail", scales_names, FIELD(scales),
     "quantized weights with scales beside them: fail, or merge both as they are stored"},
    {"statistics_model", INGOT_KEY_CHOICE, false, "check", statistics_model_names, FIELD(statistics_model),
     "whether ingot's statistics must come from the very files of the model that they stand with"},
    {"config_from", INGOT_KEY_STRING, false, NULL, NULL, FIELD(config_name),
     "the model that lends config.json and the tokenizer; default: the base, or the first model"},
    INGOT_MERGE_OUTPUT_ROWS,
    {"memory_limit", INGOT_KEY_SIZE, false, "0", NULL, FIELD(memory_limit_bytes),
     "memory of a rank at most, as the plan says it; 0: no limit"},
    {"durable", INGOT_KEY_BOOL, false, "true", NULL, FIELD(durable),
     "flush the output to disk before it gets its name"},
    {.name = NULL},
};

typedef struct source_group {
  const char        *model, *statistics;
  const ingot_value *layers;
} source_group;

const ingot_key ingot_merge_model_keys[] = {
    {"model", INGOT_KEY_STRING, true, NULL, NULL, offsetof(source_group, model), "id of the model"},
    {"statistics", INGOT_KEY_STRING, false, NULL, NULL, offsetof(source_group, statistics),
     "its Fisher information or Gram matrices: an earlier step, or a path"},
};
const int ingot_merge_model_n_key = 2;

const ingot_key ingot_merge_source_keys[] = {
    {"model", INGOT_KEY_STRING, true, NULL, NULL, offsetof(source_group, model), "id of the model"},
    {"layers", INGOT_KEY_RANGE, true, NULL, NULL, offsetof(source_group, layers),
     "its layers, [first, end], counted from 0, the end not among them"},
};
const int ingot_merge_source_n_key = 2;

typedef struct slice_group {
  const ingot_value *sources, *parameters;
} slice_group;

const ingot_key ingot_merge_slice_keys[] = {
    {"sources", INGOT_KEY_LIST, true, NULL, NULL, offsetof(slice_group, sources),
     "groups { model = id; layers = [first, end]; and per-model parameters }"},
    {"parameters", INGOT_KEY_GROUP, false, NULL, NULL, offsetof(slice_group, parameters),
     "the method's parameters for this slice"},
};
const int ingot_merge_slice_n_key = 2;

enum { OTHER_MAX = 64 };

/* A member of the entry that neither the keys nor the method's per-model parameters know is left to the parameter
   reader, which names the nearest parameter: so every other name goes to `others`. */
static int names_beside(const ingot_key *keys, int n_key, const ingot_value *group, const char *names[OTHER_MAX])
{
  int n = 0;
  for (int i = 0; i < group->n_item && n < OTHER_MAX; i++) {
    bool key = false;
    for (int j = 0; j < n_key; j++) key = key || strcmp(keys[j].name, group->item[i]->name) == 0;
    if (!key) names[n++] = group->item[i]->name;
  }
  return n;
}

/* An earlier step's name or output, or else a path. */
static ingot_status resolve_statistics(ingot_job *job, const ingot_job_step *step, const char *written,
                                       ingot_job_reference *out)
{
  ingot_status st = INGOT_OK;
  *out = (ingot_job_reference){.id = written, .written = written};
  for (int i = step->number - 2; i >= 0; i--) {
    const ingot_job_step *s = &job->steps[i];
    bool                  by_name = s->name && strcmp(s->name, written) == 0;
    bool                  by_path = s->written_output && strcmp(s->written_output, written) == 0;
    if ((!by_name && !by_path) || !s->output) continue;
    *out = (ingot_job_reference){.id = written, .written = s->written_output, .path = s->output, .step = s->number};
    return INGOT_OK;
  }
  out->path = ingot_job_path(job, written);
  INGOT_TRY_ALLOC(out->path);
done:
  return st;
}

/* One entry of `models` or of a slice's `sources`. */
static ingot_status read_source(ingot_job *job, const ingot_job_step *step, const ingot_value *v, bool with_layers,
                                ingot_problems *problems, ingot_merge_source *out)
{
  ingot_status                st = INGOT_OK;
  const ingot_merge_settings *settings = step->settings;
  const ingot_key            *keys = with_layers ? ingot_merge_source_keys : ingot_merge_model_keys;
  int                         n_key = with_layers ? ingot_merge_source_n_key : ingot_merge_model_n_key;
  source_group                group = {NULL, NULL, NULL};
  const char                 *names[OTHER_MAX];
  out->value = v;
  if (v->kind == INGOT_VALUE_STRING && !with_layers) {
    group.model = v->string;
  } else if (v->kind == INGOT_VALUE_GROUP) {
    int n = names_beside(keys, n_key, v, names);
    ingot_keys_read(keys, n_key, v, &group, names, n, problems);
  } else {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected %s, found %s", ingot_value_place(v),
                       with_layers ? "a group { model = ...; layers = [first, end]; }"
                                   : "a model's id or a group { model = ...; }",
                       ingot_value_kind_text(v->kind));
    goto done;
  }
  if (group.model) ingot_job_resolve(job, step->number, group.model, v, problems, &out->ref);
  if (group.statistics) {
    out->has_statistics = true;
    INGOT_TRY(resolve_statistics(job, step, group.statistics, &out->statistics));
  }
  if (group.layers) {
    out->first = group.layers->item[0]->integer;
    out->end = group.layers->item[1]->integer;
  }
  if (!settings->method) goto done;
  const char *key_names[4]; /* at least n_key */
  for (int i = 0; i < n_key; i++) key_names[i] = keys[i].name;
  INGOT_TRY(ingot_param_set_read(settings->method, INGOT_ALLOW_PER_MODEL, v->kind == INGOT_VALUE_GROUP ? v : NULL,
                                 key_names, n_key, &job->arena, problems, &out->params));
done:
  return st;
}

static ingot_status read_sources(ingot_job *job, const ingot_job_step *step, const ingot_value *list, bool with_layers,
                                 ingot_problems *problems, ingot_merge_source **out, int *n_out)
{
  ingot_status st = INGOT_OK;
  *out = ingot_arena_alloc(&job->arena, (size_t)list->n_item, sizeof **out);
  INGOT_TRY_ALLOC(*out);
  for (int i = 0; i < list->n_item; i++)
    INGOT_TRY(read_source(job, step, list->item[i], with_layers, problems, &(*out)[i]));
  *n_out = list->n_item;
  if (list->n_item == 0) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the list is empty", ingot_value_place(list));
done:
  return st;
}

static ingot_status read_slice(ingot_job *job, const ingot_job_step *step, const ingot_value *v,
                               ingot_problems *problems, ingot_merge_slice *out)
{
  ingot_status                st = INGOT_OK;
  const ingot_merge_settings *settings = step->settings;
  slice_group                 group = {NULL, NULL};
  out->value = v;
  if (v->kind != INGOT_VALUE_GROUP) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a group { sources = ( ... ); }, found %s",
                       ingot_value_place(v), ingot_value_kind_text(v->kind));
    goto done;
  }
  ingot_keys_read(ingot_merge_slice_keys, ingot_merge_slice_n_key, v, &group, NULL, 0, problems);
  if (group.sources) INGOT_TRY(read_sources(job, step, group.sources, true, problems, &out->sources, &out->n_source));
  if (settings->method)
    INGOT_TRY(ingot_param_set_read(settings->method, INGOT_ALLOW_GLOBAL | INGOT_ALLOW_PER_MODEL, group.parameters, NULL,
                                   0, &job->arena, problems, &out->params));
  for (int i = 1; i < out->n_source; i++) {
    const ingot_merge_source *a = &out->sources[0], *b = &out->sources[i];
    if (a->end > a->first && b->end > b->first && a->end - a->first != b->end - b->first)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %lld layers, and the slice's first source has %lld",
                         ingot_value_place(b->value), (long long)(b->end - b->first), (long long)(a->end - a->first));
  }
done:
  return st;
}

static void read_dtype(ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *where = ingot_value_member(step, "dtype");
  s->keep_dtype = strcmp(s->dtype_name, "source") == 0;
  if (s->keep_dtype) return;
  if (!ingot_dtype_parse(s->dtype_name, &s->dtype)) {
    const char *names[INGOT_DTYPE_COUNT + 1];
    for (int i = 0; i < INGOT_DTYPE_COUNT; i++) names[i] = ingot_dtype_long_name((ingot_dtype)i);
    names[INGOT_DTYPE_COUNT] = "source";
    const char *nearest = ingot_nearest_name(s->dtype_name, names, INGOT_DTYPE_COUNT + 1);
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown dtype \"%s\"%s%s%s", ingot_value_place(where),
                       s->dtype_name, nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
  } else if (!ingot_dtype_is_float(s->dtype)) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a merge has a floating-point dtype, not %s",
                       ingot_value_place(where), ingot_dtype_long_name(s->dtype));
  }
}

/* The method by name; settings->method stays NULL after a problem. */
static void read_method(ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *where = ingot_value_member(step, "method");
  if (!s->method_name) return;
  s->method = ingot_method_find(s->method_name);
  if (s->method) return;
  const char *nearest = ingot_method_nearest(s->method_name);
  ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown method \"%s\"%s%s%s", ingot_value_place(where),
                     s->method_name, nearest ? "; did you mean \"" : " (see `ingot methods`)", nearest ? nearest : "",
                     nearest ? "\"?" : "");
}

static bool same_model(const ingot_job_reference *a, const ingot_job_reference *b)
{
  return a->path && b->path && strcmp(a->path, b->path) == 0;
}

/* How many models besides the base, and whether the base fits the method's rule. */
static void check_models(const ingot_merge_settings *s, const ingot_merge_source *models, int n_model,
                         const ingot_value *where, ingot_problems *problems)
{
  const ingot_method *m = s->method;
  bool                base_listed = false;
  int                 n = 0;
  for (int i = 0; i < n_model; i++) {
    bool is_base = s->has_base && same_model(&models[i].ref, &s->base);
    base_listed = base_listed || is_base;
    n += is_base && m->base != INGOT_BASE_UNUSED && m->base != INGOT_BASE_START ? 0 : 1;
  }
  if (m->base == INGOT_BASE_UNUSED && s->has_base && s->base.path && !base_listed)
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: %s uses no base: \"%s\" must be one of its models, or base must be left out",
                       ingot_value_place(where), m->name, s->base.id);
  const char *besides = m->base == INGOT_BASE_UNUSED ? "" : " besides the base";
  if (n < m->min_models)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %s needs at least %d model%s%s, %d given",
                       ingot_value_place(where), m->name, m->min_models, m->min_models == 1 ? "" : "s", besides, n);
  if (m->max_models > 0 && n > m->max_models)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %s takes at most %d model%s%s, %d given", ingot_value_place(where),
                       m->name, m->max_models, m->max_models == 1 ? "" : "s", besides, n);
}

/* Every model has statistics, or none, as the method wants. */
static void check_statistics(const ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_method *m = s->method;
  if (m->needs && s->slices_value)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: method %s reads statistics, which slices do not have; use models",
                       ingot_value_place(step), m->name);
  for (int i = 0; i < s->n_model; i++) {
    if (m->needs && !s->models[i].has_statistics)
      ingot_problems_add(problems, INGOT_ERR_JOB,
                         "%s: method %s needs statistics of \"%s\": { model = \"%s\"; statistics = ...; }",
                         ingot_value_place(s->models[i].value), m->name, s->models[i].ref.id, s->models[i].ref.id);
    if (!m->needs && s->models[i].has_statistics)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: method %s reads no statistics",
                         ingot_value_place(s->models[i].value), m->name);
  }
}

static void check_rules(const ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_method *m = s->method;
  if (m && m->base != INGOT_BASE_UNUSED && m->base != INGOT_BASE_START && !s->base_name)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: method %s needs a base: base = id", ingot_value_place(step),
                       m->name);
  if (m) check_statistics(s, step, problems);
  if (m && s->missing == INGOT_MISSING_BASE && m->base != INGOT_BASE_TASK_VECTOR)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: missing = \"base\" needs a method with task vectors; %s has none",
                       ingot_value_place(ingot_value_member(step, "missing")), m->name);
  if (!s->models_value == !s->slices_value)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: a merge has either models or slices", ingot_value_place(step));
  for (int i = 0; i < s->n_model; i++)
    for (int j = 0; j < i; j++)
      if (same_model(&s->models[i].ref, &s->models[j].ref))
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the model \"%s\" is listed twice",
                           ingot_value_place(s->models[i].value), s->models[i].ref.id);
  if (m && s->n_model > 0) check_models(s, s->models, s->n_model, s->models_value, problems);
  for (int i = 0; m && i < s->n_slice; i++)
    if (s->slices[i].n_source > 0)
      check_models(s, s->slices[i].sources, s->slices[i].n_source, s->slices[i].value, problems);
}

void ingot_merge_check_alignment(const ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems)
{
  const ingot_value *v = ingot_value_member(step, "alignment");
  uint64_t           n = s->alignment_bytes;
  if (v && (n < INGOT_SINK_PAGE || n > (uint64_t)1 << 30 || (n & (n - 1)) != 0))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a power of two from 4096 to 1GiB, found %llu",
                       ingot_value_place(v), (unsigned long long)n);
}

ingot_status ingot_merge_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems)
{
  ingot_status          st = INGOT_OK;
  ingot_merge_settings *s = step->settings;
  const ingot_value    *v = step->value;
  if (!ingot_value_member(v, "seed")) s->seed = job->seed;
  read_dtype(s, v, problems);
  read_method(s, v, problems);
  if (s->base_name)
    s->has_base = ingot_job_resolve(job, step->number, s->base_name, ingot_value_member(v, "base"), problems, &s->base);
  if (s->config_name)
    s->has_config = ingot_job_resolve(job, step->number, s->config_name, ingot_value_member(v, "config_from"), problems,
                                      &s->config);
  if (s->models_value) INGOT_TRY(read_sources(job, step, s->models_value, false, problems, &s->models, &s->n_model));
  if (s->slices_value) {
    s->n_slice = s->slices_value->n_item;
    if (s->n_slice == 0)
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the list is empty", ingot_value_place(s->slices_value));
    s->slices = ingot_arena_alloc(&job->arena, (size_t)s->n_slice, sizeof *s->slices);
    INGOT_TRY_ALLOC(s->slices);
    for (int i = 0; i < s->n_slice; i++)
      INGOT_TRY(read_slice(job, step, s->slices_value->item[i], problems, &s->slices[i]));
  }
  if (s->method)
    INGOT_TRY(ingot_param_set_read(s->method, INGOT_ALLOW_GLOBAL | INGOT_ALLOW_PER_MODEL, s->parameters_value, NULL, 0,
                                   &job->arena, problems, &s->params));
  check_rules(s, v, problems);
  ingot_merge_check_alignment(s, v, problems);
done:
  return st;
}
