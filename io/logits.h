/**
 * Logits files: a teacher's (or an ensemble's) k largest log-probabilities at every position of windows of token data.
 *
 * An ingot .h5 file with the tensors
 *   ids       U16 (vocabularies to 65,536) or U32 [n_position, k]: the tokens, likeliest first, equal ones by ascending
 * id logp      F16 or F32 [n_position, k]: their natural logarithms, from the whole distribution at temperature 1
 *   log_tail  F32 [n_position]: logarithm of what all other tokens have together; -inf with k = vocabulary
 * Windows have `length` tokens and length - 1 positions: the last one predicts nothing. They follow each other as in
 * the data sets, in the order of the window spec. Positions of padding hold whatever the teacher said of it.
 *
 * The side file "ingot_logits.json":
 *   format      1
 *   kind        "logits"
 *   k, dtype    "float16" | "float32"
 *   tail        "bucket" | "uniform" | "none": what whoever trains from the file is told to make of the other tokens
 *   vocabulary  number of classes that the distributions are over
 *   tokenizer   16 hexadecimal digits, a hash of the vocabulary; "0000000000000000": unknown
 *   teacher     {"kind": "model" | "linear" | ..., "models": [{"id", "path", "identity"}], "weights": [[...]]}
 *   window      {"length", "limit", "partial", "document", "separate", "shuffle", "seed"}
 *   data        [{"name", "path", "hash": 16 hexadecimal digits of the ids themselves, "tokens", "windows"}]
 * Members that are unknown are left alone.
 */
#ifndef INGOT_IO_LOGITS_H
#define INGOT_IO_LOGITS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "base/text.h"
#include "io/tokens.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INGOT_LOGITS_FILE "ingot_logits.json"

/** As ingot_nn_tail, in the same order. */
typedef enum ingot_logits_tail {
  INGOT_LOGITS_TAIL_NONE,
  INGOT_LOGITS_TAIL_BUCKET,
  INGOT_LOGITS_TAIL_UNIFORM,
  INGOT_LOGITS_TAIL_COUNT
} ingot_logits_tail;

/** "none", "bucket", "uniform". */
const char *ingot_logits_tail_name(ingot_logits_tail tail);

typedef struct ingot_logits_data {
  const char *name;
  const char *path;
  uint64_t    hash; /* ingot_tokens_hash */
  int64_t     n_token;
  int64_t     n_window;
} ingot_logits_data;

typedef struct ingot_logits_model {
  const char *id;
  const char *path;
  uint64_t    identity;
} ingot_logits_model;

/** The contents of the JSON. */
typedef struct ingot_logits_info {
  int                       k;
  ingot_dtype               dtype; /* of logp: F16 or F32 */
  ingot_logits_tail         tail;
  int64_t                   n_vocab;
  uint64_t                  tokenizer; /* 0: unknown */
  ingot_window_spec         window;    /* stride 0 */
  const char               *teacher;   /* kind */
  const ingot_logits_model *models;    /* [n_model] */
  int                       n_model;
  const double             *weights; /* [n_weight_row][n_model]; one row, or one a data set */
  int                       n_weight_row;
  const ingot_logits_data  *data; /* [n_data] */
  int                       n_data;
} ingot_logits_info;

/** Append the JSON text. The same info gives the same bytes. */
ingot_status ingot_logits_write_info(const ingot_logits_info *info, ingot_text *json);
/** dtype of ids for a vocabulary. */
ingot_dtype ingot_logits_id_dtype(int64_t n_vocab);

/** Hash of all ids of a stream, whatever its dtype. Reads it whole. */
ingot_status ingot_tokens_hash(const ingot_tokens *tokens, uint64_t *hash);

typedef struct ingot_logits ingot_logits;

/** Open for reading; any thread may read. INGOT_ERR_NOTFOUND, INGOT_ERR_FORMAT with file and member or tensor. */
ingot_status ingot_logits_open(const char *path, ingot_logits **out);
void         ingot_logits_close(ingot_logits **logits); /* NULL is fine */

/** Lent by the file. */
const ingot_logits_info *ingot_logits_about(const ingot_logits *logits);
/** INGOT_ERR_MISMATCH when the file is of another vocabulary size, or of another tokenizer (0: not compared). */
ingot_status ingot_logits_check_tokenizer(const ingot_logits *logits, int64_t n_vocab, uint64_t tokenizer,
                                          const char *model);
/**
 * The data set of the file that holds a stream's windows under a spec (length, limit, partial, document, separate,
 * shuffle and seed count): *data is its number. INGOT_ERR_MISMATCH with what differs: other tokens, other windows.
 */
ingot_status ingot_logits_find_data(const ingot_logits *logits, const ingot_tokens *tokens,
                                    const ingot_window_spec *spec, int *data);
/**
 * Window number `window` of data set `data`, in the spec's order: ids, logp [length][k], log_tail [length] (NULL: not
 * wanted). The last row, which predicts nothing, repeats the one before. INGOT_ERR_IO; INGOT_ERR_FORMAT for ids beyond
 * the vocabulary and values that are no log-probabilities.
 */
ingot_status ingot_logits_read(const ingot_logits *logits, int data, int64_t window, int32_t *ids, float *logp,
                               float *log_tail);

#ifdef __cplusplus
}
#endif
#endif
