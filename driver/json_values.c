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
