/** The head of a backward pass whose labels are the data's own or drawn from the model. For workers/statistics. */
#ifndef INGOT_WORKERS_STATISTICS_LABELS_H
#define INGOT_WORKERS_STATISTICS_LABELS_H

#include "workers/statistics/loop.h"

typedef struct ingot_label_head {
  ingot_gather *g;
  void         *nll;     /* of the back end: [rows] float */
  void         *sampled; /* of the back end: [rows] int32_t; NULL: labels as given */
  float        *host_nll;
  uint64_t      key;     /* of the random labels */
  uint64_t      counter; /* of the batch's first row */
  float         scale;   /* of each row's loss */
} ingot_label_head;

/** Rows: of a batch. */
ingot_status ingot_label_head_init(ingot_label_head *h, ingot_gather *g, bool sampled);
void         ingot_label_head_release(ingot_label_head *h);
/** As ingot_head.chunk. */
ingot_status ingot_label_head_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                                    const int32_t *labels, void *d_logits);
/** After the pass: whether the loss was finite, INGOT_ERR_NUMERIC with the window. */
ingot_status ingot_label_head_check(ingot_label_head *h, const ingot_batch *batch, int64_t first);
/** Predicted tokens of rows [begin, end) of a batch. */
int64_t ingot_label_count(const ingot_batch *batch, int64_t begin, int64_t end);

#endif
