/** The output of a merge and its journal: start anew, or take up what an earlier run has left. */
#ifndef INGOT_WORKERS_RESUME_H
#define INGOT_WORKERS_RESUME_H

#include "io/journal.h"
#include "workers/merge.h"

/**
 * Open the partial output and its journal. Collective; all ranks return the same status.
 *
 * A journal of the same fingerprint is continued: every tile of [tile_begin, tile_end) that it calls done is read
 * back by n_thread threads and kept if its checksum is right. Without a journal, or with `fresh`, all starts anew.
 *
 * @param done      [plan->n_tile], false on entry; true for this rank's tiles that need no work afterwards.
 * @param checksum  [plan->n_tile], filled where done is true.
 * @return INGOT_ERR_EXISTS for a journal of another job, with nothing touched.
 */
ingot_status ingot_resume_open(ingot_comm *comm, const ingot_merge_plan *plan, bool fresh, int n_thread,
                               int64_t tile_begin, int64_t tile_end, bool *done, uint64_t *checksum, ingot_sink **sink,
                               ingot_journal **journal);

#endif
