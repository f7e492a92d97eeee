/*
 * An ingot checkpoint:
 *   /                root attributes: ingot_format_version = 1, and texts
 *   /tensors/<name>  one contiguous dataset a tensor; a '/' in a name makes groups on the way
 *                    attribute "checksum": scalar uint64 (base/tile.h)
 *   /files/<name>    one uint8 dataset a side file
 * or a file of others, without the attribute and the group /tensors: every dataset is a tensor, its path the name.
 * HDF5 reads the structure; the payload is read as byte ranges of the file. Links other than plain ones, shared
 * objects and datasets that are not one allocated byte range are refused.
 *
 * HDF5 is given files of its newer format alone (superblock version 2 or later): their structure carries checksums, so
 * HDF5 reports damage, where it can crash on damage to the older one. Files of others in the older format are read by
 * io/hdf5_old.h. Variable-length texts are passed over for the same reason.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "io/hdf5_dataset.h"
#include "io/hdf5_old.h"
#include "io/source_table.h"

enum {
  MAX_DEPTH = 32, /* groups inside groups */
  MAX_GROUPS = 1 << 20,
  MAX_ATTRIBUTE_BYTES = 64 << 20,
};

#define TENSOR_IS_LINK "%s: tensor \"%s\" is a link to elsewhere, expected a dataset"
#define NEITHER "%s: \"%s\" is neither a dataset nor a group"

static ingot_status open_file(const char *path, hid_t *out)
{
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  *out = -1;
  /* Many ranks read the same file, some from file systems that have no locks; closing closes whatever is open
   * inside. */
  if (access >= 0 && H5Pset_fapl_sec2(access) >= 0 && H5Pset_file_locking(access, false, true) >= 0 &&
      H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0)
    *out = H5Fopen(path, H5F_ACC_RDONLY, access);
  ingot_status st = *out >= 0 ? INGOT_OK : ingot_hdf5_fail(path, "not a readable HDF5 file (truncated?)");
  if (access >= 0) H5Pclose(access);
  return st;
}

static void close_type(hid_t id)
{
  if (id >= 0) H5Tclose(id);
}

static void close_space(hid_t id)
{
  if (id >= 0) H5Sclose(id);
}

/* Number of hard links to an open object; 0 when unknown. */
static unsigned link_count(hid_t object)
{
#if H5_VERSION_GE(1, 12, 0)
  H5O_info2_t info;
  return H5Oget_info3(object, &info, H5O_INFO_BASIC) < 0 ? 0 : info.rc;
#else
  H5O_info_t info;
  return H5Oget_info2(object, &info, H5O_INFO_BASIC) < 0 ? 0 : info.rc;
#endif
}

/* A scalar integer attribute, as 64 bits. INGOT_ERR_NOTFOUND when there is none. */
static ingot_status read_integer(const char *path, const char *what, hid_t object, const char *name, H5T_sign_t sign,
                                 uint64_t *out)
{
  ingot_status st = INGOT_OK;
  hid_t        attribute = -1, space = -1, type = -1;
  htri_t       there = H5Aexists(object, name);
  if (there == 0) return ingot_fail(INGOT_ERR_NOTFOUND, "%s: %s has no attribute \"%s\"", path, what, name);
  attribute = there > 0 ? H5Aopen(object, name, H5P_DEFAULT) : -1;
  space = attribute >= 0 ? H5Aget_space(attribute) : -1;
  type = attribute >= 0 ? H5Aget_type(attribute) : -1;
  if (space < 0 || type < 0) {
    st = ingot_hdf5_fail(path, what);
    goto done;
  }
  INGOT_CHECK(H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_npoints(space) == 1, INGOT_ERR_FORMAT,
              "%s: %s: attribute \"%s\" is not one integer", path, what, name);
  if (H5Aread(attribute, sign == H5T_SGN_NONE ? H5T_NATIVE_UINT64 : H5T_NATIVE_INT64, out) < 0)
    st = ingot_hdf5_fail(path, what);
done:
  close_space(space);
  close_type(type);
  if (attribute >= 0) H5Aclose(attribute);
  return st;
}

static ingot_status check_version(const char *path, hid_t file)
{
  uint64_t     version = 0;
  ingot_status st = read_integer(path, "root group", file, INGOT_HDF5_VERSION, H5T_SGN_2, &version);
  if (st == INGOT_ERR_NOTFOUND)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: not an ingot checkpoint: no root attribute \"" INGOT_HDF5_VERSION "\"",
                      path);
  if (st == INGOT_OK && version != INGOT_HDF5_FORMAT_VERSION)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: format version %" PRId64 ", this program reads version %d", path,
                      (int64_t)version, INGOT_HDF5_FORMAT_VERSION);
  return st;
}

