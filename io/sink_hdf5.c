/*
 * An ingot checkpoint as a sink. HDF5 makes the skeleton, which is complete and consistent from then on; payload goes
 * past the library, by positional writes at the datasets' offsets. See docs/formats.md for the reasons.
 */
#define _GNU_SOURCE /* fallocate, memfd_create, SEEK_DATA */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/tile.h"
#include "io/atomic_file.h"
#include "io/hdf5_types.h"
#include "io/sink_hdf5_impl.h"
#include "io/stripes.h"

enum { PAGE_BYTES = INGOT_SINK_PAGE, FIXED_PAGES = 24 };
#define PADDING "padding" /* group that is there while the skeleton is made */
#define TILE_ATTRIBUTE "checksum_tile_elements"

ingot_status ingot_sink_hdf5_fail(const ingot_sink *s, const char *what, const char *name)
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

static uint64_t pages(uint64_t bytes)
{
  return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

uint64_t ingot_sink_alignment(const ingot_sink_spec *spec)
{
  uint64_t bytes = spec->alignment_bytes ? spec->alignment_bytes : INGOT_SINK_ALIGNMENT;
  return spec->io.stripe_bytes > bytes ? spec->io.stripe_bytes : bytes; /* powers of two: multiples of both */
}

static bool is_large(const ingot_sink_spec *spec, const ingot_sink_tensor *t)
{
  int64_t n_elem = 0;
  return ingot_sink_alignment(spec) > PAGE_BYTES && ingot_shape_count(&t->shape, &n_elem) &&
         (uint64_t)n_elem * ingot_dtype_size(t->dtype) / INGOT_SINK_LARGE >= ingot_sink_alignment(spec);
}

static uint64_t count_large(const ingot_sink_spec *spec)
{
  uint64_t n = 0;
  for (int i = 0; i < spec->n_tensor; i++) n += is_large(spec, &spec->tensors[i]);
  return n;
}

/*
 * Metadata in bytes, from above: alignment gives each object header pages of its own (most of them holes), and a large
 * group's tree and heap have a page a node. It becomes one block at the front of the file, so that headers are read in
 * one go.
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
  uint64_t bytes = metadata_bytes(spec) + ((uint64_t)spec->n_tensor + 1) * PAGE_BYTES;
  bytes += count_large(spec) * ingot_sink_alignment(spec);
  for (int i = 0; i < spec->n_file; i++) bytes += (pages(spec->files[i].size) + 1) * PAGE_BYTES;
  return bytes;
}

void ingot_skeleton_close(ingot_skeleton *k)
{
  if (k->scalar >= 0) H5Sclose(k->scalar);
  if (k->dataset_list >= 0) H5Pclose(k->dataset_list);
  if (k->group_list >= 0) H5Pclose(k->group_list);
  if (k->access >= 0) H5Pclose(k->access);
  if (k->padding >= 0) H5Gclose(k->padding);
  if (k->tensors >= 0) H5Gclose(k->tensors);
  if (k->files >= 0) H5Gclose(k->files);
  if (k->file >= 0) H5Fclose(k->file);
  *k = INGOT_SKELETON_CLOSED;
}

/* Groups first: the file is closed, and its metadata written, with the last of its objects. */
bool ingot_skeleton_write(ingot_skeleton *k)
{
  H5Gclose(k->tensors);
  H5Gclose(k->files);
  k->tensors = k->files = -1;
  herr_t closed = H5Fclose(k->file);
  k->file = -1;
  return closed >= 0;
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
  INGOT_CHECK_H5(space >= 0 && type >= 0 && H5Tset_size(type, size) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0,
                 "make the type of attribute", a->name);
  attribute = H5Acreate2(object, a->name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  INGOT_CHECK_H5(attribute >= 0 && H5Awrite(attribute, type, a->text) >= 0, "write attribute", a->name);
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
  INGOT_CHECK_H5(attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0, "write attribute", name);
done:
  if (attribute >= 0) H5Aclose(attribute);
  return st;
}

/* Memory for making the skeleton. Had before any rank begins: one that left in the middle would keep the others
 * waiting. */
typedef struct skeleton_room {
  uint64_t *side_offsets; /* [n_file]: the result */
  char     *path;         /* for the longest of the tensors' names */
} skeleton_room;

static bool room_get(const ingot_sink_spec *spec, skeleton_room *room)
{
  size_t longest = 0;
  for (int i = 0; i < spec->n_tensor; i++) {
    size_t length = strlen(spec->tensors[i].name);
    if (length > longest) longest = length;
  }
  room->side_offsets = calloc((size_t)spec->n_file + 1, sizeof *room->side_offsets);
  room->path = malloc(longest + 1);
  return room->side_offsets && room->path;
}

static void room_release(skeleton_room *room)
{
  free(room->side_offsets);
  free(room->path);
}

/* Groups above a tensor whose name has slashes; HDF5 would make them itself, but with the time of day in them. */
static ingot_status make_groups(const ingot_skeleton *k, const char *name, char *path)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  memcpy(path, name, strlen(name) + 1);
  for (char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    htri_t there = H5Lexists(k->tensors, path, H5P_DEFAULT);
    INGOT_CHECK_H5(there >= 0, "look for group", path);
    if (!there) {
      hid_t group = H5Gcreate2(k->tensors, path, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
      INGOT_CHECK_H5(group >= 0, "create group", path);
      H5Gclose(group);
    }
    *slash = '/';
  }
done:
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
static ingot_status add_dataset(const ingot_skeleton *k, hid_t group, const char *name, hid_t type,
                                const ingot_shape *shape, bool checksum, uint64_t *offset)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  int64_t           n_elem = 0;
  hid_t             space = space_of(shape), dataset = -1;
  INGOT_CHECK_H5(space >= 0, "make the shape of", name);
  dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, k->dataset_list, H5P_DEFAULT);
  INGOT_CHECK_H5(dataset >= 0, "create dataset", name);
  if (checksum) INGOT_TRY(add_number(dataset, k->scalar, sink, INGOT_HDF5_CHECKSUM, H5T_STD_U64LE, 0));
  *offset = 0;
  if (ingot_shape_count(shape, &n_elem) && n_elem > 0) {
    haddr_t at = H5Dget_offset(dataset);
    INGOT_CHECK_H5(at != HADDR_UNDEF, "allocate the storage of", name);
    *offset = at;
  }
done:
  if (dataset >= 0) H5Dclose(dataset);
  if (space >= 0) H5Sclose(space);
  return st;
}

/* Storage of so many bytes that no tensor has, taken out again by end_padding. */
static ingot_status pad(ingot_skeleton *k, hid_t type, uint64_t bytes)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  ingot_shape       shape = {.n_dim = 1, .dim = {(int64_t)bytes}};
  uint64_t          offset = 0;
  char              name[24];
  if (k->padding < 0) k->padding = H5Gcreate2(k->file, PADDING, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  INGOT_CHECK_H5(k->padding >= 0, "create group", PADDING);
  snprintf(name, sizeof name, "%d", k->n_padding++);
  INGOT_TRY(add_dataset(k, k->padding, name, type, &shape, false, &offset));
  k->end = offset + pages(bytes) * PAGE_BYTES;
done:
  return st;
}

/*
 * Make the next storage begin at a multiple of the alignment. HDF5 has one alignment for all objects of a file, which
 * would give every header such room; so what lies between is taken by a dataset that is deleted later, whose room HDF5
 * does not use again.
 */
static ingot_status align_next(ingot_skeleton *k, hid_t type)
{
  ingot_status st = INGOT_OK;
  uint64_t     alignment = ingot_sink_alignment(&k->sink->spec);
  if (k->end == 0) INGOT_TRY(pad(k, type, PAGE_BYTES)); /* tells where the next one will be */
  if (k->end % alignment) st = pad(k, type, alignment - k->end % alignment);
done:
  return st;
}

static ingot_status end_padding(ingot_skeleton *k)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  if (k->padding < 0) return INGOT_OK;
  H5Gclose(k->padding);
  k->padding = -1;
  INGOT_CHECK_H5(H5Ldelete(k->file, PADDING, H5P_DEFAULT) >= 0, "remove group", PADDING);
done:
  return st;
}

