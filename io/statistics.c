#define _POSIX_C_SOURCE 200809L

#include "io/statistics.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"

enum { FORMAT = 1, HEX_DIGITS = 16 };

static const char *const kind_names[] = {"fisher", "gram"};
static const char *const labels_names[] = {"given", "sampled", "exact"};
static const char *const loss_names[] = {"mean", "sum"};

const char *ingot_statistics_kind_name(ingot_statistics_kind kind)
{
  return kind_names[kind];
}

const char *ingot_statistics_labels_name(ingot_statistics_labels labels)
{
  return labels_names[labels];
}

const char *ingot_statistics_loss_name(ingot_statistics_loss loss)
{
  return loss_names[loss];
}

static ingot_status write_member(ingot_text *json, const char *name, const char *value)
{
  ingot_status st = ingot_text_printf(json, " \"%s\": ", name);
  return st == INGOT_OK ? ingot_json_append_string(json, value) : st;
}

static ingot_status write_lists(const ingot_statistics_info *info, ingot_text *json)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_printf(json, " \"data\": ["));
  for (int i = 0; i < info->n_data; i++) {
    INGOT_TRY(ingot_text_printf(json, "%s\n  {\"path\": ", i ? "," : ""));
    INGOT_TRY(ingot_json_append_string(json, info->data[i].path));
    INGOT_TRY(ingot_text_printf(json, ", \"identity\": \"%016" PRIx64 "\", \"windows\": %" PRId64 "}",
                                info->data[i].identity, info->data[i].n_window));
  }
  INGOT_TRY(ingot_text_printf(json, "],\n \"shared\": {"));
  for (int i = 0; i < info->n_shared; i++) {
    INGOT_TRY(ingot_text_printf(json, "%s\n  ", i ? "," : ""));
    INGOT_TRY(ingot_json_append_string(json, info->shared[i].name));
    INGOT_TRY(ingot_text_printf(json, ": "));
    INGOT_TRY(ingot_json_append_string(json, info->shared[i].holder));
  }
  INGOT_TRY(ingot_text_printf(json, "},\n \"transposed\": ["));
  for (int i = 0; i < info->n_transposed; i++) {
    INGOT_TRY(ingot_text_printf(json, "%s\n  ", i ? "," : ""));
    INGOT_TRY(ingot_json_append_string(json, info->transposed[i]));
  }
  INGOT_TRY(ingot_text_printf(json, "]\n}\n"));
done:
  return st;
}

ingot_status ingot_statistics_write(const ingot_statistics_info *info, ingot_text *json)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_printf(json, "{\n \"format\": %d,\n", FORMAT));
  INGOT_TRY(write_member(json, "kind", kind_names[info->kind]));
  INGOT_TRY(ingot_text_printf(json, ",\n \"model\": {\"path\": "));
  INGOT_TRY(ingot_json_append_string(json, info->model_path));
  INGOT_TRY(ingot_text_printf(json,
                              ", \"identity\": \"%016" PRIx64 "\"},\n \"examples\": %" PRId64 ",\n \"tokens\": %" PRId64
                              ",\n \"window\": %" PRId64 ",\n",
                              info->model_identity, info->n_example, info->n_token, info->n_window_token));
  INGOT_TRY(write_member(json, "labels", labels_names[info->labels]));
  INGOT_TRY(ingot_text_printf(json, ",\n"));
  INGOT_TRY(write_member(json, "loss", loss_names[info->loss]));
  INGOT_TRY(ingot_text_printf(json, ",\n"));
  INGOT_TRY(write_lists(info, json));
done:
  return st;
}

/*
 * Reading. Everything that the info points to lies behind it in one allocation: the members are read twice, once to
 * count bytes and once to place them.
 */
typedef struct reader {
  const char *what;
  char       *room; /* NULL while counting */
  size_t      used;
} reader;

static void *take(reader *r, size_t bytes)
{
  void *at = r->room ? r->room + r->used : NULL;
  r->used += (bytes + 15) / 16 * 16;
  return at;
}

static const char *take_string(reader *r, const char *s)
{
  size_t size = strlen(s) + 1;
  char  *at = take(r, size);
  return at ? memcpy(at, s, size) : "";
}

static ingot_status wrong(const reader *r, const char *member, const char *expected, const json_t *found)
{
  return ingot_fail(INGOT_ERR_FORMAT, "%s: \"%s\" is %s%s%s, expected %s", r->what, member,
                    json_is_string(found) ? "\"" : ingot_json_type_text(found),
                    json_is_string(found) ? json_string_value(found) : "", json_is_string(found) ? "\"" : "", expected);
}

static ingot_status read_count(const reader *r, const json_t *object, const char *member, int64_t *out)
{
  const json_t *v = json_object_get(object, member);
  *out = json_integer_value(v);
  return json_is_integer(v) && *out >= 0 ? INGOT_OK : wrong(r, member, "a whole number, not negative", v);
}

