/*
 * An object's header: a list of messages in one or more chunks of the file.
 *   header    version 1, -, number of messages (2), number of names (4), bytes of the first chunk (4), 4 bytes of
 * padding message   kind (2), bytes (2), flags (1), 3 bytes of padding, then the message A dataset is described by its
 * dataspace, datatype and layout. Attributes are passed over.
 */
#include <stdlib.h>
#include <string.h>

#include "io/hdf5_old_parts.h"

enum { /* messages */
       DATASPACE = 0x01,
       LINK_INFO = 0x02,
       DATATYPE = 0x03,
       LINK = 0x06,
       EXTERNAL = 0x07,
       LAYOUT = 0x08,
       CONTINUATION = 0x10,
       SYMBOL_TABLE = 0x11,
       FLAG_SHARED = 0x02, /* the message is elsewhere */
};

enum { HEADER_BYTES = 16, MESSAGE_START = 8, MAX_CHUNKS = 1024 };

typedef struct header {
  ingot_hdf5_old    *r;
  ingot_hdf5_object *object;
  ingot_hdf5_part    chunks[MAX_CHUNKS]; /* of this object */
  int                n_chunk;
} header;

static ingot_status read_dataspace(const ingot_hdf5_old *r, const unsigned char *m, size_t size, ingot_hdf5_dataset *d)
{
  if (size < 4 || (m[0] != 1 && m[0] != 2)) return ingot_hdf5_old_damaged(r, "the dataspace is of an unknown version");
  size_t rank = m[1], start = m[0] == 1 ? 8 : 4;
  if (rank > H5S_MAX_RANK || size < start + rank * 8)
    return ingot_hdf5_old_damaged(r, "the dataspace has too many dimensions");
  bool is_null = m[0] == 2 && m[3] == 2;
  d->n_dim = is_null ? -1 : (int)rank;
  for (size_t i = 0; i < rank; i++) d->dim[i] = ingot_hdf5_old_number(m + start + i * 8, 8);
  return INGOT_OK;
}

/* Two names and two values behind an enumeration's base type: FALSE = 0 and TRUE = 1, in any order. Up to version 2,
 * names are padded to a multiple of 8 bytes. */
static bool is_bool(const unsigned char *m, size_t size, int version)
{
  const char *names[2];
  for (int i = 0; i < 2; i++) {
    const unsigned char *end = memchr(m, 0, size);
    if (!end) return false;
    size_t bytes = (size_t)(end - m) + 1;
    if (version < 3) bytes = (bytes + 7) / 8 * 8;
    if (bytes > size) return false;
    names[i] = (const char *)m;
    m += bytes;
    size -= bytes;
  }
  if (size < 2 || m[0] > 1 || m[1] != 1 - m[0]) return false;
  return strcmp(names[m[0]], "FALSE") == 0 && strcmp(names[m[1]], "TRUE") == 0;
}

static ingot_status read_datatype(const ingot_hdf5_old *r, const unsigned char *m, size_t size, ingot_hdf5_type *t)
{
  static const char broken[] = "the datatype is broken";
  if (size < 8) return ingot_hdf5_old_damaged(r, broken);
  int      version = m[0] >> 4;
  uint64_t bits = ingot_hdf5_old_number(m + 1, 3);
  *t = (ingot_hdf5_type){.kind = (H5T_class_t)(m[0] & 15), .bytes = (size_t)ingot_hdf5_old_number(m + 4, 4)};
  if (version < 1 || version > 5 || t->bytes == 0) return ingot_hdf5_old_damaged(r, broken);
  if (t->kind == H5T_INTEGER || t->kind == H5T_FLOAT) {
    if (size < (t->kind == H5T_INTEGER ? 12 : 20)) return ingot_hdf5_old_damaged(r, broken);
    t->big_endian = bits & 1;
    t->first_bit = (size_t)ingot_hdf5_old_number(m + 8, 2);
    t->precision = (size_t)ingot_hdf5_old_number(m + 10, 2);
  }
  if (t->kind == H5T_INTEGER) t->has_sign = bits >> 3 & 1;
  if (t->kind == H5T_FLOAT) {
    t->big_endian = t->big_endian || (bits >> 6 & 1); /* VAX: neither */
    t->implied = (bits >> 4 & 3) == 2;
    t->sign = bits >> 8 & 255;
    t->exponent = m[12];
    t->exponent_bits = m[13];
    t->mantissa = m[14];
    t->mantissa_bits = m[15];
    t->bias = (size_t)ingot_hdf5_old_number(m + 16, 4);
  }
  if (t->kind == H5T_ENUM) /* the base type, of 12 bytes when it is an integer, then names, then values */
    t->is_bool = t->bytes == 1 && (bits & 0xffff) == 2 && size >= 20 && (m[8] & 15) == H5T_INTEGER && m[12] == 1 &&
                 is_bool(m + 20, size - 20, version);
  return INGOT_OK;
}