/* Rank 0, with the new file open: what was asked of MPI-IO and has no effect. No failure: the other ranks go on
 * meanwhile. */
static void warn_of_hints(ingot_comm *comm, const ingot_skeleton *k, bool alone)
{
  const ingot_sink *sink = k->sink;
  ingot_text        stripes = {0}, hints = {0};
  ingot_stripes     found;
  if (!ingot_hdf5_is_parallel(comm)) {
    ingot_log_warning("%s: this build has no MPI-IO: stripes and hints of `io` had no effect", sink->path);
    return;
  }
  if (alone) {
    ingot_log_warning(
        "%s: stripes and hints of `io` had no effect: files on NFS and SMB, and where there are no file locks, are not "
        "made by MPI-IO",
        sink->path);
    return;
  }
  ingot_stripes_look(sink->partial, &found);
  ingot_status st = ingot_stripes_remark(sink->path, &sink->spec.io, &found, &stripes);
  if (st == INGOT_OK && stripes.size > 0) ingot_log_warning("%s", ingot_text_string(&stripes));
  st = ingot_hdf5_hints_remark(k->file, k->access, sink->path, &sink->spec.io, &hints);
  if (st == INGOT_OK && hints.size > 0) ingot_log_warning("%s", ingot_text_string(&hints));
  ingot_text_release(&stripes);
  ingot_text_release(&hints);
}

