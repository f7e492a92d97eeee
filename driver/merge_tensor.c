/* One output tensor of a merge: its inputs, its parameters, and what can be wrong with them. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "driver/layers.h"
#include "driver/merge_plan.h"

/* The name that a source has for an output tensor of its section, given the reference's name. */
static const char *name_in_source(ingot_merge_builder *b, const ingot_section *section,
                                  const ingot_section_source *source, const char *reference_name)
{
  const ingot_section_source *reference = &section->sources[section->reference];
  ingot_layer_name            layer;
  if (section->n_layer < 0 || source->first == reference->first) return reference_name;
  if (!ingot_layer_parse(reference_name, &layer)) return reference_name;
  return ingot_arena_printf(b->arena, "%.*s.%lld%s", (int)layer.stack_length, reference_name,
                            (long long)(layer.index - reference->first + source->first), layer.rest);
}

/* Shape and kind of a source's tensor against the reference's; shape: of the output. */
static bool fits(ingot_merge_builder *b, const ingot_input *input, int index, const ingot_input *reference,
                 int reference_index, const ingot_shape *shape)
{
  const ingot_sink_tensor *t = &input->tensors[index], *r = &reference->tensors[reference_index];
  char                     text_t[INGOT_SHAPE_TEXT], text_r[INGOT_SHAPE_TEXT];
  if (!ingot_shape_equal(&t->shape, shape) && !ingot_merge_is_cropped_to(b, t, shape)) {
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: tensor %s: %s in \"%s\" (%s), %s in \"%s\" (%s)%s", b->place, t->name,
                       ingot_shape_text(&t->shape, text_t), input->id, input->path, ingot_shape_text(&r->shape, text_r),
                       reference->id, reference->path, ingot_merge_crop_hint(b, t, &r->shape));
    return false;
  }
  if (!ingot_dtype_is_float(t->dtype)) {
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH, "%s: tensor %s: %s in \"%s\" (%s), %s in \"%s\" (%s)",
                       b->place, t->name, ingot_dtype_name(t->dtype), input->id, input->path,
                       ingot_dtype_name(r->dtype), reference->id, reference->path);
    return false;
  }
  return true;
}

static ingot_status grow(ingot_merge_builder *b)
{
  ingot_status st = INGOT_OK;
  if (b->n_tensor < b->capacity) goto done;
  int                 capacity = b->capacity ? 2 * b->capacity : 256;
  ingot_merge_tensor *tensors = ingot_arena_alloc(b->arena, (size_t)capacity, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  if (b->n_tensor) memcpy(tensors, b->tensors, (size_t)b->n_tensor * sizeof *tensors);
  b->tensors = tensors;
  b->capacity = capacity;
done:
  return st;
}

/* The value of one parameter: the nearest place that gives it, or its default. False when there is none. */
static bool find_value(const ingot_param_spec *spec, int row, const ingot_param_set *const *places, int n_place,
                       const char *name, double t, double *value)
{
  for (int i = 0; i < n_place; i++)
    if (places[i] && places[i]->value[row] && ingot_param_value_at(places[i]->value[row], name, t, value)) return true;
  *value = spec->default_value;
  return !spec->required;
}

/* Reports a required parameter once, for the first model that lacks it. */
static void missing_value(ingot_merge_builder *b, int row, const ingot_section_source *source, const char *tensor)
{
  const ingot_param_spec *spec = &b->settings->method->params[row];
  if (b->param_missing[row]) return;
  b->param_missing[row] = true;
  if (source)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB,
                       "%s: no value of %s for model \"%s\" (tensor %s): give it with the model or in parameters",
                       b->place, spec->name, source->input->id, tensor);
  else
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB, "%s: no value of %s (tensor %s): give it in parameters",
                       b->place, spec->name, tensor);
}

static void check_value(ingot_merge_builder *b, const ingot_param_spec *spec, int row, double value, const char *tensor)
{
  /* Written values were checked; only points between those of a gradient can still be wrong. */
  if (b->param_missing[row] || ingot_param_check(spec, value) == INGOT_OK) return;
  b->param_missing[row] = true;
  ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB, "%s: tensor %s: %s", b->place, tensor,
                     ingot_error_message());
  ingot_error_clear();
}

