/**
 * What a decoder is, read from its config.json: sizes, switches and positions, and the parameters that follow from
 * them.
 *
 * Families: llama (rope scaling: none, linear, dynamic, yarn, llama3), mistral (sliding window), qwen2 (attention bias,
 * window from a layer on), qwen3 (q/k norms), gpt2. Both spellings of keys are read: rope_theta and rope_scaling
 * (Transformers 4) and rope_parameters (5), torch_dtype and dtype, hidden_act and activation_function, ...
 */
#ifndef INGOT_WORKERS_MODEL_SPEC_H
#define INGOT_WORKERS_MODEL_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/shape.h"
#include "base/status.h"
#include "io/source.h"

typedef enum ingot_rope_type {
  INGOT_ROPE_DEFAULT,
  INGOT_ROPE_LINEAR,
  INGOT_ROPE_DYNAMIC, /* frequencies depend on the length of the window */
  INGOT_ROPE_LLAMA3,
  INGOT_ROPE_YARN,
} ingot_rope_type;

/** Settings of the rotary embedding as the config states them; unused ones are 0. */
typedef struct ingot_rope_spec {
  ingot_rope_type type;
  double          theta, factor;
  double          low_freq_factor, high_freq_factor; /* llama3 */
  double          beta_fast, beta_slow;              /* yarn */
  double          attention_factor;                  /* yarn: 0 when the config has none */
  double          mscale, mscale_all_dim;            /* yarn */
  bool            truncate;                          /* yarn: round the corrected range to whole dimensions */
  int64_t         original_positions;                /* llama3, yarn, dynamic */
} ingot_rope_spec;

typedef struct ingot_model_spec {
  char            family[16]; /* model_type */
  int64_t         n_vocab;    /* rows of the embedding */
  int64_t         hidden, inner;
  int             n_layer, n_head, n_kv_head, head_dim;
  int64_t         n_position; /* longest window: max_position_embeddings, n_positions */
  float           eps;
  bool            layer_norm; /* LayerNorm with bias, else RMSNorm */
  bool            gated;      /* SwiGLU, else GELU (tanh) */
  bool            qkv_bias, o_bias, mlp_bias, qk_norm;
  bool            tied;              /* the head is the embedding */
  bool            learned_positions; /* else rotary */
  bool            conv1d;            /* linear weights stored [in, out], q, k and v in one (gpt2) */
  ingot_rope_spec rope;
  int             window;         /* sliding window of layers >= window_from, or of those flagged below; 0: none */
  bool           *layer_windowed; /* [n_layer]; owned */
} ingot_model_spec;

/**
 * Read the config.json of a source (a Hugging Face directory, or an ingot .h5 with its side files).
 * INGOT_ERR_FORMAT: no config, broken, a key missing or of the wrong type, sizes that do not fit. INGOT_ERR_MISMATCH:
 * an architecture or an option that is not supported, by name.
 */
ingot_status ingot_model_spec_read(const ingot_source *src, ingot_model_spec *out);
/** The same from text; `where` names it in messages. */
ingot_status ingot_model_spec_parse(const char *json, size_t size, const char *where, ingot_model_spec *out);
void         ingot_model_spec_release(ingot_model_spec *spec);

/**
 * INGOT_ERR_MISMATCH when windows are longer than the model's positions, as stated or as stretched by the factor of its
 * rotary embedding; rope type dynamic takes every length. `where` names the model in the message.
 */
ingot_status ingot_model_check_window(const ingot_model_spec *spec, const char *where, int64_t n_time);

/**
 * Frequencies of the rotary embedding for windows of n_time positions: inv_freq [head_dim / 2], and the factor for
 * cosine and sine. Computed in float64, as Transformers does.
 */
void ingot_model_rope_frequencies(const ingot_model_spec *spec, int64_t n_time, double *inv_freq, double *factor);

