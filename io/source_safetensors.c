/*
 * The safetensors format:
 *   bytes 0 to 7    length n of the header, little-endian
 *   bytes 8 to 8+n  JSON object, perhaps with spaces after it: name -> {"dtype", "shape", "data_offsets": [begin,
 * end]}, and "__metadata__" -> {name: text} then            the payload; offsets count from its first byte, and the
 * tensors fill it without holes
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "io/json.h"
#include "io/source_table.h"

enum { LENGTH_BYTES = 8 };
static const uint64_t max_header_bytes = 100u * 1000u * 1000u; /* the limit of the reference implementation */

static uint64_t read_length(const unsigned char *bytes)
{
  uint64_t length = 0;
  for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | bytes[i];
  return length;
}

static ingot_status check_metadata(const char *path, json_t *metadata)
{
  const char *key;
  json_t     *value;
  if (!json_is_object(metadata))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: \"__metadata__\" is %s, not an object", path,
                      ingot_json_type_text(metadata));
  json_object_foreach(metadata, key, value) if (!json_is_string(value)) return ingot_fail(
      INGOT_ERR_FORMAT, "%s: \"__metadata__\": \"%s\" is %s, not a string", path, key, ingot_json_type_text(value));
  return INGOT_OK;
}

static ingot_status parse_dtype(const char *path, const char *name, const json_t *value, ingot_dtype *out)
{
  if (!json_is_string(value))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": \"dtype\" is %s, not a string", path, name,
                      ingot_json_type_text(value));
  const char *text = json_string_value(value);
  for (int d = 0; d < INGOT_DTYPE_COUNT; d++) { /* the format's own names only: no "bfloat16" in a header */
    if (strcmp(text, ingot_dtype_name((ingot_dtype)d)) == 0) {
      *out = (ingot_dtype)d;
      return INGOT_OK;
    }
  }
  return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": unknown dtype \"%s\"", path, name, text);
}

static ingot_status parse_shape(const char *path, const char *name, const json_t *value, ingot_shape *out)
{
  if (!json_is_array(value))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": \"shape\" is %s, not an array", path, name,
                      ingot_json_type_text(value));
  size_t n = json_array_size(value);
  if (n > INGOT_MAX_DIMS)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": shape has %zu dimensions, at most %d are supported", path,
                      name, n, INGOT_MAX_DIMS);
  out->n_dim = (int)n;
  for (size_t i = 0; i < n; i++) {
    const json_t *extent = json_array_get(value, i);
    if (!json_is_integer(extent))
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": shape[%zu] is %s, not an integer", path, name, i,
                        ingot_json_type_text(extent));
    if (json_integer_value(extent) < 0)
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": shape[%zu] is negative: %" JSON_INTEGER_FORMAT, path,
                        name, i, json_integer_value(extent));
    out->dim[i] = json_integer_value(extent);
  }
  return INGOT_OK;
}

static ingot_status parse_offsets(const char *path, const char *name, const json_t *value, uint64_t payload_bytes,
                                  uint64_t range[2])
{
  if (!json_is_array(value) || json_array_size(value) != 2)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": \"data_offsets\" is %s, not an array of two", path, name,
                      json_is_array(value) ? "an array of another length" : ingot_json_type_text(value));
  for (size_t i = 0; i < 2; i++) {
    const json_t *offset = json_array_get(value, i);
    if (!json_is_integer(offset))
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": data_offsets[%zu] is %s, not an integer", path, name, i,
                        ingot_json_type_text(offset));
    if (json_integer_value(offset) < 0)
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": data_offsets[%zu] is negative: %" JSON_INTEGER_FORMAT,
                        path, name, i, json_integer_value(offset));
    range[i] = (uint64_t)json_integer_value(offset);
  }
  if (range[0] > range[1])
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64 "] end before they begin", path, name,
                      range[0], range[1]);
  if (range[1] > payload_bytes)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: tensor \"%s\": data_offsets [%" PRIu64 ", %" PRIu64
                      "] reach beyond the file, which has %" PRIu64 " bytes after its header (truncated?)",
                      path, name, range[0], range[1], payload_bytes);
  return INGOT_OK;
}

static ingot_status parse_tensor(ingot_source *src, const char *name, const json_t *value, uint64_t payload_at,
                                 uint64_t payload_bytes)
{
  ingot_status      st = INGOT_OK;
  uint64_t          range[2];
  char              text[INGOT_SHAPE_TEXT];
  ingot_tensor_info info = {.name = name, .file = src->n_file - 1};
  const char       *path = src->files[info.file].path;

  INGOT_CHECK(name[0], INGOT_ERR_FORMAT, "%s: a tensor's name is empty", path);
  INGOT_CHECK(json_is_object(value), INGOT_ERR_FORMAT, "%s: tensor \"%s\" is %s, not an object", path, name,
              ingot_json_type_text(value));
  INGOT_TRY(parse_dtype(path, name, json_object_get(value, "dtype"), &info.dtype));
  INGOT_TRY(parse_shape(path, name, json_object_get(value, "shape"), &info.shape));
  INGOT_TRY(parse_offsets(path, name, json_object_get(value, "data_offsets"), payload_bytes, range));
  info.offset = payload_at + range[0];
  INGOT_TRY(ingot_source_add_tensor(src, &info));
  uint64_t bytes = src->tensors[src->n_tensor - 1].bytes;
  INGOT_CHECK(bytes == range[1] - range[0], INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": shape %s of %s takes %" PRIu64 " bytes, data_offsets [%" PRIu64 ", %" PRIu64
              "] give %" PRIu64,
              path, name, ingot_shape_text(&info.shape, text), ingot_dtype_name(info.dtype), bytes, range[0], range[1],
              range[1] - range[0]);
done:
  return st;
}