/* Open the new file with its property lists and groups. Collective; with `apart` this rank alone, and there. */
static ingot_status begin(ingot_comm *comm, ingot_skeleton *k, const char *apart)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  hid_t             list = list_without_times(H5P_FILE_CREATE);
  if (apart) k->access = ingot_hdf5_access_alone(comm);
  else INGOT_TRY(ingot_hdf5_access_collective(comm, &sink->spec.io, &k->access));
  INGOT_CHECK_H5(list >= 0 && k->access >= 0, "prepare", "access");
  /* Every allocation on a page of its own; payload not mixed with metadata; both in the order of creation. */
  INGOT_CHECK_H5(H5Pset_alignment(k->access, 1, PAGE_BYTES) >= 0 && H5Pset_small_data_block_size(k->access, 0) >= 0 &&
                     H5Pset_meta_block_size(k->access, metadata_bytes(&sink->spec)) >= 0,
                 "prepare", "alignment");
  /* Space that alignment leaves over is not tracked for reuse: looking through it takes quadratic time. */
  INGOT_CHECK_H5(H5Pset_file_space_strategy(list, H5F_FSPACE_STRATEGY_AGGR, false, 1) >= 0, "prepare", "the strategy");
  k->group_list = list_without_times(H5P_GROUP_CREATE);
  k->dataset_list = list_without_times(H5P_DATASET_CREATE);
  k->scalar = H5Screate(H5S_SCALAR);
  INGOT_CHECK_H5(k->group_list >= 0 && k->dataset_list >= 0 && k->scalar >= 0 &&
                     H5Pset_layout(k->dataset_list, H5D_CONTIGUOUS) >= 0 &&
                     H5Pset_alloc_time(k->dataset_list, H5D_ALLOC_TIME_EARLY) >= 0 &&
                     H5Pset_fill_time(k->dataset_list, H5D_FILL_TIME_NEVER) >= 0,
                 "prepare", "property lists");
  /* The superblock's extension is made from the default list, with the time of day unless told otherwise. */
  INGOT_CHECK_H5(H5Pset_obj_track_times(H5P_GROUP_CREATE_DEFAULT, false) >= 0, "prepare", "defaults");
  k->file = H5Fcreate(apart ? apart : sink->partial, H5F_ACC_TRUNC, list, k->access);
  H5Pset_obj_track_times(H5P_GROUP_CREATE_DEFAULT, true);
  INGOT_CHECK_H5(k->file >= 0, "create", "the file");
  k->tensors = H5Gcreate2(k->file, INGOT_HDF5_TENSORS, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  k->files = H5Gcreate2(k->file, INGOT_HDF5_FILES, H5P_DEFAULT, k->group_list, H5P_DEFAULT);
  INGOT_CHECK_H5(k->tensors >= 0 && k->files >= 0, "create", "groups");
  if (ingot_comm_rank(comm) == 0 && ingot_sink_io_given(&sink->spec.io)) warn_of_hints(comm, k, apart != NULL);
done:
  if (list >= 0) H5Pclose(list);
  return st;
}

