/**
 * A decoder in the memory of a back end, its forward pass, and its backward pass through every parameter.
 *
 * Statistics, evaluation and training are users of the same pass. They come in by three doors:
 *   head      is given the logits chunk by chunk ([tokens, vocabulary] is never whole in memory), computes a loss and,
 * for a backward pass, writes the gradient of the logits; taps      see the input of each linear layer, and the
 * gradient of its output; gradients says where the gradient of a parameter goes, and is told when it is complete.
 */
#ifndef INGOT_WORKERS_MODEL_MODEL_H
#define INGOT_WORKERS_MODEL_MODEL_H

#include "kernels/nn/nn.h"
#include "workers/model/spec.h"

typedef struct ingot_model {
  ingot_nn          *nn; /* borrowed */
  ingot_model_spec   spec;
  ingot_model_layout layout;
  void              *weights; /* [layout.n_elem] of nn->dtype */
} ingot_model;

/** Read a model from a source: spec, layout, weights (converted to nn->dtype). Errors of spec.h, source.h and nn.h. */
ingot_status ingot_model_load(ingot_nn *nn, const ingot_source *src, ingot_model **out);
void         ingot_model_close(ingot_model **model);

/** Where weights come from that are in no file as they stand, such as an average. */
typedef struct ingot_weight_source {
  void *context;
  /** Elements first .. first + n - 1 of a parameter, in the order of the checkpoint (never transposed). Called for
   * every parameter in the order of the layout, from its first element to its last. */
  ingot_status (*read)(void *context, int param, int64_t first, int64_t n, float *values);
} ingot_weight_source;

/** Elements that are asked for at a time at most; a transposed parameter is asked for at once. */
enum { INGOT_MODEL_PIECE = 1 << 22 };
/** Elements of a parameter that are asked for at a time, but for the last; and the most of all parameters. */
int64_t ingot_model_piece(const ingot_model_param *param);
int64_t ingot_model_largest_piece(const ingot_model_layout *layout);
/** Give a model other weights; after a failure they are undefined. */
ingot_status ingot_model_fill(ingot_model *model, const ingot_weight_source *weights);

/** The same for parameters as the caller chooses them, and when he has them. */
typedef struct ingot_model_filler ingot_model_filler;
ingot_status                      ingot_model_filler_open(ingot_model *model, ingot_model_filler **out);
void                              ingot_model_filler_close(ingot_model_filler **filler); /* NULL is fine */
/** Bytes of host memory that a filler takes, for weights of that dtype. */
uint64_t ingot_model_filler_bytes(const ingot_model_layout *layout, ingot_dtype dtype);
/** Elements first .. first + n - 1 of a parameter, in the order of the checkpoint: at most ingot_model_piece of them,
 * and the whole of a transposed one. */
ingot_status ingot_model_filler_put(ingot_model_filler *filler, int param, int64_t first, int64_t n,
                                    const float *values);
/** Parameters first .. first + n - 1 from a source; tensor [n_param] as ingot_model_layout_bind has it. Errors as of
 * ingot_model_load. */
ingot_status ingot_model_fill_from_file(ingot_model *model, const ingot_source *src, const int *tensor, int first,
                                        int n);

/** Weights of a parameter. */
void *ingot_model_weight(const ingot_model *model, int param);

/** Windows for one pass; host pointers, n_batch * n_time each. */
typedef struct ingot_batch {
  int64_t        n_batch, n_time;
  const int32_t *tokens;
  const int32_t *labels;    /* of position t: the token that follows; INGOT_NN_IGNORE where nothing is to be predicted.
                               NULL:    the head is given none */
  const int32_t *positions; /* NULL: 0 .. n_time - 1 in each window */
  const int32_t *first_key; /* documents, as in ingot_nn_attention; NULL: none */
  const int32_t *valid;     /* 0 for padding, which taps must leave out; NULL: all valid */
} ingot_batch;

typedef struct ingot_pass ingot_pass;

/** Loss. `chunk` is called with rows first_row .. of the batch's tokens, in order. */
typedef struct ingot_head {
  void *context;
  /** labels: back-end memory, the batch's labels of these rows. d_logits [n_row][z->ld] of nn->dtype is to be filled in
   * a pass with gradients; NULL otherwise. */
  ingot_status (*chunk)(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z, const int32_t *labels,
                        void *d_logits);
} ingot_head;

