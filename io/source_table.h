/**
 * The inside of a source: its table of files and tensors, filled by one reader a format and then frozen. For the
 * .c files of io (and the fuzz target) only.
 *
 * Life: ingot_source_new, then add_file, add_tensor, ..., then ingot_source_freeze, which sorts and checks names.
 */
#ifndef INGOT_IO_SOURCE_TABLE_H
#define INGOT_IO_SOURCE_TABLE_H

#include "io/source.h"

typedef struct ingot_source_file {
  char    *path;
  char    *name; /* within the source: the part of the path that does not change when the folder moves */
  uint64_t bytes;
  int64_t  mtime_ns;
  uint64_t header_hash;
} ingot_source_file;

typedef struct ingot_source_text { /* a root attribute */
  char *name;
  char *text;
} ingot_source_text;

typedef struct ingot_source_handles ingot_source_handles;

struct ingot_source {
  char                 *path;
  ingot_source_kind     kind;
  ingot_source_file    *files;
  int                   n_file, file_capacity;
  ingot_tensor_info    *tensors; /* names are owned here */
  int                   n_tensor, tensor_capacity;
  int                  *by_name; /* [n_tensor] in the order of strcmp */
  char                **side_names;
  int                   n_side, side_capacity;
  ingot_source_text    *attributes;
  int                   n_attribute, attribute_capacity;
  ingot_source_handles *handles; /* open files: changes while the source is read, hence apart */
};

ingot_status ingot_source_new(const char *path, ingot_source_kind kind, ingot_source **out);
/** Add a file; its number is src->n_file - 1 afterwards. path and name are copied. */
ingot_status ingot_source_add_file(ingot_source *src, const char *path, const char *name, uint64_t bytes,
                                   int64_t mtime_ns);
/** Add a tensor; info->name is copied. n_elem and bytes follow from shape and dtype; INGOT_ERR_FORMAT on overflow. */
ingot_status ingot_source_add_tensor(ingot_source *src, const ingot_tensor_info *info);
ingot_status ingot_source_add_side_file(ingot_source *src, const char *name);
ingot_status ingot_source_add_attribute(ingot_source *src, const char *name, const char *text);
/** Sort the tensors of one file, those from `first` on, by offset. */
void ingot_source_sort_by_offset(ingot_source *src, int first);
/** Sort everything, refuse names that occur twice, make ready for reading. */
ingot_status ingot_source_freeze(ingot_source *src);

/** io/source_read.c: the open files of a source. */
ingot_status ingot_source_handles_open(int n_file, ingot_source_handles **out);
void         ingot_source_handles_close(ingot_source_handles **handles);

/** The readers, one a format. *src exists and holds its path. */
ingot_status ingot_source_read_safetensors(ingot_source *src, const char *path, const char *name);
ingot_status ingot_source_read_hf_dir(ingot_source *src);
ingot_status ingot_source_read_hdf5(ingot_source *src);
ingot_status ingot_source_hdf5_side_file(const char *path, const char *name, ingot_text *bytes);

/**
 * A safetensors header from memory: the 8 bytes of its length and the JSON after it, of a file of file_bytes bytes.
 * `size` bytes are at hand, which may be fewer than the length says. Adds the tensors to the source's last file.
 * Touches no file, so that it can be fuzzed.
 */
ingot_status ingot_safetensors_parse(ingot_source *src, const void *bytes, uint64_t size, uint64_t file_bytes);

#endif