/* The text of a string attribute; *text stays NULL when it is none, too long, or of variable length. */
static ingot_status read_text(hid_t attribute, char **text)
{
  ingot_status st = INGOT_OK;
  hid_t        type = H5Aget_type(attribute), space = H5Aget_space(attribute), memory = -1;
  *text = NULL;
  if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
      H5Sget_simple_extent_npoints(space) != 1)
    goto done;
  memory = H5Tcopy(H5T_C_S1);
  if (memory < 0 || H5Tset_cset(memory, H5Tget_cset(type)) < 0) goto done;
  size_t size = H5Tget_size(type);
  if (size > MAX_ATTRIBUTE_BYTES || H5Tset_size(memory, size + 1) < 0) goto done;
  *text = calloc(1, size + 2);
  if (*text && H5Aread(attribute, memory, *text) < 0) {
    free(*text);
    *text = NULL;
    goto done;
  }
  if (!*text) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for an attribute");
done:
  close_type(type);
  close_type(memory);
  close_space(space);
  return st;
}

typedef struct walk { /* what the iteration callbacks work on */
  ingot_source *src;
  ingot_status  st;
  ingot_text    name; /* of the tensor: the groups on the way, joined by '/' */
  int           depth;
  int64_t       n_group;
} walk;

static herr_t visit_attribute(hid_t file, const char *name, const H5A_info_t *info, void *context)
{
  walk *w = context;
  char *text = NULL;
  (void)info;
  hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
  if (attribute < 0) return 0; /* unreadable ones are as good as none */
  w->st = read_text(attribute, &text);
  if (w->st == INGOT_OK && text) w->st = ingot_source_add_attribute(w->src, name, text);
  free(text);
  H5Aclose(attribute);
  return w->st == INGOT_OK ? 0 : -1;
}

static ingot_status read_dataset(ingot_source *src, const char *name, hid_t dataset)
{
  ingot_status       st = INGOT_OK;
  const char        *path = src->files[0].path;
  ingot_hdf5_dataset described = {0};
  ingot_tensor_info  info = {.name = name};
  INGOT_TRY(ingot_hdf5_dataset_describe(path, name, dataset, &described));
  st = read_integer(path, name, dataset, INGOT_HDF5_CHECKSUM, H5T_SGN_NONE, &info.checksum);
  info.has_checksum = st == INGOT_OK;
  if (st == INGOT_ERR_NOTFOUND) {
    ingot_error_clear();
    st = INGOT_OK;
  }
  INGOT_TRY(st);
  INGOT_TRY(ingot_hdf5_dataset_add(src, &described, info));
done:
  return st;
}

static herr_t visit_tensor(hid_t group, const char *link, const H5L_info_t *info, void *context);

/* In the order in which HDF5 has the names: for another it makes a table first, and frees what it did not fill when a
 * file is damaged. */
static ingot_status walk_group(walk *w, hid_t group)
{
  const char *path = w->src->files[0].path;
  if (++w->depth > MAX_DEPTH || ++w->n_group > MAX_GROUPS)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: groups in \"/" INGOT_HDF5_TENSORS "\" are too many or too deep, at \"%s\"",
                      path, ingot_text_string(&w->name));
  if (H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_tensor, w) < 0 && w->st == INGOT_OK)
    w->st = ingot_hdf5_fail(path, "reading the list of tensors failed");
  w->depth--;
  return w->st;
}

static herr_t visit_tensor(hid_t group, const char *link, const H5L_info_t *info, void *context)
{
  ingot_status st = INGOT_OK;
  walk        *w = context;
  const char  *path = w->src->files[0].path;
  size_t       prefix = w->name.size;
  hid_t        object = -1;
  INGOT_TRY(ingot_text_printf(&w->name, "%s%s", prefix ? "/" : "", link));
  const char *name = ingot_text_string(&w->name);
  INGOT_CHECK(info->type == H5L_TYPE_HARD, INGOT_ERR_FORMAT, TENSOR_IS_LINK, path, name);
  object = H5Oopen(group, link, H5P_DEFAULT);
  if (object < 0) {
    st = ingot_hdf5_fail(path, name);
    goto done;
  }
  INGOT_CHECK(link_count(object) == 1, INGOT_ERR_FORMAT, "%s: \"%s\" is there under several names, expected one", path,
              name);
  H5I_type_t kind = H5Iget_type(object);
  INGOT_CHECK(kind == H5I_DATASET || kind == H5I_GROUP, INGOT_ERR_FORMAT, NEITHER, path, name);
  if (kind == H5I_DATASET) INGOT_TRY(read_dataset(w->src, name, object));
  else INGOT_TRY(walk_group(w, object));
done:
  if (object >= 0) H5Oclose(object);
  if (w->name.bytes) {
    w->name.bytes[prefix] = '\0';
    w->name.size = prefix;
  }
  w->st = st;
  return st == INGOT_OK ? 0 : -1;
}

