/** Members of an ensemble, and their distributions mixed row by row. For the .c files of workers/ensemble. */
#ifndef INGOT_WORKERS_ENSEMBLE_COMBINE_H
#define INGOT_WORKERS_ENSEMBLE_COMBINE_H

#include "workers/ensemble/ensemble.h"
#include "workers/ensemble/members.h"

/** The operator's kind, and a weight as the operator wants it. */
ingot_nn_mix ingot_ensemble_mix_of(ingot_ensemble_kind kind);
float        ingot_ensemble_mix_weight(ingot_ensemble_kind kind, double weight);

/**
 * Take rows of a member into the mixture, as nn->ops->mix does, and rule out what the plan's reference finds
 * implausible when it is this one.
 */
ingot_status ingot_ensemble_mix(ingot_nn *nn, const ingot_ensemble_plan *plan, int member, const ingot_nn_logits *z,
                                const float *weight, bool first, float *mixed);

/* ---- mixtures over windows ---- */

typedef struct ingot_combine {
  ingot_gather              *g;
  const ingot_ensemble_plan *plan;
  ingot_members              members;                /* n 0: one by one */
  float                     *mixed;                  /* back end: [rows][ld] of a chunk */
  float                     *weight;                 /* back end: [n_model][rows of a batch] */
  int32_t                   *labels;                 /* back end: [rows of a batch] */
  float                     *nll;                    /* back end: [n_model][rows of a batch] */
  int32_t                   *top1;                   /* back end: likewise */
  float                     *host_weight, *host_nll; /* [n_model][host_rows] */
  int32_t                   *host_top1;
  int32_t                   *host_labels; /* one by one: [host_rows] of a group */
  float                     *host_mixed;  /* one by one: [host_rows][ld] */
  int64_t                    host_rows;   /* of a batch, or of a group */
  int64_t                    n_vocab, ld, rows;
} ingot_combine;

/** What is done with the mixture. */
typedef struct ingot_combine_user {
  void *context;
  bool  mix; /* false: members' log-likelihoods alone are wanted, `rows` is not called */
  /** Rows first_row .. of the batch: unnormalised log-probabilities, and the labels, in back-end memory. */
  ingot_status (*rows)(void *context, const ingot_batch *batch, int64_t first, int64_t first_row,
                       const ingot_nn_logits *mixed, const int32_t *labels);
  /**
   * A batch of windows first .. is complete. nll, top1: [n_model] rows, `stride` apart, in host memory. Of the batch,
   * n_batch, n_time and labels alone are there.
   */
  ingot_status (*end)(void *context, const ingot_batch *batch, int64_t first, const float *nll, const int32_t *top1,
                      int64_t stride);
  /** Whether windows first .. first + n - 1 are done already; NULL: none is. */
  bool (*skip)(void *context, int64_t first, int64_t n);
} ingot_combine_user;

/** Collective. Release in any case. */
ingot_status ingot_combine_open(ingot_combine *c, ingot_gather *g, const ingot_ensemble_plan *plan);
void         ingot_combine_close(ingot_combine *c);
/** All ranks through windows first .. end - 1 with weights [n_model]; collective. INGOT_STOPPED. */
ingot_status ingot_combine_windows(ingot_combine *c, int64_t first, int64_t end, const double *weights,
                                   const ingot_combine_user *user);
/** Memory: of weights and passes, and what open and the windows take. */
ingot_ensemble_memory ingot_combine_bytes(const ingot_ensemble_plan *plan, const ingot_model_spec *specs, int n_rank);
/** How the members of a plan that has them together are opened. */
ingot_members_options ingot_combine_members(const ingot_ensemble_plan *plan, ingot_comm *comm);

#endif
