/**
 * Training a student to predict as its teachers do.
 *
 * A step draws `batch` windows from the data sets by weight; every rank takes its part of them, in micro batches.
 * Teachers run forward, the student's head gets their logits of the same rows, mixes them, and the loss's gradient goes
 * back through the student. Gradients are summed over ranks in a fixed order; each rank keeps the optimiser's state of
 * one slice of the flat array of parameters, updates it, and the slices are shared.
 *
 * The same job on the same number of ranks and threads gives the same bits, stopped and taken up again or not. Another
 * number of ranks trains on the same windows, and agrees within rounding.
 */
#ifndef INGOT_WORKERS_DISTILL_DISTILL_H
#define INGOT_WORKERS_DISTILL_DISTILL_H

#include "kernels/nn/nn.h"
#include "workers/ensemble/placement.h"
#include "workers/model/spec.h"
#include "workers/statistics/gather.h"

/** How the teachers of a window become one target. */
typedef enum ingot_distill_combine {
  INGOT_COMBINE_LINEAR,       /* sum of weight * p, each p at the temperature */
  INGOT_COMBINE_LOG_LINEAR,   /* product of p^weight */
  INGOT_COMBINE_AVERAGE_LOSS, /* no target: the weighted mean of the losses with each teacher */
} ingot_distill_combine;

typedef enum ingot_distill_schedule {
  INGOT_SCHEDULE_COSINE,
  INGOT_SCHEDULE_LINEAR,
  INGOT_SCHEDULE_CONSTANT,
} ingot_distill_schedule;

typedef struct ingot_distill_data {
  const char *name;
  const char *path;
  const char *dtype;    /* NULL: from the path's ending */
  double      weight;   /* share of the windows drawn, above 0 */
  int64_t     n_window; /* that it has */
} ingot_distill_data;

/** AdamW and its schedule. */
typedef struct ingot_distill_optimizer {
  double                 rate, final_rate; /* at the peak; at the end */
  int64_t                warmup;           /* steps */
  ingot_distill_schedule schedule;
  double                 beta1, beta2, epsilon, decay;
  double                 clip; /* norm of the gradient at most; 0: any */
} ingot_distill_optimizer;

/** Everything that decides the result. All pointers are borrowed. */
typedef struct ingot_distill_plan {
  const char               *student;  /* path of a checkpoint; NULL: random weights for `config` */
  const char               *config;   /* text of a config.json */
  const ingot_gather_model *teachers; /* [n_teacher] */
  int                       n_teacher;
  const double             *weights;   /* [n_data][n_teacher]; 0: takes no part in that data set */
  ingot_placement           placement; /* of the teachers; not part of the fingerprint: the same bits */
  const char               *logits;    /* a logits file instead of teachers; NULL: none */
  ingot_distill_combine     combine;
  double plausibility; /* log-linear, not with reverse KL: as in ingot_ensemble_plan, by teacher `reference`, whose
                          weight is above 0 for all data; 0: none */
  int                       reference;
  double                    floor; /* log-linear: log-probabilities below it count as it */
  const ingot_distill_data *data;  /* [n_data] */
  int                       n_data;
  ingot_window_spec         window; /* stride 0, not shuffled, no partial ones */
  bool    shift; /* a data set that begins again is cut into windows at another place; not with a logits file */
  int64_t n_step;
  int64_t batch;                /* windows of a step, over all ranks */
  int64_t micro_batch;          /* windows of a pass at most */
  bool    recompute;            /* layers run again in the backward pass; not part of the fingerprint: the same bits */
  ingot_nn_distill        loss; /* its scale is not used */
  ingot_distill_optimizer optimizer;
  uint64_t                seed;
  int64_t                 validate_every; /* steps; 0: at the end */
  bool                    keep_best;      /* the output is the best of the validations, else the last */
  const char             *other; /* path of a second checkpoint, with the last or the best that the output is not; NULL:
                                    none. It is complete before the output gets its name */
  double            save_every_s; /* 0: when stopped alone */
  ingot_gather_plan validation;   /* data, window, batch (= micro_batch), compute, output, fingerprint; no models */
  const int        *tensor_param; /* [sink.n_tensor]: parameter of the layout that a tensor of the output holds */
  ingot_sink_spec   sink;
} ingot_distill_plan;