static ingot_status read_layout(const ingot_hdf5_old *r, const unsigned char *m, size_t size, ingot_hdf5_dataset *d)
{
  static const H5D_layout_t layouts[] = {H5D_COMPACT, H5D_CONTIGUOUS, H5D_CHUNKED, H5D_VIRTUAL};
  int                       version = m[0];
  if (size < 8 || version < 1 || version > 5) return ingot_hdf5_old_damaged(r, "the layout is of an unknown version");
  size_t kind = version <= 2 ? m[2] : m[1], start = version <= 2 ? 8 : 2;
  d->layout = kind < sizeof layouts / sizeof layouts[0] ? layouts[kind] : H5D_LAYOUT_ERROR;
  if (d->layout != H5D_CONTIGUOUS) return INGOT_OK;
  if (size < start + (version <= 2 ? 8 : 16)) return ingot_hdf5_old_damaged(r, "the layout is cut off");
  d->offset = ingot_hdf5_old_number(m + start, 8);
  /* Versions 1 and 2 leave the size to the shape. */
  d->stored_bytes = version <= 2 ? UINT64_MAX : ingot_hdf5_old_number(m + start + 8, 8);
  return INGOT_OK;
}

static ingot_status read_continuation(header *h, const unsigned char *m, size_t size)
{
  if (size < 16 || h->n_chunk == MAX_CHUNKS)
    return ingot_hdf5_old_damaged(h->r, "the header is continued in too many places, or nowhere");
  h->chunks[h->n_chunk++] = (ingot_hdf5_part){ingot_hdf5_old_number(m, 8), ingot_hdf5_old_number(m + 8, 8)};
  return INGOT_OK;
}

static ingot_status read_symbol_table(header *h, const unsigned char *m, size_t size)
{
  if (size < 16 || h->object->is_group) return ingot_hdf5_old_damaged(h->r, "the symbol table is broken");
  h->object->is_group = true;
  h->object->tree = ingot_hdf5_old_number(m, 8);
  h->object->heap = ingot_hdf5_old_number(m + 8, 8);
  return INGOT_OK;
}

/* Messages that describe a dataset are there once, and in place. */
static ingot_status once(const ingot_hdf5_old *r, int flags, bool *seen)
{
  if (flags & FLAG_SHARED)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: \"%s\": its type or shape is shared with other objects, expected its own",
                      r->path, ingot_text_string(&r->name));
  if (*seen) return ingot_hdf5_old_damaged(r, "the header describes the dataset twice");
  *seen = true;
  return INGOT_OK;
}

static ingot_status newer_format(const ingot_hdf5_old *r)
{
  return ingot_fail(
      INGOT_ERR_FORMAT,
      "%s: \"%s\" is of HDF5's newer format, in a file of the older one; h5repack --low=1 makes it one of "
      "the newer",
      r->path, r->name.size ? r->name.bytes : "/");
}

