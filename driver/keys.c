#include "driver/keys.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_MAX = 128, LAYERS_MAX = 1 << 20 };

int ingot_choice_index(const char *const *choices, const char *name)
{
  for (int i = 0; choices[i]; i++)
    if (strcmp(choices[i], name) == 0) return i;
  return -1;
}

int ingot_keys_count(const ingot_key *keys)
{
  int n = 0;
  while (keys[n].name) n++;
  return n;
}

bool ingot_parse_size(const char *text, uint64_t *bytes)
{
  static const struct {
    const char *name;
    uint64_t    factor;
  } units[] = {{"", 1},
               {"B", 1},
               {"KB", 1000},
               {"MB", 1000000},
               {"GB", 1000000000},
               {"TB", 1000000000000},
               {"KiB", 1u << 10},
               {"MiB", 1u << 20},
               {"GiB", 1u << 30},
               {"TiB", (uint64_t)1 << 40}};
  if (!isdigit((unsigned char)text[0])) return false;
  char  *end = NULL;
  double value = strtod(text, &end);
  while (*end == ' ') end++;
  for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
    if (strcmp(end, units[i].name) != 0) continue;
    double result = value * (double)units[i].factor;
    if (!(result >= 0.0) || result > 9.0e18) return false;
    *bytes = (uint64_t)result;
    return true;
  }
  return false;
}

const ingot_key_range *ingot_key_range_of(const ingot_key *key)
{
  static const ingot_key_range not_negative = {0.0, INFINITY, false, false};
  if (key->type != INGOT_KEY_INT && key->type != INGOT_KEY_REAL) return NULL;
  return key->allowed || key->type == INGOT_KEY_REAL ? key->allowed : &not_negative;
}

/* "1 to 256", "0 to below 1", "above 0", "0 or more", "at most 0". */
static ingot_status range_text(const ingot_key_range *r, ingot_text *text)
{
  if (isinf(r->low)) return ingot_text_printf(text, "%s %.15g", r->high_open ? "below" : "at most", r->high);
  ingot_status st = ingot_text_printf(text, "%s%.15g", r->low_open ? "above " : "", r->low);
  if (st != INGOT_OK) return st;
  if (isinf(r->high)) return r->low_open ? INGOT_OK : ingot_text_printf(text, " or more");
  return ingot_text_printf(text, " to %s%.15g", r->high_open ? "below " : "", r->high);
}

ingot_status ingot_key_type_text(const ingot_key *key, ingot_text *text)
{
  static const char *const names[] = {"string", "integer", "bool",  "size",  "",
                                      "group",  "list",    "range", "value", "number"};
  ingot_status             st = INGOT_OK;
  const ingot_key_range   *range = ingot_key_range_of(key);
  const char *const       *choices = key->type == INGOT_KEY_CHOICE ? key->allowed : NULL;
  if (!choices) st = ingot_text_printf(text, "%s%s", names[key->type], range ? ", " : "");
  if (st == INGOT_OK && range) st = range_text(range, text);
  for (int i = 0; st == INGOT_OK && choices && choices[i]; i++)
    st = ingot_text_printf(text, "%s%s", i ? "|" : "", choices[i]);
  return st;
}

static void wrong_type(const ingot_value *v, const char *expected, ingot_problems *problems)
{
  ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected %s, found %s", ingot_value_place(v), expected,
                     ingot_value_kind_text(v->kind));
}

static void unknown_name(const ingot_value *v, const char *what, const char *name, const char *const *names, int n_name,
                         ingot_problems *problems)
{
  const char *nearest = ingot_nearest_name(name, names, n_name);
  if (nearest)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown %s \"%s\"; did you mean \"%s\"?", ingot_value_place(v),
                       what, name, nearest);
  else ingot_problems_add(problems, INGOT_ERR_JOB, "%s: unknown %s \"%s\"", ingot_value_place(v), what, name);
}

static void read_choice(const ingot_key *key, const ingot_value *v, int *field, ingot_problems *problems)
{
  const char *const *choices = key->allowed;
  int                n = 0;
  while (choices[n]) n++;
  if (v->kind != INGOT_VALUE_STRING) {
    ingot_text text = {0};
    if (ingot_key_type_text(key, &text) == INGOT_OK) {
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected a string, one of %s; found %s", ingot_value_place(v),
                         ingot_text_string(&text), ingot_value_kind_text(v->kind));
    }
    ingot_text_release(&text);
    return;
  }
  int index = ingot_choice_index(choices, v->string);
  if (index >= 0) *field = index;
  else unknown_name(v, "value", v->string, choices, n, problems);
}

static void read_size(const ingot_value *v, uint64_t *field, ingot_problems *problems)
{
  if (v->kind == INGOT_VALUE_INT && v->integer >= 0) *field = (uint64_t)v->integer;
  else if (v->kind != INGOT_VALUE_STRING || !ingot_parse_size(v->string, field))
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: expected bytes, such as \"5GB\", \"512MiB\" or 4096",
                       ingot_value_place(v));
}

/* Whether a number is in the key's range; adds a problem where it is not. */
static bool in_range(const ingot_key *key, const ingot_value *v, ingot_problems *problems)
{
  const ingot_key_range *r = ingot_key_range_of(key);
  ingot_text             text = {0};
  if (!r ||
      ((r->low_open ? v->real > r->low : v->real >= r->low) && (r->high_open ? v->real < r->high : v->real <= r->high)))
    return true;
  if (range_text(r, &text) == INGOT_OK)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: %.15g is out of range: %s (%s)", ingot_value_place(v), v->real,
                       ingot_text_string(&text), key->help);
  ingot_text_release(&text);
  return false;
}

