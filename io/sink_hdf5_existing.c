/* An ingot checkpoint as a sink, once its skeleton is there: is it the one that the spec means, and its end. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/atomic_file.h"
#include "io/hdf5_types.h"
#include "io/sink_hdf5_impl.h"

static ingot_status open_existing(ingot_skeleton *k, unsigned mode)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  k->access = ingot_hdf5_access_single();
  INGOT_CHECK_H5(k->access >= 0, "prepare", "access");
  k->file = H5Fopen(sink->partial, mode, k->access);
  INGOT_CHECK_H5(k->file >= 0, "open", "the file");
  k->tensors = H5Gopen2(k->file, INGOT_HDF5_TENSORS, H5P_DEFAULT);
  k->files = H5Gopen2(k->file, INGOT_HDF5_FILES, H5P_DEFAULT);
  INGOT_CHECK_H5(k->tensors >= 0 && k->files >= 0, "open", "groups");
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
  INGOT_CHECK_H5(dataset >= 0, "open dataset", name);
  type = H5Dget_type(dataset);
  space = H5Dget_space(dataset);
  INGOT_CHECK_H5(type >= 0 && space >= 0, "read the type of", name);
  int  n_dim = H5Sget_simple_extent_dims(space, dim, NULL);
  bool same = ingot_hdf5_type_recognise(type, &found) && found == dtype && n_dim == shape->n_dim;
  for (int i = 0; same && i < n_dim; i++) same = dim[i] == (hsize_t)shape->dim[i];
  INGOT_CHECK(same, INGOT_ERR_NOTFOUND, "%s: %s has another type or shape", sink->partial, name);
  *offset = 0;
  if (ingot_shape_count(shape, &n_elem) && n_elem > 0) {
    *offset = H5Dget_offset(dataset);
    INGOT_CHECK_H5(*offset != HADDR_UNDEF, "find the storage of", name);
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
  INGOT_CHECK_H5(attribute >= 0, "open attribute", a->name);
  type = H5Aget_type(attribute);
  bool same =
      type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && H5Tget_size(type) == size;
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
static ingot_status verify_counts(const ingot_skeleton *k)
{
  ingot_status      st = INGOT_OK;
  const ingot_sink *sink = k->sink;
  int64_t           n = 0;
  object_info       info;
  INGOT_CHECK_H5(H5Ovisit2(k->file, H5_INDEX_NAME, H5_ITER_NATIVE, count_dataset, &n, H5O_INFO_BASIC) >= 0, "list",
                 "datasets");
  INGOT_CHECK_H5(H5Oget_info2(k->file, &info, H5O_INFO_NUM_ATTRS) >= 0, "count", "attributes");
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
  ingot_status   st = INGOT_OK;
  ingot_skeleton k = INGOT_SKELETON_CLOSED;
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
  ingot_skeleton_close(&k);
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
  INGOT_CHECK_H5(attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT64, &checksum) >= 0, "store the checksum of",
                 name);
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
  ingot_skeleton   k = INGOT_SKELETON_CLOSED;
  ingot_hdf5_quiet quiet;
  ingot_hdf5_quiet_begin(&quiet);
  k.sink = sink;
  INGOT_TRY(open_existing(&k, H5F_ACC_RDWR));
  for (int i = 0; i < sink->spec.n_tensor; i++)
    INGOT_TRY(store_checksum(sink, k.tensors, sink->spec.tensors[i].name, checksums[i]));
  INGOT_CHECK_H5(ingot_skeleton_write(&k), "write", "the checksums");
  if (sink->spec.durable) st = flush(sink);
done:
  ingot_skeleton_close(&k);
  ingot_hdf5_quiet_end(&quiet);
  return st;
}
