/** How near a generated row of tokens is to the one in the data. Pure; any thread. */
#ifndef INGOT_WORKERS_GENERATE_SIMILARITY_H
#define INGOT_WORKERS_GENERATE_SIMILARITY_H

#include <stdint.h>

/**
 * Sentence BLEU of n-grams up to 4 (Papineni et al. 2002), with one added to counts and totals of n-grams of two and
 * more tokens (Lin and Och 2004), so that one missing order does not make it 0. From 0 to 1; an empty candidate has 0
 * unless the reference is empty too.
 */
double ingot_similarity_bleu(const int32_t *candidate, int64_t n_candidate, const int32_t *reference,
                             int64_t n_reference);
/** Harmonic mean of precision and recall of the tokens as bags. Both empty: 1. */
double ingot_similarity_f1(const int32_t *candidate, int64_t n_candidate, const int32_t *reference,
                           int64_t n_reference);

#endif
