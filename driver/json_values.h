/** JSON as this program writes it: texts of any bytes, numbers that come back the same, hashes, inputs. NULL: memory is
 * out. */
#ifndef INGOT_DRIVER_JSON_VALUES_H
#define INGOT_DRIVER_JSON_VALUES_H

#include <jansson.h>
#include <stdint.h>

#include "base/text.h"

/** JSON text with 15 digits where all numbers come back the same, else 17. NULL when memory is out; free() it. */
char *ingot_json_dump(const json_t *value, size_t flags);
/** As a file has it: indented, with a line's end, appended. Takes the tree (NULL: memory is out); `what` it is, for the
 * message. */
ingot_status ingot_json_append(json_t *tree, const char *what, ingot_text *text);
/** A JSON string of any bytes: what is not UTF-8 becomes '?'. */
json_t *ingot_json_text(const char *text);
/** A number, or null when it is not finite. */
json_t *ingot_json_number(double value);
/** 16 hexadecimal digits. */
json_t *ingot_json_hash(uint64_t hash);
/** An input of a step: `key` (NULL: none): name, "path", "identity". */
json_t *ingot_json_input(const char *key, const char *name, const char *path, uint64_t identity);

#endif
