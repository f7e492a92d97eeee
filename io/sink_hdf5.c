/*
 * An ingot checkpoint as a sink. HDF5 makes the skeleton, which is complete and consistent from then on; payload goes
 * past the library, by positional writes at the datasets' offsets. See docs/formats.md for the reasons.
 */
#define _GNU_SOURCE /* fallocate */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/tile.h"
#include "io/atomic_file.h"
#include "io/hdf5_par.h"
#include "io/hdf5_types.h"
#include "io/sink_impl.h"

enum { PAGE_BYTES = INGOT_SINK_PAGE, FIXED_PAGES = 24 };
#define PADDING "padding" /* group that is there while the skeleton is made */
#define TILE_ATTRIBUTE "checksum_tile_elements"

/* Property lists and groups that are open while the skeleton is made or checked; -1 when not. */
typedef struct skeleton {
  const ingot_sink *sink;
  hid_t             access, file, group_list, dataset_list, tensors, files, scalar, padding;
  int               n_padding;
  uint64_t          end; /* of the storage made last, on a page; 0 when none has been */
} skeleton;

static const skeleton closed = {NULL, -1, -1, -1, -1, -1, -1, -1, -1, 0, 0};

static ingot_status fail(const ingot_sink *s, const char *what, const char *name)
{
  char why[256], number[3][32];
  ingot_hdf5_error_text(why);
  const int    full[3] = {ENOSPC, EDQUOT, EFBIG};
  ingot_status st = INGOT_ERR_IO;
  for (int i = 0; i < 3; i++) { /* HDF5 tells the error number only in its text */
    snprintf(number[i], sizeof number[i], "errno = %d,", full[i]);
    if (strstr(why, number[i])) st = INGOT_ERR_NOSPACE;
  }
  return ingot_fail(st, "%s: HDF5 could not %s %s: %s", s->partial, what, name, why);
}

#define CHECK_H5(cond, what, name)        \
  do {                                    \
    if (!(cond)) {                        \
      st = fail(sink, what, name);        \
      goto done;                          \
    }                                     \
  } while (0)

