/**
 * Members of an ensemble in memory, and their distributions mixed row by row. For the .c files of workers/ensemble; the first part
 * also for who wants a mixture as a teacher.
 */
#ifndef INGOT_WORKERS_ENSEMBLE_COMBINE_H
#define INGOT_WORKERS_ENSEMBLE_COMBINE_H

#include "workers/ensemble/ensemble.h"
#include "workers/model/model.h"
#include "workers/statistics/loop.h"

/* ---- members, all at once ---- */

typedef struct ingot_members {
  ingot_nn      *nn; /* borrowed */
  int            n;
  ingot_source **sources; /* [n], as the next two */
  ingot_model  **models;
  ingot_pass   **passes;
  int64_t        n_vocab, ld; /* of logits */
  int64_t        rows;        /* of a chunk at most */
} ingot_members;

/** Models and passes of n_batch windows of n_time tokens. INGOT_ERR_MISMATCH when vocabularies have different sizes. Release in any case. */
ingot_status ingot_members_open(ingot_members *m, ingot_nn *nn, const ingot_gather_model *models, int n, int64_t n_batch,
                                int64_t n_time);
void         ingot_members_close(ingot_members *m);
/** Forward through all members; afterwards their logits can be asked for. */
ingot_status ingot_members_run(ingot_members *m, const ingot_batch *batch);
/** Logits of one member, in its pass's memory until the next call for this member. */
ingot_status ingot_members_logits(ingot_members *m, int member, int64_t first_row, int64_t n_row, ingot_nn_logits *z);

/** The operator's kind, and a weight as the operator wants it. */
ingot_nn_mix ingot_ensemble_mix_of(ingot_ensemble_kind kind);
float        ingot_ensemble_mix_weight(ingot_ensemble_kind kind, double weight);

/* ---- mixtures over windows ---- */

typedef struct ingot_combine {
  ingot_gather              *g;
  const ingot_ensemble_plan *plan;
  ingot_members              members;  /* n 0: one by one */
  float                     *mixed;    /* back end: [rows][ld] of a chunk */
  float                     *weight;   /* back end: [n_model][rows of a batch] */
  int32_t                   *labels;   /* back end: [rows of a batch] */
  float                     *nll;      /* back end: [n_model][rows of a batch] */
  int32_t                   *top1;     /* back end: likewise */
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
  ingot_status (*rows)(void *context, const ingot_batch *batch, int64_t first, int64_t first_row, const ingot_nn_logits *mixed,
                       const int32_t *labels);
  /**
   * A batch of windows first .. is complete. nll, top1: [n_model] rows, `stride` apart, in host memory. Of the batch, n_batch, n_time and
   * labels alone are there.
   */
  ingot_status (*end)(void *context, const ingot_batch *batch, int64_t first, const float *nll, const int32_t *top1,
                      int64_t stride);
  /** Whether windows first .. first + n - 1 are done already; NULL: none is. */
  bool (*skip)(void *context, int64_t first, int64_t n);
} ingot_combine_user;

/** Not collective. Release in any case. */
ingot_status ingot_combine_open(ingot_combine *c, ingot_gather *g, const ingot_ensemble_plan *plan);
void         ingot_combine_close(ingot_combine *c);
/** All ranks through windows first .. end - 1 with weights [n_model]; collective. INGOT_STOPPED. */
ingot_status ingot_combine_windows(ingot_combine *c, int64_t first, int64_t end, const double *weights,
                                   const ingot_combine_user *user);
/** Memory: of weights and passes, and what open and the windows take. */
ingot_ensemble_memory ingot_combine_bytes(const ingot_ensemble_plan *plan, const ingot_model_spec *specs);

#endif
