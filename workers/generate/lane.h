/** One thread's part of generating: models (weights are shared), decoders, and the chunk under way. */
#ifndef INGOT_WORKERS_GENERATE_LANE_H
#define INGOT_WORKERS_GENERATE_LANE_H

#include <stdatomic.h>

#include "workers/generate/beam.h"
#include "workers/generate/records.h"
#include "workers/model/decode.h"

/** What comes from the back end of a row of the mixture. */
typedef enum ingot_lane_take {
  INGOT_TAKE_DRAWN,  /* a token, drawn there */
  INGOT_TAKE_BEST,   /* the likeliest tokens with their log-probabilities */
  INGOT_TAKE_LOGITS, /* all logits */
} ingot_lane_take;

typedef struct ingot_lane_taken {
  ingot_lane_take what;
  int64_t         width; /* numbers of a row: 1; how many tokens; the row's ld */
} ingot_lane_taken;

typedef struct ingot_lane {
  const ingot_generate_plan *plan;
  const ingot_prompts       *prompts;
  const ingot_records       *records;
  ingot_tokens *const       *tokens_of;
  const atomic_int          *cancelled; /* the chunk under way is given up */
  ingot_nn                  *nn;        /* borrowed on a GPU, else its own, of one thread */
  bool                       owns_nn;
  ingot_model               *models;   /* [n_model]: copies that work on nn */
  ingot_decoder            **decoders; /* [n_model] */
  int64_t                    n_row, n_vocab, ld;
  ingot_lane_taken           taken;
  float                     *mixed;  /* back end: [n_row][ld] */
  float                     *weight; /* back end: [n_model][n_row] */
  int32_t        *ids; /* back end: [n_row][taken.width], as logp; NULL where not needed, as are the next two */
  float          *logp;
  double         *uniform; /* back end: [n_row] */
  int32_t        *host_ids;
  double         *host_uniform;
  float          *z;        /* host: [n_row][taken.width]: logits, or the largest log-probabilities */
  int             n_thread; /* that choose tokens: one, or with a GPU all of the rank's */
  int32_t        *room;     /* [n_thread][2 n_vocab] */
  int32_t        *prompt;   /* [batch][prompt]; the next: their lengths */
  int32_t        *n_prompt;
  int32_t        *gold, *n_gold; /* [batch][length], [batch] */
  int32_t        *from, *token;  /* [n_row] */
  int32_t        *of_row;        /* [n_row]: sequence of the chunk that a row belongs to */
  int32_t        *chosen;       /* [n_row]: a token; beams: `from`, before the rows of all sequences are put together */
  int32_t        *chosen_token; /* [n_row]: beams: `token` likewise */
  int32_t        *live, *live_row; /* [batch]: beams: sequences that run on, and their first rows */
  int32_t        *written;         /* [batch][prompt + length] */
  ingot_sequence *sequences;       /* [batch] */
  ingot_beam     *beams;           /* [batch] */
  int64_t         first, n;        /* sequences of the chunk */
  const double   *weights;         /* [n_model] of its data set */
  int64_t         n_step;          /* tokens decoded, for figures */
} ingot_lane;

/** Rows of a pass: sequences of a chunk, times beams. */
int64_t ingot_lane_rows(const ingot_generate_plan *plan);
/** By the search and the size of the vocabulary. */
ingot_lane_taken ingot_lane_takes(const ingot_generate_plan *plan, int64_t n_vocab);
/** models [n_model] are borrowed; n_thread is for a lane on a device, others are one thread. Release in any case. */
ingot_status ingot_lane_open(ingot_lane *lane, ingot_model *const *models, bool on_device, int n_thread);
void         ingot_lane_close(ingot_lane *lane);
/** Generate a chunk: lane->sequences. *whole false: given up, because cancelled. */
ingot_status ingot_lane_run(ingot_lane *lane, int64_t chunk, bool *whole);

#endif