static uint64_t pages(uint64_t bytes)
{
  return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

static uint64_t alignment_of(const ingot_sink_spec *spec)
{
  return spec->alignment_bytes ? spec->alignment_bytes : INGOT_SINK_ALIGNMENT;
}

static bool is_large(const ingot_sink_spec *spec, const ingot_sink_tensor *t)
{
  int64_t n_elem = 0;
  return alignment_of(spec) > PAGE_BYTES && ingot_shape_count(&t->shape, &n_elem) &&
         (uint64_t)n_elem * ingot_dtype_size(t->dtype) / INGOT_SINK_LARGE >= alignment_of(spec);
}

static uint64_t count_large(const ingot_sink_spec *spec)
{
  uint64_t n = 0;
  for (int i = 0; i < spec->n_tensor; i++) n += is_large(spec, &spec->tensors[i]);
  return n;
}

/*
 * Metadata in bytes, from above: alignment gives each object header pages of its own (most of them holes), and a large
 * group's tree and heap have a page a node. It becomes one block at the front of the file, so that headers are read in one go.
 */
static uint64_t metadata_bytes(const ingot_sink_spec *spec)
{
  uint64_t names = 0, n_group = 0, n_large = count_large(spec);
  uint64_t n_object = (uint64_t)spec->n_tensor + (uint64_t)spec->n_file;
  if (n_large > 0) { /* padding: see align_next */
    n_object += n_large + 1;
    names += (n_large + 1) * 48;
    n_group++;
  }
  for (int i = 0; i < spec->n_tensor; i++) {
    const char *name = spec->tensors[i].name;
    names += strlen(name) + 32;
    for (const char *c = name; *c; c++)
      if (*c == '/') n_group++;
  }
  uint64_t n_page = FIXED_PAGES + 2 * n_object + n_object / 8 + 4 * n_group + 2 * pages(names);
  for (int i = 0; i < spec->n_attribute; i++)
    n_page += pages(strlen(spec->attributes[i].text) + strlen(spec->attributes[i].name) + 64);
  return n_page * PAGE_BYTES;
}

uint64_t ingot_sink_hdf5_overhead(const ingot_sink_spec *spec)
{
  uint64_t bytes = metadata_bytes(spec) + ((uint64_t)spec->n_tensor + 1) * PAGE_BYTES + count_large(spec) * alignment_of(spec);
  for (int i = 0; i < spec->n_file; i++) bytes += (pages(spec->files[i].size) + 1) * PAGE_BYTES;
  return bytes;
}

static void skeleton_close(skeleton *k)
{
  if (k->scalar >= 0) H5Sclose(k->scalar);
  if (k->dataset_list >= 0) H5Pclose(k->dataset_list);
  if (k->group_list >= 0) H5Pclose(k->group_list);
  if (k->access >= 0) H5Pclose(k->access);
  if (k->padding >= 0) H5Gclose(k->padding);
  if (k->tensors >= 0) H5Gclose(k->tensors);
  if (k->files >= 0) H5Gclose(k->files);
  if (k->file >= 0) H5Fclose(k->file);
  *k = closed;
}

static hid_t list_without_times(hid_t class)
{
  hid_t list = H5Pcreate(class);
  if (list >= 0 && H5Pset_obj_track_times(list, false) >= 0) return list;
  if (list >= 0) H5Pclose(list);
  return -1;
}

static ingot_status add_text(hid_t object, const ingot_sink *sink, const ingot_sink_attribute *a)
{
  ingot_status st = INGOT_OK;
  hid_t        attribute = -1, space = H5Screate(H5S_SCALAR), type = H5Tcopy(H5T_C_S1);
  size_t       size = strlen(a->text) + 1;
  CHECK_H5(space >= 0 && type >= 0 && H5Tset_size(type, size) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0,
           "make the type of attribute", a->name);
  attribute = H5Acreate2(object, a->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  CHECK_H5(attribute >= 0 && H5Awrite(attribute, type, a->text) >= 0, "write attribute", a->name);
done:
  if (attribute >= 0) H5Aclose(attribute);
  if (type >= 0) H5Tclose(type);
  if (space >= 0) H5Sclose(space);
  return st;
}

static ingot_status add_number(hid_t object, hid_t scalar, const ingot_sink *sink, const char *name, hid_t type,
                               uint64_t value)
{
  ingot_status st = INGOT_OK;
  hid_t        attribute = H5Acreate2(object, name, type, scalar, H5P_DEFAULT, H5P_DEFAULT);
  CHECK_H5(attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0, "write attribute", name);
done:
  if (attribute >= 0) H5Aclose(attribute);
  return st;
}

/* Groups above a tensor whose name has slashes; HDF5 would make them itself, but with the time of day in them. */
static ingot_status make_groups(const skeleton *k, const char *name)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  char             *path = ingot_strdup(name);
  INGOT_CHECK(path, INGOT_ERR_NOMEM, "%s: no memory for a name", name);
  for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    htri_t there = H5Lexists(k->tensors, path, H5P_DEFAULT);
    CHECK_H5(there >= 0, "look for group", path);
    if (!there) {
      hid_t group = H5Gcreate2(k->tensors, path, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
      CHECK_H5(group >= 0, "create group", path);
      H5Gclose(group);
    }
    *slash = '/';
  }
done:
  free(path);
  return st;
}

static hid_t space_of(const ingot_shape *shape)
{
  hsize_t dim[INGOT_MAX_DIMS];
  if (shape->n_dim == 0) return H5Screate(H5S_SCALAR);
  for (int i = 0; i < shape->n_dim; i++) dim[i] = (hsize_t)shape->dim[i];
  return H5Screate_simple(shape->n_dim, dim, NULL);
}

/* A dataset with its storage; *offset is where its bytes go, 0 when it has none. */
static ingot_status add_dataset(const skeleton *k, hid_t group, const char *name, hid_t type, const ingot_shape *shape,
                                bool checksum, uint64_t *offset)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  int64_t           n_elem = 0;
  hid_t             space = space_of(shape), dataset = -1;
  CHECK_H5(space >= 0, "make the shape of", name);
  dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, k->dataset_list, H5P_DEFAULT);
  CHECK_H5(dataset >= 0, "create dataset", name);
  if (checksum) INGOT_TRY(add_number(dataset, k->scalar, sink, INGOT_HDF5_CHECKSUM, H5T_STD_U64LE, 0));
  *offset = 0;
  if (ingot_shape_count(shape, &n_elem) && n_elem > 0) {
    haddr_t at = H5Dget_offset(dataset);
    CHECK_H5(at != HADDR_UNDEF, "allocate the storage of", name);
    *offset = at;
  }
