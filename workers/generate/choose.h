/** The next token from a row of logits, on the host: the largest, or drawn. Pure functions; any thread. */
#ifndef INGOT_WORKERS_GENERATE_CHOOSE_H
#define INGOT_WORKERS_GENERATE_CHOOSE_H

#include <stdint.h>

/** How a token is drawn: logits divided by the temperature; then the top_k likeliest; then as many of them as have
 * top_p together. */
typedef struct ingot_choice {
  double  temperature; /* above 0 */
  int64_t top_k;       /* 0: all */
  double  top_p;       /* in (0, 1]; a token stays when those before it have less than this */
} ingot_choice;

/** A number in (0, 1) for one token of one sequence: Philox, keyed by the seed, counted by sequence and place. */
double ingot_choose_uniform(uint64_t seed, int64_t sequence, int64_t place);
/** The smallest id of the largest logit; -1 when a logit is NaN, or none is finite. */
int32_t ingot_choose_largest(int64_t n_vocab, const float *z);
/**
 * The first id whose cumulative probability is above u: in ascending order of ids, or with top_k or top_p in descending
 * order of probabilities (equal ones: by id). room [n_vocab]. -1 as above.
 */
int32_t ingot_choose_sample(const ingot_choice *how, int64_t n_vocab, const float *z, double u, int32_t *room);
/** The k largest in descending order, equal ones by id; returns how many: k, or n_vocab. ids may be room. */
int64_t ingot_choose_best(int64_t n_vocab, const float *z, int64_t k, int32_t *ids, int32_t *room);
/** log of the sum of exponentials, in float64. */
double ingot_choose_log_sum(int64_t n_vocab, const float *z);

#endif
