/*
 * The way from the superblock to the objects:
 *   superblock      addresses of 8 bytes; the root group's header
 *   group           header with a symbol table message: a B-tree and a local heap
 *   B-tree          "TREE": nodes over nodes, at the bottom over symbol nodes
 *   symbol node     "SNOD": entries of 40 bytes: where the name is in the heap, where the object's header is
 *   local heap      "HEAP": names, each ending in a zero byte
 */
#define _POSIX_C_SOURCE 200809L
#include "io/hdf5_old.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"
#include "io/hdf5_old_parts.h"

enum {
  MAX_DEPTH = 32, /* groups inside groups */
  SUPERBLOCK_START = 24,
  SUPERBLOCK_END = 72,
  TREE_START = 24,
  SYMBOL_BYTES = 40,
  SYMBOL_LINK = 2, /* kind of an entry: a link by name */
};

typedef struct walk {
  ingot_hdf5_old        file;
  ingot_hdf5_old_visit *visit;
  void                 *context;
  int                   depth;
} walk;

typedef struct heap { /* the names of a group */
  unsigned char *bytes;
  uint64_t       size;
} heap;

ingot_status ingot_hdf5_superblock(const char *path, int *version)
{
  unsigned char start[9] = {0};
  FILE         *file = fopen(path, "rb");
  if (!file) return ingot_fail(INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  size_t got = fread(start, 1, sizeof start, file);
  fclose(file);
  if (got != sizeof start || memcmp(start, "\211HDF\r\n\032\n", 8) != 0)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: not an HDF5 file: it does not begin with the signature", path);
  *version = start[8];
  return INGOT_OK;
}

uint64_t ingot_hdf5_old_number(const unsigned char *at, int bytes)
{
  uint64_t number = 0;
  for (int i = bytes - 1; i >= 0; i--) number = number << 8 | at[i];
  return number;
}

ingot_status ingot_hdf5_old_damaged(const ingot_hdf5_old *r, const char *what)
{
  return ingot_fail(INGOT_ERR_FORMAT, "%s: \"%s\": %s (damaged?)", r->path, r->name.size ? r->name.bytes : "/", what);
}

ingot_status ingot_hdf5_old_enter(ingot_hdf5_old *r, uint64_t at, uint64_t bytes, const char *what)
{
  if (at > r->size || bytes > r->size - at)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: \"%s\": %s: %" PRIu64 " bytes at %" PRIu64 " reach beyond the file, which has %" PRIu64
                      " bytes (truncated?)",
                      r->path, r->name.size ? r->name.bytes : "/", what, bytes, at, r->size);
  if (bytes > r->size - r->known) return ingot_hdf5_old_damaged(r, "parts of the file refer to each other in circles");
  if (r->n_part == r->part_capacity) {
    size_t           wanted = r->part_capacity ? 2 * r->part_capacity : 64;
    ingot_hdf5_part *bigger = realloc(r->parts, wanted * sizeof *bigger);
    if (!bigger) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its structure", r->path);
    r->parts = bigger;
    r->part_capacity = wanted;
  }
  r->parts[r->n_part++] = (ingot_hdf5_part){at, bytes};
  r->known += bytes;
  return INGOT_OK;
}

ingot_status ingot_hdf5_old_fetch(ingot_hdf5_old *r, uint64_t at, uint64_t bytes, const char *what, unsigned char **out)
{
  ingot_status st = ingot_hdf5_old_enter(r, at, bytes, what);
  *out = NULL;
  if (st != INGOT_OK) return st;
  *out = malloc(bytes ? (size_t)bytes : 1);
  if (!*out) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its structure", r->path);
  return ingot_file_pread(r->fd, r->path, at, *out, (size_t)bytes);
}