done:
  if (dataset >= 0) H5Dclose(dataset);
  if (space >= 0) H5Sclose(space);
  return st;
}

/* Storage of so many bytes that no tensor has, taken out again by end_padding. */
static ingot_status pad(skeleton *k, hid_t type, uint64_t bytes)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  ingot_shape       shape = {.n_dim = 1, .dim = {(int64_t)bytes}};
  uint64_t          offset = 0;
  char              name[24];
  if (k->padding < 0) k->padding = H5Gcreate2(k->file, PADDING, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  CHECK_H5(k->padding >= 0, "create group", PADDING);
  snprintf(name, sizeof name, "%d", k->n_padding++);
  INGOT_TRY(add_dataset(k, k->padding, name, type, &shape, false, &offset));
  k->end = offset + pages(bytes) * PAGE_BYTES;
done:
  return st;
}

/*
 * Make the next storage begin at a multiple of the alignment. HDF5 has one alignment for all objects of a file, which would give
 * every header such room; so what lies between is taken by a dataset that is deleted later, whose room HDF5 does not use again.
 */
static ingot_status align_next(skeleton *k, hid_t type)
{
  ingot_status st = INGOT_OK;
  uint64_t     alignment = alignment_of(&k->sink->spec);
  if (k->end == 0) INGOT_TRY(pad(k, type, PAGE_BYTES)); /* tells where the next one will be */
  if (k->end % alignment) st = pad(k, type, alignment - k->end % alignment);
done:
  return st;
}

static ingot_status end_padding(skeleton *k)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  if (k->padding < 0) return INGOT_OK;
  H5Gclose(k->padding);
  k->padding = -1;
  CHECK_H5(H5Ldelete(k->file, PADDING, H5P_DEFAULT) >= 0, "remove group", PADDING);
done:
  return st;
}

/* HDF5 takes "a//b" and "./a" for "a/b" and "a", and has no empty names. */
static bool storable(const char *name)
{
  for (const char *part = name;;) {
    size_t n = strcspn(part, "/");
    if (n == 0 || (n == 1 && part[0] == '.')) return false;
    if (!part[n]) return true;
    part += n + 1;
  }
}

static ingot_status check_names(const ingot_sink *sink)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < sink->spec.n_tensor; i++)
    INGOT_CHECK(storable(sink->spec.tensors[i].name), INGOT_ERR_FORMAT,
                "%s: \"%s\" is not usable as a name in HDF5: a part between slashes is empty or \".\"", sink->path,
                sink->spec.tensors[i].name);
done:
  return st;
}

