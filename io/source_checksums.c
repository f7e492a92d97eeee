/* Checksums of a source's tensors from the manifest that was written with it. */
#define _POSIX_C_SOURCE 200809L

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/json.h"
#include "io/source_table.h"

enum { MAX_MANIFEST_BYTES = 256 << 20, HEX_DIGITS = 16 };

static bool parse_hex(const char *text, uint64_t *out)
{
  uint64_t number = 0;
  if (strlen(text) != HEX_DIGITS) return false;
  for (int i = 0; i < HEX_DIGITS; i++) {
    const char *digits = "0123456789abcdef", *found = strchr(digits, text[i]);
    if (!found) return false;
    number = number << 4 | (uint64_t)(found - digits);
  }
  *out = number;
  return true;
}

static ingot_status take_checksum(ingot_source *src, const char *path, const char *name, const json_t *entry)
{
  uint64_t      checksum = 0;
  const json_t *value = json_object_get(entry, "checksum"); /* NULL when the entry is no object */
  int           i = ingot_source_find(src, name);
  if (i < 0) return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\" is not in %s", path, name, src->path);
  if (!json_is_string(value) || !parse_hex(json_string_value(value), &checksum))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": \"checksum\" is %s, expected 16 hexadecimal digits", path,
                      name, json_is_string(value) ? json_string_value(value) : ingot_json_type_text(value));
  if (!src->tensors[i].has_checksum) {
    src->tensors[i].has_checksum = true;
    src->tensors[i].checksum = checksum;
  }
  return INGOT_OK;
}

ingot_status ingot_source_load_checksums(ingot_source *src)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  json_t      *manifest = NULL, *entry;
  const char  *name;
  INGOT_TRY(ingot_text_printf(&path, src->kind == INGOT_SOURCE_HF_DIR ? "%s/ingot_manifest.json" : "%s.manifest.json",
                              src->path));
  const char *manifest_path = ingot_text_string(&path);
  if (access(manifest_path, F_OK) != 0) goto done;
  INGOT_TRY(ingot_json_read(manifest_path, MAX_MANIFEST_BYTES, &manifest));
  json_t *tensors = json_object_get(manifest, "tensors");
  INGOT_CHECK(json_is_object(tensors), INGOT_ERR_FORMAT, "%s: \"tensors\" is %s, not an object", manifest_path,
              ingot_json_type_text(tensors));
  json_object_foreach(tensors, name, entry) INGOT_TRY(take_checksum(src, manifest_path, name, entry));
done:
  json_decref(manifest);
  ingot_text_release(&path);
  return st;
}
