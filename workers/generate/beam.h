/**
 * Beam search for one prompt: the bookkeeping, without a model. Among the 2 K best continuations of the K running
 * hypotheses, those that end (by the end token, or at the largest length) and are among the first K are finished; the
 * first K others run on. Finished ones compete by sum of log-probabilities / length ^ penalty. The search is over when
 * no running one can still be better than the worst of K finished ones. Equal scores: the smaller row of tokens.
 */
#ifndef INGOT_WORKERS_GENERATE_BEAM_H
#define INGOT_WORKERS_GENERATE_BEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct ingot_beam_spec {
  int     width;      /* K, at least 1 */
  int64_t max_length; /* tokens after the prompt */
  int32_t end;        /* -1: none */
  double  penalty;
} ingot_beam_spec;

/** One hypothesis: the tokens after the prompt, the end token with them. */
typedef struct ingot_hypothesis {
  double   sum, score; /* of log-probabilities; score: of finished ones */
  int64_t  length;
  bool     ended;  /* by the end token */
  int32_t *tokens; /* [max_length] */
} ingot_hypothesis;

typedef struct ingot_beam {
  ingot_beam_spec              spec;
  ingot_hypothesis            *run;  /* [n_run], best first */
  ingot_hypothesis            *done; /* [n_done], best first, at most width */
  int                          n_run, n_done;
  bool                         over;
  ingot_hypothesis            *next, *all; /* room, as the rest */
  int32_t                     *tokens;
  struct ingot_beam_candidate *candidates;
} ingot_beam;

/** INGOT_ERR_NOMEM. Release in any case. */
ingot_status ingot_beam_init(ingot_beam *b, const ingot_beam_spec *spec);
void         ingot_beam_release(ingot_beam *b);
/** Forget everything: one running hypothesis without tokens. */
void ingot_beam_start(ingot_beam *b);
/**
 * One token more: z [n_run][ld] are logits behind the running hypotheses, in their order; room [2 n]. Afterwards
 * from[i] and token[i] say what running hypothesis i continues, and with which token. INGOT_ERR_NUMERIC for logits that
 * are no numbers. ids NULL: n is the vocabulary. Else z has the n largest log-probabilities in descending order, of
 * tokens ids [n_run][ld], n at least 2 K or all; room is not used.
 */
ingot_status ingot_beam_step(ingot_beam *b, int64_t n, const float *z, const int32_t *ids, int64_t ld, int32_t *room,
                             int32_t *from, int32_t *token);

#endif