static bool is_range(const ingot_value *v)
{
  return v->kind == INGOT_VALUE_LIST && v->n_item == 2 && v->item[0]->kind == INGOT_VALUE_INT &&
         v->item[1]->kind == INGOT_VALUE_INT && v->item[0]->integer >= 0 && v->item[1]->integer > v->item[0]->integer &&
         v->item[1]->integer <= LAYERS_MAX;
}

/* Type and value of one key; field is where it goes, or a scratch place. */
static void read_key(const ingot_key *key, const ingot_value *v, void *field, ingot_problems *problems)
{
  switch (key->type) {
  case INGOT_KEY_STRING:
    if (v->kind != INGOT_VALUE_STRING) wrong_type(v, "a string", problems);
    else if (!v->string[0])
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: the string is empty", ingot_value_place(v));
    else *(const char **)field = v->string;
    break;
  case INGOT_KEY_INT:
    if (v->kind != INGOT_VALUE_INT) wrong_type(v, "a whole number", problems);
    else if (in_range(key, v, problems)) *(int64_t *)field = v->integer;
    break;
  case INGOT_KEY_BOOL:
    if (v->kind != INGOT_VALUE_BOOL) wrong_type(v, "true or false", problems);
    else *(bool *)field = v->boolean;
    break;
  case INGOT_KEY_SIZE: read_size(v, field, problems); break;
  case INGOT_KEY_CHOICE: read_choice(key, v, field, problems); break;
  case INGOT_KEY_GROUP:
    if (v->kind != INGOT_VALUE_GROUP) wrong_type(v, "a group { }", problems);
    else *(const ingot_value **)field = v;
    break;
  case INGOT_KEY_LIST:
    if (v->kind != INGOT_VALUE_LIST) wrong_type(v, "a list ( )", problems);
    else *(const ingot_value **)field = v;
    break;
  case INGOT_KEY_RANGE:
    if (!is_range(v))
      ingot_problems_add(problems, INGOT_ERR_JOB,
                         "%s: expected a range of layers [first, end] with whole numbers, 0 <= first < end <= %d",
                         ingot_value_place(v), LAYERS_MAX);
    else *(const ingot_value **)field = v;
    break;
  case INGOT_KEY_ANY: *(const ingot_value **)field = v; break;
  case INGOT_KEY_REAL:
    if (!ingot_value_is_number(v) || !isfinite(v->real)) wrong_type(v, "a number", problems);
    else if (in_range(key, v, problems)) *(double *)field = v->real;
    break;
  }
}

/* The default of a scalar key; compound ones and those without a default stay zero. */
static void set_default(const ingot_key *key, void *field)
{
  const char *text = key->default_text;
  if (!text) return;
  switch (key->type) {
  case INGOT_KEY_STRING: *(const char **)field = text; break;
  case INGOT_KEY_INT: *(int64_t *)field = strtoll(text, NULL, 10); break;
  case INGOT_KEY_BOOL: *(bool *)field = strcmp(text, "true") == 0; break;
  case INGOT_KEY_SIZE: INGOT_ASSERT(ingot_parse_size(text, field)); break;
  case INGOT_KEY_CHOICE: *(int *)field = ingot_choice_index(key->allowed, text); break;
  case INGOT_KEY_REAL: *(double *)field = strtod(text, NULL); break;
  case INGOT_KEY_GROUP:
  case INGOT_KEY_LIST:
  case INGOT_KEY_RANGE:
  case INGOT_KEY_ANY: break;
  }
}

static const ingot_key *find_key(const ingot_key *keys, int n_key, const char *name)
{
  for (int i = 0; i < n_key; i++)
    if (strcmp(keys[i].name, name) == 0) return &keys[i];
  return NULL;
}

void ingot_keys_read(const ingot_key *keys, int n_key, const ingot_value *group, void *target,
                     const char *const *other_names, int n_other, ingot_problems *problems)
{
  union {
    const void *pointer;
    uint64_t    number;
  } scratch;
  const char *names[NAMES_MAX];
  int         n_name = 0;
  for (int i = 0; i < n_key && n_name < NAMES_MAX; i++) names[n_name++] = keys[i].name;
  for (int i = 0; i < n_other && n_name < NAMES_MAX; i++) names[n_name++] = other_names[i];

  for (int i = 0; i < n_key; i++) {
    if (keys[i].offset != INGOT_KEY_NO_FIELD) set_default(&keys[i], (char *)target + keys[i].offset);
    if (keys[i].required && !ingot_value_member(group, keys[i].name))
      ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is missing (%s)", ingot_value_place(group), keys[i].name,
                         keys[i].help);
  }
  for (int i = 0; i < group->n_item; i++) {
    const ingot_value *v = group->item[i];
    const ingot_key   *key = find_key(keys, n_key, v->name);
    if (key) {
      read_key(key, v, key->offset == INGOT_KEY_NO_FIELD ? (void *)&scratch : (char *)target + key->offset, problems);
      continue;
    }
    bool other = false;
    for (int j = 0; j < n_other; j++) other = other || strcmp(other_names[j], v->name) == 0;
    if (!other) unknown_name(v, "key", v->name, names, n_name, problems);
  }
}