/* Exporting writes side files by their names. */
static bool is_plain_name(const char *name)
{
  return name[0] && name[0] != '.' && !strchr(name, '/');
}

static herr_t visit_side_file(hid_t group, const char *link, const H5L_info_t *info, void *context)
{
  walk *w = context;
  (void)group;
  const char *path = w->src->files[0].path;
  if (info->type != H5L_TYPE_HARD || !is_plain_name(link))
    w->st = ingot_fail(INGOT_ERR_FORMAT, "%s: side file \"%s\" is a link, or its name is not a plain file name", path,
                       link);
  else w->st = ingot_source_add_side_file(w->src, link);
  return w->st == INGOT_OK ? 0 : -1;
}

static ingot_status check_overlap(ingot_source *src)
{
  ingot_source_sort_by_offset(src, 0);
  for (int i = 1; i < src->n_tensor; i++) {
    const ingot_tensor_info *last = &src->tensors[i - 1], *t = &src->tensors[i];
    if (t->bytes && last->offset + last->bytes > t->offset)
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap at byte %" PRIu64, src->path,
                        last->name, t->name, t->offset);
  }
  return INGOT_OK;
}

/* What the structure says, as a stand-in for header bytes. */
static uint64_t hash_table(const ingot_source *src)
{
  uint64_t hash = 0;
  for (int i = 0; i < src->n_tensor; i++) {
    const ingot_tensor_info *t = &src->tensors[i];
    uint64_t facts[4] = {(uint64_t)t->dtype, t->offset, t->has_checksum ? t->checksum : 0, (uint64_t)t->shape.n_dim};
    hash = ingot_hash_seeded(t->name, strlen(t->name), hash);
    hash = ingot_hash_seeded(facts, sizeof facts, hash);
    hash = ingot_hash_seeded(t->shape.dim, (size_t)t->shape.n_dim * sizeof t->shape.dim[0], hash);
  }
  return hash;
}

/* Neither the attribute nor the group of ours. */
static bool is_of_others(hid_t file)
{
  return H5Aexists(file, INGOT_HDF5_VERSION) == 0 && H5Lexists(file, INGOT_HDF5_TENSORS, H5P_DEFAULT) == 0;
}