/* Open the new file with its property lists and groups. Collective. */
static ingot_status begin(ingot_comm *comm, skeleton *k)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  hid_t             list = list_without_times(H5P_FILE_CREATE);
  k->access = ingot_hdf5_access_collective(comm);
  CHECK_H5(list >= 0 && k->access >= 0, "prepare", "access");
  /* Every allocation on a page of its own; payload not mixed with metadata; both in the order of creation. */
  CHECK_H5(H5Pset_alignment(k->access, 1, PAGE_BYTES) >= 0 && H5Pset_small_data_block_size(k->access, 0) >= 0 &&
               H5Pset_meta_block_size(k->access, metadata_bytes(&sink->spec)) >= 0,
           "prepare", "alignment");
  /* Space that alignment leaves over is not tracked for reuse: looking through it takes quadratic time. */
  CHECK_H5(H5Pset_file_space_strategy(list, H5F_FSPACE_STRATEGY_AGGR, false, 1) >= 0, "prepare", "the strategy");
  k->group_list = list_without_times(H5P_GROUP_CREATE);
  k->dataset_list = list_without_times(H5P_DATASET_CREATE);
  k->scalar = H5Screate(H5S_SCALAR);
  CHECK_H5(k->group_list >= 0 && k->dataset_list >= 0 && k->scalar >= 0 &&
               H5Pset_layout(k->dataset_list, H5D_CONTIGUOUS) >= 0 &&
               H5Pset_alloc_time(k->dataset_list, H5D_ALLOC_TIME_EARLY) >= 0 &&
               H5Pset_fill_time(k->dataset_list, H5D_FILL_TIME_NEVER) >= 0,
           "prepare", "property lists");
  /* The superblock's extension is made from the default list, with the time of day unless told otherwise. */
  CHECK_H5(H5Pset_obj_track_times(H5P_GROUP_CREATE_DEFAULT, false) >= 0, "prepare", "defaults");
  k->file = H5Fcreate(sink->partial, H5F_ACC_TRUNC, list, k->access);
  H5Pset_obj_track_times(H5P_GROUP_CREATE_DEFAULT, true);
  CHECK_H5(k->file >= 0, "create", "the file");
  k->tensors = H5Gcreate2(k->file, INGOT_HDF5_TENSORS, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  k->files = H5Gcreate2(k->file, INGOT_HDF5_FILES, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  CHECK_H5(k->tensors >= 0 && k->files >= 0, "create", "groups");
done:
  if (list >= 0) H5Pclose(list);
  return st;
}

/* All objects in the spec's order. Collective: every rank makes the same calls. */
static ingot_status build(ingot_comm *comm, ingot_sink *sink, uint64_t *side_offsets)
{
  ingot_status st = INGOT_OK;
  skeleton     k = closed;
  hid_t        type[INGOT_DTYPE_COUNT];
  int          n_type = 0;
  k.sink = sink;
  for (; n_type < INGOT_DTYPE_COUNT; n_type++) INGOT_TRY(ingot_hdf5_type_create((ingot_dtype)n_type, &type[n_type]));
  INGOT_TRY(begin(comm, &k));
  INGOT_TRY(add_number(k.file, k.scalar, sink, INGOT_HDF5_VERSION, H5T_STD_I32LE, INGOT_HDF5_FORMAT_VERSION));
  INGOT_TRY(add_number(k.file, k.scalar, sink, TILE_ATTRIBUTE, H5T_STD_I64LE, INGOT_TILE));
  for (int i = 0; i < sink->spec.n_attribute; i++) INGOT_TRY(add_text(k.file, sink, &sink->spec.attributes[i]));
  for (int i = 0; i < sink->spec.n_file; i++) {
    const ingot_sink_file *f = &sink->spec.files[i];
    ingot_shape            shape = {.n_dim = 1, .dim = {(int64_t)f->size}};
    INGOT_TRY(add_dataset(&k, k.files, f->name, type[INGOT_DTYPE_U8], &shape, false, &side_offsets[i]));
    if (f->size) k.end = side_offsets[i] + pages(f->size) * PAGE_BYTES;
  }
  for (int i = 0; i < sink->spec.n_tensor; i++) {
    const ingot_sink_tensor *t = &sink->spec.tensors[i];
    uint64_t                *offset = &sink->extents[i].offset;
    INGOT_TRY(make_groups(&k, t->name));
    if (is_large(&sink->spec, t)) INGOT_TRY(align_next(&k, type[INGOT_DTYPE_U8]));
    INGOT_TRY(add_dataset(&k, k.tensors, t->name, type[t->dtype], &t->shape, true, offset));
    if (sink->extents[i].bytes) k.end = *offset + pages(sink->extents[i].bytes) * PAGE_BYTES;
  }
  INGOT_TRY(end_padding(&k));
  /* Groups first: the file is closed, and its metadata written, with the last of its objects. */
  H5Gclose(k.tensors);
  H5Gclose(k.files);
  k.tensors = k.files = -1;
  herr_t closed_file = H5Fclose(k.file);
  k.file = -1;
  CHECK_H5(closed_file >= 0, "write", "the metadata");
done:
  for (int i = 0; i < n_type; i++) H5Tclose(type[i]);
  skeleton_close(&k);
  return st;
}

/* Make sure that the metadata will fit before HDF5, which recovers badly from a full disk, is asked to write it. */
static ingot_status check_room(const ingot_sink *sink)
{
  ingot_status st = INGOT_OK;
  int          fd = open(sink->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", sink->partial, strerror(errno));
  uint64_t bytes = metadata_bytes(&sink->spec);
  if (fallocate(fd, 0, 0, (off_t)bytes) != 0 && ingot_file_status(errno) == INGOT_ERR_NOSPACE)
    st = ingot_fail(INGOT_ERR_NOSPACE, "%s: no room for %llu bytes of metadata: %s", sink->partial,
                    (unsigned long long)bytes, strerror(errno));
done:
  if (fd >= 0) close(fd);
  return st;
}

/* Side files, and the size that all ranks will find. */
static ingot_status write_side_files(ingot_sink *sink, const uint64_t *side_offsets)
{
  ingot_status st = INGOT_OK;
  int          fd = open(sink->partial, O_WRONLY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: cannot open for writing: %s", sink->partial, strerror(errno));
  for (int i = 0; i < sink->spec.n_file; i++) {
    const ingot_sink_file *f = &sink->spec.files[i];
    INGOT_TRY(ingot_file_pwrite(fd, sink->partial, side_offsets[i], f->bytes, f->size));
  }
  struct stat info;
  INGOT_CHECK(fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: %s", sink->partial, strerror(errno));
  sink->files[0].bytes = (uint64_t)info.st_size;
done:
  if (fd >= 0) close(fd);
  return st;
}

ingot_status ingot_sink_hdf5_create(ingot_comm *comm, ingot_sink *sink)
{
  ingot_hdf5_quiet quiet;
  bool             root = ingot_comm_rank(comm) == 0;
  uint64_t        *side_offsets = calloc((size_t)sink->spec.n_file + 1, sizeof *side_offsets);
  ingot_status     st = side_offsets ? check_names(sink)
                                     : ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for side files", sink->path);
  ingot_hdf5_quiet_begin(&quiet);
  if (st == INGOT_OK && root) st = check_room(sink);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_agree(comm, build(comm, sink, side_offsets)));
  if (root) st = write_side_files(sink, side_offsets);
  INGOT_TRY(ingot_comm_agree(comm, st));
  st = ingot_comm_bcast(comm, &sink->files[0].bytes, sizeof sink->files[0].bytes, 0);
done:
  ingot_hdf5_quiet_end(&quiet);
  free(side_offsets);
  return st;
}

static ingot_status open_existing(skeleton *k, unsigned mode)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  k->access = ingot_hdf5_access_single();
  CHECK_H5(k->access >= 0, "prepare", "access");
  k->file = H5Fopen(sink->partial, mode, k->access);
  CHECK_H5(k->file >= 0, "open", "the file");
  k->tensors = H5Gopen2(k->file, INGOT_HDF5_TENSORS, H5P_DEFAULT);
  k->files = H5Gopen2(k->file, INGOT_HDF5_FILES, H5P_DEFAULT);
  CHECK_H5(k->tensors >= 0 && k->files >= 0, "open", "groups");
done:
  return st;
}

/* Is this dataset as the spec has it? */
static ingot_status verify_dataset(const ingot_sink *sink, hid_t group, const char *name, ingot_dtype dtype,
                                   const ingot_shape *shape, uint64_t *offset)
{
  ingot_status st = INGOT_OK;
  hid_t        type = -1, space = -1, dataset = H5Dopen2(group, name, H5P_DEFAULT);
  ingot_dtype  found = INGOT_DTYPE_COUNT;
  hsize_t      dim[H5S_MAX_RANK];
  int64_t      n_elem = 0;
  CHECK_H5(dataset >= 0, "open dataset", name);
  type = H5Dget_type(dataset);
  space = H5Dget_space(dataset);
  CHECK_H5(type >= 0 && space >= 0, "read the type of", name);
  int  n_dim = H5Sget_simple_extent_dims(space, dim, NULL);
  bool same = ingot_hdf5_type_recognise(type, &found) && found == dtype && n_dim == shape->n_dim;
  for (int i = 0; same && i < n_dim; i++) same = dim[i] == (hsize_t)shape->dim[i];
  INGOT_CHECK(same, INGOT_ERR_NOTFOUND, "%s: %s has another type or shape", sink->partial, name);
  *offset = 0;
  if (ingot_shape_count(shape, &n_elem) && n_elem > 0) {
    *offset = H5Dget_offset(dataset);
    CHECK_H5(*offset != HADDR_UNDEF, "find the storage of", name);
  }
done:
  if (space >= 0) H5Sclose(space);
  if (type >= 0) H5Tclose(type);
  if (dataset >= 0) H5Dclose(dataset);
  return st;
}

static ingot_status verify_text(const ingot_sink *sink, hid_t file, const ingot_sink_attribute *a)
{
  ingot_status st = INGOT_OK;
  size_t       size = strlen(a->text) + 1;
  char        *found = malloc(size);
  hid_t        type = -1, attribute = H5Aopen(file, a->name, H5P_DEFAULT);
  INGOT_CHECK(found, INGOT_ERR_NOMEM, "%s: no memory for attribute %s", sink->partial, a->name);
  CHECK_H5(attribute >= 0, "open attribute", a->name);
  type = H5Aget_type(attribute);
  bool same = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && H5Tget_size(type) == size;
  same = same && H5Aread(attribute, type, found) >= 0 && memcmp(found, a->text, size) == 0;
  INGOT_CHECK(same, INGOT_ERR_NOTFOUND, "%s: attribute %s has another value", sink->partial, a->name);
done:
  if (type >= 0) H5Tclose(type);
  if (attribute >= 0) H5Aclose(attribute);
  free(found);
  return st;
}

#if H5_VERSION_GE(1, 12, 0)
typedef H5O_info1_t object_info; /* of the calls with a 2 in 1.10 and later */
#else
typedef H5O_info_t object_info;
#endif

static herr_t count_dataset(hid_t object, const char *name, const object_info *info, void *count)
{
  (void)object;
  (void)name;
  if (info->type == H5O_TYPE_DATASET) ++*(int64_t *)count;
  return 0;
}

/* Nothing beside the spec's tensors, side files and attributes. */
static ingot_status verify_counts(const skeleton *k)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  int64_t           n = 0;
  object_info       info;
  CHECK_H5(H5Ovisit2(k->file, H5_INDEX_NAME, H5_ITER_NATIVE, count_dataset, &n, H5O_INFO_BASIC) >= 0, "list", "datasets");
  CHECK_H5(H5Oget_info2(k->file, &info, H5O_INFO_NUM_ATTRS) >= 0, "count", "attributes");
  INGOT_CHECK(n == (int64_t)sink->spec.n_tensor + sink->spec.n_file &&
                  info.num_attrs == (hsize_t)sink->spec.n_attribute + 2,
              INGOT_ERR_NOTFOUND, "%s: has %lld datasets and %lld attributes, expected %lld and %d", sink->partial,
              (long long)n, (long long)info.num_attrs, (long long)sink->spec.n_tensor + sink->spec.n_file,
              sink->spec.n_attribute + 2);
done:
  return st;
}

static ingot_status verify_side_file(const ingot_sink *sink, int fd, const ingot_sink_file *f, uint64_t offset)
{
  ingot_status st = INGOT_OK;
  char        *found = malloc(f->size + 1);
  INGOT_CHECK(found, INGOT_ERR_NOMEM, "%s: no memory to compare %s", sink->partial, f->name);
  INGOT_TRY(ingot_file_pread(fd, sink->partial, offset, found, f->size));
  INGOT_CHECK(f->size == 0 || memcmp(found, f->bytes, f->size) == 0, INGOT_ERR_NOTFOUND,
              "%s: the side file %s has other contents", sink->partial, f->name);
done:
  free(found);
  return st;
}

static ingot_status verify(ingot_sink *sink, int fd)
{
  ingot_status st = INGOT_OK;
  skeleton     k = closed;
  k.sink = sink;
  INGOT_TRY(open_existing(&k, H5F_ACC_RDONLY));
  INGOT_TRY(verify_counts(&k));
  for (int i = 0; i < sink->spec.n_attribute; i++) INGOT_TRY(verify_text(sink, k.file, &sink->spec.attributes[i]));
  for (int i = 0; i < sink->spec.n_file; i++) {
    const ingot_sink_file *f = &sink->spec.files[i];
    ingot_shape            shape = {.n_dim = 1, .dim = {(int64_t)f->size}};
    uint64_t               offset = 0;
    INGOT_TRY(verify_dataset(sink, k.files, f->name, INGOT_DTYPE_U8, &shape, &offset));
    INGOT_TRY(verify_side_file(sink, fd, f, offset));
  }
  for (int i = 0; i < sink->spec.n_tensor; i++) {
    const ingot_sink_tensor *t = &sink->spec.tensors[i];
    INGOT_TRY(verify_dataset(sink, k.tensors, t->name, t->dtype, &t->shape, &sink->extents[i].offset));
  }
done:
  skeleton_close(&k);
  return st;
}

ingot_status ingot_sink_hdf5_verify(ingot_sink *sink)
{
  ingot_status     st = INGOT_OK;
  ingot_hdf5_quiet quiet;
  ingot_hdf5_quiet_begin(&quiet);
  struct stat info;
  int         fd = open(sink->partial, O_RDONLY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_NOTFOUND, "%s: cannot open: %s", sink->partial, strerror(errno));
  st = verify(sink, fd);
  /* A file that HDF5 cannot make sense of was left half-made: as good as none. */
  if (st == INGOT_ERR_IO) st = INGOT_ERR_NOTFOUND;
  if (st != INGOT_OK) goto done;
  INGOT_CHECK(fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: %s", sink->partial, strerror(errno));
  sink->files[0].bytes = (uint64_t)info.st_size;
done:
  if (fd >= 0) close(fd);
  ingot_hdf5_quiet_end(&quiet);
  return st;
}

static ingot_status store_checksum(const ingot_sink *sink, hid_t tensors, const char *name, uint64_t checksum)
{
  ingot_status st = INGOT_OK;
  /* Not H5Aopen_by_name: HDF5 1.10.8 cannot write to an attribute whose object is not open. */
  hid_t dataset = H5Dopen2(tensors, name, H5P_DEFAULT);
  hid_t attribute = dataset >= 0 ? H5Aopen(dataset, INGOT_HDF5_CHECKSUM, H5P_DEFAULT) : -1;
  CHECK_H5(attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &checksum) >= 0, "store the checksum of", name);
done:
  if (attribute >= 0) H5Aclose(attribute);
  if (dataset >= 0) H5Dclose(dataset);
  return st;
}

static ingot_status flush(const ingot_sink *sink)
{
  int fd = open(sink->partial, O_RDWR | O_CLOEXEC);
  if (fd < 0) return ingot_fail(INGOT_ERR_IO, "%s: cannot open to flush: %s", sink->partial, strerror(errno));
  ingot_status st = ingot_file_sync(fd, sink->partial);
  close(fd);
  return st;
}

ingot_status ingot_sink_hdf5_finish(ingot_sink *sink, const uint64_t *checksums)
{
  ingot_status     st = INGOT_OK;
  skeleton         k = closed;
  ingot_hdf5_quiet quiet;
  ingot_hdf5_quiet_begin(&quiet);
  k.sink = sink;
  INGOT_TRY(open_existing(&k, H5F_ACC_RDWR));
  for (int i = 0; i < sink->spec.n_tensor; i++)
    INGOT_TRY(store_checksum(sink, k.tensors, sink->spec.tensors[i].name, checksums[i]));
  H5Gclose(k.tensors);
  H5Gclose(k.files);
  k.tensors = k.files = -1;
  herr_t closed_file = H5Fclose(k.file);
  k.file = -1;
  CHECK_H5(closed_file >= 0, "write", "the checksums");
  if (sink->spec.durable) st = flush(sink);
done:
  skeleton_close(&k);
  ingot_hdf5_quiet_end(&quiet);
  return st;
}
