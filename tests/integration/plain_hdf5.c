/* plain_hdf5 SOURCE OUTPUT: the tensors of a source as an HDF5 file of others, in the older format that most programs
 * write. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/hdf5_types.h"
#include "io/source.h"

static int copy(const ingot_source *src, int tensor, hid_t file)
{
  const ingot_tensor_info *t = ingot_source_tensor(src, tensor);
  hsize_t                  extent[INGOT_MAX_DIMS];
  hid_t                    type = -1, links = H5Pcreate(H5P_LINK_CREATE);
  void                    *bytes = malloc(t->bytes + 1);
  for (int d = 0; d < t->shape.n_dim; d++) extent[d] = (hsize_t)t->shape.dim[d];
  if (!bytes || ingot_source_read(src, tensor, 0, t->bytes, bytes) != INGOT_OK ||
      ingot_hdf5_type_create(t->dtype, &type) != INGOT_OK || H5Pset_create_intermediate_group(links, 1) < 0)
    return 1;
  hid_t space = t->shape.n_dim ? H5Screate_simple(t->shape.n_dim, extent, NULL) : H5Screate(H5S_SCALAR);
  hid_t dataset = H5Dcreate2(file, t->name, type, space, links, H5P_DEFAULT, H5P_DEFAULT);
  int   failed = H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) < 0;
  H5Dclose(dataset);
  H5Sclose(space);
  H5Tclose(type);
  H5Pclose(links);
  free(bytes);
  return failed;
}

int main(int argc, char **argv)
{
  ingot_source *src = NULL;
  int           failed = argc != 3 || ingot_source_open(argv[1], &src) != INGOT_OK;
  hid_t         access = H5Pcreate(H5P_FILE_ACCESS);
  failed = failed || H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST) < 0;
  hid_t file = failed ? -1 : H5Fcreate(argv[2], H5F_ACC_TRUNC, H5P_DEFAULT, access);
  failed = failed || file < 0;
  for (int i = 0; !failed && i < ingot_source_count(src); i++) failed = copy(src, i, file);
  if (file >= 0) failed = H5Fclose(file) < 0 || failed;
  H5Pclose(access);
  ingot_source_close(&src);
  if (failed) fprintf(stderr, "plain_hdf5: %s\n", ingot_error_message());
  return failed;
}
