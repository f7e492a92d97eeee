/** The stripes of a file on a parallel file system: what it has, and what to say when that is not what was asked for. */
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
/** Append a sentence about a file whose stripes are not those asked for; nothing when they are, or may be. INGOT_ERR_NOMEM. */
ingot_status ingot_stripes_remark(const char *path, const ingot_sink_io *asked, const ingot_stripes *found, ingot_text *text);

#ifdef __cplusplus
}
#endif
#endif