/* All objects in the spec's order. Collective: every rank makes the same calls; with `apart` this rank alone, and
 * there. */
static ingot_status build(ingot_comm *comm, ingot_sink *sink, const char *apart, skeleton_room *room)
{
  ingot_status   st = INGOT_OK;
  ingot_skeleton k = INGOT_SKELETON_CLOSED;
  hid_t          type[INGOT_DTYPE_COUNT];
  int            n_type = 0;
  k.sink = sink;
  for (; n_type < INGOT_DTYPE_COUNT; n_type++) INGOT_TRY(ingot_hdf5_type_create((ingot_dtype)n_type, &type[n_type]));
  INGOT_TRY(begin(comm, &k, apart));
  INGOT_TRY(add_number(k.file, k.scalar, sink, INGOT_HDF5_VERSION, H5T_STD_I32LE, INGOT_HDF5_FORMAT_VERSION));
  INGOT_TRY(add_number(k.file, k.scalar, sink, TILE_ATTRIBUTE, H5T_STD_I64LE, INGOT_TILE));
  for (int i = 0; i < sink->spec.n_attribute; i++) INGOT_TRY(add_text(k.file, sink, &sink->spec.attributes[i]));
  for (int i = 0; i < sink->spec.n_file; i++) {
    const ingot_sink_file *f = &sink->spec.files[i];
    ingot_shape            shape = {.n_dim = 1, .dim = {(int64_t)f->size}};
    INGOT_TRY(add_dataset(&k, k.files, f->name, type[INGOT_DTYPE_U8], &shape, false, &room->side_offsets[i]));
    if (f->size) k.end = room->side_offsets[i] + pages(f->size) * PAGE_BYTES;
  }
  for (int i = 0; i < sink->spec.n_tensor; i++) {
    const ingot_sink_tensor *t = &sink->spec.tensors[i];
    uint64_t                *offset = &sink->extents[i].offset;
    INGOT_TRY(make_groups(&k, t->name, room->path));
    if (is_large(&sink->spec, t)) INGOT_TRY(align_next(&k, type[INGOT_DTYPE_U8]));
    INGOT_TRY(add_dataset(&k, k.tensors, t->name, type[t->dtype], &t->shape, true, offset));
    if (sink->extents[i].bytes) k.end = *offset + pages(sink->extents[i].bytes) * PAGE_BYTES;
  }
  INGOT_TRY(end_padding(&k));
  INGOT_CHECK_H5(ingot_skeleton_write(&k), "write", "the metadata");
done:
  for (int i = 0; i < n_type; i++) H5Tclose(type[i]);
  ingot_skeleton_close(&k);
  return st;
}

