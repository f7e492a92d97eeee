/** Copy a checkpoint into another form, byte for byte: what `ingot export` and `ingot import` do. */
#ifndef INGOT_IO_COPY_H
#define INGOT_IO_COPY_H

#include "base/comm.h"
#include "io/sink.h"
#include "io/source.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_copy_options {
  const char                 *path;        /* output; its ending says which format */
  uint64_t                    shard_bytes; /* as in ingot_sink_spec */
  bool                        durable;
  ingot_lock                 *lock; /* likewise */
  const ingot_sink_attribute *attributes;
  int                         n_attribute;
  bool (*stopped)(void *context); /* asked between tiles; NULL: never stop */
  void *stopped_context;
} ingot_copy_options;

typedef struct ingot_copy_result {
  int      n_tensor, n_side_file;
  uint64_t bytes; /* of all tensors */
} ingot_copy_result;

/**
 * Copy all tensors (in the source's order) and side files. Collective: every rank has opened the source itself and
 * copies its share of the tiles, one tile of memory each. Where the source stores checksums, what was read is compared
 * with them. An existing output is replaced; whether that is wanted, the caller has found out. After a failure, or a
 * stop, no partial output is left.
 *
 * INGOT_ERR_FORMAT when the data does not match a stored checksum (the message names the tensor); INGOT_STOPPED; else
 * what sources and sinks return.
 */
ingot_status ingot_copy_checkpoint(ingot_comm *comm, ingot_source *src, const ingot_copy_options *options,
                                   ingot_copy_result *result);

#ifdef __cplusplus
}
#endif
#endif
