/*
 * A source as bytes, for ranks of one job: numbers are 64 bits in this machine's order, strings a length and bytes.
 *   "INGOTSRC", kind, path; number of files, then each: path, name, bytes, mtime, header hash;
 *   number of tensors, then each: name, dtype, n_dim, extents, file, offset, has_checksum, checksum;
 *   number of attributes, then each: name, text
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/source_table.h"

static const char magic[8] = {'I', 'N', 'G', 'O', 'T', 'S', 'R', 'C'};

static ingot_status put_number(ingot_text *bytes, uint64_t number)
{
  return ingot_text_append(bytes, &number, sizeof number);
}

static ingot_status put_string(ingot_text *bytes, const char *string)
{
  size_t       size = strlen(string);
  ingot_status st = put_number(bytes, size);
  return st == INGOT_OK ? ingot_text_append(bytes, string, size) : st;
}

static ingot_status put_tensor(ingot_text *bytes, const ingot_tensor_info *t)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(put_string(bytes, t->name));
  INGOT_TRY(put_number(bytes, (uint64_t)t->dtype));
  INGOT_TRY(put_number(bytes, (uint64_t)t->shape.n_dim));
  for (int d = 0; d < t->shape.n_dim; d++) INGOT_TRY(put_number(bytes, (uint64_t)t->shape.dim[d]));
  INGOT_TRY(put_number(bytes, (uint64_t)t->file));
  INGOT_TRY(put_number(bytes, t->offset));
  INGOT_TRY(put_number(bytes, t->has_checksum));
  INGOT_TRY(put_number(bytes, t->checksum));
done:
  return st;
}

ingot_status ingot_source_pack(const ingot_source *src, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_append(bytes, magic, sizeof magic));
  INGOT_TRY(put_number(bytes, (uint64_t)src->kind));
  INGOT_TRY(put_string(bytes, src->path));
  INGOT_TRY(put_number(bytes, (uint64_t)src->n_file));
  for (int i = 0; i < src->n_file; i++) {
    INGOT_TRY(put_string(bytes, src->files[i].path));
    INGOT_TRY(put_string(bytes, src->files[i].name));
    INGOT_TRY(put_number(bytes, src->files[i].bytes));
    INGOT_TRY(put_number(bytes, (uint64_t)src->files[i].mtime_ns));
    INGOT_TRY(put_number(bytes, src->files[i].header_hash));
  }
  INGOT_TRY(put_number(bytes, (uint64_t)src->n_tensor));
  for (int i = 0; i < src->n_tensor; i++) INGOT_TRY(put_tensor(bytes, &src->tensors[i]));
  INGOT_TRY(put_number(bytes, (uint64_t)src->n_attribute));
  for (int i = 0; i < src->n_attribute; i++) {
    INGOT_TRY(put_string(bytes, src->attributes[i].name));
    INGOT_TRY(put_string(bytes, src->attributes[i].text));
  }
done:
  return st;
}

/* Unpacking: a cursor that turns bad at the first thing that does not fit, and stays so. */
typedef struct cursor {
  const char *at;
  size_t      left;
  bool        bad, no_memory;
  char       *string[2]; /* the last strings taken; owned */
} cursor;

static uint64_t take_number(cursor *c, uint64_t max)
{
  uint64_t number = 0;
  if (c->bad || c->left < sizeof number) {
    c->bad = true;
    return 0;
  }
  memcpy(&number, c->at, sizeof number);
  c->at += sizeof number;
  c->left -= sizeof number;
  if (number > max) c->bad = true;
  return c->bad ? 0 : number;
}

static const char *take_string(cursor *c, int slot)
{
  uint64_t size = take_number(c, c->left);
  if (size > c->left) c->bad = true;
  free(c->string[slot]);
  c->string[slot] = ingot_strndup(c->at, c->bad ? 0 : (size_t)size);
  if (!c->string[slot]) c->bad = c->no_memory = true;
  if (c->bad) return "";
  c->at += size;
  c->left -= size;
  return c->string[slot];
}

static ingot_status take_tensor(cursor *c, ingot_source *src)
{
  ingot_tensor_info t = {.name = take_string(c, 0)};
  t.dtype = (ingot_dtype)take_number(c, INGOT_DTYPE_COUNT - 1);
  t.shape.n_dim = (int)take_number(c, INGOT_MAX_DIMS);
  for (int d = 0; d < t.shape.n_dim; d++) t.shape.dim[d] = (int64_t)take_number(c, INT64_MAX);
  t.file = (int)take_number(c, (uint64_t)src->n_file - 1);
  t.offset = take_number(c, INT64_MAX);
  t.has_checksum = take_number(c, 1) != 0;
  t.checksum = take_number(c, UINT64_MAX);
  return c->bad || src->n_file == 0 ? INGOT_OK : ingot_source_add_tensor(src, &t);
}

static ingot_status take_all(cursor *c, ingot_source **out)
{
  ingot_status st = INGOT_OK;
  uint64_t     kind = take_number(c, INGOT_SOURCE_KIND_COUNT - 1);
  INGOT_TRY(ingot_source_new(take_string(c, 0), (ingot_source_kind)kind, out));
  uint64_t n_file = take_number(c, INT32_MAX);
  for (uint64_t i = 0; i < n_file && !c->bad; i++) {
    const char *path = take_string(c, 0), *name = take_string(c, 1);
    uint64_t    bytes = take_number(c, UINT64_MAX), mtime_ns = take_number(c, UINT64_MAX);
    INGOT_TRY(ingot_source_add_file(*out, path, name, bytes, (int64_t)mtime_ns));
    (*out)->files[i].header_hash = take_number(c, UINT64_MAX);
  }
  uint64_t n_tensor = take_number(c, (*out)->n_file ? INT32_MAX : 0);
  for (uint64_t i = 0; i < n_tensor && !c->bad; i++) INGOT_TRY(take_tensor(c, *out));
  uint64_t n_attribute = take_number(c, INT32_MAX);
  for (uint64_t i = 0; i < n_attribute && !c->bad; i++) {
    const char *name = take_string(c, 0), *text = take_string(c, 1);
    INGOT_TRY(ingot_source_add_attribute(*out, name, text));
  }
done:
  return st;
}

ingot_status ingot_source_unpack(const void *bytes, size_t size, ingot_source **out)
{
  ingot_status st = INGOT_OK;
  cursor       c = {.at = bytes, .left = size};
  *out = NULL;
  if (size < sizeof magic || memcmp(bytes, magic, sizeof magic) != 0) c.bad = true;
  else {
    c.at += sizeof magic;
    c.left -= sizeof magic;
    INGOT_TRY(take_all(&c, out));
  }
  INGOT_CHECK(!c.no_memory, INGOT_ERR_NOMEM, "no memory for the names of a packed source of %zu bytes", size);
  INGOT_CHECK(!c.bad && c.left == 0, INGOT_ERR_INTERNAL, "a packed source of %zu bytes does not unpack", size);
  INGOT_TRY(ingot_source_freeze(*out));
done:
  free(c.string[0]);
  free(c.string[1]);
  if (st != INGOT_OK) ingot_source_close(out);
  return st;
}