static ingot_status read_choice(const reader *r, const json_t *object, const char *member, const char *const *names,
                                int n, const char *expected, int *out)
{
  const json_t *v = json_object_get(object, member);
  for (*out = 0; *out < n; ++*out)
    if (json_is_string(v) && strcmp(json_string_value(v), names[*out]) == 0) return INGOT_OK;
  return wrong(r, member, expected, v);
}

static ingot_status read_identity(const reader *r, const json_t *object, uint64_t *out)
{
  const json_t *v = json_object_get(object, "identity");
  const char   *digits = "0123456789abcdef", *text = json_is_string(v) ? json_string_value(v) : "";
  *out = 0;
  if (strlen(text) != HEX_DIGITS) return wrong(r, "identity", "16 hexadecimal digits", v);
  for (int i = 0; i < HEX_DIGITS; i++) {
    const char *found = strchr(digits, text[i]);
    if (!found) return wrong(r, "identity", "16 hexadecimal digits", v);
    *out = *out << 4 | (uint64_t)(found - digits);
  }
  return INGOT_OK;
}

static ingot_status read_path(reader *r, const json_t *object, const char **out)
{
  const json_t *v = json_object_get(object, "path");
  *out = take_string(r, json_is_string(v) ? json_string_value(v) : "");
  return json_is_string(v) ? INGOT_OK : wrong(r, "path", "a string", v);
}

static ingot_status read_data(reader *r, const json_t *root, ingot_statistics_info *info)
{
  ingot_status  st = INGOT_OK;
  const json_t *list = json_object_get(root, "data");
  if (!list) goto done;
  if (!json_is_array(list)) INGOT_TRY(wrong(r, "data", "an array", list));
  info->n_data = (int)json_array_size(list);
  ingot_statistics_data *rows = take(r, (size_t)info->n_data * sizeof *rows);
  info->data = rows;
  for (int i = 0; i < info->n_data; i++) {
    const json_t         *v = json_array_get(list, (size_t)i);
    ingot_statistics_data row = {0};
    if (!json_is_object(v)) INGOT_TRY(wrong(r, "data", "an array of objects", v));
    INGOT_TRY(read_path(r, v, &row.path));
    INGOT_TRY(read_identity(r, v, &row.identity));
    INGOT_TRY(read_count(r, v, "windows", &row.n_window));
    if (rows) rows[i] = row;
  }
done:
  return st;
}

static ingot_status read_shared(reader *r, json_t *root, ingot_statistics_info *info)
{
  ingot_status st = INGOT_OK;
  json_t      *object = json_object_get(root, "shared"), *v;
  const char  *name;
  int          i = 0;
  if (!object) goto done;
  if (!json_is_object(object)) INGOT_TRY(wrong(r, "shared", "an object", object));
  info->n_shared = (int)json_object_size(object);
  ingot_statistics_share *rows = take(r, (size_t)info->n_shared * sizeof *rows);
  info->shared = rows;
  json_object_foreach(object, name, v)
  {
    if (!json_is_string(v)) INGOT_TRY(wrong(r, "shared", "an object of strings", v));
    ingot_statistics_share row = {take_string(r, name), take_string(r, json_string_value(v))};
    if (rows) rows[i++] = row;
  }
done:
  return st;
}

static ingot_status read_transposed(reader *r, const json_t *root, ingot_statistics_info *info)
{
  ingot_status  st = INGOT_OK;
  const json_t *list = json_object_get(root, "transposed");
  if (!list) goto done;
  if (!json_is_array(list)) INGOT_TRY(wrong(r, "transposed", "an array", list));
  info->n_transposed = (int)json_array_size(list);
  const char **rows = take(r, (size_t)info->n_transposed * sizeof *rows);
  info->transposed = rows;
  for (int i = 0; i < info->n_transposed; i++) {
    const json_t *v = json_array_get(list, (size_t)i);
    if (!json_is_string(v)) INGOT_TRY(wrong(r, "transposed", "an array of strings", v));
    const char *name = take_string(r, json_string_value(v));
    if (rows) rows[i] = name;
  }
done:
  return st;
}

static ingot_status read_members(reader *r, json_t *root, ingot_statistics_info *info)
{
  ingot_status  st = INGOT_OK;
  int64_t       format;
  int           kind, labels, loss;
  const json_t *model = json_object_get(root, "model");
  if (!json_is_object(root))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: expected an object, found %s", r->what, ingot_json_type_text(root));
  INGOT_TRY(read_count(r, root, "format", &format));
  INGOT_CHECK(format == FORMAT, INGOT_ERR_FORMAT, "%s: \"format\" is %" PRId64 ", this program reads %d", r->what,
              format, FORMAT);
  INGOT_TRY(read_choice(r, root, "kind", kind_names, INGOT_STATISTICS_KIND_COUNT, "\"fisher\" or \"gram\"", &kind));
  if (!json_is_object(model)) INGOT_TRY(wrong(r, "model", "an object", model));
  INGOT_TRY(read_path(r, model, &info->model_path));
  INGOT_TRY(read_identity(r, model, &info->model_identity));
  INGOT_TRY(read_count(r, root, "examples", &info->n_example));
  INGOT_TRY(read_count(r, root, "tokens", &info->n_token));
  INGOT_TRY(read_count(r, root, "window", &info->n_window_token));
  INGOT_TRY(
      read_choice(r, root, "labels", labels_names, INGOT_LABELS_COUNT, "\"given\", \"sampled\" or \"exact\"", &labels));
  INGOT_TRY(read_choice(r, root, "loss", loss_names, INGOT_LOSS_COUNT, "\"mean\" or \"sum\"", &loss));
  info->kind = (ingot_statistics_kind)kind;
  info->labels = (ingot_statistics_labels)labels;
  info->loss = (ingot_statistics_loss)loss;
  INGOT_TRY(read_data(r, root, info));
  INGOT_TRY(read_shared(r, root, info));
  INGOT_TRY(read_transposed(r, root, info));
done:
  return st;
}

