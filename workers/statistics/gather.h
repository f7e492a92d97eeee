/**
 * What is gathered from a model on data: scores (evaluate), diagonal Fisher information, Gram matrices. Three users of
 * the forward and backward pass of workers/model, on all ranks at once.
 *
 * Data parallel: every rank holds the whole model, and takes a contiguous part of the windows; sums are added at the
 * end. So the number of ranks (and the windows of a pass) changes results by rounding alone: scores are float32 per
 * token, float64 sums; Fisher sums float32 on a rank; Gram sums float64. Over ranks the sums are added on the host in
 * the order of the ranks, Fisher sums in float64; or, where every rank has a GPU of its own, by NCCL, Fisher sums in
 * float32, in an order that is NCCL's: the same in every run on the same machine with as many ranks, otherwise not
 * promised.
 *
 * A stop (options.stop) or a set time saves each rank's sums beside the output ("<output>.state.R-of-N"); the same plan
 * on as many ranks goes on from there. All run functions are collective; all ranks return the same status.
 */
#ifndef INGOT_WORKERS_STATISTICS_GATHER_H
#define INGOT_WORKERS_STATISTICS_GATHER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/comm.h"
#include "io/sink.h"
#include "io/statistics.h"
#include "io/tokens.h"
#include "kernels/nn/nn.h"
#include "workers/merge.h"
#include "workers/model/spec.h"

typedef struct ingot_gather_model {
  const char *id;
  const char *path;
} ingot_gather_model;

typedef struct ingot_gather_data {
  const char *name;
  const char *path;
  const char *dtype;    /* NULL: from the path's ending */
  int64_t     n_window; /* that are taken */
} ingot_gather_data;

/** What to compute in. */
typedef enum ingot_compute {
  INGOT_COMPUTE_F32,
  INGOT_COMPUTE_TF32, /* GPU */
  INGOT_COMPUTE_BF16, /* GPU */
  INGOT_COMPUTE_COUNT
} ingot_compute;
/** The dtype of weights and activations: float32 for tf32, which is a way of multiplying. */
ingot_dtype ingot_compute_dtype(ingot_compute compute);

/** Everything that decides the result. All pointers are borrowed. */
typedef struct ingot_gather_plan {
  const ingot_gather_model *models; /* [n_model]; Fisher and Gram: one */
  int                       n_model;
  const ingot_gather_data  *data; /* [n_data] */
  int                       n_data;
  ingot_window_spec         window;
  int64_t                   batch; /* windows of a pass at most */
  ingot_compute             compute;
  ingot_statistics_labels   labels;  /* Fisher; Gram matrices of gradients: GIVEN or SAMPLED */
  int                       top_k;   /* EXACT: classes of their own, all others are one more */
  ingot_statistics_loss     loss;    /* Fisher: of an example, over its tokens */
  int64_t                   example; /* Fisher: predicted tokens of an example; 0: those of a window */
  uint64_t                  seed;    /* SAMPLED */
  bool                      head;    /* Gram: the head's input too */
  bool                      outputs; /* Gram: of the gradients at the outputs too */
  uint64_t sums_bytes;          /* Gram: of the sums in memory at most, by several passes; 0: all in one. Not part of
                                   the fingerprint: the result is the same */
  double          save_every_s; /* 0: when stopped alone */
  const char     *output;       /* path; states lie beside it */
  ingot_sink_spec sink;         /* Fisher, Gram: what is written */
  uint64_t        fingerprint;  /* of all this, the models and the data */
} ingot_gather_plan;

/** How to run: none of it is part of the fingerprint. */
typedef struct ingot_gather_options {
  int               n_thread;
  bool              on_device; /* a GPU: the rank's number on its node modulo the GPUs */
  bool              fresh;     /* forget saved states */
  const atomic_int *stop;      /* as in ingot_merge_options */
  /** On rank 0, between passes; NULL: none. */
  void (*progress)(void *context, int64_t windows_done, int64_t n_window, int64_t tokens_done, double elapsed_s);
  void *progress_context;
} ingot_gather_options;

/** Scores of one model on one data set. */
typedef struct ingot_score {
  double  nll;     /* sum of the negative log-likelihoods, natural logarithm */
  int64_t n_token; /* predicted */
  int64_t n_right; /* predicted with the largest logit */
} ingot_score;

/** Windows of all data sets. */
int64_t ingot_gather_window_count(const ingot_gather_plan *plan);

/** Examples of a Fisher plan: the windows, or their spans of `example` predicted tokens. */
int64_t ingot_fisher_examples(const ingot_gather_plan *plan);

/** Bytes that one rank holds at most where its models are: weights, pass and sums; Gram and Fisher by the model
 * alone. */
uint64_t ingot_evaluate_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec);
uint64_t ingot_fisher_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec,
                            const ingot_model_layout *layout);
uint64_t ingot_gram_bytes(const ingot_gather_plan *plan, const ingot_model_spec *spec,
                          const ingot_model_layout *layout);
/** Bytes of the host that it holds besides: windows, scores, tiles of the output. */
uint64_t ingot_evaluate_host_bytes(const ingot_gather_plan *plan);
uint64_t ingot_fisher_host_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout, int64_t n_vocab,
                                 int n_thread);
uint64_t ingot_gram_host_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout, int n_thread,
                               bool on_device);

/** Gram: passes over the data, and the bytes of the sums that are in memory at a time. */
int      ingot_gram_passes(const ingot_gather_plan *plan, const ingot_model_layout *layout);
uint64_t ingot_gram_sums_bytes(const ingot_gather_plan *plan, const ingot_model_layout *layout);

/** One tensor of a Gram file. */
typedef struct ingot_gram_item {
  int     linear; /* of the layout */
  int     param;  /* whose output's gradients; -1: the input of the linear layer */
  int64_t width;  /* n of the n x n matrix */
} ingot_gram_item;

/** The tensors in file order: items [returned number], or NULL to count. */
int ingot_gram_items(const ingot_model_layout *layout, bool head, bool outputs, ingot_gram_item *items);

/**
 * scores [n_model][n_data], filled on every rank; what an earlier run has finished is taken over. The states stay until
 * ingot_gather_forget. INGOT_STOPPED; INGOT_ERR_NUMERIC with the window whose loss is not finite; errors of
 * model, data and device.
 */
ingot_status ingot_evaluate_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                                ingot_score *scores, ingot_merge_timing *timing);
/**
 * Gather, and write the output under its name. sink.tensors are the layout's parameters in order (Fisher: the shapes of
 * the checkpoint), or ingot_gram_items. checksums [sink.n_tensor]. As above; INGOT_ERR_NOSPACE.
 */
ingot_status ingot_fisher_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                              uint64_t *checksums, ingot_merge_timing *timing);
ingot_status ingot_gram_run(ingot_comm *comm, const ingot_gather_plan *plan, const ingot_gather_options *options,
                            uint64_t *checksums, ingot_merge_timing *timing);
/** Remove the states beside an output, of any number of ranks. Not collective: one rank does it. */
ingot_status ingot_gather_forget(const char *output);

#endif
