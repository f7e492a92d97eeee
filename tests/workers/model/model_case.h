/**
 * Models of tests/workers/model/reference for tests: opened on the back end that INGOT_TEST_NN names ("cpu", the
 * default; "cuda", "cuda-bf16", "cuda-tf32"), with a cross-entropy head and a flat array of gradients.
 */
#ifndef INGOT_TESTS_MODEL_CASE_H
#define INGOT_TESTS_MODEL_CASE_H

#include "workers/model/model.h"

/** The back end; NULL when it is a GPU and there is none (the test is to be skipped). */
ingot_nn *model_case_open_nn(void);
/** A limit that is stated for float32, as the back end's dtype can keep it. */
double model_case_limit(double limit);
/** Largest difference over the largest magnitude. */
double model_case_distance(const float *a, const float *b, int64_t n);

typedef struct model_case {
  ingot_source *source, *reference;
  ingot_model  *model;
  int64_t       n_batch, n_time;
  int32_t      *tokens, *labels; /* [n_batch * n_time] */
  int64_t       n_label;         /* labels that are predicted */
} model_case;

void        model_case_open(ingot_nn *nn, const char *name, model_case *out);
void        model_case_close(model_case *c);
ingot_batch model_case_batch(const model_case *c);
/** A tensor of the reference, NULL when it is not there; the caller frees it. */
float *model_case_tensor(const model_case *c, const char *prefix, const char *name, int64_t *n_elem);

/** Mean cross-entropy: logits and nll go to host arrays. Context of the head; init, use, release. */
typedef struct loss_head {
  ingot_head head;
  float      scale;  /* of the gradient of one row */
  float     *logits; /* [n_token][n_vocab] */
  float     *nll;    /* [n_token] */
  float     *nll_memory;
  int64_t    n_vocab;
  int        n_chunk;
} loss_head;
void loss_head_init(loss_head *h, ingot_nn *nn, int64_t n_token, int64_t n_vocab, float scale);
void loss_head_release(loss_head *h, ingot_nn *nn);

/** Gradients in one array [n_elem] in back-end memory. */
typedef struct flat_gradients {
  ingot_gradients           gradients;
  const ingot_model_layout *layout;
  float                    *memory;
  int                      *n_open, *n_done; /* [n_param] */
  bool                      add;
} flat_gradients;
void flat_gradients_init(flat_gradients *g, ingot_nn *nn, const ingot_model_layout *layout);
void flat_gradients_release(flat_gradients *g, ingot_nn *nn);
/** The gradient of one parameter in the checkpoint's layout; the caller frees it. */
float *flat_gradients_read(const flat_gradients *g, ingot_nn *nn, int param, const float *memory);

#endif