ingot_status ingot_merge_add_params(ingot_merge_builder *b, const ingot_section *section,
                                    const ingot_section_source *const *taking_part, const char *const *in_names,
                                    double t, ingot_merge_tensor *tensor)
{
  ingot_status         st = INGOT_OK;
  const ingot_method  *m = b->settings->method;
  ingot_method_tensor *v = &tensor->view;
  int                  n_global = ingot_method_n_param(m, INGOT_PARAM_GLOBAL);
  int                  n_per_model = ingot_method_n_param(m, INGOT_PARAM_PER_MODEL);
  int                  base = v->has_base ? 1 : 0;
  double              *values =
      ingot_arena_alloc(b->arena, (size_t)n_global + (size_t)n_per_model * (size_t)v->n_model, sizeof *values);
  INGOT_TRY_ALLOC(values);
  v->global = values;
  v->per_model = values + n_global;
  for (int row = 0, global = 0, per_model = 0; row < m->n_param; row++) {
    const ingot_param_spec *spec = &m->params[row];
    if (spec->scope == INGOT_PARAM_GLOBAL) {
      const ingot_param_set *places[] = {section->params, &b->settings->params};
      if (!find_value(spec, row, places, 2, v->name, t, &values[global])) missing_value(b, row, NULL, v->name);
      check_value(b, spec, row, values[global++], v->name);
      continue;
    }
    for (int k = 0; k < v->n_model; k++) {
      const ingot_section_source *source = taking_part[base + k];
      const ingot_param_set      *places[] = {source->params, section->params, &b->settings->params};
      double                     *value = &values[n_global + k * n_per_model + per_model];
      if (!find_value(spec, row, places, 3, in_names[base + k], t, value)) missing_value(b, row, source, v->name);
      check_value(b, spec, row, *value, v->name);
    }
    per_model++;
  }
done:
  return st;
}

/* Ask the method: rules between parameters, grain, plain copies. Share parameters with the tensor before if equal. */
static void ask_method(ingot_merge_builder *b, ingot_merge_tensor *t)
{
  const ingot_method *m = b->settings->method;
  const ingot_input  *first = b->inputs[t->source[0]];
  size_t              n_value = (size_t)ingot_method_n_param(m, INGOT_PARAM_GLOBAL) +
                   (size_t)ingot_method_n_param(m, INGOT_PARAM_PER_MODEL) * (size_t)t->view.n_model;
  const ingot_merge_tensor *before = b->n_tensor > 0 ? &b->tensors[b->n_tensor - 1] : NULL;
  bool                      same = before && before->view.global && before->view.n_model == t->view.n_model &&
              (n_value == 0 || memcmp(before->view.global, t->view.global, n_value * sizeof(double)) == 0);
  for (int i = 0; i < m->n_param; i++)
    b->check_failed = b->check_failed || b->param_missing[i]; /* it would ask of a value that is not there */
  if (!same && m->check && !b->check_failed) {
    ingot_status st = m->check(&t->view);
    b->check_failed = st != INGOT_OK;
    ingot_wrap(st, "%s: tensor %s", b->place, t->view.name);
    ingot_problems_take(&b->planner->problems, st);
  }
  t->grain = m->grain(&t->view);
  if (m->is_copy && t->view.n_input == 1 && t->dtype == first->tensors[t->tensor[0]].dtype)
    t->copy = m->is_copy(&t->view);
  t->copy = t->copy || b->settings->is_export;
  if (t->view.n_elem == 0 || t->copy) t->grain = INGOT_GRAIN_ELEMENT;
}

typedef struct part_list {
  const ingot_section_source **sources; /* [n] */
  const char                 **names;
  int                         *source, *tensor;
  int                          n;
  bool                         drop; /* a model lacks the tensor, and it is to be left out */
} part_list;

/* Which sources take part in a tensor, with their own names for it. */
static ingot_status find_parts(ingot_merge_builder *b, const ingot_section *section, int index,
                               const ingot_shape *shape, part_list *p)
{
  ingot_status       st = INGOT_OK;
  const ingot_input *reference = section->sources[section->reference].input;
  const char        *reference_name = reference->tensors[index].name;
  size_t             room = (size_t)section->n_source + 1;
  p->sources = ingot_arena_alloc(b->arena, room, sizeof *p->sources);
  p->names = ingot_arena_alloc(b->arena, room, sizeof *p->names);
  p->source = ingot_arena_alloc(b->arena, room, sizeof *p->source);
  p->tensor = ingot_arena_alloc(b->arena, room, sizeof *p->tensor);
  INGOT_TRY_ALLOC(p->sources && p->names && p->source && p->tensor);
  for (int k = 0; k < section->n_source; k++) {
    const ingot_section_source *source = &section->sources[k];
    const char                 *name = name_in_source(b, section, source, reference_name);
    INGOT_TRY_ALLOC(name);
    int found = ingot_input_find(source->input, name);
    if (found < 0 && b->settings->missing == INGOT_MISSING_FAIL)
      ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                         "%s: tensor %s is missing in \"%s\" (%s); \"%s\" has %s", b->place, name, source->input->id,
                         source->input->path, reference->id, reference_name);
    p->drop = p->drop || (found < 0 && b->settings->missing != INGOT_MISSING_BASE);
    if (found < 0 || !fits(b, source->input, found, reference, index, shape)) continue;
    p->sources[p->n] = source;
    p->names[p->n] = name;
    p->source[p->n] = source->source;
    p->tensor[p->n++] = found;
  }
done:
  return st;
}

