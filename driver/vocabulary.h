/** Whether two models mean the same tokens by the same numbers. */
#ifndef INGOT_DRIVER_VOCABULARY_H
#define INGOT_DRIVER_VOCABULARY_H

#include "base/problems.h"
#include "driver/input.h"
#include "driver/job.h"

/**
 * Compare tokenizer.json (model.vocab and added_tokens) and vocab_size of config.json, where both inputs have them.
 * INGOT_ERR_MISMATCH with the number of tokens that differ and the first of them; INGOT_ERR_FORMAT for a broken file.
 */
ingot_status ingot_vocabulary_compare(const ingot_input *a, const ingot_input *b);
/** Tokens with numbers below n_token alone, and no vocab_size. */
ingot_status ingot_vocabulary_compare_first(const ingot_input *a, const ingot_input *b, int64_t n_token);
/** The largest number of a token and one; 0 for an input without tokenizer.json. INGOT_ERR_FORMAT for a broken file. */
ingot_status ingot_vocabulary_size(const ingot_input *input, int64_t *n_token);
/** Adds a problem when `id`, a step's value for `key`, is no token of a vocabulary of n_token. */
void ingot_vocabulary_check_id(ingot_problems *problems, const ingot_job_step *step, const char *key, int64_t id,
                               int64_t n_token);
/** A hash of what every number stands for; 0 for an input without tokenizer.json. INGOT_ERR_FORMAT for a broken
 * file. */
ingot_status ingot_vocabulary_hash(const ingot_input *input, uint64_t *hash);

#endif