static ingot_status read_message(header *h, int kind, int flags, const unsigned char *m, size_t size)
{
  ingot_status       st = INGOT_OK;
  ingot_hdf5_object *o = h->object;
  switch (kind) {
  case DATASPACE: INGOT_TRY(once(h->r, flags, &o->has_space)); return read_dataspace(h->r, m, size, &o->dataset);
  case DATATYPE: INGOT_TRY(once(h->r, flags, &o->has_type)); return read_datatype(h->r, m, size, &o->dataset.type);
  case LAYOUT: INGOT_TRY(once(h->r, flags, &o->has_layout)); return read_layout(h->r, m, size, &o->dataset);
  case EXTERNAL: o->dataset.external = true; return INGOT_OK;
  case CONTINUATION: return read_continuation(h, m, size);
  case SYMBOL_TABLE: return read_symbol_table(h, m, size);
  case LINK:
  case LINK_INFO: return newer_format(h->r);
  default: return INGOT_OK;
  }
done:
  return st;
}

static ingot_status read_chunk(header *h, uint64_t at, uint64_t bytes)
{
  ingot_status   st = INGOT_OK;
  unsigned char *chunk = NULL;
  INGOT_TRY(ingot_hdf5_old_fetch(h->r, at, bytes, "object header", &chunk));
  for (const unsigned char *m = chunk, *end = chunk + bytes; end - m >= MESSAGE_START;) {
    size_t size = (size_t)ingot_hdf5_old_number(m + 2, 2);
    if (size > (size_t)(end - m) - MESSAGE_START) {
      st = ingot_hdf5_old_damaged(h->r, "a message reaches beyond its header");
      goto done;
    }
    INGOT_TRY(read_message(h, (int)ingot_hdf5_old_number(m, 2), m[4], m + MESSAGE_START, size));
    m += MESSAGE_START + size;
  }
done:
  free(chunk);
  return st;
}

/* Bytes that shape and type take; false when they overflow. */
static bool dataset_bytes(const ingot_hdf5_dataset *d, uint64_t *bytes)
{
  *bytes = d->type.bytes;
  for (int i = 0; i < d->n_dim; i++) {
    if (d->dim[i] && *bytes > UINT64_MAX / d->dim[i]) return false;
    *bytes *= d->dim[i];
  }
  return true;
}

static ingot_status enter_data(ingot_hdf5_old *r, ingot_hdf5_dataset *d)
{
  uint64_t bytes = 0;
  if (d->layout != H5D_CONTIGUOUS || d->external) return INGOT_OK;
  if (d->stored_bytes == UINT64_MAX && dataset_bytes(d, &bytes)) d->stored_bytes = bytes;
  if (d->offset == INGOT_HDF5_NOWHERE || d->stored_bytes == 0) return INGOT_OK;
  return ingot_hdf5_old_enter(r, d->offset, d->stored_bytes, "data");
}

ingot_status ingot_hdf5_old_object(ingot_hdf5_old *r, uint64_t at, ingot_hdf5_object *out)
{
  ingot_status   st = INGOT_OK;
  unsigned char *start = NULL;
  header        *h = calloc(1, sizeof *h);
  *out = (ingot_hdf5_object){.dataset.offset = INGOT_HDF5_NOWHERE};
  INGOT_CHECK(h, INGOT_ERR_NOMEM, "%s: no memory for its structure", r->path);
  h->r = r;
  h->object = out;
  INGOT_TRY(ingot_hdf5_old_fetch(r, at, HEADER_BYTES, "object header", &start));
  if (memcmp(start, "OHDR", 4) == 0) {
    st = newer_format(r);
    goto done;
  }
  if (start[0] != 1) {
    st = ingot_hdf5_old_damaged(r, "no object header where one is expected");
    goto done;
  }
  out->n_link = (uint32_t)ingot_hdf5_old_number(start + 4, 4);
  INGOT_TRY(read_chunk(h, at + HEADER_BYTES, ingot_hdf5_old_number(start + 8, 4)));
  for (int i = 0; i < h->n_chunk; i++) INGOT_TRY(read_chunk(h, h->chunks[i].at, h->chunks[i].bytes));
  if (out->has_space && out->has_type && out->has_layout) INGOT_TRY(enter_data(r, &out->dataset));
done:
  free(start);
  free(h);
  return st;
}
