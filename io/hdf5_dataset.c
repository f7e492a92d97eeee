/* What HDF5 says of a dataset, and what is asked of one that is to be a tensor. */
#include "io/hdf5_dataset.h"

#include <inttypes.h>

static ingot_status describe_place(const char *path, const char *name, hid_t dataset, ingot_hdf5_dataset *d)
{
  hid_t creation = H5Dget_create_plist(dataset);
  if (creation < 0) return ingot_hdf5_fail(path, name);
  d->layout = H5Pget_layout(creation);
  d->external = H5Pget_external_count(creation) != 0;
  d->offset = d->layout == H5D_CONTIGUOUS ? H5Dget_offset(dataset) : INGOT_HDF5_NOWHERE;
  if (d->offset == HADDR_UNDEF) d->offset = INGOT_HDF5_NOWHERE;
  d->stored_bytes = H5Dget_storage_size(dataset);
  H5Pclose(creation);
  return INGOT_OK;
}

static ingot_status describe_shape(const char *path, const char *name, hid_t dataset, ingot_hdf5_dataset *d)
{
  ingot_status st = INGOT_OK;
  hsize_t      extent[H5S_MAX_RANK];
  hid_t        space = H5Dget_space(dataset);
  if (space < 0) return ingot_hdf5_fail(path, name);
  H5S_class_t kind = H5Sget_simple_extent_type(space);
  d->n_dim = kind == H5S_SCALAR || kind == H5S_SIMPLE ? H5Sget_simple_extent_ndims(space) : -1;
  if (d->n_dim > 0 && H5Sget_simple_extent_dims(space, extent, NULL) != d->n_dim) st = ingot_hdf5_fail(path, name);
  for (int i = 0; st == INGOT_OK && i < d->n_dim; i++) d->dim[i] = extent[i];
  H5Sclose(space);
  return st;
}

ingot_status ingot_hdf5_dataset_describe(const char *path, const char *name, hid_t dataset, ingot_hdf5_dataset *d)
{
  hid_t type = H5Dget_type(dataset);
  if (type < 0) return ingot_hdf5_fail(path, name);
  d->type = ingot_hdf5_type_describe(type);
  H5Tclose(type);
  ingot_status st = describe_shape(path, name, dataset, d);
  return st == INGOT_OK ? describe_place(path, name, dataset, d) : st;
}

static ingot_status check_place(const char *path, const char *name, const ingot_hdf5_dataset *d)
{
  ingot_status st = INGOT_OK;
  INGOT_CHECK(d->layout != H5D_CHUNKED, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": the dataset is chunked or compressed, expected a contiguous one", path, name);
  INGOT_CHECK(d->layout == H5D_CONTIGUOUS, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": the dataset is %s, expected a contiguous one", path, name,
              d->layout == H5D_COMPACT ? "compact" : "virtual or of an unknown layout");
  INGOT_CHECK(!d->external, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": the data is in an external file, expected it in this one", path, name);
done:
  return st;
}

static ingot_status take_shape(const char *path, const char *name, const ingot_hdf5_dataset *d, ingot_shape *shape)
{
  ingot_status st = INGOT_OK;
  INGOT_CHECK(d->n_dim >= 0, INGOT_ERR_FORMAT, "%s: tensor \"%s\": the dataset has no shape", path, name);
  INGOT_CHECK(d->n_dim <= INGOT_MAX_DIMS, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": shape has %d dimensions, at most %d are supported", path, name, d->n_dim,
              INGOT_MAX_DIMS);
  shape->n_dim = d->n_dim;
  for (int i = 0; i < d->n_dim; i++) {
    INGOT_CHECK(d->dim[i] <= INT64_MAX, INGOT_ERR_FORMAT, "%s: tensor \"%s\": shape[%d] overflows 64 bits", path, name,
                i);
    shape->dim[i] = (int64_t)d->dim[i];
  }
done:
  return st;
}

ingot_status ingot_hdf5_dataset_add(ingot_source *src, const ingot_hdf5_dataset *d, ingot_tensor_info info)
{
  ingot_status st = INGOT_OK;
  const char  *path = src->files[0].path, *name = info.name;
  uint64_t     file_bytes = src->files[0].bytes;
  char         text[96];
  INGOT_CHECK(ingot_hdf5_type_dtype(&d->type, &info.dtype), INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": element type %s is not one that ingot knows", path, name,
              ingot_hdf5_type_text(&d->type, text));
  INGOT_TRY(take_shape(path, name, d, &info.shape));
  INGOT_TRY(check_place(path, name, d));
  int64_t n_elem = 0;
  bool    empty = ingot_shape_count(&info.shape, &n_elem) && n_elem == 0; /* nothing is allocated for it */
  info.offset = empty ? 0 : d->offset;
  INGOT_CHECK(info.offset != INGOT_HDF5_NOWHERE, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": the dataset has no data (never written)", path, name);
  INGOT_TRY(ingot_source_add_tensor(src, &info));
  uint64_t bytes = src->tensors[src->n_tensor - 1].bytes;
  INGOT_CHECK(info.offset <= file_bytes && bytes <= file_bytes - info.offset, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": %" PRIu64 " bytes at %" PRIu64 " reach beyond the file, which has %" PRIu64
              " bytes (truncated?)",
              path, name, bytes, info.offset, file_bytes);
  INGOT_CHECK(empty || d->stored_bytes == bytes, INGOT_ERR_FORMAT,
              "%s: tensor \"%s\": shape and dtype take %" PRIu64 " bytes, the dataset stores %" PRIu64, path, name,
              bytes, d->stored_bytes);
done:
  return st;
}
