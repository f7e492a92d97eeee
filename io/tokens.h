/**
 * Token data: streams of token ids, and the windows cut from them.
 *
 * A token file is a row of little-endian uint16 (.u16, .bin with dtype given) or uint32 (.u32) ids without a header, or
 * a one-dimensional HDF5 data set of an unsigned or non-negative integer type (path "file.h5:/name", or the only data
 * set of the file). Nothing is loaded whole: windows are read when they are asked for. A stream is read-only after
 * opening; any thread may read.
 */
#ifndef INGOT_IO_TOKENS_H
#define INGOT_IO_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ingot_tokens ingot_tokens;

/** dtype: "u16", "u32", or NULL: from the ending. INGOT_ERR_NOTFOUND, INGOT_ERR_FORMAT (odd size, no such data set,
 * unknown ending). */
ingot_status ingot_tokens_open(const char *path, const char *dtype, ingot_tokens **out);
void         ingot_tokens_close(ingot_tokens **tokens); /* NULL is fine */
const char  *ingot_tokens_path(const ingot_tokens *tokens);
int64_t      ingot_tokens_count(const ingot_tokens *tokens);
/** Hash of path-independent contents facts (size, modification time, dtype) for restarts. */
uint64_t ingot_tokens_identity(const ingot_tokens *tokens);
/** ids [first, first + n). INGOT_ERR_FORMAT for an id not below n_vocab (0: not checked), with its place;
 * INGOT_ERR_IO. */
ingot_status ingot_tokens_read(const ingot_tokens *tokens, int64_t first, int64_t n, int64_t n_vocab, int32_t *ids);

/** How windows are cut. */
typedef struct ingot_window_spec {
  int64_t length; /* tokens of a window, at least 2 */
  int64_t stride; /* from one window's start to the next; 0: length */
  int64_t limit;  /* windows at most; 0: all */
  int64_t shift; /* tokens by which every window begins later; the last ones no later than a whole window fits. Not with
                    `partial` */
  bool    partial;  /* keep a last window that is short (at least 2 tokens) */
  int32_t document; /* id that begins a document; -1: none. See `separate` */
  bool    separate; /* documents do not see each other: attention and positions start anew, and the first token of a
                       document is not predicted */
  bool     shuffle; /* order by a permutation from the seed, before `limit` */
  uint64_t seed;
} ingot_window_spec;

/** The place of `index` in a permutation of 0 .. n - 1 drawn from a seed, without a table. */
int64_t ingot_permuted(int64_t n, uint64_t seed, int64_t index);
/** Windows of a stream under a spec. 0 when the stream is too short: the caller's error to report. */
int64_t ingot_window_count(const ingot_tokens *tokens, const ingot_window_spec *spec);
/** The same of any stream of n_token tokens. */
int64_t ingot_window_count_of(int64_t n_token, const ingot_window_spec *spec);
/**
 * Window number `index` in the spec's order. Arrays [length]: tokens; labels (the next token, -1 at the window's last
 * position, in padding and before a document's first token); positions; first_key (0 unless separate); valid. A window
 * that overlaps the one before it (stride < length) predicts only tokens that the one before did not.
 * Padding of a short window repeats id 0.
 */
ingot_status ingot_window_read(const ingot_tokens *tokens, const ingot_window_spec *spec, int64_t index,
                               int64_t n_vocab, int32_t *ids, int32_t *labels, int32_t *positions, int32_t *first_key,
                               int32_t *valid);

#endif
