#include "driver/param_value.h"

#include <math.h>
#include <string.h>

#include "driver/keys.h"

bool ingot_param_value_at(const ingot_param_value *v, const char *tensor, double t, double *out)
{
  for (int i = 0; i < v->n_entry; i++) {
    const ingot_param_entry *e = &v->entries[i];
    if (e->filter && !strstr(tensor, e->filter)) continue;
    double x = t * (e->n - 1);
    int    below = (int)floor(x);
    if (below > e->n - 1) below = e->n - 1;
    double f = x - below;
    if (f <= 0.0 || v->spec->type == INGOT_PARAM_BOOL || v->spec->type == INGOT_PARAM_CHOICE) *out = e->values[below];
    else *out = (1.0 - f) * e->values[below] + f * e->values[below + 1];
    return true;
  }
  return false;
}

/* One scalar, checked against the parameter's type and range. False after a problem. */
static bool read_scalar(const ingot_param_spec *spec, const ingot_value *v, ingot_problems *problems, double *out)
{
  ingot_status st = INGOT_OK;
  const char  *expected = NULL;
  switch (spec->type) {
  case INGOT_PARAM_REAL:
    if (!ingot_value_is_number(v)) expected = "a number";
    *out = v->real;
    break;
  case INGOT_PARAM_INT:
    if (v->kind != INGOT_VALUE_INT) expected = "a whole number";
    *out = v->real;
    break;
  case INGOT_PARAM_BOOL:
    if (v->kind != INGOT_VALUE_BOOL) expected = "true or false";
    *out = v->boolean;
    break;
  case INGOT_PARAM_CHOICE:
    if (v->kind != INGOT_VALUE_STRING) expected = "a string";
    else st = ingot_param_choice(spec, v->string, out);
    break;
  }
  if (expected) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected %s for %s, found %s", ingot_value_place(v), expected,
                       spec->name, ingot_value_kind_text(v->kind));
    return false;
  }
  if (st == INGOT_OK) st = ingot_param_check(spec, *out);
  if (st != INGOT_OK) ingot_problems_add(problems, st, "%s: %s", ingot_value_place(v), ingot_error_message());
  ingot_error_clear();
  return st == INGOT_OK;
}

/* A scalar or a gradient. *n stays 0 after a problem. */
static ingot_status read_curve(const ingot_param_spec *spec, const ingot_value *v, ingot_arena *arena,
                               ingot_problems *problems, ingot_param_entry *entry)
{
  ingot_status st = INGOT_OK;
  int          n = v->kind == INGOT_VALUE_LIST ? v->n_item : 1;
  bool         good = n > 0;
  if (!good) ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the list is empty", ingot_value_place(v));
  entry->values = ingot_arena_alloc(arena, (size_t)n, sizeof *entry->values);
  INGOT_TRY_ALLOC(entry->values);
  for (int i = 0; i < n; i++)
    good = read_scalar(spec, v->kind == INGOT_VALUE_LIST ? v->item[i] : v, problems, &entry->values[i]) && good;
  entry->n = good ? n : 0;
done:
  return st;
}

static bool is_filter_list(const ingot_value *v)
{
  return v->kind == INGOT_VALUE_LIST && v->n_item > 0 && v->item[0]->kind == INGOT_VALUE_GROUP;
}

typedef struct filter_group {
  const char        *filter;
  const ingot_value *value;
} filter_group;

static const ingot_key filter_keys[] = {
    {"filter", INGOT_KEY_STRING, false, NULL, NULL, offsetof(filter_group, filter), "part of a tensor's name"},
    {"value", INGOT_KEY_ANY, true, NULL, NULL, offsetof(filter_group, value), "scalar or gradient"},
};

