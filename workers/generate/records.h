/** Sequences that are done: records of one size in "<output>.state.sequences", chunks of them under a journal. */
#ifndef INGOT_WORKERS_GENERATE_RECORDS_H
#define INGOT_WORKERS_GENERATE_RECORDS_H

#include "io/journal.h"
#include "workers/generate/generate.h"

/** What a record holds; the tokens are the prompt's and those behind it. */
typedef struct ingot_sequence {
  int32_t  n_prompt, n_token;
  int32_t  ended; /* by the end token, which is the last one */
  int32_t  zero;
  int32_t *tokens; /* [prompt + length]; lent */
} ingot_sequence;

typedef struct ingot_records {
  const ingot_generate_plan *plan;
  int                        fd;
  char                      *path;
  ingot_journal             *journal;
  int64_t                    n_sequence, n_chunk;
  int64_t                   *chunk_first; /* [n_chunk + 1]: its sequences; chunks do not cross data sets */
  int                       *chunk_data;  /* [n_chunk] */
  bool                      *done;        /* [n_chunk], the same on all ranks after opening */
} ingot_records;

/** Collective: open what an earlier run has left, or begin anew. Release in any case. */
ingot_status ingot_records_open(ingot_records *r, ingot_comm *comm, const ingot_generate_plan *plan,
                                const int64_t *per_data, bool fresh, int64_t *n_resumed);
void         ingot_records_close(ingot_records *r);
/** Write all sequences of a chunk, and say that it is done. Any thread. */
ingot_status ingot_records_put(ingot_records *r, int64_t chunk, const ingot_sequence *sequences);
/** One sequence; its tokens are put into room [prompt + length]. Any thread. */
ingot_status ingot_records_get(const ingot_records *r, int64_t sequence, int32_t *room, ingot_sequence *out);

/**
 * Collective, when all is done: the output under its name (write.c). Sequences follow each other; an end token is left
 * out where the next sequence begins with the same token, which then stands for both.
 */
ingot_status ingot_generate_write(const ingot_records *r, ingot_comm *comm, ingot_generate_result *result);

#endif
