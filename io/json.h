/** JSON: reading strictly, with positions in the messages, and writing strings. */
#ifndef INGOT_IO_JSON_H
#define INGOT_IO_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t; /* of Jansson */

/**
 * Parse one JSON value. Names that occur twice in an object are errors. `what` leads the message, usually the file.
 * The caller releases *out with json_decref. INGOT_ERR_FORMAT, INGOT_ERR_NOMEM.
 */
ingot_status ingot_json_parse(const char *what, const void *bytes, size_t size, struct json_t **out);
/** Read and parse a file of at most max_bytes. As ingot_json_parse; INGOT_ERR_NOTFOUND, INGOT_ERR_IO. */
ingot_status ingot_json_read(const char *path, uint64_t max_bytes, struct json_t **out);
/** "an object", "a string", ...: the type of a value for messages. */
const char *ingot_json_type_text(const struct json_t *value);

/** Append a JSON string with its quotes. Bytes above 127 pass as they are (UTF-8). */
ingot_status ingot_json_append_string(ingot_text *text, const char *string);

/** Append the contents of a file of at most max_bytes. INGOT_ERR_NOTFOUND, INGOT_ERR_FORMAT (too long),
 * INGOT_ERR_IO. */
ingot_status ingot_file_append(const char *path, uint64_t max_bytes, ingot_text *bytes);

#ifdef __cplusplus
}
#endif
#endif
