#include "driver/json_values.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/text.h"

json_t *ingot_json_text(const char *text)
{
  json_t *value = json_string(text);
  char   *plain = value ? NULL : ingot_strdup(text);
  for (char *p = plain; p && *p; p++)
    if ((unsigned char)*p >= 0x80) *p = '?';
  if (plain) value = json_string(plain);
  free(plain);
  return value;
}

char *ingot_json_dump(const json_t *value, size_t flags)
{
  char   *text = json_dumps(value, flags | JSON_REAL_PRECISION(15));
  json_t *back = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
  bool    same = back && json_equal(back, value);
  json_decref(back);
  if (same) return text;
  free(text);
  return json_dumps(value, flags | JSON_REAL_PRECISION(17));
}

json_t *ingot_json_number(double value)
{
  return isfinite(value) ? json_real(value) : json_null();
}

json_t *ingot_json_hash(uint64_t hash)
{
  char text[24];
  snprintf(text, sizeof text, "%016" PRIx64, hash);
  return json_string(text);
}

json_t *ingot_json_input(const char *key, const char *name, const char *path, uint64_t identity)
{
  json_t *input = json_object();
  if (key) json_object_set_new(input, key, ingot_json_text(name));
  json_object_set_new(input, "path", ingot_json_text(path));
  json_object_set_new(input, "identity", ingot_json_hash(identity));
  return input;
}

ingot_status ingot_json_append(json_t *tree, const char *what, ingot_text *text)
{
  ingot_status st = INGOT_OK;
  char        *plain = tree ? ingot_json_dump(tree, JSON_INDENT(1)) : NULL;
  INGOT_CHECK(plain, INGOT_ERR_NOMEM, "no memory for %s", what);
  INGOT_TRY(ingot_text_printf(text, "%s\n", plain));
done:
  free(plain);
  json_decref(tree);
  return st;
}