/* With missing = "base" and no model left: the base once more as a model, a task vector of zero. */
static void base_alone(const ingot_section *section, part_list *p)
{
  p->sources[1] = &section->sources[1];
  p->names[1] = p->names[0];
  p->source[1] = p->source[0];
  p->tensor[1] = p->tensor[0];
  p->n = 2;
}

ingot_status ingot_merge_add_tensor(ingot_merge_builder *b, const ingot_section *section, int index, const char *name,
                                    double t)
{
  ingot_status             st = INGOT_OK;
  const ingot_input       *reference = section->sources[section->reference].input;
  const ingot_sink_tensor *r = &reference->tensors[index];
  part_list                parts = {0};
  ingot_merge_tensor       out = {.dtype = r->dtype, .first_tile = b->n_tile, .grain = INGOT_GRAIN_ELEMENT};
  if (b->drop_head && ingot_is_head(name)) goto done;
  out.view.name = ingot_arena_strdup(b->arena, name);
  INGOT_TRY_ALLOC(out.view.name);
  out.view.key = ingot_hash_string(name);
  out.view.shape = ingot_merge_cropped_shape(b, r);
  INGOT_CHECK(ingot_shape_count(&out.view.shape, &out.view.n_elem), INGOT_ERR_FORMAT, "%s: tensor %s is too large",
              reference->path, name);
  out.view.seed = (uint64_t)b->settings->seed;
  out.view.model_offset = b->n_merged;
  INGOT_TRY(grow(b));
  if (ingot_dtype_is_float(r->dtype)) {
    INGOT_TRY(find_parts(b, section, index, &out.view.shape, &parts));
    if (parts.drop) goto done;
    if (b->has_base && parts.n == 1 && section->n_source > 1) base_alone(section, &parts);
    if (parts.n < (b->has_base ? 2 : 1)) goto done; /* reported: the base itself did not fit */
    out.source = parts.source;
    out.tensor = parts.tensor;
    if (!b->settings->keep_dtype) out.dtype = b->settings->dtype;
    out.view.n_input = parts.n;
    out.view.has_base = b->has_base;
    out.view.n_model = parts.n - (b->has_base ? 1 : 0);
    INGOT_TRY(ingot_merge_add_params(b, section, parts.sources, parts.names, t, &out));
    INGOT_TRY(ingot_merge_add_statistics(b, parts.sources, parts.names, &out));
    ask_method(b, &out);
    b->n_merged += out.copy ? 0 : out.view.n_elem;
  } else { /* integers and booleans are copied from the reference */
    int *pair = ingot_arena_alloc(b->arena, 2, sizeof *pair);
    INGOT_TRY_ALLOC(pair);
    pair[0] = section->sources[section->reference].source;
    pair[1] = index;
    out.source = &pair[0];
    out.tensor = &pair[1];
    out.view.n_input = 1;
    out.view.n_model = 1;
    out.copy = true;
  }
  b->n_tile += ingot_tile_count(out.view.n_elem);
  b->tensors[b->n_tensor++] = out;
done:
  return st;
}

bool ingot_is_head(const char *name)
{
  static const char head[] = "lm_head.weight";
  size_t            n = strlen(name), n_head = sizeof head - 1;
  if (strcmp(name, "embed_out.weight") == 0) return true;
  return n >= n_head && strcmp(name + n - n_head, head) == 0 && (n == n_head || name[n - n_head - 1] == '.');
}

/* tie_word_embeddings of a config, also where a text model's settings are nested. */
static bool config_says_tied(const json_t *config)
{
  const json_t *v = json_object_get(config, "tie_word_embeddings");
  if (!v) v = json_object_get(json_object_get(config, "text_config"), "tie_word_embeddings");
  return json_is_true(v);
}

void ingot_merge_check_heads(ingot_merge_builder *b)
{
  const ingot_input *tied = NULL, *own = NULL;
  const char        *head = NULL;
  bool               tied_by_config = false;
  if (b->settings->tied == INGOT_TIED_KEEP) return;
  for (int i = 0; i < b->n_checkpoint; i++) {
    const ingot_input *input = b->inputs[i];
    const char        *found = NULL;
    for (int k = 0; k < input->n_tensor && !found; k++)
      if (ingot_is_head(input->tensors[k].name)) found = input->tensors[k].name;
    if (config_says_tied(input->config) || !found) {
      tied_by_config = tied ? tied_by_config : config_says_tied(input->config);
      if (!tied) tied = input;
    } else if (!own) {
      own = input;
      head = found;
    }
  }
  if (tied && own)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: \"%s\" (%s) %s, and \"%s\" (%s) has an output head of its own (%s)", b->place, tied->id,
                       tied->path,
                       tied_by_config ? "ties its output head to its embeddings"
                                      : "has no output head (tied to its embeddings)",
                       own->id, own->path, head);
  b->drop_head = tied != NULL;
}
