/**
 * A source: named tensors in files, open for reading. One of
 *   - a Hugging Face directory: model.safetensors, or model.safetensors.index.json with its shards,
 *   - one .safetensors file,
 *   - an ingot checkpoint (.h5), whose datasets are contiguous,
 *   - an HDF5 file of others with such datasets.
 * All come down to byte ranges of files, so reading is one positional read in every case.
 *
 * Opening checks everything that a header can get wrong (docs/formats.md lists it); messages name file and tensor.
 * After opening, a source is read-only and any thread may read from it.
 */
#ifndef INGOT_IO_SOURCE_H
#define INGOT_IO_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/shape.h"
#include "base/status.h"
#include "base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_tensor_info {
  const char *name; /* lent by the source */
  ingot_dtype dtype;
  ingot_shape shape;
  int64_t     n_elem;
  uint64_t    bytes;        /* n_elem * dtype size */
  int         file;         /* index of the file that holds it */
  uint64_t    offset;       /* of its first byte in that file */
  bool        has_checksum; /* at opening: ingot .h5 only; see ingot_source_load_checksums */
  uint64_t    checksum;
} ingot_tensor_info;

typedef enum ingot_source_kind {
  INGOT_SOURCE_SAFETENSORS, /* one file */
  INGOT_SOURCE_HF_DIR,
  INGOT_SOURCE_HDF5,       /* an ingot checkpoint */
  INGOT_SOURCE_HDF5_PLAIN, /* an HDF5 file of others: every dataset is a tensor */
  INGOT_SOURCE_KIND_COUNT
} ingot_source_kind;

typedef struct ingot_source ingot_source;

/**
 * Open by path; the kind is found out from what is there. Not collective.
 * INGOT_ERR_NOTFOUND (missing, unreadable), INGOT_ERR_FORMAT (broken), INGOT_ERR_NOMEM.
 */
ingot_status ingot_source_open(const char *path, ingot_source **out);
void         ingot_source_close(ingot_source **src);

/**
 * A source as bytes, so that one rank reads the headers and the others are told: pack appends to *bytes, unpack makes
 * a source that opens its files at the first read. Side files are not packed.
 */
ingot_status ingot_source_pack(const ingot_source *src, ingot_text *bytes);
ingot_status ingot_source_unpack(const void *bytes, size_t size, ingot_source **out);

const char       *ingot_source_path(const ingot_source *src);
ingot_source_kind ingot_source_kind_of(const ingot_source *src);
const char       *ingot_source_kind_name(ingot_source_kind kind);

/** Tensors in file order: by file, then by offset. */
int                      ingot_source_count(const ingot_source *src);
const ingot_tensor_info *ingot_source_tensor(const ingot_source *src, int i);
/** Index by name, or -1. */
int ingot_source_find(const ingot_source *src, const char *name);

/** Files that hold tensors. */
int         ingot_source_n_file(const ingot_source *src);
const char *ingot_source_file_path(const ingot_source *src, int file);
uint64_t    ingot_source_file_bytes(const ingot_source *src, int file);

/**
 * Identity of the input for restarts and provenance: a hash over every file's name, size, modification time and
 * header bytes. Two openings of unchanged files give the same value; reading the payload is not needed.
 */
uint64_t ingot_source_identity(const ingot_source *src);

/**
 * Look whether the files that hold tensors are as they were when they were opened: size and modification time, by their
 * paths. INGOT_ERR_MISMATCH names the first that is not; INGOT_ERR_IO for one that is gone. On the machine that opened
 * the source: others may see another time.
 */
ingot_status ingot_source_check_unchanged(const ingot_source *src);

/**
 * Read bytes [offset, offset + size) of a tensor. Any thread. INGOT_ERR_IO with file, tensor and what was missing,
 * also when the file has become shorter since it was opened.
 */
ingot_status ingot_source_read(const ingot_source *src, int tensor, uint64_t offset, size_t size, void *dst);
/** Tell the system that a range is wanted soon; does nothing when that cannot be done. Any thread. */
void ingot_source_prefetch(const ingot_source *src, int tensor, uint64_t offset, size_t size);

/**
 * Side files: config.json, tokenizer files, generation config, ... from the directory, or from /files of a .h5.
 * Weight files and indexes are not among them, nor is a file above INGOT_SIDE_FILE_MAX bytes. Empty for a lone
 * .safetensors file and for an unpacked source.
 */
enum { INGOT_SIDE_FILE_MAX = 64 << 20 };
int         ingot_source_n_side_file(const ingot_source *src);
const char *ingot_source_side_file_name(const ingot_source *src, int i);
/** Index by name, or -1. */
int ingot_source_find_side_file(const ingot_source *src, const char *name);
/** Append the contents to *bytes. */
ingot_status ingot_source_side_file_read(const ingot_source *src, int i, ingot_text *bytes);

/**
 * Take the checksums of tensors that have none from the manifest, if there is one: ingot_manifest.json in a directory,
 * "<path>.manifest.json" beside a file; its key "tensors" holds {name: {"checksum": 16 hexadecimal digits}}.
 * Before other threads use the source. No manifest is fine; INGOT_ERR_FORMAT when it is broken, or names a tensor that
 * is not there.
 */
ingot_status ingot_source_load_checksums(ingot_source *src);

/**
 * Root attributes of an ingot .h5 (texts of fixed length), such as "ingot_recipe"; NULL when there is none or another
 * kind.
 */
const char *ingot_source_attribute(const ingot_source *src, const char *name);

#ifdef __cplusplus
}
#endif
#endif