/* What is no hole in a skeleton: into the partial file. */
static ingot_status copy_skeleton(const ingot_sink *sink, int from)
{
  enum { PIECE = 1 << 20 };
  ingot_status st = INGOT_OK;
  struct stat  info;
  char        *piece = malloc(PIECE);
  int          to = open(sink->partial, O_WRONLY | O_TRUNC | O_CLOEXEC);
  INGOT_CHECK(piece, INGOT_ERR_NOMEM, "%s: no memory to write its metadata", sink->partial);
  INGOT_CHECK(to >= 0, INGOT_ERR_IO, "%s: cannot open for writing: %s", sink->partial, strerror(errno));
  INGOT_CHECK(fstat(from, &info) == 0 && ftruncate(to, info.st_size) == 0, ingot_file_status(errno),
              "%s: setting its size: %s", sink->partial, strerror(errno));
  for (off_t at = lseek(from, 0, SEEK_DATA), end; at >= 0; at = lseek(from, end, SEEK_DATA)) {
    end = lseek(from, at, SEEK_HOLE);
    INGOT_CHECK(end > at, INGOT_ERR_IO, "%s: its metadata in memory: %s", sink->partial, strerror(errno));
    if (end - at > PIECE) end = at + PIECE;
    INGOT_TRY(ingot_file_pread(from, sink->partial, (uint64_t)at, piece, (size_t)(end - at)));
    INGOT_TRY(ingot_file_pwrite(to, sink->partial, (uint64_t)at, piece, (size_t)(end - at)));
  }
done:
  if (to >= 0 && close(to) != 0 && st == INGOT_OK)
    st = ingot_fail(ingot_file_status(errno), "%s: closing: %s", sink->partial, strerror(errno));
  free(piece);
  return st;
}

/*
 * The skeleton by this rank alone: made in memory, so that MPI-IO asks nothing of the file system, and then written. A
 * file that other nodes look at once this rank has closed it is the one thing that NFS does well.
 */
static ingot_status build_alone(ingot_comm *comm, ingot_sink *sink, skeleton_room *room)
{
  ingot_status st = INGOT_OK;
  char         path[40];
  int          fd = memfd_create("skeleton", MFD_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: no file in memory for its metadata: %s", sink->partial, strerror(errno));
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  INGOT_TRY(build(comm, sink, path, room));
  st = copy_skeleton(sink, fd);
done:
  if (fd >= 0) close(fd);
  return st;
}

/*
 * Make sure that the metadata will fit before HDF5, which recovers badly from a full disk, is asked to write it; and
 * whether one rank should make the file. Stripes are settled by what creates a file: where any are asked for, that is
 * to be MPI-IO.
 */
static ingot_status check_room(ingot_comm *comm, const ingot_sink *sink, int64_t *alone)
{
  ingot_status st = INGOT_OK;
  int          fd = open(sink->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", sink->partial, strerror(errno));
  *alone = ingot_hdf5_is_parallel(comm) && ingot_file_wants_one_writer(fd);
  uint64_t bytes = metadata_bytes(&sink->spec);
  if (fallocate(fd, 0, 0, (off_t)bytes) != 0 && ingot_file_status(errno) == INGOT_ERR_NOSPACE)
    st = ingot_fail(INGOT_ERR_NOSPACE, "%s: no room for %llu bytes of metadata: %s", sink->partial,
                    (unsigned long long)bytes, strerror(errno));
  if (st == INGOT_OK && !*alone && ingot_sink_io_given(&sink->spec.io))
    INGOT_CHECK(unlink(sink->partial) == 0, INGOT_ERR_IO, "%s: cannot remove: %s", sink->partial, strerror(errno));
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
  int64_t          alone = 0;
  bool             root = ingot_comm_rank(comm) == 0;
  skeleton_room    room = {0};
  ingot_status     st = room_get(&sink->spec, &room)
                            ? ingot_sink_check_names(&sink->spec)
                            : ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its names", sink->path);
  ingot_hdf5_quiet_begin(&quiet);
  if (st == INGOT_OK && root) st = check_room(comm, sink, &alone);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_bcast(comm, &alone, sizeof alone, 0));
  if (!alone) st = build(comm, sink, NULL, &room);
  else if (root) st = build_alone(comm, sink, &room);
  INGOT_TRY(ingot_comm_agree(comm, st));
  if (alone) INGOT_TRY(ingot_comm_bcast(comm, sink->extents, (size_t)sink->spec.n_tensor * sizeof *sink->extents, 0));
  if (root) st = write_side_files(sink, room.side_offsets);
  INGOT_TRY(ingot_comm_agree(comm, st));
  st = ingot_comm_bcast(comm, &sink->files[0].bytes, sizeof sink->files[0].bytes, 0);
done:
  ingot_hdf5_quiet_end(&quiet);
  room_release(&room);
  return st;
}
