/** Inside of sinks: what sink.c, sink_layout.c and sink_hdf5.c share. */
#ifndef INGOT_IO_SINK_IMPL_H
#define INGOT_IO_SINK_IMPL_H

#include "base/text.h"
#include "io/sink.h"

/** Where a tensor's bytes are. */
typedef struct ingot_sink_extent {
  int64_t  file;   /* index into ingot_sink.files */
  uint64_t offset; /* 0 for an empty tensor */
  uint64_t bytes;
} ingot_sink_extent;

/** A file that holds tensors. */
typedef struct ingot_sink_data_file {
  char      *name;    /* within the output directory; NULL when the output is this file */
  char      *path;    /* of the partial file */
  ingot_text header;  /* safetensors: the file's first bytes; payload follows */
  uint64_t   bytes;   /* size of the whole file */
  int        fd;      /* -1 until opened */
  int        written; /* by this process; set by any thread, through __atomic_store_n */
} ingot_sink_data_file;

/** A file of a directory that holds no tensors. */
typedef struct ingot_sink_small_file {
  const char *name; /* borrowed */
  const void *bytes;
  size_t      size;
} ingot_sink_small_file;

struct ingot_sink {
  ingot_sink_spec        spec; /* its arrays are borrowed */
  char                  *path; /* final name without slashes at its end */
  char                  *partial;
  ingot_sink_extent     *extents; /* [spec.n_tensor] */
  ingot_sink_data_file  *files;
  int                    n_file;
  ingot_sink_small_file *small; /* HF_DIR: side files, index, model card */
  int                    n_small;
  ingot_text             index; /* HF_DIR with several shards: model.safetensors.index.json */
};

/**
 * Check a spec and work out everything that follows from it alone: sizes, files, headers, and offsets too except for
 * HDF5, where the library places the datasets. INGOT_ERR_FORMAT names a tensor or side file that cannot be stored.
 */
ingot_status ingot_sink_lay_out(const ingot_sink_spec *spec, ingot_sink **out);

/** Bytes of an HDF5 output beside the payload, from above: metadata, page padding, attributes, side files. */
uint64_t ingot_sink_hdf5_overhead(const ingot_sink_spec *spec);
/** Create the file with all its objects, and learn the tensors' offsets. Collective. */
ingot_status ingot_sink_hdf5_create(ingot_comm *comm, ingot_sink *sink);
/** Check an existing file against the spec, and learn the offsets. One rank. INGOT_ERR_NOTFOUND when it differs. */
ingot_status ingot_sink_hdf5_verify(ingot_sink *sink);
/** Store the tensors' checksums, and flush if durable. One rank, after all have closed the file. */
ingot_status ingot_sink_hdf5_finish(ingot_sink *sink, const uint64_t *checksums);

#endif
