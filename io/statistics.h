/**
 * Statistics files: diagonal Fisher information and Gram matrices of a model, as a source holds them.
 *
 * Our own files hold, beside the tensors (float32 means), the side file "ingot_statistics.json":
 *   format      1
 *   kind        "fisher" | "gram"
 *   model       {"path", "identity": 16 hexadecimal digits of ingot_source_identity}
 *   examples    examples that the means are over (Fisher)
 *   tokens      tokens that were looked at (Gram: what the means are over)
 *   window      tokens of a window at most
 *   labels      "given" | "sampled" | "exact": whose gradients (Fisher, output-gradient Grams)
 *   loss        "mean" | "sum": over the tokens of an example
 *   data        [{"path", "identity": 16 hexadecimal digits, "windows": number of windows taken}]
 *   shared      {"weight": "weight whose Gram it shares"}: linear layers with the same input are stored once
 *   transposed  ["weight", ...]: stored as [in, out] (GPT-2's Conv1D)
 * Members that are unknown are left alone.
 *
 * Tensors. Fisher: one a parameter, its name and shape those of the checkpoint. Gram: one a distinct input, named as
 * the weight of the first linear layer that takes it; 1-D, the upper triangle by rows: element (i, j), i <= j, of an n
 * x n matrix at i * n - i * (i - 1) / 2 + (j - i), n (n + 1) / 2 in all. Gram of the output's gradients (K-FAC):
 * "<weight>#output", the same packing. A tensor tied to another is stored under the name that the checkpoint stores.
 *
 * Files of others have no such JSON: a Fisher tensor is found by its parameter's name; a Gram matrix, whole [n, n] or
 * packed [n (n + 1) / 2], under the weight's name or that name without ".weight".
 */
#ifndef INGOT_IO_STATISTICS_H
#define INGOT_IO_STATISTICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/shape.h"
#include "base/status.h"
#include "base/text.h"
#include "io/source.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INGOT_STATISTICS_FILE "ingot_statistics.json"
#define INGOT_STATISTICS_OUTPUT_SUFFIX "#output"

typedef enum ingot_statistics_kind {
  INGOT_STATISTICS_FISHER,
  INGOT_STATISTICS_GRAM,
  INGOT_STATISTICS_KIND_COUNT
} ingot_statistics_kind;

typedef enum ingot_statistics_labels {
  INGOT_LABELS_GIVEN,   /* the data's own next tokens */
  INGOT_LABELS_SAMPLED, /* drawn from the model */
  INGOT_LABELS_EXACT,   /* the expectation over the model's distribution */
  INGOT_LABELS_COUNT
} ingot_statistics_labels;

typedef enum ingot_statistics_loss { INGOT_LOSS_MEAN, INGOT_LOSS_SUM, INGOT_LOSS_COUNT } ingot_statistics_loss;

typedef struct ingot_statistics_data {
  const char *path;
  uint64_t    identity;
  int64_t     n_window;
} ingot_statistics_data;

typedef struct ingot_statistics_share {
  const char *name;   /* a weight */
  const char *holder; /* the weight under whose name its Gram is stored */
} ingot_statistics_share;

/** The contents of the JSON. Of a writer: everything is the writer's own. Of ingot_statistics_parse: one allocation. */
typedef struct ingot_statistics_info {
  ingot_statistics_kind         kind;
  const char                   *model_path;
  uint64_t                      model_identity; /* 0: not known yet (a plan for a model that is not there yet) */
  int64_t                       n_example;
  int64_t                       n_token;
  int64_t                       n_window_token; /* "window" */
  ingot_statistics_labels       labels;
  ingot_statistics_loss         loss;
  const ingot_statistics_data  *data; /* [n_data] */
  int                           n_data;
  const ingot_statistics_share *shared; /* [n_shared] */
  int                           n_shared;
  const char *const            *transposed; /* [n_transposed] */
  int                           n_transposed;
} ingot_statistics_info;

/** "fisher", "gram". */
const char *ingot_statistics_kind_name(ingot_statistics_kind kind);
/** "given", "sampled", "exact". */
const char *ingot_statistics_labels_name(ingot_statistics_labels labels);
/** "mean", "sum". */
const char *ingot_statistics_loss_name(ingot_statistics_loss loss);

/** Append the JSON text. The same info gives the same bytes. */
ingot_status ingot_statistics_write(const ingot_statistics_info *info, ingot_text *json);
/**
 * Read the JSON text; `what` leads the messages (the file's name). INGOT_ERR_FORMAT with the member and what was found
 * there, INGOT_ERR_NOMEM. The caller frees *out with ingot_statistics_free.
 */
ingot_status ingot_statistics_parse(const char *what, const void *bytes, size_t size, ingot_statistics_info **out);
/** Of an open source: *out is NULL for a file of others, which has no JSON. */
ingot_status ingot_statistics_of_source(const ingot_source *source, ingot_statistics_info **out);
/** *info becomes NULL; NULL is fine. */
void ingot_statistics_free(ingot_statistics_info **info);

/** What is looked for under a parameter's name. */
typedef enum ingot_statistics_use {
  INGOT_USE_FISHER,      /* of the parameter, its shape */
  INGOT_USE_GRAM,        /* of the linear layer's input */
  INGOT_USE_OUTPUT_GRAM, /* of the gradients at the linear layer's output */
} ingot_statistics_use;

/** Index of a tensor by name, or -1; context is the caller's (a source, a plan). */
typedef int (*ingot_statistics_lookup)(const void *context, const char *name);

/**
 * Index of the tensor that holds the statistics of `name`, or -1. info NULL: a file of others. Never fails but for
 * INGOT_ERR_NOMEM.
 */
ingot_status ingot_statistics_find(const ingot_statistics_info *info, ingot_statistics_lookup lookup,
                                   const void *context, const char *name, ingot_statistics_use use, int *index);
/** Whether the weight is stored as [in, out]; false for files of others. */
bool ingot_statistics_is_transposed(const ingot_statistics_info *info, const char *name);

/** Elements of a packed Gram matrix of n x n. */
static inline int64_t ingot_gram_packed_count(int64_t n)
{
  return n * (n + 1) / 2;
}

/** Width n of a Gram matrix stored in this shape ([n, n], or [n (n + 1) / 2]); *packed tells which; -1 when it is
 * none. */
int64_t ingot_gram_width(const ingot_shape *shape, bool *packed);

#ifdef __cplusplus
}
#endif
#endif