/** Either function may be NULL. Pointers are back-end memory, lent for the call. */
typedef struct ingot_taps {
  void *context;
  /** The input [n_row][width] of layout.linears[linear]; valid as in the batch, in back-end memory. */
  ingot_status (*input)(void *context, ingot_nn *nn, int linear, int64_t n_row, int64_t width, const void *x,
                        int64_t ld, const int32_t *valid);
  /** The gradient of the output of parameter `param` of a linear layer: its own columns. */
  ingot_status (*output_gradient)(void *context, ingot_nn *nn, int linear, int param, int64_t n_row, int64_t width,
                                  const void *dy, int64_t ld, const int32_t *valid);
  bool head;    /* the head too */
  int  n_layer; /* so many layers alone are run, without a head and not backward; 0: all */
} ingot_taps;

/** Where gradients of parameters go. */
typedef struct ingot_gradients {
  void *context;
  /** Memory for the gradients of parameters first .. first + n - 1, float32, laid out as in the model's flat array.
   * *add: they are to be added to what is there; otherwise it is overwritten. A tied embedding is opened twice, by the
   * head first; the second time its gradient is added in any case, and `done` comes after that. */
  ingot_status (*open)(void *context, ingot_nn *nn, int first, int n, float **memory, bool *add);
  ingot_status (*done)(void *context, ingot_nn *nn, int first, int n);
} ingot_gradients;

typedef struct ingot_pass_options {
  int64_t n_batch, n_time; /* the most that a batch may have */
  bool    backward;        /* keep what a backward pass needs */
  bool recompute; /* of that, keep the inputs of the layers alone, and run each layer again before it goes backward: the
                     same gradients, less memory, a third more work */
  bool    hidden; /* keep the input of the head after a run without one: for ingot_pass_logits */
  int64_t head_rows;  /* tokens of a head chunk; 0: chosen */
  int64_t n_position; /* positions that tokens may have, where that is more than n_time (decode.h) */
} ingot_pass_options;

/** Bytes of back-end memory that ingot_pass_open will take, and of the weights. */
uint64_t ingot_pass_bytes(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options);
uint64_t ingot_model_bytes(const ingot_model_spec *spec, ingot_dtype dtype);
/** Bytes of host memory that ingot_model_load takes, and gives back, beside the weights. */
uint64_t ingot_model_load_bytes(const ingot_model_spec *spec, ingot_dtype dtype, int n_thread);
/** Tokens of a head chunk that such a pass will have. */
int64_t ingot_pass_plan_head_rows(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options);

/** INGOT_ERR_MISMATCH when the sizes are not ones that the CUDA back end takes; for planning, where no GPU is
 * needed. */
ingot_status ingot_model_check_device(const ingot_model_spec *spec, const char *where);

/** Working memory for passes of one model; the model outlives it. INGOT_ERR_NOMEM; INGOT_ERR_MISMATCH for windows
 * longer than the model's positions, or sizes that the back end does not take. */
ingot_status ingot_pass_open(ingot_model *model, const ingot_pass_options *options, ingot_pass **out);
void         ingot_pass_close(ingot_pass **pass);
/**
 * Forward, and with gradients (or an output_gradient tap) backward. head NULL: stop after the last layer (statistics of
 * inputs need no logits). taps NULL: none. gradients NULL: no backward pass unless taps->output_gradient is there.
 * A backward pass needs a head, and a pass opened for it. The head's output gradients come to their tap chunk by chunk.
 */
ingot_status ingot_pass_run(ingot_pass *pass, const ingot_batch *batch, const ingot_head *head, const ingot_taps *taps,
                            const ingot_gradients *gradients);
/**
 * After a run of a pass opened with `hidden`: the logits of rows first_row .. first_row + n_row - 1 of its batch, in
 * the pass's own memory until its next call. n_row at most ingot_pass_head_rows.
 */
ingot_status ingot_pass_logits(ingot_pass *pass, int64_t first_row, int64_t n_row, ingot_nn_logits *z);
int64_t      ingot_pass_head_rows(const ingot_pass *pass);
/** The same of a pass that is not opened here. */
int64_t ingot_pass_choose_rows(const ingot_model_spec *spec, ingot_dtype dtype, const ingot_pass_options *options);
/**
 * After such a run: the inputs of the head [tokens of the batch][spec.hidden] of nn->dtype, lent until the next run.
 * Kept elsewhere in back-end memory, they give their logits at any time, in the pass's own memory until its next call.
 */
const void  *ingot_pass_hidden(const ingot_pass *pass);
ingot_status ingot_pass_logits_from(ingot_pass *pass, const void *hidden, int64_t n_row, ingot_nn_logits *z);

#endif
