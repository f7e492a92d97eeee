#include "driver/recipe.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/version.h"
#include "io/json.h"

static json_t *scalar_json(const ingot_param_spec *spec, double value)
{
  switch (spec->type) {
  case INGOT_PARAM_BOOL: return json_boolean(value != 0.0);
  case INGOT_PARAM_CHOICE: return json_string(spec->choices[(int)value]);
  case INGOT_PARAM_INT: return json_integer((json_int_t)value);
  case INGOT_PARAM_REAL: break;
  }
  return value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

static json_t *entry_json(const ingot_param_spec *spec, const ingot_param_entry *e)
{
  if (e->n == 1) return scalar_json(spec, e->values[0]);
  json_t *list = json_array();
  for (int i = 0; i < e->n; i++) json_array_append_new(list, scalar_json(spec, e->values[i]));
  return list;
}

static json_t *value_json(const ingot_param_value *v)
{
  if (v->n_entry == 1 && !v->entries[0].filter) return entry_json(v->spec, &v->entries[0]);
  json_t *list = json_array();
  for (int i = 0; i < v->n_entry; i++)
    json_array_append_new(list, json_pack("{s:s, s:o}", "filter", v->entries[i].filter ? v->entries[i].filter : "*",
                                          "value", entry_json(v->spec, &v->entries[i])));
  return list;
}

/* Adds the given values to object; with defaults, those of parameters that nobody gave too. */
static void add_params(json_t *object, const ingot_method *method, const ingot_param_set *set, bool defaults)
{
  for (int i = 0; i < set->n_param; i++) {
    const ingot_param_spec *spec = &method->params[i];
    if (set->value[i]) json_object_set_new(object, spec->name, value_json(set->value[i]));
    else if (defaults && !spec->required)
      json_object_set_new(object, spec->name, scalar_json(spec, spec->default_value));
  }
}

static json_t *sources_json(const ingot_merge_settings *s, const ingot_merge_source *sources, int n, bool layers)
{
  json_t *list = json_array();
  for (int i = 0; i < n; i++) {
    json_t *row = json_pack("{s:o}", "model", ingot_json_text(sources[i].ref.id));
    if (sources[i].has_statistics) json_object_set_new(row, "statistics", ingot_json_text(sources[i].statistics.id));
    if (layers)
      json_object_set_new(row, "layers", json_pack("[I, I]", (json_int_t)sources[i].first, (json_int_t)sources[i].end));
    add_params(row, s->method, &sources[i].params, false);
    json_array_append_new(list, row);
  }
  return list;
}

ingot_status ingot_recipe_keep(const json_t *recipe, ingot_arena *arena, const char **out)
{
  ingot_status st = INGOT_OK;
  char        *text = recipe ? ingot_json_dump(recipe, JSON_INDENT(1)) : NULL;
  INGOT_CHECK(text, INGOT_ERR_NOMEM, "no memory for the recipe");
  *out = ingot_arena_strdup(arena, text);
  INGOT_TRY_ALLOC(*out);
done:
  free(text);
  return st;
}

ingot_status ingot_recipe_json(const ingot_merge_settings *s, json_t **out)
{
  static const char *const nonfinite[] = {"fail", "keep", "zero"};
  static const char *const missing[] = {"fail", "skip", "base"};
  static const char *const tied[] = {"auto", "keep"};
  json_t                  *r = json_pack("{s:s, s:s}", "type", "merge", "method", s->method->name);
  if (s->has_base) json_object_set_new(r, "base", ingot_json_text(s->base.id));
  if (s->n_model > 0) json_object_set_new(r, "models", sources_json(s, s->models, s->n_model, false));
  json_t *slices = s->n_slice > 0 ? json_array() : NULL;
  for (int i = 0; i < s->n_slice; i++) {
    json_t *row = json_pack("{s:o}", "sources", sources_json(s, s->slices[i].sources, s->slices[i].n_source, true));
    json_t *params = json_object();
    add_params(params, s->method, &s->slices[i].params, false);
    json_object_set_new(row, "parameters", params);
    json_array_append_new(slices, row);
  }
  if (slices) json_object_set_new(r, "slices", slices);
  json_t *params = json_object();
  add_params(params, s->method, &s->params, true);
  json_object_set_new(r, "parameters", params);
  json_object_set_new(r, "dtype", json_string(s->keep_dtype ? "source" : ingot_dtype_long_name(s->dtype)));
  json_object_set_new(r, "seed", json_integer(s->seed));
  json_object_set_new(r, "nonfinite", json_string(nonfinite[s->nonfinite]));
  json_object_set_new(r, "missing", json_string(missing[s->missing]));
  json_object_set_new(r, "tied", json_string(tied[s->tied]));
  if (s->has_config) json_object_set_new(r, "config_from", ingot_json_text(s->config.id));
  *out = r;
  return r ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the recipe");
}

/* A root attribute of an input, or NULL. */
static const char *attribute_of(const ingot_input *input, const char *name)
{
  if (input->source) return ingot_source_attribute(input->source, name);
  for (int i = 0; i < input->promise->n_attribute; i++)
    if (strcmp(input->promise->attributes[i].name, name) == 0) return input->promise->attributes[i].text;
  return NULL;
}

ingot_status ingot_recipe_of_export(const ingot_merge_settings *s, const ingot_input *model, json_t **out)
{
  const char *own = attribute_of(model, "ingot_recipe");
  json_t     *recipe = json_pack("{s:s, s:o}", "type", "export", "model", ingot_json_text(s->model_name));
  json_t     *of = own ? json_loads(own, 0, NULL) : NULL;
  if (recipe && of) json_object_set(recipe, "recipe_of_model", of);
  json_decref(of);
  *out = recipe;
  return recipe ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the recipe");
}

static ingot_status yaml_scalar(const json_t *value, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  if (json_is_string(value)) return ingot_json_append_string(text, json_string_value(value));
  char *plain = ingot_json_dump(value, JSON_ENCODE_ANY | JSON_COMPACT);
  INGOT_CHECK(plain, INGOT_ERR_NOMEM, "no memory for YAML");
  st = ingot_text_printf(text, "%s", plain);
done:
  free(plain);
  return st;
}

/* Numbers and empty collections stay on the line of their key. */
static bool yaml_fits_line(const json_t *value)
{
  size_t  i;
  json_t *v;
  if (json_is_object(value)) return json_object_size(value) == 0;
  json_array_foreach(value, i, v) if (json_is_object(v) || json_is_array(v)) return false;
  return true;
}

ingot_status ingot_yaml_append(const json_t *value, int indent, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  const char  *key;
  json_t      *v;
  size_t       i;
  if (json_is_object(value)) {
    json_object_foreach((json_t *)(uintptr_t)value, key, v)
    {
      INGOT_TRY(ingot_text_printf(text, "%*s%s:", indent, "", key));
      bool same_line = yaml_fits_line(v);
      INGOT_TRY(ingot_text_printf(text, same_line ? " " : "\n"));
      INGOT_TRY(same_line ? yaml_scalar(v, text) : ingot_yaml_append(v, indent + 2, text));
      if (same_line) INGOT_TRY(ingot_text_printf(text, "\n"));
    }
  } else {
    json_array_foreach(value, i, v)
    {
      size_t at = text->size;
      INGOT_TRY(ingot_yaml_append(v, indent + 2, text));
      if (text->size >= at + (size_t)indent + 2) text->bytes[at + (size_t)indent] = '-'; /* over two of the spaces */
    }
  }
  if (!json_is_object(value) && !json_is_array(value)) {
    INGOT_TRY(ingot_text_printf(text, "%*s", indent, ""));
    INGOT_TRY(yaml_scalar(value, text));
    INGOT_TRY(ingot_text_printf(text, "\n"));
  }
done:
  return st;
}

ingot_status ingot_model_card(const ingot_job *job, const ingot_merge_settings *settings, const json_t *recipe,
                              const ingot_step_plan *plan, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  int          n_checkpoint = plan->n_input; /* without the models' statistics */
  if (!settings->is_export && settings->method->needs && !settings->live_statistics) n_checkpoint -= settings->n_model;
  INGOT_TRY(ingot_text_printf(text, "---\ntags:\n- merge\n- ingot\nlibrary_name: transformers\ningot_recipe:\n"));
  INGOT_TRY(ingot_yaml_append(recipe, 2, text));
  INGOT_TRY(ingot_text_printf(text, "---\n\n# %s\n\n", job->name ? job->name : "Merged model"));
  if (settings->is_export)
    INGOT_TRY(ingot_text_printf(text, "This model is a copy of the checkpoint `%s`, made by the recipe below.\n\n",
                                settings->model_name));
  else
    INGOT_TRY(ingot_text_printf(text,
                                "This model was merged from %d checkpoint%s by the method `%s`: %s.\n\n"
                                "Source of the method: %s.\n\n",
                                n_checkpoint, n_checkpoint == 1 ? "" : "s", settings->method->name,
                                settings->method->summary, settings->method->source));
  INGOT_TRY(ingot_text_printf(text, "| model | bytes of tensors |\n|---|---|\n"));
  for (int i = 0; i < plan->n_input; i++)
    INGOT_TRY(ingot_text_printf(text, "| `%s` | %" PRIu64 " |\n", plan->inputs[i].id, plan->inputs[i].bytes));
  INGOT_TRY(ingot_text_printf(text, "\nThe recipe, with all settings resolved:\n\n```yaml\n"));
  INGOT_TRY(ingot_yaml_append(recipe, 0, text));
  INGOT_TRY(ingot_text_printf(text, "```\n\nMade by %s.\n", ingot_version_text()));
done:
  return st;
}

ingot_status ingot_inputs_json(const ingot_job_reference *refs, const ingot_plan_input *inputs, int n_input,
                               ingot_text *text)
{
  ingot_status st = INGOT_OK;
  char        *plain = NULL;
  json_t      *list = json_array();
  /* Identities hold the files' times, which differ when an earlier step has made them: they are in the manifest. */
  for (int i = 0; i < n_input; i++)
    json_array_append_new(list, json_pack("{s:o, s:o, s:I}", "id", ingot_json_text(refs[i].id), "path",
                                          ingot_json_text(refs[i].written), "bytes", (json_int_t)inputs[i].bytes));
  plain = json_dumps(list, JSON_COMPACT);
  INGOT_CHECK(plain, INGOT_ERR_NOMEM, "no memory for the list of inputs");
  st = ingot_text_printf(text, "%s", plain);
done:
  free(plain);
  json_decref(list);
  return st;
}
