/**
 * Reader of HDF5's older file format: superblock 0 or 1, version-1 object headers, groups with symbol tables. h5py and
 * most other programs write it unless told otherwise. Nothing in it has a checksum, and HDF5 1.10 crashes on some
 * damaged files; so these are read here, without HDF5. For the .c files of io (and the fuzz target) only.
 *
 * Every number is checked before it is used, whatever is read must lie in the file, and no two parts of a file may
 * overlap: that also ends references in circles. Damage that leaves all this whole (a bit of an extent that fits, a
 * letter of a name) cannot be seen.
 */
#ifndef INGOT_IO_HDF5_OLD_H
#define INGOT_IO_HDF5_OLD_H

#include <stdint.h>

#include "base/status.h"
#include "io/hdf5_dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_hdf5_kind {
  INGOT_HDF5_DATASET,
  INGOT_HDF5_GROUP, /* what is in it comes next */
  INGOT_HDF5_LINK,  /* to another name */
  INGOT_HDF5_OTHER  /* a named datatype */
} ingot_hdf5_kind;

/** One name of the file, without the slash at its start. `dataset` is NULL for other kinds. Both are lent. */
typedef ingot_status ingot_hdf5_old_visit(void *context, const char *name, ingot_hdf5_kind kind,
                                          const ingot_hdf5_dataset *dataset);

/** The superblock's version, byte 8 of the file. INGOT_ERR_NOTFOUND, or INGOT_ERR_FORMAT when this is not HDF5. */
ingot_status ingot_hdf5_superblock(const char *path, int *version);

/**
 * Visit all names of a file of `size` bytes, which is open and named in messages. Ends at the first visit that fails,
 * and returns its status. INGOT_ERR_FORMAT: damaged, or with objects of HDF5's newer format in it; then the visits so
 * far are worth nothing. INGOT_ERR_IO, INGOT_ERR_NOMEM.
 */
ingot_status ingot_hdf5_old_walk(int fd, const char *path, uint64_t size, ingot_hdf5_old_visit *visit, void *context);

#ifdef __cplusplus
}
#endif
#endif