/** One step of the training. */
typedef struct ingot_distill_record {
  double loss; /* alpha * soft + (1 - alpha) * hard */
  double soft; /* T^2 times the divergence, mean over the tokens */
  double hard; /* cross-entropy with the labels */
  double rate;
  double norm; /* of the gradient, before clipping */
} ingot_distill_record;

/** A validation. */
typedef struct ingot_distill_check {
  int64_t step;     /* done before it */
  double  mean_nll; /* mean over the data sets of the mean negative log-likelihood of a token */
} ingot_distill_check;

/** What a training has come to; the same on every rank. Owned. */
typedef struct ingot_distill_history {
  ingot_distill_record *records; /* [n_step] */
  int64_t               n_step;
  ingot_distill_check  *checks;    /* [n_check] */
  double               *check_nll; /* [n_check][validation.n_data] */
  int64_t               n_check, capacity;
  int64_t               best; /* index of the best check; -1: none */
} ingot_distill_history;

void ingot_distill_history_release(ingot_distill_history *history);

/** What a step tells. */
typedef struct ingot_distill_news {
  int64_t                     step, n_step; /* done */
  const ingot_distill_record *record;
  const ingot_distill_check  *check;        /* NULL: a step; else a validation, record is NULL then */
  double                      step_s;       /* what the step took */
  double                      tokens_per_s; /* of the step */
  double                      utilisation;  /* part of the measured matrix rate; of one rank */
  double                      elapsed_s;
} ingot_distill_news;

typedef struct ingot_distill_options {
  ingot_gather_options gather;                                 /* its progress is not called */
  void (*tell)(void *context, const ingot_distill_news *news); /* rank 0; NULL: nobody */
  void *tell_context;
  /** A side file made from the finished training (rank-independent), appended to the sink's files; NULL: none. */
  ingot_status (*report)(void *context, const ingot_distill_plan *plan, const ingot_distill_history *history, bool best,
                         ingot_text *bytes); /* best: for the checkpoint with the best of the validations */
  void       *report_context;
  const char *report_name;
} ingot_distill_options;

/** Windows that a training draws from each data set: drawn [n_data]. */
void ingot_distill_count_draws(const ingot_distill_plan *plan, int64_t *drawn);

/** The rate of step `step`, from 0. */
double ingot_distill_rate(const ingot_distill_optimizer *o, int64_t step, int64_t n_step);

/** Bytes that one rank of n_rank holds in the back end's memory. */
uint64_t ingot_distill_bytes(const ingot_distill_plan *plan, const ingot_model_spec *student,
                             const ingot_model_spec *teachers, int n_rank);

/** Bytes that one rank of n_rank holds in host memory besides; on a CPU that is the same memory. On a GPU the state and
 * the output pass through it. */
uint64_t ingot_distill_host_bytes(const ingot_distill_plan *plan, const ingot_model_spec *student, int n_rank,
                                  int n_thread, bool on_device);

/**
 * Train, and write the output under its name. checksums [other ? 2 : 1][sink.n_tensor]: the output's, then the other's.
 * Collective; all ranks return the same status.
 * INGOT_STOPPED: saved. INGOT_ERR_NUMERIC: a loss or a gradient that is not finite, with step and window; what was
 * saved before stays. Errors of model, data, sink and device.
 */
ingot_status ingot_distill_run(ingot_comm *comm, const ingot_distill_plan *plan, const ingot_distill_options *options,
                               uint64_t *checksums, ingot_distill_history *history, ingot_merge_timing *timing);

#endif
