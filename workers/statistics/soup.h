/**
 * Soups: the average of those candidates that do best together on held-out data. One rank's part; the driver then
 * writes the average as a linear merge of the members.
 */
#ifndef INGOT_WORKERS_STATISTICS_SOUP_H
#define INGOT_WORKERS_STATISTICS_SOUP_H

#include "workers/statistics/gather.h"

typedef enum ingot_soup_kind {
  INGOT_SOUP_GREEDY,  /* from the best candidate down, each is kept if the average gets better with it */
  INGOT_SOUP_UNIFORM, /* all candidates */
  INGOT_SOUP_KIND_COUNT
} ingot_soup_kind;

typedef enum ingot_soup_accept {
  INGOT_SOUP_STRICT, /* the score is larger than before */
  INGOT_SOUP_GE,     /* or the same */
  INGOT_SOUP_ACCEPT_COUNT
} ingot_soup_accept;

typedef enum ingot_soup_metric {
  INGOT_SOUP_LOSS,     /* score: minus the mean over data sets of the mean negative log-likelihood */
  INGOT_SOUP_ACCURACY, /* the mean over data sets of the top-1 accuracy */
  INGOT_SOUP_METRIC_COUNT
} ingot_soup_metric;

/** An average that was tried. */
typedef struct ingot_soup_trial {
  int    model;      /* candidate that was added; -1: all at once */
  int    n_member;   /* with it */
  int    evaluation; /* number among all, from 0: candidates come first */
  double score;      /* NaN: the loss was not finite */
  bool   accepted;
} ingot_soup_trial;

/** Everything found. Candidates are numbered as listed. */
typedef struct ingot_soup {
  int               n;       /* candidates */
  double           *scores;  /* [n]; NaN: rejected */
  int              *order;   /* [n]: best first; equal scores as listed; NaN last */
  int              *members; /* [n_member] of the soup, in the order in which they are added */
  int               n_member;
  double            score;  /* of the soup */
  ingot_soup_trial *trials; /* [n_trial] */
  int               n_trial;
} ingot_soup;

/** The score of the average of candidates members [n_member]; larger is better, not finite is rejected. */
typedef ingot_status (*ingot_soup_scorer)(void *context, const int *members, int n_member, double *score);

/** Room for n candidates. Release in any case. INGOT_ERR_NOMEM. */
ingot_status ingot_soup_init(int n, ingot_soup *soup);
void         ingot_soup_release(ingot_soup *soup);
/**
 * Search: scores each candidate in the order listed, then the averages. names [n] are for the log. INGOT_ERR_NUMERIC
 * when no candidate (UNIFORM: the average) has a finite score; what the scorer returns.
 */
ingot_status ingot_soup_search(const char *const *names, ingot_soup_kind kind, ingot_soup_accept accept,
                               ingot_soup_scorer score, void *context, ingot_soup *soup);

/** Evaluations that a search makes at most. */
int ingot_soup_evaluations(int n, ingot_soup_kind kind);

/** What decides the result. */
typedef struct ingot_soup_plan {
  const ingot_gather_plan *gather; /* its models are the candidates */
  ingot_soup_kind          kind;
  ingot_soup_accept        accept;
  ingot_soup_metric        metric;
  bool                     keep_dtype; /* averages are rounded as the merge will round them: to the first candidate's */
  ingot_dtype              dtype;      /* ... or to this */
  bool                     keep_sum; /* the float32 sum of the members stays in host memory; else they are read again */
} ingot_soup_plan;

/** Bytes of host memory that the sum takes: float32, of n_elem parameters. */
uint64_t ingot_soup_sum_bytes(int64_t n_elem);
/** Bytes of host memory to make averages in pieces, where the largest tensor has n_elem elements, stored as dtype. */
uint64_t ingot_soup_buffer_bytes(int64_t n_elem, ingot_dtype dtype, ingot_compute compute);

/**
 * Search with scores on data; initializes *soup. scores [ingot_soup_evaluations][n_data] gets every evaluation in its
 * order; they are kept beside the output as well, until ingot_gather_forget. Collective, the same result on all ranks.
 * A candidate or an average whose loss is not finite is rejected with a warning. INGOT_STOPPED with the finished
 * evaluations kept; otherwise as ingot_evaluate_run.
 */
ingot_status ingot_soup_run(ingot_comm *comm, const ingot_soup_plan *plan, const ingot_gather_options *options,
                            ingot_soup *soup, ingot_score *scores, ingot_merge_timing *timing);

#endif
