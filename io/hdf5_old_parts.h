/** The inside of the reader of HDF5's older format: parts of a file, and objects made of messages. For
 * io/hdf5_old*.c. */
#ifndef INGOT_IO_HDF5_OLD_PARTS_H
#define INGOT_IO_HDF5_OLD_PARTS_H

#include <stddef.h>

#include "base/text.h"
#include "io/hdf5_old.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_hdf5_part { /* bytes of the file that have one meaning */
  uint64_t at, bytes;
} ingot_hdf5_part;

typedef struct ingot_hdf5_old {
  int              fd;
  const char      *path;
  uint64_t         size;
  ingot_hdf5_part *parts; /* all that were met */
  size_t           n_part, part_capacity;
  uint64_t         known; /* bytes of all parts */
  ingot_text       name;  /* of the object at hand, "" for the root */
} ingot_hdf5_old;

/** What the messages of an object's header say. */
typedef struct ingot_hdf5_object {
  uint32_t           n_link;
  bool               is_group, has_space, has_type, has_layout;
  uint64_t           tree, heap; /* of a group */
  ingot_hdf5_dataset dataset;
} ingot_hdf5_object;

/** Little-endian number of 1 to 8 bytes. */
uint64_t ingot_hdf5_old_number(const unsigned char *at, int bytes);
/** A message that names file and object: "<path>: "<name>": <what> (damaged?)". INGOT_ERR_FORMAT. */
ingot_status ingot_hdf5_old_damaged(const ingot_hdf5_old *r, const char *what);
/** Enter a part; refuses one that is not inside the file, and more bytes in all than the file has. */
ingot_status ingot_hdf5_old_enter(ingot_hdf5_old *r, uint64_t at, uint64_t bytes, const char *what);
/** Enter a part and read it; the caller frees *out, which holds exactly that many bytes. */
ingot_status ingot_hdf5_old_fetch(ingot_hdf5_old *r, uint64_t at, uint64_t bytes, const char *what,
                                  unsigned char **out);

/** io/hdf5_old_object.c: the object whose header is at a place of the file. Enters a contiguous dataset's data, too. */
ingot_status ingot_hdf5_old_object(ingot_hdf5_old *r, uint64_t at, ingot_hdf5_object *out);

#ifdef __cplusplus
}
#endif
#endif
