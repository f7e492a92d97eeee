/** Scoring the windows of a loaded model, on all ranks: the common part of evaluate and soup. */
#ifndef INGOT_WORKERS_STATISTICS_SCORE_H
#define INGOT_WORKERS_STATISTICS_SCORE_H

#include "workers/statistics/loop.h"

/** One rank's scoring. */
typedef struct ingot_scorer {
  ingot_gather *g;
  void         *nll, *top1; /* of the back end: [rows] float, int32_t */
  float        *host_nll;
  int32_t      *host_top1;
  double       *window_nll; /* [windows of the data set]: own ones filled */
  int64_t       n_token, n_right;
  int64_t       first; /* of the data set's windows */
} ingot_scorer;

/** Not collective. Close in any case, before the back end is closed. */
ingot_status ingot_scorer_open(ingot_scorer *s, ingot_gather *g);
void         ingot_scorer_close(ingot_scorer *s);
/** The windows of data set d with the model of g's pass. Collective; the score is the same on every rank. */
ingot_status ingot_scorer_run(ingot_scorer *s, int d, ingot_score *score);

#endif
