/** One attention problem with inputs of its own, run on a back end and by a float64 reference that shares no code with
 * it. */
#ifndef INGOT_TESTS_GPU_ATTENTION_CASE_H
#define INGOT_TESTS_GPU_ATTENTION_CASE_H

#include "kernels/nn/nn.h"

typedef struct attention_case {
  int n_batch, n_time, n_head, n_kv_head, head_dim;
  int window;   /* 0: none */
  int document; /* mean length of a document; 0: one document a window */
} attention_case;

/** Arrays by name. LSE is float32 [n_batch][n_head][n_time]; the others are [token][head][head_dim], dense. */
typedef enum attention_array {
  ATT_Q,
  ATT_K,
  ATT_V,
  ATT_DO,
  ATT_O,
  ATT_LSE,
  ATT_DQ,
  ATT_DK,
  ATT_DV,
  ATT_COUNT
} attention_array;

typedef struct attention_data {
  attention_case shape;
  int32_t       *first_key; /* NULL without documents */
  double        *x[ATT_COUNT];
} attention_data;

/** Elements of an array. */
int64_t attention_count(const attention_case *c, attention_array which);

/** Inputs drawn from a seed, rounded to bfloat16 when `dtype` is; outputs by the reference when asked for. Freed by the
 * caller. */
ingot_status attention_data_make(const attention_case *c, ingot_dtype dtype, uint64_t seed, bool reference,
                                 attention_data *d);
void         attention_data_free(attention_data *d);

/**
 * Forward and backward on a back end: q, k and v in one array, as after a joint projection, with a gap behind each
 * token, the gradients likewise. Outputs begin as NaN; INGOT_ERR_FORMAT when a gap was written to. `out` takes the
 * outputs alone.
 */
ingot_status attention_run(ingot_nn *nn, const attention_data *in, attention_data *out);

#endif