/* Returns NULL in *out after a problem with the value. */
static ingot_status read_value(const ingot_param_spec *spec, const ingot_value *v, ingot_arena *arena,
                               ingot_problems *problems, const ingot_param_value **out)
{
  ingot_status       st = INGOT_OK;
  bool               filters = is_filter_list(v);
  int                n = filters ? v->n_item : 1;
  bool               good = true;
  ingot_param_value *result = ingot_arena_alloc(arena, 1, sizeof *result);
  INGOT_TRY_ALLOC(result);
  result->spec = spec;
  result->n_entry = n;
  result->entries = ingot_arena_alloc(arena, (size_t)n, sizeof *result->entries);
  INGOT_TRY_ALLOC(result->entries);
  for (int i = 0; i < n; i++) {
    filter_group group = {NULL, v};
    if (filters) {
      group.value = NULL;
      if (v->item[i]->kind != INGOT_VALUE_GROUP) {
        ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a group { filter = ...; value = ...; }, found %s",
                           ingot_value_place(v->item[i]), ingot_value_kind_text(v->item[i]->kind));
      } else {
        ingot_keys_read(filter_keys, 2, v->item[i], &group, NULL, 0, problems);
      }
      if (group.filter && strcmp(group.filter, "*") == 0) group.filter = NULL;
    }
    if (group.value) INGOT_TRY(read_curve(spec, group.value, arena, problems, &result->entries[i]));
    result->entries[i].filter = group.filter;
    good = good && result->entries[i].n > 0;
  }
  *out = good ? result : NULL;
done:
  return st;
}

static int table_index(const ingot_method *method, const char *name)
{
  for (int i = 0; i < method->n_param; i++)
    if (strcmp(method->params[i].name, name) == 0) return i;
  return -1;
}

/* A name that is not allowed here: say where it belongs, or which name is near. */
static void refuse_name(const ingot_method *method, unsigned allowed, const ingot_value *v,
                        const char *const *other_names, int n_other, ingot_problems *problems)
{
  enum { NAMES_MAX = 128 };
  const char *names[NAMES_MAX];
  int         n = 0;
  for (int i = 0; i < method->n_param && n < NAMES_MAX; i++)
    if (allowed & (method->params[i].scope == INGOT_PARAM_GLOBAL ? INGOT_ALLOW_GLOBAL : INGOT_ALLOW_PER_MODEL))
      names[n++] = method->params[i].name;
  for (int i = 0; i < n_other && n < NAMES_MAX; i++) names[n++] = other_names[i];
  const char *nearest = ingot_nearest_name(v->name, names, n);
  if (table_index(method, v->name) >= 0)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %s is one value for all models: it belongs into parameters",
                       ingot_value_place(v), v->name);
  else
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown parameter \"%s\" of method %s%s%s%s", ingot_value_place(v),
                       v->name, method->name, nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                       nearest ? "\"?" : "");
}

ingot_status ingot_param_set_read(const ingot_method *method, unsigned allowed, const ingot_value *group,
                                  const char *const *other_names, int n_other, ingot_arena *arena,
                                  ingot_problems *problems, ingot_param_set *out)
{
  ingot_status st = INGOT_OK;
  out->n_param = method->n_param;
  out->value = ingot_arena_alloc(arena, (size_t)method->n_param, sizeof *out->value);
  INGOT_TRY_ALLOC(out->value);
  for (int i = 0; group && i < group->n_item; i++) {
    const ingot_value *v = group->item[i];
    bool               other = false;
    for (int j = 0; j < n_other; j++) other = other || strcmp(other_names[j], v->name) == 0;
    if (other) continue;
    int      row = table_index(method, v->name);
    unsigned scope =
        row >= 0 && method->params[row].scope == INGOT_PARAM_PER_MODEL ? INGOT_ALLOW_PER_MODEL : INGOT_ALLOW_GLOBAL;
    if (row < 0 || !(allowed & scope)) refuse_name(method, allowed, v, other_names, n_other, problems);
    else INGOT_TRY(read_value(&method->params[row], v, arena, problems, &out->value[row]));
  }
done:
  return st;
}