/* Tensors from `first` on must fill the payload exactly. Offsets in messages count as the header's do. */
static ingot_status check_cover(ingot_source *src, int first, uint64_t payload_at, uint64_t payload_bytes)
{
  const char *path = src->files[src->n_file - 1].path;
  uint64_t    end = 0;
  ingot_source_sort_by_offset(src, first);
  for (int i = first; i < src->n_tensor; i++) {
    const ingot_tensor_info *t = &src->tensors[i];
    uint64_t                 begin = t->offset - payload_at;
    if (begin < end)
      return ingot_fail(INGOT_ERR_FORMAT,
                        "%s: tensors \"%s\" and \"%s\" overlap: the first ends at %" PRIu64
                        ", the second begins at %" PRIu64,
                        path, src->tensors[i - 1].name, t->name, end, begin);
    if (begin > end)
      return ingot_fail(INGOT_ERR_FORMAT,
                        "%s: hole of %" PRIu64 " bytes before tensor \"%s\": expected at %" PRIu64
                        ", found at %" PRIu64,
                        path, begin - end, t->name, end, begin);
    end = begin + t->bytes;
  }
  if (end != payload_bytes)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: %" PRIu64 " bytes after the last tensor: expected the file to end at %" PRIu64
                      ", found %" PRIu64 " bytes",
                      path, payload_bytes - end, payload_at + end, payload_at + payload_bytes);
  return INGOT_OK;
}

/* The length of the JSON, checked against the file. */
static ingot_status check_length(const char *path, const void *bytes, uint64_t size, uint64_t file_bytes,
                                 uint64_t *length)
{
  if (file_bytes < LENGTH_BYTES || size < LENGTH_BYTES)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: %" PRIu64 " bytes are too few for a safetensors file, which begins with 8",
                      path, file_bytes);
  *length = read_length(bytes);
  if (*length > max_header_bytes)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: header length %" PRIu64 " is above the limit of %" PRIu64 " bytes (not a safetensors file?)",
                      path, *length, max_header_bytes);
  if (*length > file_bytes - LENGTH_BYTES)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: header length %" PRIu64 " is beyond the end of the file, which has %" PRIu64 " bytes", path,
                      *length, file_bytes);
  return INGOT_OK;
}

ingot_status ingot_safetensors_parse(ingot_source *src, const void *bytes, uint64_t size, uint64_t file_bytes)
{
  ingot_status st = INGOT_OK;
  json_t      *header = NULL, *value;
  const char  *key, *path = src->files[src->n_file - 1].path;
  int          first = src->n_tensor;
  uint64_t     length = 0;

  INGOT_TRY(check_length(path, bytes, size, file_bytes, &length));
  INGOT_CHECK(length <= size - LENGTH_BYTES, INGOT_ERR_FORMAT, "%s: header of %" PRIu64 " bytes ends after %" PRIu64,
              path, length, size - LENGTH_BYTES);
  INGOT_TRY(ingot_json_parse(path, (const char *)bytes + LENGTH_BYTES, (size_t)length, &header));
  INGOT_CHECK(json_is_object(header), INGOT_ERR_FORMAT, "%s: the header is %s, not an object", path,
              ingot_json_type_text(header));
  uint64_t payload_at = LENGTH_BYTES + length, payload_bytes = file_bytes - payload_at;
  json_object_foreach(header, key, value)
  {
    if (strcmp(key, "__metadata__") == 0) INGOT_TRY(check_metadata(path, value));
    else INGOT_TRY(parse_tensor(src, key, value, payload_at, payload_bytes));
  }
  INGOT_TRY(check_cover(src, first, payload_at, payload_bytes));
done:
  json_decref(header);
  return st;
}

static ingot_status read_fully(int fd, const char *path, char *bytes, size_t size)
{
  for (size_t have = 0; have < size;) {
    ssize_t got = pread(fd, bytes + have, size - have, (off_t)have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ingot_fail(INGOT_ERR_IO, "%s: reading the header failed: %s", path, strerror(errno));
    if (got == 0) return ingot_fail(INGOT_ERR_IO, "%s: the file became shorter while its header was read", path);
    have += (size_t)got;
  }
  return INGOT_OK;
}

ingot_status ingot_source_read_safetensors(ingot_source *src, const char *path, const char *name)
{
  ingot_status  st = INGOT_OK;
  unsigned char start[LENGTH_BYTES] = {0};
  char         *header = NULL;
  struct stat   info;
  uint64_t      length = 0;
  int           fd = open(path, O_RDONLY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  INGOT_CHECK(fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: %s", path, strerror(errno));
  INGOT_CHECK(S_ISREG(info.st_mode), INGOT_ERR_FORMAT, "%s: not a regular file", path);
  uint64_t file_bytes = (uint64_t)info.st_size;
  INGOT_TRY(ingot_source_add_file(src, path, name, file_bytes,
                                  (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec));
  if (file_bytes >= LENGTH_BYTES) INGOT_TRY(read_fully(fd, path, (char *)start, sizeof start));
  INGOT_TRY(check_length(path, start, sizeof start, file_bytes, &length));
  header = malloc(LENGTH_BYTES + length);
  INGOT_CHECK(header, INGOT_ERR_NOMEM, "%s: no memory for a header of %" PRIu64 " bytes", path, length);
  INGOT_TRY(read_fully(fd, path, header, LENGTH_BYTES + length));
  src->files[src->n_file - 1].header_hash = ingot_hash(header, LENGTH_BYTES + length);
  INGOT_TRY(ingot_safetensors_parse(src, header, LENGTH_BYTES + length, file_bytes));
done:
  free(header);
  if (fd >= 0) close(fd);
  return st;
}
