/** The insides of a pass, shared by pass.c, forward.c, backward.c and head.c. */
#ifndef INGOT_WORKERS_MODEL_PASS_INTERNAL_H
#define INGOT_WORKERS_MODEL_PASS_INTERNAL_H

#include "workers/model/model.h"

/* What a layer computes, [token][...]. A backward pass needs all of it of every layer; otherwise the layers share one.
 * With recompute they share one but for `input`. */
typedef struct ingot_pass_layer {
  void  *input;  /* [hidden]: the residual stream before the layer */
  void  *norm1;  /* [hidden] */
  void  *qkv;    /* [q + 2 kv]: rotated, unless there are q/k norms */
  void  *qk;     /* [q + kv]: normed and rotated; NULL without q/k norms */
  void  *heads;  /* [q]: attention's output */
  void  *middle; /* [hidden]: the residual stream between the blocks */
  void  *norm2;  /* [hidden] */
  void  *inner;  /* [2 inner] gate and up, or [inner] */
  void  *active; /* [inner] */
  float *stats1, *stats2, *stats_q, *stats_k;
  float *lse; /* [window][head][time]; NULL when nothing goes backward */
} ingot_pass_layer;

struct ingot_pass {
  ingot_model       *model; /* borrowed, as its back end */
  ingot_nn          *nn;
  ingot_pass_options options;
  int64_t            head_rows;
  int64_t            ld_logits;
  void              *memory; /* the one block that everything below lies in */
  ingot_pass_layer  *layers; /* [n_layer] */
  int               *params; /* [n_layer + 1][INGOT_ROLE_COUNT]: index of a role or -1; the last row is outside */
  int32_t           *host_ids;
  int64_t            table_time; /* windows that the rotary tables are made for */
  int64_t            n_row;      /* tokens whose final_norm is there for ingot_pass_logits */

  int32_t *tokens, *labels, *positions, *first_key, *valid;
  float   *cos, *sin;
  void    *delta;       /* [token][hidden]: output of a block, not yet added to the stream */
  void    *final_input; /* [token][hidden] */
  void    *final_norm;  /* [token][hidden] */
  float   *final_stats;
  float   *logits; /* [head_rows][ld_logits] */
  void    *d_logits;
  /* Gradients: of the residual stream, of a norm's output, of q, k and v, of normed q and k, of attention's output, of
   * the activation. */
  void *d_stream, *d_norm, *d_qkv, *d_qk, *d_heads, *d_active;
};

/* One run of a pass. Ids lie in back-end memory; labels, first_key and valid are NULL where the batch has none. */
typedef struct ingot_pass_state {
  ingot_pass               *pass;
  const ingot_nn_ops       *ops;
  ingot_nn                 *nn;
  const ingot_model        *model;
  const ingot_head         *head;
  const ingot_taps         *taps;
  const ingot_gradients    *gradients;
  int64_t                   n_batch, n_time, n_token;
  const int32_t            *labels, *first_key, *valid;
  bool                      backward;
  const struct ingot_cache *cache; /* decode.c: keys and values of earlier tokens; NULL: none */
} ingot_pass_state;

enum { INGOT_LINEAR_QKV, INGOT_LINEAR_O, INGOT_LINEAR_INNER, INGOT_LINEAR_DOWN, INGOT_LINEARS_OF_LAYER };

static inline int64_t ingot_spec_q(const ingot_model_spec *spec)
{
  return (int64_t)spec->n_head * spec->head_dim;
}
static inline int64_t ingot_spec_kv(const ingot_model_spec *spec)
{
  return (int64_t)spec->n_kv_head * spec->head_dim;
}

/** Address of element `column` of rows in nn->dtype. */
void *ingot_pass_at(const ingot_pass_state *run, const void *rows, int64_t column);
/** Index of a role's parameter (layer -1: outside), or -1. */
int ingot_pass_param(const ingot_pass_state *run, ingot_param_role role, int layer);
/** Its weights, or NULL. */
const void *ingot_pass_weight(const ingot_pass_state *run, ingot_param_role role, int layer);

ingot_nn_norm      ingot_pass_norm_shape(const ingot_pass_state *run);
ingot_nn_norm      ingot_pass_head_norm_shape(const ingot_pass_state *run, int n_group);
ingot_nn_rope      ingot_pass_rope_shape(const ingot_pass_state *run);
ingot_nn_attention ingot_pass_attention_shape(const ingot_pass_state *run, int layer);
/** Queries and keys as attention takes them, and their row distance. */
void *ingot_pass_qk(const ingot_pass_layer *layer);
/** Call a tap for the gradient of a linear layer's output: one call for each of its parameters. */
ingot_status ingot_pass_tap_output(const ingot_pass_state *run, int linear, int64_t first_row, int64_t n_row,
                                   const void *dy, int64_t ld);
ingot_status ingot_pass_tap_input(const ingot_pass_state *run, int linear, int64_t width, const void *x);

/** Memory for gradients of adjacent parameters; *beta is 0 where they are to be overwritten. NULL: not wanted. */
ingot_status ingot_pass_open_gradient(const ingot_pass_state *run, int first, int n, float **memory, float *beta);
ingot_status ingot_pass_close_gradient(const ingot_pass_state *run, int first, int n);
/** As open, for operators that add: overwriting is clearing first. */
ingot_status ingot_pass_open_cleared(const ingot_pass_state *run, int first, int n, float **memory);

/** In the place of attention: the batch's keys and values go to the cache, and its queries see what is there
 * (decode.c). */
ingot_status ingot_pass_cache_layer(const ingot_pass_state *run, int index, const ingot_pass_layer *layer);
/** Rotary tables that serve positions below n_time. */
ingot_status ingot_pass_refresh_tables(ingot_pass *pass, int64_t n_time);

/** Ids and tables are in place: layers up to the final norm. */
ingot_status ingot_pass_forward(const ingot_pass_state *run);
/** From its input, everything of a layer that its backward pass needs; no taps. */
ingot_status ingot_pass_forward_again(const ingot_pass_state *run, int index);
/** Logits of rows of final_norm, into pass->logits. */
ingot_status ingot_pass_head_logits(ingot_pass *pass, int64_t first_row, int64_t n_row, ingot_nn_logits *z);
ingot_status ingot_pass_rows_logits(ingot_pass *pass, const void *x, int64_t n_row, ingot_nn_logits *z);
/** Head by chunks; in a backward pass the gradient of the final norm's output too. */
ingot_status ingot_pass_run_head(const ingot_pass_state *run);
/** From the gradient of the final norm's output down to the embedding. */
ingot_status ingot_pass_backward(const ingot_pass_state *run);

#endif
