/**
 * A sink: an output checkpoint that many ranks and threads write at once. The layout follows from the list of tensors
 * alone, so every rank knows every offset; payload goes by positional writes of disjoint ranges.
 *
 * Formats: an ingot checkpoint (HDF5, created through parallel HDF5, or by one rank on NFS and where there are no file
 * locks; contiguous page-aligned datasets allocated early), a Hugging Face directory of safetensors shards, or a single
 * .safetensors file.
 *
 * The output grows under a temporary name next to its final one ("<path>.partial"); commit renames it. Its bytes depend
 * on the job alone: not on ranks, threads, restarts, hosts or time.
 */
#ifndef INGOT_IO_SINK_H
#define INGOT_IO_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/comm.h"
#include "base/dtype.h"
#include "base/shape.h"
#include "base/status.h"
#include "io/lock.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_sink_format {
  INGOT_SINK_HDF5,        /* path ends in .h5 or .hdf5 */
  INGOT_SINK_SAFETENSORS, /* path ends in .safetensors */
  INGOT_SINK_HF_DIR,      /* anything else */
} ingot_sink_format;

typedef struct ingot_sink_tensor {
  const char *name;
  ingot_dtype dtype;
  ingot_shape shape;
} ingot_sink_tensor;

typedef struct ingot_sink_file { /* a side file, byte for byte */
  const char *name;              /* no '/' */
  const void *bytes;
  size_t      size;
} ingot_sink_file;

typedef struct ingot_sink_attribute { /* root attribute (HDF5), or header metadata / model card (safetensors) */
  const char *name;
  const char *text;
} ingot_sink_attribute;

/**
 * Where tensors of an HDF5 output begin: large ones, of 16 times the alignment or more, at multiples of it, all others
 * on pages. A power of two, at least a page. The default is the usual stripe of a parallel file system, so that a tile
 * is whole stripes.
 */
enum { INGOT_SINK_PAGE = 4096, INGOT_SINK_ALIGNMENT = 1 << 20, INGOT_SINK_LARGE = 16 };

/** A hint for MPI-IO, as MPI_Info has them. */
typedef struct ingot_sink_hint {
  const char *name, *value;
} ingot_sink_hint;

/**
 * HDF5 outputs on parallel file systems, all zeros: as the folder says. What is set is given to MPI-IO when it creates
 * the file; an output taken up again stays as it was created. What did not take effect is a warning (rank 0), never an
 * error.
 */
typedef struct ingot_sink_io {
  int64_t                n_stripe;     /* 0: the folder's */
  uint64_t               stripe_bytes; /* a power of two, at least a page, and the least alignment; 0: the folder's */
  const ingot_sink_hint *hints;        /* [n_hint], besides */
  int                    n_hint;
} ingot_sink_io;

typedef struct ingot_sink_spec {
  const char                 *path; /* final name */
  ingot_sink_format           format;
  const ingot_sink_tensor    *tensors; /* [n_tensor], in file order; all names differ */
  int                         n_tensor;
  const ingot_sink_file      *files;
  int                         n_file;
  const ingot_sink_attribute *attributes;
  int                         n_attribute;
  uint64_t                    shard_bytes; /* HF_DIR: payload bytes a shard at most (one tensor at least); 0: 5 GB */
  uint64_t                    alignment_bytes; /* HDF5: see INGOT_SINK_ALIGNMENT, which 0 means */
  ingot_sink_io               io;              /* HDF5 */
  bool                        durable;         /* fsync before the rename */
  ingot_lock                 *lock;            /* rank 0: looked at before the rename; borrowed; NULL: none */
} ingot_sink_spec;

typedef struct ingot_sink ingot_sink;

/** The format that a path's ending asks for. */
ingot_sink_format ingot_sink_format_of(const char *path);
/** What large tensors of an HDF5 output are aligned to: the larger one of alignment_bytes (or the default) and a
 * stripe. */
uint64_t ingot_sink_alignment(const ingot_sink_spec *spec);
/** Whether anything is asked of MPI-IO. */
bool ingot_sink_io_given(const ingot_sink_io *io);
/** Bytes that the output will take on disk, headers and side files included (HDF5: an estimate from above). FORMAT
 * where a tensor is more than a file can hold, NOMEM. */
ingot_status ingot_sink_bytes(const ingot_sink_spec *spec, uint64_t *bytes);

/** Names of tensors that the format has no place for: INGOT_ERR_FORMAT; INGOT_ERR_NOMEM. create looks, too. */
ingot_status ingot_sink_check_names(const ingot_sink_spec *spec);
/** What is at the path may not be replaced: a file by a directory, or a directory that is none of a model.
 * INGOT_ERR_EXISTS, INGOT_ERR_IO. */
ingot_status ingot_sink_check_replaceable(const ingot_sink_spec *spec);

/** Create the partial output and lay it out. Collective; all ranks pass the same spec, borrowed until close. */
ingot_status ingot_sink_create(ingot_comm *comm, const ingot_sink_spec *spec, ingot_sink **out);
/**
 * Open a partial output that an earlier run has laid out for the same spec. Collective.
 * INGOT_ERR_NOTFOUND when there is none or it does not match: create it anew then.
 */
ingot_status ingot_sink_reopen(ingot_comm *comm, const ingot_sink_spec *spec, ingot_sink **out);

/** Write bytes [offset, offset + size) of a tensor. Any thread, any rank. INGOT_ERR_NOSPACE, INGOT_ERR_IO. */
ingot_status ingot_sink_write(ingot_sink *sink, int tensor, uint64_t offset, size_t size, const void *src);
/** Read back what was written (restart). Any thread. */
ingot_status ingot_sink_read(ingot_sink *sink, int tensor, uint64_t offset, size_t size, void *dst);

/**
 * Finish: store the checksums (one a tensor, in tensor order; see docs/formats.md), flush to disk if durable, rename
 * into place, close. Collective; every rank has written its part. *sink becomes NULL in any case; after a failure the
 * partial output is still there.
 */
ingot_status ingot_sink_commit(ingot_comm *comm, ingot_sink **sink, const uint64_t *checksums);
/** Close without finishing; the partial output stays for a restart. Not collective. NULL is fine. */
void ingot_sink_close(ingot_sink **sink);
/**
 * Take a committed output whose manifest could not be written back to its partial name, unless there is a partial
 * output; nothing there is fine. With its journal, a later run takes it up. Not collective: one rank does it.
 */
ingot_status ingot_sink_withdraw(const char *path);
/** Remove a partial output and its journal, if there. Not collective: one rank does it. */
ingot_status ingot_sink_remove_partial(const char *path);

#ifdef __cplusplus
}
#endif
#endif
