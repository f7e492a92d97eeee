/** Datasets of HDF5 files as their files describe them, whoever reads. For the .c files of io (and the fuzz target)
 * only. */
#ifndef INGOT_IO_HDF5_DATASET_H
#define INGOT_IO_HDF5_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "io/hdf5_types.h"
#include "io/source_table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INGOT_HDF5_NOWHERE UINT64_MAX /* address of what is not allocated */

typedef struct ingot_hdf5_dataset {
  ingot_hdf5_type type;
  H5D_layout_t    layout;   /* H5D_LAYOUT_ERROR: a kind that is not known */
  bool            external; /* the data is in other files */
  int             n_dim;    /* 0: a scalar; -1: no shape */
  uint64_t        dim[H5S_MAX_RANK];
  uint64_t        offset, stored_bytes; /* of contiguous data */
} ingot_hdf5_dataset;

/** What HDF5 says of an open dataset; path and name are for the message. INGOT_ERR_FORMAT. */
ingot_status ingot_hdf5_dataset_describe(const char *path, const char *name, hid_t dataset, ingot_hdf5_dataset *out);
/**
 * Add a dataset to a source of one file as a tensor. info holds its name, and its checksum if there is one.
 * INGOT_ERR_FORMAT unless it is one contiguous, allocated range inside the file, of a type and a shape that ingot
 * knows.
 */
ingot_status ingot_hdf5_dataset_add(ingot_source *src, const ingot_hdf5_dataset *d, ingot_tensor_info info);

#ifdef __cplusplus
}
#endif
#endif