static int compare_parts(const void *a, const void *b)
{
  const ingot_hdf5_part *x = a, *y = b;
  if (x->at != y->at) return x->at < y->at ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static ingot_status check_parts(ingot_hdf5_old *r)
{
  if (r->n_part) qsort(r->parts, r->n_part, sizeof *r->parts, compare_parts);
  for (size_t i = 1; i < r->n_part; i++)
    if (r->parts[i - 1].at + r->parts[i - 1].bytes > r->parts[i].at)
      return ingot_fail(INGOT_ERR_FORMAT, "%s: two parts of the file overlap at byte %" PRIu64 " (damaged?)", r->path,
                        r->parts[i].at);
  return INGOT_OK;
}

static ingot_status visit_group(walk *w, const ingot_hdf5_object *group);

/* The object behind a name; the name is in w->file.name. */
static ingot_status visit_object(walk *w, const unsigned char *entry)
{
  ingot_status      st = INGOT_OK;
  ingot_hdf5_object object;
  ingot_hdf5_old   *r = &w->file;
  const char       *name = ingot_text_string(&r->name);
  if (ingot_hdf5_old_number(entry + 16, 4) == SYMBOL_LINK) return w->visit(w->context, name, INGOT_HDF5_LINK, NULL);
  INGOT_TRY(ingot_hdf5_old_object(r, ingot_hdf5_old_number(entry + 8, 8), &object));
  INGOT_CHECK(object.n_link == 1, INGOT_ERR_FORMAT, "%s: \"%s\" is there under several names, expected one", r->path,
              name);
  if (object.is_group) {
    INGOT_TRY(w->visit(w->context, name, INGOT_HDF5_GROUP, NULL));
    INGOT_TRY(visit_group(w, &object));
  } else if (object.has_space && object.has_type && object.has_layout) {
    INGOT_TRY(w->visit(w->context, name, INGOT_HDF5_DATASET, &object.dataset));
  } else {
    INGOT_CHECK(object.has_type && !object.has_space, INGOT_ERR_FORMAT,
                "%s: \"%s\": its header describes neither a group nor a dataset (damaged?)", r->path, name);
    INGOT_TRY(w->visit(w->context, name, INGOT_HDF5_OTHER, NULL));
  }
done:
  return st;
}

static ingot_status visit_entry(walk *w, const heap *names, const unsigned char *entry)
{
  ingot_status    st = INGOT_OK;
  ingot_hdf5_old *r = &w->file;
  size_t          prefix = r->name.size;
  uint64_t        at = ingot_hdf5_old_number(entry, 8);
  if (at >= names->size || !memchr(names->bytes + at, 0, (size_t)(names->size - at)))
    return ingot_hdf5_old_damaged(r, "a name is not inside the group's heap");
  const char *name = (const char *)names->bytes + at;
  if (!name[0] || strchr(name, '/')) return ingot_hdf5_old_damaged(r, "a name is empty, or has a slash");
  INGOT_TRY(ingot_text_printf(&r->name, "%s%s", prefix ? "/" : "", name));
  INGOT_TRY(visit_object(w, entry));
done:
  if (r->name.bytes) {
    r->name.bytes[prefix] = '\0';
    r->name.size = prefix;
  }
  return st;
}

static ingot_status visit_symbols(walk *w, const heap *names, uint64_t at)
{
  ingot_status    st = INGOT_OK;
  ingot_hdf5_old *r = &w->file;
  unsigned char  *start = NULL, *entries = NULL;
  INGOT_TRY(ingot_hdf5_old_fetch(r, at, 8, "symbol node", &start));
  if (memcmp(start, "SNOD\1", 5) != 0) {
    st = ingot_hdf5_old_damaged(r, "no symbol node where the B-tree says");
    goto done;
  }
  uint64_t n = ingot_hdf5_old_number(start + 6, 2);
  INGOT_TRY(ingot_hdf5_old_fetch(r, at + 8, n * SYMBOL_BYTES, "symbol node", &entries));
  for (uint64_t i = 0; i < n; i++) INGOT_TRY(visit_entry(w, names, entries + i * SYMBOL_BYTES));
done:
  free(start);
  free(entries);
  return st;
}

/* A node and what is under it. The level is one less at each step down; -1: any, for the tree's root. */
static ingot_status visit_tree(walk *w, const heap *names, uint64_t at, int level)
{
  ingot_status    st = INGOT_OK;
  ingot_hdf5_old *r = &w->file;
  unsigned char  *start = NULL, *keys = NULL;
  INGOT_TRY(ingot_hdf5_old_fetch(r, at, TREE_START, "B-tree", &start));
  if (memcmp(start, "TREE\0", 5) != 0 || (level >= 0 && start[5] != level)) {
    st = ingot_hdf5_old_damaged(r, "no node of the group's B-tree where one is expected");
    goto done;
  }
  uint64_t n = ingot_hdf5_old_number(start + 6, 2);
  INGOT_TRY(ingot_hdf5_old_fetch(r, at + TREE_START, n * 16 + 8, "B-tree", &keys)); /* key, child, key, ..., key */
  for (uint64_t i = 0; i < n; i++) {
    uint64_t child = ingot_hdf5_old_number(keys + i * 16 + 8, 8);
    INGOT_TRY(start[5] == 0 ? visit_symbols(w, names, child) : visit_tree(w, names, child, start[5] - 1));
  }
done:
  free(start);
  free(keys);
  return st;
}

static ingot_status visit_group(walk *w, const ingot_hdf5_object *group)
{
  ingot_status    st = INGOT_OK;
  ingot_hdf5_old *r = &w->file;
  unsigned char  *start = NULL;
  heap            names = {0};
  INGOT_CHECK(++w->depth <= MAX_DEPTH, INGOT_ERR_FORMAT, "%s: groups are too deep, at \"%s\"", r->path,
              ingot_text_string(&r->name));
  INGOT_TRY(ingot_hdf5_old_fetch(r, group->heap, 32, "local heap", &start));
  if (memcmp(start, "HEAP\0", 5) != 0) {
    st = ingot_hdf5_old_damaged(r, "no local heap where the group says");
    goto done;
  }
  names.size = ingot_hdf5_old_number(start + 8, 8);
  INGOT_TRY(ingot_hdf5_old_fetch(r, ingot_hdf5_old_number(start + 24, 8), names.size, "local heap", &names.bytes));
  INGOT_TRY(visit_tree(w, &names, group->tree, -1));
  w->depth--;
done:
  free(start);
  free(names.bytes);
  return st;
}

/* The place of the root group's header. */
static ingot_status read_superblock(ingot_hdf5_old *r, uint64_t *root)
{
  ingot_status   st = INGOT_OK;
  unsigned char *start = NULL, *end = NULL;
  INGOT_TRY(ingot_hdf5_old_fetch(r, 0, SUPERBLOCK_START, "superblock", &start));
  int version = start[8];
  INGOT_CHECK(memcmp(start, "\211HDF\r\n\032\n", 8) == 0 && version <= 1, INGOT_ERR_FORMAT,
              "%s: superblock version %d, expected 0 or 1", r->path, version);
  INGOT_CHECK(start[9] == 0 && start[10] == 0 && start[12] == 0, INGOT_ERR_FORMAT,
              "%s: the superblock names versions that are not known (damaged?)", r->path);
  INGOT_CHECK(start[13] == 8 && start[14] == 8, INGOT_ERR_FORMAT,
              "%s: addresses of %d bytes and lengths of %d, expected 8 and 8", r->path, start[13], start[14]);
  INGOT_TRY(ingot_hdf5_old_fetch(r, SUPERBLOCK_START + (version == 1 ? 4 : 0), SUPERBLOCK_END, "superblock", &end));
  uint64_t file_end = ingot_hdf5_old_number(end + 16, 8);
  INGOT_CHECK(ingot_hdf5_old_number(end, 8) == 0 && ingot_hdf5_old_number(end + 24, 8) == INGOT_HDF5_NOWHERE,
              INGOT_ERR_FORMAT,
              "%s: the superblock shifts addresses or names a driver, expected a plain file (damaged?)", r->path);
  INGOT_CHECK(file_end <= r->size, INGOT_ERR_FORMAT,
              "%s: the file has %" PRIu64 " bytes, and its superblock says %" PRIu64 " (truncated?)", r->path, r->size,
              file_end);
  *root = ingot_hdf5_old_number(end + 40, 8);
done:
  free(start);
  free(end);
  return st;
}

ingot_status ingot_hdf5_old_walk(int fd, const char *path, uint64_t size, ingot_hdf5_old_visit *visit, void *context)
{
  ingot_status      st = INGOT_OK;
  walk              w = {.file = {.fd = fd, .path = path, .size = size}, .visit = visit, .context = context};
  ingot_hdf5_object object;
  uint64_t          root = 0;
  INGOT_TRY(read_superblock(&w.file, &root));
  INGOT_TRY(ingot_hdf5_old_object(&w.file, root, &object));
  INGOT_CHECK(object.is_group, INGOT_ERR_FORMAT, "%s: the root is not a group (damaged?)", path);
  INGOT_TRY(visit_group(&w, &object));
  INGOT_TRY(check_parts(&w.file));
done:
  free(w.file.parts);
  ingot_text_release(&w.file.name);
  return st;
}
