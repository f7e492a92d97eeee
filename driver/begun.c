#define _POSIX_C_SOURCE 200809L
#include "driver/begun.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver/recipe.h"
#include "driver/version.h"
#include "io/atomic_file.h"
#include "io/json.h"

static const char SUFFIX[] = ".begun.json";
enum { BEGUN_MAX = 1 << 28, NAMED_MAX = 4, VALUE_MAX = 60 };

/* ---- what differs ---- */

typedef struct difference {
  ingot_text *text;
  int         n; /* found so far; the first NAMED_MAX are in the text */
} difference;

/* Begin another entry of the list; false when it is only counted. */
static bool next_entry(difference *d, ingot_status *st)
{
  if (d->n++ >= NAMED_MAX) return false;
  if (d->n > 1) *st = ingot_text_printf(d->text, "; ");
  return *st == INGOT_OK;
}

static void value_text(const json_t *value, char text[VALUE_MAX])
{
  char *plain = value ? ingot_json_dump(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
  snprintf(text, VALUE_MAX, "%s", plain ? plain : "not set");
  if (plain && strlen(plain) >= VALUE_MAX) snprintf(text + VALUE_MAX - 4, 4, "...");
  free(plain);
}

static ingot_status compare(difference *d, const char *path, json_t *was, json_t *now);

static ingot_status compare_member(difference *d, const char *path, const char *key, json_t *was, json_t *now)
{
  ingot_text   inner = {0};
  ingot_status st = ingot_text_printf(&inner, "%s%s%s", path, path[0] ? "." : "", key);
  if (st == INGOT_OK) st = compare(d, ingot_text_string(&inner), was, now);
  ingot_text_release(&inner);
  return st;
}

static ingot_status compare_objects(difference *d, const char *path, json_t *was, json_t *now)
{
  ingot_status st = INGOT_OK;
  const char  *key;
  json_t      *value;
  json_object_foreach(was, key, value) INGOT_TRY(compare_member(d, path, key, value, json_object_get(now, key)));
  json_object_foreach(now, key, value) if (!json_object_get(was, key))
      INGOT_TRY(compare_member(d, path, key, NULL, value));
done:
  return st;
}

static ingot_status compare(difference *d, const char *path, json_t *was, json_t *now)
{
  ingot_status st = INGOT_OK;
  char         was_text[VALUE_MAX], now_text[VALUE_MAX];
  if (json_is_object(was) && json_is_object(now)) return compare_objects(d, path, was, now);
  if (json_is_array(was) && json_is_array(now) && json_array_size(was) == json_array_size(now)) {
    for (size_t i = 0; i < json_array_size(was); i++) {
      char key[24];
      snprintf(key, sizeof key, "%zu", i);
      INGOT_TRY(compare_member(d, path, key, json_array_get(was, i), json_array_get(now, i)));
    }
    goto done;
  }
  value_text(was, was_text);
  value_text(now, now_text);
  if (strcmp(was_text, now_text) == 0 && json_equal(was, now)) goto done;
  if (next_entry(d, &st)) st = ingot_text_printf(d->text, "%s was %s, is %s", path, was_text, now_text);
done:
  return st;
}

static const char *member_text(const json_t *tree, const char *key)
{
  const char *text = json_string_value(json_object_get(tree, key));
  return text ? text : "?";
}

static ingot_status compare_input(difference *d, const json_t *was, const json_t *now)
{
  ingot_status st = INGOT_OK;
  const char  *id = member_text(was ? was : now, "id"), *path = member_text(now ? now : was, "path");
  if (was && now && json_equal(json_object_get(was, "identity"), json_object_get(now, "identity"))) return INGOT_OK;
  if (!next_entry(d, &st)) return st;
  if (!was) return ingot_text_printf(d->text, "input \"%s\" (%s) was not there", id, path);
  if (!now) return ingot_text_printf(d->text, "input \"%s\" (%s) is no longer there", id, path);
  const char *old_path = member_text(was, "path");
  st = ingot_text_printf(d->text, "input \"%s\" (%s", id, path);
  if (st == INGOT_OK && strcmp(old_path, path) != 0) st = ingot_text_printf(d->text, ", was %s", old_path);
  if (st == INGOT_OK)
    st = ingot_text_printf(d->text,
                           ") has changed: was %" JSON_INTEGER_FORMAT " bytes, identity %s, is %" JSON_INTEGER_FORMAT
                           " bytes, identity %s",
                           json_integer_value(json_object_get(was, "bytes")), member_text(was, "identity"),
                           json_integer_value(json_object_get(now, "bytes")), member_text(now, "identity"));
  return st;
}

/* Inputs by their place in the list, as long as the ids there are the same. */
static ingot_status compare_inputs(difference *d, const json_t *was, const json_t *now)
{
  ingot_status st = INGOT_OK;
  size_t       n_was = json_array_size(was), n_now = json_array_size(now);
  for (size_t i = 0; i < n_was || i < n_now; i++) {
    const json_t *a = json_array_get(was, i), *b = json_array_get(now, i);
    if (a && b && strcmp(member_text(a, "id"), member_text(b, "id")) != 0) {
      INGOT_TRY(compare_input(d, a, NULL));
      INGOT_TRY(compare_input(d, NULL, b));
    } else {
      INGOT_TRY(compare_input(d, a, b));
    }
  }
done:
  return st;
}

json_t *ingot_inputs_list(const ingot_step_plan *plan)
{
  json_t *list = json_array();
  for (int i = 0; i < plan->n_input; i++) {
    const ingot_plan_input *in = &plan->inputs[i];
    char                    identity[24];
    snprintf(identity, sizeof identity, "%016" PRIx64, in->identity);
    json_array_append_new(list,
                          json_pack("{s:o, s:o, s:I, s:s}", "id", ingot_json_text(in->id), "path",
                                    ingot_json_text(in->path), "bytes", (json_int_t)in->bytes, "identity", identity));
  }
  return list;
}

ingot_status ingot_begun_difference(const json_t *tree, const ingot_step_plan *plan, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  difference   d = {text, 0};
  json_t      *recipe = json_loads(plan->recipe ? plan->recipe : "null", JSON_DECODE_ANY, NULL);
  json_t      *inputs = ingot_inputs_list(plan);
  INGOT_TRY(compare(&d, "", json_object_get(tree, "recipe"), recipe));
  INGOT_TRY(compare_inputs(&d, json_object_get(tree, "inputs"), inputs));
  if (d.n > NAMED_MAX) INGOT_TRY(ingot_text_printf(text, "; and %d more", d.n - NAMED_MAX));
  if (d.n == 0)
    INGOT_TRY(ingot_text_printf(
        text, "the output's layout or files beside the tensors differ, or the program's version (was %s, is %s)",
        member_text(tree, "program"), ingot_version_text()));
done:
  json_decref(recipe);
  json_decref(inputs);
  return st;
}

/* ---- the file ---- */

static ingot_status look_for_work(void *context, int folder, const char *name, const char *tail)
{
  static const char *const kinds[] = {"partial", "journal", "state."};
  bool                    *found = context;
  (void)folder;
  (void)name;
  for (int i = 0; i < 3; i++) *found = *found || strncmp(tail, kinds[i], strlen(kinds[i])) == 0;
  return INGOT_OK;
}

/* Whether there is unfinished work beside an output: tiles written, or the saved states of a step that runs models. */
static bool is_needed(const char *output)
{
  bool found = false;
  if (ingot_file_each_beside(output, ".", look_for_work, &found) == INGOT_OK) return found;
  ingot_error_clear();
  return true;
}

/* *tree becomes NULL where there is no file, or none that can be read. */
static ingot_status read_note(const char *output, json_t **tree)
{
  ingot_status st = INGOT_OK;
  char        *path = ingot_file_sibling(output, SUFFIX);
  *tree = NULL;
  INGOT_CHECK(path, INGOT_ERR_NOMEM, "%s: no memory for its name", output);
  if (access(path, F_OK) == 0 && ingot_json_read(path, BEGUN_MAX, tree) != INGOT_OK) ingot_error_clear();
done:
  free(path);
  return st;
}

static bool has_fingerprint(const json_t *tree, uint64_t fingerprint)
{
  char text[24];
  snprintf(text, sizeof text, "%016" PRIx64, fingerprint);
  return strcmp(member_text(tree, "fingerprint"), text) == 0;
}

ingot_status ingot_begun_look(const ingot_step_plan *plan, ingot_text *why)
{
  ingot_status st = INGOT_OK;
  json_t      *tree = NULL;
  INGOT_TRY(read_note(plan->output, &tree));
  if (tree && is_needed(plan->output) && !has_fingerprint(tree, plan->fingerprint))
    st = ingot_begun_difference(tree, plan, why);
done:
  json_decref(tree);
  return st;
}

bool ingot_begun_by(const ingot_step_plan *plan)
{
  json_t *tree = NULL;
  if (read_note(plan->output, &tree) != INGOT_OK) ingot_error_clear();
  bool same = tree && has_fingerprint(tree, plan->fingerprint);
  json_decref(tree);
  return same;
}

ingot_status ingot_begun_write(const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  char         fingerprint[24], *text = NULL;
  char        *path = ingot_file_sibling(plan->output, SUFFIX);
  snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, plan->fingerprint);
  json_t *tree = json_pack("{s:s, s:s, s:o, s:o}", "program", ingot_version_text(), "fingerprint", fingerprint,
                           "recipe", json_loads(plan->recipe ? plan->recipe : "null", JSON_DECODE_ANY, NULL), "inputs",
                           ingot_inputs_list(plan));
  text = tree ? ingot_json_dump(tree, JSON_INDENT(1)) : NULL;
  INGOT_CHECK(path && text, INGOT_ERR_NOMEM, "%s: no memory to note what it is made from", plan->output);
  INGOT_TRY(ingot_file_make_parents(path));
  INGOT_TRY(ingot_file_replace(path, text, strlen(text), false));
done:
  free(text);
  free(path);
  json_decref(tree);
  return st;
}

ingot_status ingot_begun_remove(const char *output, bool unless_needed)
{
  if (unless_needed && is_needed(output)) return INGOT_OK;
  char *path = ingot_file_sibling(output, SUFFIX);
  if (!path) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its name", output);
  ingot_status st = ingot_file_remove(path);
  free(path);
  return st;
}
