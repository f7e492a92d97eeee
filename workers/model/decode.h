/**
 * Tokens one after the other: a decoder holds sequences under way with the keys and values of their tokens, so that
 * another token costs one token's work. Sequences of a call may have different lengths.
 *
 * Where there is no cache (a rotary embedding of type dynamic whose frequencies would change under way) every call runs
 * the whole sequences again; the results are the same within rounding. Not thread-safe; decoders of one model may work
 * in several threads, each with a copy of the ingot_model whose `nn` is its own.
 */
#ifndef INGOT_WORKERS_MODEL_DECODE_H
#define INGOT_WORKERS_MODEL_DECODE_H

#include "workers/model/model.h"

typedef struct ingot_decoder ingot_decoder;

typedef struct ingot_decoder_options {
  int64_t n_row;    /* sequences at a time, at most */
  int64_t n_prompt; /* tokens of a prompt, at most */
  int64_t n_time;   /* tokens of a sequence, at most */
} ingot_decoder_options;

/** Whether sequences of n_time tokens are decoded with a cache. */
bool ingot_decoder_caches(const ingot_model_spec *spec, int64_t n_time);
/** Bytes that ingot_decoder_open will take of the back end's memory. */
uint64_t ingot_decoder_bytes(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_decoder_options *options);

/** The model is borrowed. INGOT_ERR_NOMEM; INGOT_ERR_MISMATCH when n_time is more than the model's positions. */
ingot_status ingot_decoder_open(ingot_model *model, const ingot_decoder_options *options, ingot_decoder **out);
void         ingot_decoder_close(ingot_decoder **decoder);

/**
 * Begin with n_row prompts: tokens [n_row][ld], length [n_row] (host). z: the logits behind the last token of each,
 * lent until the next call.
 */
ingot_status ingot_decoder_start(ingot_decoder *d, int64_t n_row, const int32_t *tokens, int64_t ld,
                                 const int32_t *length, ingot_nn_logits *z);
/** Row r becomes row from[r] of the last call with one more token; rows may be dropped, and taken several times. */
ingot_status ingot_decoder_next(ingot_decoder *d, int64_t n_row, const int32_t *from, const int32_t *tokens,
                                ingot_nn_logits *z);

#endif
