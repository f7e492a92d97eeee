/**
 * What file systems of several nodes do with a file: its stripes, what to say when they are not those asked for, and
 * whether several nodes should write the same pages.
 */
#ifndef INGOT_IO_STRIPES_H
#define INGOT_IO_STRIPES_H

#include "base/text.h"
#include "io/sink.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Numbers of file systems, as statfs(2) has them. */
#define INGOT_FS_LUSTRE 0x0BD00BD0u
#define INGOT_FS_ORANGEFS 0x20030528u
#define INGOT_FS_PANFS 0xAAD7AAEAu

typedef struct ingot_stripes {
  uint32_t fs;    /* number of its file system; 0: it could not be had */
  bool     known; /* the next two are */
  int64_t  n_stripe;
  uint64_t stripe_bytes;
} ingot_stripes;

/** Look at a file. Stripes are known on Lustre. What cannot be found out is left as unknown: never an error. */
void ingot_stripes_look(const char *path, ingot_stripes *out);
/** Lustre's layout of a file (its attribute "lustre.lov") into n_stripe and stripe_bytes. False: no plain layout. */
bool ingot_stripes_parse(const void *layout, size_t size, ingot_stripes *out);
/** Append a sentence about a file whose stripes are not those asked for; nothing when they are, or may be.
 * INGOT_ERR_NOMEM. */
ingot_status ingot_stripes_remark(const char *path, const ingot_sink_io *asked, const ingot_stripes *found,
                                  ingot_text *text);

/**
 * Whether what is not aligned to pages, as HDF5's metadata, should come from one process: on NFS and SMB, which do not
 * keep the caches of several nodes alike, and where there are no file locks, which MPI-IO would want. fd is open for
 * writing.
 */
bool ingot_file_wants_one_writer(int fd);

#ifdef __cplusplus
}
#endif
#endif
