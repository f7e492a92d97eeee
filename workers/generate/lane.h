/** One thread's part of generating: models (weights are shared), decoders, and the chunk under way. */
#ifndef INGOT_WORKERS_GENERATE_LANE_H
#define INGOT_WORKERS_GENERATE_LANE_H

#include <stdatomic.h>

#include "workers/generate/beam.h"
#include "workers/generate/records.h"
#include "workers/model/decode.h"

typedef struct ingot_lane {
  const ingot_generate_plan *plan;
  const ingot_prompts       *prompts;
  const ingot_records       *records;
  ingot_tokens *const       *tokens_of;
  const atomic_int          *cancelled; /* the chunk under way is given up */
  ingot_nn                  *nn;        /* borrowed on a GPU, else its own, of one thread */
  bool                       owns_nn;
  ingot_model               *models;    /* [n_model]: copies that work on nn */
  ingot_decoder            **decoders;  /* [n_model] */
  int64_t                    n_row, n_vocab, ld;
  float                     *mixed;     /* back end: [n_row][ld] */
  float                     *weight;    /* back end: [n_model][n_row] */
  float                     *z;         /* host: [n_row][ld] */
  int32_t                   *room;      /* [2 n_vocab] */
  int32_t                   *prompt;    /* [batch][prompt]; the next: their lengths */
  int32_t                   *n_prompt;
  int32_t                   *gold, *n_gold; /* [batch][length], [batch] */
  int32_t                   *from, *token; /* [n_row] */
  int32_t                   *of_row, *next_of; /* [n_row]: sequence of the chunk that a row belongs to */
  int32_t                   *written;   /* [batch][prompt + length] */
  ingot_sequence            *sequences; /* [batch] */
  ingot_beam                *beams;     /* [batch] */
  int64_t                    first, n;  /* sequences of the chunk */
  const double              *weights;   /* [n_model] of its data set */
  int64_t                    n_step;    /* tokens decoded, for figures */
} ingot_lane;

/** Rows of a pass: sequences of a chunk, times beams. */
int64_t ingot_lane_rows(const ingot_generate_plan *plan);
/** models [n_model] are borrowed. Release in any case. */
ingot_status ingot_lane_open(ingot_lane *lane, ingot_model *const *models, bool on_device);
void         ingot_lane_close(ingot_lane *lane);
/** Generate a chunk: lane->sequences. *whole false: given up, because cancelled. */
ingot_status ingot_lane_run(ingot_lane *lane, int64_t chunk, bool *whole);

#endif
