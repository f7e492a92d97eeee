#define _POSIX_C_SOURCE 200809L

#include "io/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ingot_status ingot_json_parse(const char *what, const void *bytes, size_t size, struct json_t **out)
{
  json_error_t error;
  *out = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &error);
  if (*out) return INGOT_OK;
  if (json_error_code(&error) == json_error_out_of_memory)
    return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for %zu bytes of JSON", what, size);
  return ingot_fail(INGOT_ERR_FORMAT, "%s: broken JSON at line %d, column %d (byte %d): %s", what, error.line,
                    error.column, error.position, error.text);
}

ingot_status ingot_json_read(const char *path, uint64_t max_bytes, struct json_t **out)
{
  ingot_status st = INGOT_OK;
  ingot_text   bytes = {0};
  *out = NULL;
  INGOT_TRY(ingot_file_append(path, max_bytes, &bytes));
  INGOT_TRY(ingot_json_parse(path, ingot_text_string(&bytes), bytes.size, out));
done:
  ingot_text_release(&bytes);
  return st;
}

const char *ingot_json_type_text(const struct json_t *value)
{
  if (!value) return "nothing";
  switch (json_typeof(value)) {
  case JSON_OBJECT: return "an object";
  case JSON_ARRAY: return "an array";
  case JSON_STRING: return "a string";
  case JSON_INTEGER: return "an integer";
  case JSON_REAL: return "a number with a fraction or exponent";
  case JSON_TRUE: return "true";
  case JSON_FALSE: return "false";
  case JSON_NULL: return "null";
  }
  return "an unknown value";
}

ingot_status ingot_json_append_string(ingot_text *text, const char *string)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_append(text, "\"", 1));
  for (const char *c = string; *c; c++) {
    unsigned char byte = (unsigned char)*c;
    if (byte == '"' || byte == '\\') INGOT_TRY(ingot_text_printf(text, "\\%c", byte));
    else if (byte < 0x20 || byte == 0x7f) INGOT_TRY(ingot_text_printf(text, "\\u%04x", byte));
    else INGOT_TRY(ingot_text_append(text, c, 1));
  }
  INGOT_TRY(ingot_text_append(text, "\"", 1));
done:
  return st;
}

ingot_status ingot_file_append(const char *path, uint64_t max_bytes, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  char         block[1 << 14];
  uint64_t     total = 0;
  int          fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* or a FIFO would hold us until somebody writes */
  INGOT_CHECK(fd >= 0, INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  INGOT_CHECK(fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: %s", path, strerror(errno));
  INGOT_CHECK(S_ISREG(info.st_mode), INGOT_ERR_FORMAT, "%s: not a regular file", path);
  for (;;) {
    ssize_t got = read(fd, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    INGOT_CHECK(got >= 0, INGOT_ERR_IO, "%s: reading failed: %s", path, strerror(errno));
    if (got == 0) break;
    total += (uint64_t)got;
    INGOT_CHECK(total <= max_bytes, INGOT_ERR_FORMAT, "%s: longer than the limit of %" PRIu64 " bytes", path,
                max_bytes);
    INGOT_TRY(ingot_text_append(bytes, block, (size_t)got));
  }
done:
  if (fd >= 0) close(fd);
  return st;
}
