/**
 * Tensors of MATRIX grain: each is solved whole on one rank, with all its threads or its GPU, largest first, before the
 * lanes take the other tensors. Weights and statistics are read one model after the other (kernels/matrix.h).
 */
#ifndef INGOT_WORKERS_MATRIX_H
#define INGOT_WORKERS_MATRIX_H

#include "io/journal.h"
#include "workers/merge.h"

/** What a matrix run works on, all of it the merge's. */
typedef struct ingot_matrix_run {
  ingot_comm                *comm;
  const ingot_merge_plan    *plan;
  const ingot_merge_options *options;
  const ingot_merge_live    *live;  /* NULL: statistics are inputs */
  const int64_t             *begin; /* [size + 1]: the tiles that each rank looks after */
  ingot_sink                *sink;
  ingot_journal             *journal;
  bool                      *done;      /* [n_tile]: this rank's range on entry; with those of matrices on return */
  uint64_t                  *checksum;  /* [n_tile], likewise */
  ingot_bad_report          *nonfinite; /* [n_source], added to */
  ingot_merge_timing        *timing;    /* added to */
  ingot_matrix_summary      *summary;   /* of all ranks */
} ingot_matrix_run;

/**
 * Solve all matrices that are not done. Collective; all ranks return the same status. Finished ones are recorded tile
 * by tile, so that a restart goes on after them. INGOT_STOPPED between matrices; INGOT_ERR_NUMERIC for values that are
 * not finite (weights under INGOT_NONFINITE_FAIL, statistics always) and matrices that cannot be solved.
 */
ingot_status ingot_matrix_run_all(const ingot_matrix_run *run);

/** Host memory in bytes of the largest matrix; 0 when there is none. *tensor: which (may be NULL). */
uint64_t ingot_matrix_memory_bytes(const ingot_merge_plan *plan, int *tensor);

/** The same solved on a GPU: of the host, and there. */
uint64_t ingot_matrix_host_bytes(const ingot_merge_plan *plan, uint64_t *device_bytes);

/** n_out and n_in of a tensor of MATRIX grain. */
void ingot_matrix_extent(const ingot_method_tensor *t, int64_t *n_out, int64_t *n_in);

#endif