static int compare_names(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static ingot_status finish_table(ingot_source *src)
{
  ingot_status st = check_overlap(src);
  if (st == INGOT_OK) src->files[0].header_hash = hash_table(src);
  return st;
}

static ingot_status finish_others(ingot_source *src)
{
  if (src->n_tensor == 0)
    return ingot_fail(INGOT_ERR_FORMAT,
                      "%s: not an ingot checkpoint (no root attribute \"" INGOT_HDF5_VERSION
                      "\"), and it has no datasets",
                      src->path);
  src->kind = INGOT_SOURCE_HDF5_PLAIN;
  return finish_table(src);
}

/* A name of a file in the older format. */
static ingot_status visit_old(void *context, const char *name, ingot_hdf5_kind kind, const ingot_hdf5_dataset *dataset)
{
  ingot_status  st = INGOT_OK;
  ingot_source *src = context;
  const char   *path = src->files[0].path;
  INGOT_CHECK(kind != INGOT_HDF5_LINK, INGOT_ERR_FORMAT, TENSOR_IS_LINK, path, name);
  INGOT_CHECK(kind != INGOT_HDF5_OTHER, INGOT_ERR_FORMAT, NEITHER, path, name);
  INGOT_CHECK(kind != INGOT_HDF5_GROUP || strcmp(name, INGOT_HDF5_TENSORS) != 0, INGOT_ERR_FORMAT,
              "%s: group \"/" INGOT_HDF5_TENSORS
              "\" in a file of HDF5's older format: ingot checkpoints are of the newer "
              "one (h5repack --low=1 converts)",
              path);
  if (kind == INGOT_HDF5_DATASET) INGOT_TRY(ingot_hdf5_dataset_add(src, dataset, (ingot_tensor_info){.name = name}));
done:
  return st;
}

static ingot_status read_old(ingot_source *src)
{
  const char *path = src->files[0].path;
  int         fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ingot_fail(INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  ingot_status st = ingot_hdf5_old_walk(fd, path, src->files[0].bytes, visit_old, src);
  close(fd);
  return st == INGOT_OK ? finish_others(src) : st;
}

static ingot_status read_structure(walk *w, hid_t file)
{
  ingot_status st = INGOT_OK;
  const char  *path = w->src->files[0].path;
  hid_t        tensors = -1, files = -1;
  if (is_of_others(file)) {
    INGOT_TRY(walk_group(w, file));
    return finish_others(w->src);
  }
  INGOT_TRY(check_version(path, file));
  H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_attribute, w);
  INGOT_TRY(w->st);
  tensors = H5Gopen2(file, INGOT_HDF5_TENSORS, H5P_DEFAULT);
  INGOT_CHECK(tensors >= 0, INGOT_ERR_FORMAT, "%s: no group \"/" INGOT_HDF5_TENSORS "\"", path);
  INGOT_TRY(walk_group(w, tensors));
  if (H5Lexists(file, INGOT_HDF5_FILES, H5P_DEFAULT) > 0) {
    files = H5Gopen2(file, INGOT_HDF5_FILES, H5P_DEFAULT);
    if (files < 0 ||
        (H5Literate(files, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit_side_file, w) < 0 && w->st == INGOT_OK))
      w->st = ingot_hdf5_fail(path, "reading the list of side files failed");
    INGOT_TRY(w->st);
    if (w->src->n_side > 1)
      qsort(w->src->side_names, (size_t)w->src->n_side, sizeof *w->src->side_names, compare_names);
  }
  INGOT_TRY(finish_table(w->src));
done:
  if (files >= 0) H5Gclose(files);
  if (tensors >= 0) H5Gclose(tensors);
  return st;
}

ingot_status ingot_source_read_hdf5(ingot_source *src)
{
  ingot_status     st = INGOT_OK;
  walk             w = {.src = src};
  struct stat      info;
  ingot_hdf5_quiet quiet;
  hid_t            file = -1;
  int              superblock = 0;
  const char      *slash = strrchr(src->path, '/');
  ingot_hdf5_quiet_begin(&quiet);
  INGOT_CHECK(stat(src->path, &info) == 0, INGOT_ERR_NOTFOUND, "%s: it has gone away", src->path);
  INGOT_TRY(ingot_source_add_file(src, src->path, slash ? slash + 1 : src->path, (uint64_t)info.st_size,
                                  (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec));
  INGOT_TRY(ingot_hdf5_superblock(src->path, &superblock));
  if (superblock < 2) {
    INGOT_TRY(read_old(src));
    goto done;
  }
  INGOT_TRY(open_file(src->path, &file));
  INGOT_TRY(read_structure(&w, file));
done:
  if (file >= 0) H5Fclose(file);
  ingot_hdf5_quiet_end(&quiet);
  ingot_text_release(&w.name);
  return st;
}

static ingot_status read_bytes(const char *path, const char *name, hid_t dataset, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_dtype  dtype = INGOT_DTYPE_F32;
  void        *block = NULL;
  hid_t        type = H5Dget_type(dataset), space = H5Dget_space(dataset);
  hssize_t     n = space >= 0 ? H5Sget_simple_extent_npoints(space) : -1;
  INGOT_CHECK(type >= 0 && n >= 0, INGOT_ERR_FORMAT, "%s: side file \"%s\" is broken", path, name);
  INGOT_CHECK(ingot_hdf5_type_recognise(type, &dtype) && dtype == INGOT_DTYPE_U8, INGOT_ERR_FORMAT,
              "%s: side file \"%s\" is not a dataset of unsigned bytes", path, name);
  INGOT_CHECK(n <= INGOT_SIDE_FILE_MAX, INGOT_ERR_FORMAT, "%s: side file \"%s\" has %lld bytes, the limit is %d", path,
              name, (long long)n, INGOT_SIDE_FILE_MAX);
  block = malloc((size_t)n + 1);
  INGOT_CHECK(block, INGOT_ERR_NOMEM, "%s: no memory for side file \"%s\"", path, name);
  if (n > 0 && H5Dread(dataset, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, block) < 0) {
    st = ingot_hdf5_fail(path, name);
    goto done;
  }
  INGOT_TRY(ingot_text_append(bytes, block, (size_t)n));
done:
  free(block);
  close_type(type);
  close_space(space);
  return st;
}

ingot_status ingot_source_hdf5_side_file(const char *path, const char *name, ingot_text *bytes)
{
  ingot_status     st = INGOT_OK;
  ingot_hdf5_quiet quiet;
  hid_t            file = -1, files = -1, dataset = -1;
  ingot_hdf5_quiet_begin(&quiet);
  INGOT_TRY(open_file(path, &file));
  files = H5Gopen2(file, INGOT_HDF5_FILES, H5P_DEFAULT);
  dataset = files >= 0 ? H5Dopen2(files, name, H5P_DEFAULT) : -1;
  INGOT_CHECK(dataset >= 0, INGOT_ERR_FORMAT, "%s: side file \"%s\" is not a dataset", path, name);
  INGOT_TRY(read_bytes(path, name, dataset, bytes));
done:
  if (dataset >= 0) H5Dclose(dataset);
  if (files >= 0) H5Gclose(files);
  if (file >= 0) H5Fclose(file);
  ingot_hdf5_quiet_end(&quiet);
  return st;
}
