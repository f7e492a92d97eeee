/** An ensemble's run: its saved state, learning and scoring. For the .c files of workers/ensemble. */
#ifndef INGOT_WORKERS_ENSEMBLE_RUN_H
#define INGOT_WORKERS_ENSEMBLE_RUN_H

#include "workers/ensemble/combine.h"
#include "workers/ensemble/weights.h"

/** What is kept between runs: fixed sizes, by the plan. Rank 0 writes it. */
typedef struct ingot_ensemble_state {
  int64_t      n_learnt;  /* rows of weights that are learnt */
  int64_t      newton_on; /* row n_learnt is under way in `newton` */
  ingot_newton newton;
} ingot_ensemble_state;

typedef struct ingot_ensemble_job {
  ingot_gather               g;
  ingot_combine              combine;
  const ingot_ensemble_plan *plan;
  ingot_ensemble_result     *result;
  ingot_ensemble_state       state;
  int64_t                   *scored; /* [n_score] */
  const char                *path;   /* of the state */
} ingot_ensemble_job;

/** Rank 0 writes the state. Collective. */
ingot_status ingot_ensemble_save(ingot_ensemble_job *job);
/** The rows of weights that are not learnt yet. Collective. */
ingot_status ingot_ensemble_learn(ingot_ensemble_job *job);
/** First window of a data set of the plan, n_data: their end. */
int64_t ingot_ensemble_first_window(const ingot_ensemble_plan *plan, int data);

#endif