ingot_status ingot_statistics_parse(const char *what, const void *bytes, size_t size, ingot_statistics_info **out)
{
  ingot_status          st = INGOT_OK;
  json_t               *root = NULL;
  ingot_statistics_info counted = {0};
  reader                r = {.what = what};
  *out = NULL;
  INGOT_TRY(ingot_json_parse(what, bytes, size, &root));
  (void)take(&r, sizeof **out);
  INGOT_TRY(read_members(&r, root, &counted));
  r.room = calloc(1, r.used);
  INGOT_CHECK(r.room, INGOT_ERR_NOMEM, "%s: no memory for %zu bytes", what, r.used);
  r.used = 0;
  *out = take(&r, sizeof **out);
  INGOT_TRY(read_members(&r, root, *out));
done:
  json_decref(root);
  if (st != INGOT_OK) ingot_statistics_free(out);
  return st;
}

ingot_status ingot_statistics_of_source(const ingot_source *source, ingot_statistics_info **out)
{
  ingot_status st = INGOT_OK;
  ingot_text   bytes = {0}, what = {0};
  int          i = ingot_source_find_side_file(source, INGOT_STATISTICS_FILE);
  *out = NULL;
  if (i < 0) goto done;
  INGOT_TRY(ingot_source_side_file_read(source, i, &bytes));
  INGOT_TRY(ingot_text_printf(&what, "%s: %s", ingot_source_path(source), INGOT_STATISTICS_FILE));
  INGOT_TRY(ingot_statistics_parse(ingot_text_string(&what), ingot_text_string(&bytes), bytes.size, out));
done:
  ingot_text_release(&bytes);
  ingot_text_release(&what);
  return st;
}

void ingot_statistics_free(ingot_statistics_info **info)
{
  free(*info);
  *info = NULL;
}

/* Under a name, and under it without ".weight". */
static ingot_status look(ingot_statistics_lookup lookup, const void *context, const char *name, const char *suffix,
                         bool without_weight, int *index)
{
  static const char weight[] = ".weight";
  ingot_status      st = INGOT_OK;
  ingot_text        text = {0};
  size_t            n = strlen(name), n_weight = sizeof weight - 1;
  INGOT_TRY(ingot_text_printf(&text, "%s%s", name, suffix));
  *index = lookup(context, ingot_text_string(&text));
  if (*index < 0 && without_weight && n > n_weight && strcmp(name + n - n_weight, weight) == 0) {
    text.size = 0;
    INGOT_TRY(ingot_text_printf(&text, "%.*s%s", (int)(n - n_weight), name, suffix));
    *index = lookup(context, ingot_text_string(&text));
  }
done:
  ingot_text_release(&text);
  return st;
}

ingot_status ingot_statistics_find(const ingot_statistics_info *info, ingot_statistics_lookup lookup,
                                   const void *context, const char *name, ingot_statistics_use use, int *index)
{
  const char *suffix = use == INGOT_USE_OUTPUT_GRAM ? INGOT_STATISTICS_OUTPUT_SUFFIX : "";
  if (info && use == INGOT_USE_GRAM)
    for (int i = 0; i < info->n_shared; i++)
      if (strcmp(info->shared[i].name, name) == 0) {
        name = info->shared[i].holder;
        break;
      }
  return look(lookup, context, name, suffix, !info && use != INGOT_USE_FISHER, index);
}

bool ingot_statistics_is_transposed(const ingot_statistics_info *info, const char *name)
{
  for (int i = 0; info && i < info->n_transposed; i++)
    if (strcmp(info->transposed[i], name) == 0) return true;
  return false;
}

int64_t ingot_gram_width(const ingot_shape *shape, bool *packed)
{
  *packed = shape->n_dim == 1;
  if (shape->n_dim == 2) return shape->dim[0] == shape->dim[1] ? shape->dim[0] : -1;
  if (shape->n_dim != 1) return -1;
  /* n (n + 1) / 2 grows strictly: bisection, up to widths whose packed length fits in 62 bits */
  int64_t low = 0, high = INT64_C(1) << 31;
  while (low < high) {
    int64_t middle = low + (high - low) / 2;
    if (ingot_gram_packed_count(middle) < shape->dim[0]) low = middle + 1;
    else high = middle;
  }
  return ingot_gram_packed_count(low) == shape->dim[0] ? low : -1;
}
