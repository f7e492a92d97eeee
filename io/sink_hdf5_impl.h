/* A checkpoint's HDF5 skeleton, as it is made (sink_hdf5.c), and looked at again and finished
 * (sink_hdf5_existing.c). */
#ifndef INGOT_IO_SINK_HDF5_IMPL_H
#define INGOT_IO_SINK_HDF5_IMPL_H

#include "io/hdf5_par.h"
#include "io/sink_impl.h"

/* Property lists and groups that are open while the skeleton is made or checked; -1 when not. */
typedef struct ingot_skeleton {
  const ingot_sink *sink;
  hid_t             access, file, group_list, dataset_list, tensors, files, scalar, padding;
  int               n_padding;
  uint64_t          end; /* of the storage made last, on a page; 0 when none has been */
} ingot_skeleton;

#define INGOT_SKELETON_CLOSED ((ingot_skeleton){NULL, -1, -1, -1, -1, -1, -1, -1, -1, 0, 0})

void ingot_skeleton_close(ingot_skeleton *skeleton);
/** Closes the file, which writes its metadata; false when that fails. Lists and types may stay open. */
bool ingot_skeleton_write(ingot_skeleton *skeleton);

/** INGOT_ERR_IO or INGOT_ERR_NOSPACE, by HDF5's own words: it could not WHAT NAME. */
ingot_status ingot_sink_hdf5_fail(const ingot_sink *sink, const char *what, const char *name);

#define INGOT_CHECK_H5(cond, what, name)           \
  do {                                             \
    if (!(cond)) {                                 \
      st = ingot_sink_hdf5_fail(sink, what, name); \
      goto done;                                   \
    }                                              \
  } while (0)

#endif
