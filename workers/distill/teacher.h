/** Teachers of a training, and the loss of rows of the student's logits against them. */
#ifndef INGOT_WORKERS_DISTILL_TEACHER_H
#define INGOT_WORKERS_DISTILL_TEACHER_H

#include "io/logits.h"
#include "workers/distill/distill.h"
#include "workers/distill/stream.h"
#include "workers/ensemble/members.h"

typedef struct ingot_teachers {
  const ingot_distill_plan *plan;
  ingot_nn                 *nn;
  ingot_members             members; /* plan->n_teacher, or none */
  ingot_members_part *parts; /* [n_teacher]: windows of the batch under way from the first to the last that it is for */
  bool               *wanted;      /* [n_teacher]: for the rows under way */
  int64_t             n_batch_row; /* of the batch under way */
  bool                ended;       /* the round of the batch under way, with its last rows */
  int64_t             n_row;       /* rows of a head chunk at most */
  int64_t             ld;          /* of rows of logits */
  int64_t             n_time;
  const ingot_draw   *draws; /* of the batch's windows */
  float        *rows; /* [n_data][n_teacher] (linear: logarithms), 1 / T, T; each [n_row] times: weights for mix */
  float        *mixed, *tempered; /* [n_row][ld] */
  void         *scratch;          /* [n_row][ld] of nn->dtype: gradients of one teacher's loss */
  float        *soft;      /* [max(n_teacher, 1)][micro batch * n_time]: average_loss has one row of them a teacher */
  float        *nll;       /* [micro batch * n_time] */
  int64_t       n_token;   /* micro batch * n_time */
  ingot_logits *logits;    /* a file instead of models */
  int          *file_data; /* [n_data]: its data sets */
  int           k;
  int32_t      *ids, *host_ids; /* [n_token][k] */
  float        *logp, *host_logp;
} ingot_teachers;

/**
 * Load teachers (of a plan that spreads them: this rank's), or open the logits file. head_rows, n_vocab: the student's.
 * tokens [n_data]. Not collective, but `join` afterwards is. Release in any case.
 */
ingot_status ingot_teachers_init(ingot_teachers *t, ingot_nn *nn, ingot_comm *comm, const ingot_distill_plan *plan,
                                 ingot_tokens *const *tokens, int64_t head_rows, int64_t n_vocab);
ingot_status ingot_teachers_join(ingot_teachers *t, ingot_gather *g);
void         ingot_teachers_release(ingot_teachers *t);
/** Bytes of back-end memory that they take, on the rank of n_rank that has most. */
uint64_t ingot_teachers_bytes(const ingot_distill_plan *plan, ingot_dtype dtype, const ingot_model_spec *specs,
                              int64_t head_rows, int64_t n_vocab, int n_rank);
/**
 * Run the teachers over a batch whose window w is draws[w]; draws is borrowed until the next batch. Teachers that are
 * spread work in rounds (workers/ensemble/members.h): as many calls of `end` on every rank, with batches or without,
 * which take the place of agreement.
 */
ingot_status ingot_teachers_run(ingot_teachers *t, const ingot_batch *batch, const ingot_draw *draws);
/** The loss of rows first_row .. of the batch, into t->soft and t->nll; d_logits as in ingot_head, scaled. */
ingot_status ingot_teachers_loss(ingot_teachers *t, int64_t first_row, const ingot_nn_logits *z, const int32_t *labels,
                                 float scale, void *d_logits);
/**
 * A batch is through, or there was none; this rank's status. The status of all if any has failed before the last rows
 * of its batch; a later failure is told in the next round.
 */
ingot_status ingot_teachers_end(ingot_teachers *t, ingot_status mine);

#endif
