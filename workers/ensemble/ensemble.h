/**
 * Ensembles: the next-token distributions of several models of one vocabulary become one, which is scored on data
 * (with weights that are given, or learnt on other data), or written as a logits file.
 *
 * Data parallel as in workers/statistics/gather.h, whose loop over windows this uses. Every rank holds all members; or
 * they are spread over the ranks (workers/ensemble/members.h); or every rank has one after the other: each then runs
 * through a group of windows whose mixed rows wait in host memory. The number of ranks, the windows of a pass and
 * members one after the other change results by rounding alone; members that are spread do not change them.
 */
#ifndef INGOT_WORKERS_ENSEMBLE_ENSEMBLE_H
#define INGOT_WORKERS_ENSEMBLE_ENSEMBLE_H

#include "io/logits.h"
#include "workers/ensemble/placement.h"
#include "workers/statistics/gather.h"

typedef enum ingot_ensemble_kind {
  INGOT_ENSEMBLE_LINEAR,     /* sum of weight * p */
  INGOT_ENSEMBLE_LOG_LINEAR, /* product of p^weight, made to sum to 1; weights of any sign */
  INGOT_ENSEMBLE_MAX,        /* largest weight * p, made to sum to 1 */
  INGOT_ENSEMBLE_VOTE, /* the token with most weight among the members' likeliest ones; a decision, no distribution */
  INGOT_ENSEMBLE_POSTERIOR, /* linear; weights times the likelihood of the window's tokens before */
  INGOT_ENSEMBLE_KIND_COUNT
} ingot_ensemble_kind;

/** "linear", "log_linear", ... */
const char *ingot_ensemble_kind_name(ingot_ensemble_kind kind);
/** -1 when there is none of this name. */
int ingot_ensemble_kind_find(const char *name);

enum { INGOT_ENSEMBLE_LEARN_MAX = 16 }; /* members of a log-linear ensemble whose weights are learnt, at most */

/** Everything that decides the result. */
typedef struct ingot_ensemble_plan {
  ingot_gather_plan gather;  /* models: the members; data: the sets to be scored or written, then those to learn from */
  int               n_score; /* of gather.data */
  ingot_ensemble_kind kind;
  bool                learn; /* weights from gather.data behind n_score */
  int           n_row;   /* 1: one row of weights for all; else n_score: one a data set, learnt on set n_score + row */
  const double *weights; /* [n_row][n_model]: given, or where learning begins */
  double        floor;   /* log-linear, negative weights: log-probabilities below count as it */
  double plausibility; /* log-linear: tokens with less than this times the largest probability of model `reference` have
                          none in the mixture; in (0, 1], 0: all have. Not with learning */
  int             reference;
  double          l2;         /* log-linear, learning: half of it times the squared norm is added to the mean loss */
  ingot_placement placement;  /* of the members */
  bool            one_by_one; /* members one after the other; replicated */
  int64_t         group;      /* one_by_one: windows of a rank at a time */
  int             k;          /* logits file */
  ingot_dtype     logp_dtype; /* F16 or F32 */
} ingot_ensemble_plan;

/** How learning a row of weights ended. The loss is the mean negative log-likelihood on what it was learnt on. */
typedef struct ingot_ensemble_learning {
  double  start_nll, end_nll;
  int64_t n_token, n_iteration;
  int64_t converged;
} ingot_ensemble_learning;

typedef struct ingot_ensemble_result {
  double                  *weights;  /* [n_row][n_model] */
  ingot_ensemble_learning *learning; /* [n_row] */
  ingot_score *scores; /* [n_model + 1][n_score]: the members, then the ensemble (VOTE: its nll is NaN; infinite where
                          tokens of the data are ruled out by plausibility) */
  ingot_score *kept;   /* [n_score]: of the ensemble on the tokens that are not ruled out */
} ingot_ensemble_result;

ingot_status ingot_ensemble_result_init(ingot_ensemble_result *result, const ingot_ensemble_plan *plan);
void         ingot_ensemble_result_release(ingot_ensemble_result *result);

/** Memory of one rank: of the back end, and of the host beside it (for a CPU the sum of the two is what it takes). */
typedef struct ingot_ensemble_memory {
  uint64_t device_bytes, host_bytes;
} ingot_ensemble_memory;
/** specs: [gather.n_model]. Of the rank of n_rank that needs most; by gather.batch, placement, one_by_one and group. */
ingot_ensemble_memory ingot_ensemble_bytes(const ingot_ensemble_plan *plan, const ingot_model_spec *specs, int n_rank);

/**
 * Learn weights if the plan says so, then score. Collective; the result is the same on every rank. What an earlier run
 * has learnt and scored is taken over from "<output>.state.0-of-1", which stays until ingot_gather_forget.
 * INGOT_STOPPED; INGOT_ERR_NUMERIC; errors of models, data and device.
 */
ingot_status ingot_ensemble_run(ingot_comm *comm, const ingot_ensemble_plan *plan, const ingot_gather_options *options,
                                ingot_ensemble_result *result, ingot_merge_timing *timing);
/**
 * Write the k largest log-probabilities of the mixture: gather.sink has the tensors of io/logits.h. A journal of
 * windows lies beside the partial output; the same command continues on any number of ranks. Not for VOTE. checksums:
 * [3]. As above.
 */
ingot_status ingot_ensemble_write_logits(ingot_comm *comm, const ingot_ensemble_plan *plan,
                                         const ingot_gather_options *options, uint64_t *checksums,
                                         ingot_merge_timing *timing);

#endif