/** What a parameter is for. Those of one run (q, k, v; gate, up) are adjacent in memory and used as one matrix. */
typedef enum ingot_param_role {
  INGOT_ROLE_EMBEDDING,
  INGOT_ROLE_POSITION,
  INGOT_ROLE_NORM1_WEIGHT,
  INGOT_ROLE_NORM1_BIAS,
  INGOT_ROLE_Q,
  INGOT_ROLE_K,
  INGOT_ROLE_V, /* gpt2: Q holds all three */
  INGOT_ROLE_Q_BIAS,
  INGOT_ROLE_K_BIAS,
  INGOT_ROLE_V_BIAS,
  INGOT_ROLE_Q_NORM,
  INGOT_ROLE_K_NORM,
  INGOT_ROLE_O,
  INGOT_ROLE_O_BIAS,
  INGOT_ROLE_NORM2_WEIGHT,
  INGOT_ROLE_NORM2_BIAS,
  INGOT_ROLE_GATE,
  INGOT_ROLE_UP, /* not gated: UP alone */
  INGOT_ROLE_GATE_BIAS,
  INGOT_ROLE_UP_BIAS,
  INGOT_ROLE_DOWN,
  INGOT_ROLE_DOWN_BIAS,
  INGOT_ROLE_FINAL_NORM_WEIGHT,
  INGOT_ROLE_FINAL_NORM_BIAS,
  INGOT_ROLE_HEAD, /* absent when tied */
  INGOT_ROLE_COUNT
} ingot_param_role;

typedef struct ingot_model_param {
  char            *name; /* as Transformers writes it; owned by the layout */
  ingot_param_role role;
  int              layer;      /* -1 outside the layers */
  ingot_shape      shape;      /* in the checkpoint */
  bool             transposed; /* kept in memory as its transpose, [out, in] */
  int64_t          n_elem;
  int64_t          offset; /* elements from the start of the flat array of all parameters */
} ingot_model_param;

/** Linear layers that share one input: q, k, v; gate, up; or one alone. The unit of Gram statistics. */
typedef struct ingot_model_linear {
  int     first_param, n_param; /* their weights: adjacent parameters, one matrix [n_out, n_in] in memory */
  int     first_bias;           /* -1: none */
  int     layer;                /* -1: the head */
  int64_t n_in, n_out;
} ingot_model_linear;

/** All parameters in memory order, and the linear layers in the order of the forward pass. */
typedef struct ingot_model_layout {
  ingot_model_param *params; /* [n_param] */
  int                n_param;
  int64_t            n_elem; /* of the flat array, with padding between parameters (multiples of 128 elements) */
  ingot_model_linear
      *linears; /* [n_linear]: per layer q/k/v, o, gate/up, down; then the head (tied: first_param is the embedding) */
  int  n_linear;
} ingot_model_layout;

ingot_status ingot_model_layout_make(const ingot_model_spec *spec, ingot_model_layout *out);
void         ingot_model_layout_release(ingot_model_layout *layout);
/** The name of a tensor without a leading "model." or "transformer.", which files may have or not. */
const char *ingot_model_short_name(const char *name);
/** n_elem of the spec's layout, without making one: cannot fail. */
int64_t ingot_model_elements(const ingot_model_spec *spec);
/** Index of a role in a layer (or -1 for `layer`), or -1. */
int ingot_model_layout_find(const ingot_model_layout *layout, ingot_param_role role, int layer);
/**
 * The tensor of each parameter in a source: tensor [n_param]. Names without the leading "model." or "transformer." are
 * found too. Buffers that checkpoints may carry (rotary tables, masks, a stored tied head) are passed over; any other
 * tensor that the model does not have is an error, as is a missing one or one of another shape: INGOT_ERR_MISMATCH.
 */
ingot_status ingot_model_layout_bind(const ingot_model_layout *layout, const ingot_model_spec *spec,
                                     const ingot_source *src, int *tensor);

/** Floating-point operations of the forward pass of one token in windows of n_time: 2 a multiply-add, causal attention
 *  at half; without the head when !head. */
double ingot_model_forward_flops(const ingot_model_spec *spec, int64_t n_time, bool head);

#endif
