/** Settings of the steps that run models on data: evaluate, fisher, gram. */
#ifndef INGOT_DRIVER_GATHER_SETTINGS_H
#define INGOT_DRIVER_GATHER_SETTINGS_H

#include "driver/job.h"
#include "io/tokens.h"

/** Values of `dtype` of steps that run models: "auto", then as ingot_compute_name; ends with NULL. */
extern const char *const ingot_gather_dtype_names[];

enum { INGOT_WINDOW_MAX = 1 << 24 };
/** What `window`, and keys with a token's id, may be. */
#define INGOT_WINDOW_TOKENS INGOT_FROM_TO(2, INGOT_WINDOW_MAX)
#define INGOT_TOKEN_ID INGOT_FROM_TO(0, INT32_MAX)

/** A token file of a step. */
typedef struct ingot_job_data {
  const char        *name;
  const char        *written; /* path as the file has it */
  const char        *path;
  const char        *dtype; /* NULL: from the path's ending */
  const ingot_value *value;
  double             weight;         /* data to train on: share of the windows; else 1 */
  const ingot_value *teachers_value; /* data to train on: the teachers that answer for it; NULL: all */
} ingot_job_data;

/** dtype = "..." of these steps. */
typedef enum ingot_dtype_choice {
  INGOT_DTYPE_AUTO,
  INGOT_DTYPE_FLOAT32,
  INGOT_DTYPE_TF32,
  INGOT_DTYPE_BFLOAT16
} ingot_dtype_choice;

/** One structure for the three types; each uses what its keys fill. */
typedef struct ingot_gather_settings {
  const char        *type, *name, *output;
  const char        *model_name;   /* fisher, gram */
  const ingot_value *models_value; /* evaluate */
  const ingot_value *data_value;   /* group, or list */
  int64_t            window, stride, batch, limit, document, seed, top_k, example, save_every_s;
  bool               separate, partial, shuffle, head, outputs, durable;
  int                dtype; /* ingot_dtype_choice */
  int                labels, loss;
  uint64_t           memory_limit_bytes;
  /* regmean_plus, found by planning: what the merge takes beside the models, of the host and of the GPU */
  uint64_t             beside_bytes, beside_device_bytes;
  bool                 has_document;
  ingot_job_reference *models; /* [n_model] */
  int                  n_model;
  ingot_job_data      *data; /* [n_data] */
  int                  n_data;
} ingot_gather_settings;

extern const ingot_key ingot_evaluate_keys[], ingot_fisher_keys[], ingot_gram_keys[];
/** Keys of an entry of `data` that is a group. */
extern const ingot_key ingot_data_keys[];
extern const int       ingot_data_n_key;

/** The same of data to train on, which has more of them. */
extern const ingot_key ingot_train_data_keys[];
extern const int       ingot_train_data_n_key;

/**
 * The entries of a `data` value, a group or a list; keys is one of the two tables. NULL is no data. Adds problems;
 * INGOT_ERR_NOMEM only.
 */
ingot_status ingot_job_data_read(ingot_job *job, const ingot_value *value, const ingot_key *keys, int n_key,
                                 ingot_problems *problems, ingot_job_data **data, int *n_data);

/** As ingot_step_type.read, of all three types. */
ingot_status ingot_gather_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);

#endif
