/**
 * Generating: a model, or an ensemble as one scorer, continues prompts, and the sequences become a token file to train
 * on (sequence-level distillation: Kim and Rush 2016).
 *
 * The unit of work is a chunk: some sequences that are decoded together, by one thread with arithmetic of its own (on a
 * GPU: one after the other). Its bits depend on the plan alone, so ranks and threads do not change the file. Finished
 * chunks are kept in
 * "<output>.state.sequences" under a journal; the same command goes on from them on any number of ranks.
 */
#ifndef INGOT_WORKERS_GENERATE_GENERATE_H
#define INGOT_WORKERS_GENERATE_GENERATE_H

#include "workers/ensemble/ensemble.h"
#include "workers/generate/choose.h"

typedef enum ingot_generate_search {
  INGOT_SEARCH_SAMPLE,
  INGOT_SEARCH_GREEDY,
  INGOT_SEARCH_BEAM
} ingot_generate_search;

/** Which of the finished hypotheses of a beam search is taken. */
typedef enum ingot_generate_select { INGOT_SELECT_BEST, INGOT_SELECT_BLEU, INGOT_SELECT_F1 } ingot_generate_select;

/** Everything that decides the result. */
typedef struct ingot_generate_plan {
  /** models, data (n_data 0: prompts are `begin` alone), window (length: prompt + length), compute, output, sink
   * (without tensors), kind, weights (rows by data set), floor and plausibility are used. Kinds LINEAR, LOG_LINEAR and
   * MAX. */
  ingot_ensemble_plan   ensemble;
  bool                  documents;  /* a prompt from each document, not from each window */
  int64_t               prompt;     /* tokens of a prompt; with prompt_end: at most */
  int32_t               prompt_end; /* the prompt ends behind the first of these; -1: none */
  int32_t               begin;      /* put before a prompt that does not begin with it; -1: none */
  int32_t               end;        /* ends a sequence; -1: none */
  int64_t               samples;    /* sequences of a prompt */
  int64_t               length;     /* tokens after the prompt at most */
  ingot_generate_search search;
  ingot_choice          choice; /* SAMPLE */
  int                   beams;  /* BEAM */
  double                penalty;
  ingot_generate_select select;
  uint64_t              seed;
  int64_t               batch;    /* sequences of a chunk */
  int                   n_lane;   /* threads of a rank at most */
  bool                  drop;     /* sequences without the end token */
  bool                  unique;   /* of equal sequences only the first is written */
  int64_t               row;      /* whole sequences in rows of so many tokens; 0: one behind the other */
  int32_t               fill;     /* ends a row */
  int                   width;    /* bytes of an id in the file: 2 or 4 */
  int64_t               n_prompt; /* of all data sets, as they were found while planning */
} ingot_generate_plan;

typedef struct ingot_generate_result {
  int64_t  n_sequence;  /* generated */
  int64_t  n_ended;     /* of them by the end token */
  int64_t  n_dropped;   /* without it */
  int64_t  n_duplicate; /* left out because an equal one is there */
  int64_t  n_written, n_token;
  uint64_t checksum; /* of the tokens as they are written */
} ingot_generate_result;

/** Where prompts begin in the data. */
typedef struct ingot_prompts {
  int64_t  n;
  int64_t *start;    /* [n]: token in its data set */
  int64_t *stop;     /* [n]: documents: where the document ends; windows: the end of the window */
  int64_t *per_data; /* [max(n_data, 1)]: how many; they follow each other */
} ingot_prompts;

/** Look for all prompts; ids are checked against n_vocab. Release in any case. Not collective. */
ingot_status ingot_prompts_find(const ingot_generate_plan *plan, int64_t n_vocab, ingot_prompts *out);
void         ingot_prompts_release(ingot_prompts *prompts);
/** One prompt: tokens [prompt], and what follows it in the data: gold [length]. tokens_of [n_data] are open. */
ingot_status ingot_prompts_read(const ingot_generate_plan *plan, const ingot_prompts *prompts,
                                ingot_tokens *const *tokens_of, int64_t i, int64_t n_vocab, int32_t *tokens, int32_t *n,
                                int32_t *gold, int32_t *n_gold);

/** Tokens that are written at most. */
int64_t ingot_generate_most_tokens(const ingot_generate_plan *plan);
/** Chunks, with n_prompt prompts spread over the data sets as given. */
int64_t ingot_generate_chunks(const ingot_generate_plan *plan, const int64_t *per_data);
/** Memory of one rank with n_lane lanes. specs [n_model] */
ingot_ensemble_memory ingot_generate_bytes(const ingot_generate_plan *plan, const ingot_model_spec *specs,
                                           bool on_device, int n_thread);

/**
 * Generate, and write the output under its name: a flat token file, or HDF5 with tensor "tokens" when sink.format says
 * so. Collective; the result is the same on every rank. INGOT_STOPPED; INGOT_ERR_NUMERIC with the sequence; errors of
 * models, data and device. States stay until ingot_gather_forget.
 */
ingot_status ingot_generate_run(ingot_comm *comm, const ingot_generate_plan *plan, const ingot_gather_options *options,
                                ingot_generate_result *result, ingot_merge_timing *timing);

#endif
