/** The settings of a merge step, as the job file has them. */
#ifndef INGOT_DRIVER_MERGE_SETTINGS_H
#define INGOT_DRIVER_MERGE_SETTINGS_H

#include "driver/job.h"
#include "driver/param_value.h"
#include "kernels/method.h"

typedef enum ingot_missing { INGOT_MISSING_FAIL, INGOT_MISSING_SKIP, INGOT_MISSING_BASE } ingot_missing;
typedef enum ingot_tied { INGOT_TIED_AUTO, INGOT_TIED_KEEP } ingot_tied;
typedef enum ingot_vocabulary { INGOT_VOCABULARY_CHECK, INGOT_VOCABULARY_IGNORE } ingot_vocabulary;
typedef enum ingot_statistics_model {
  INGOT_STATISTICS_MODEL_CHECK,
  INGOT_STATISTICS_MODEL_IGNORE
} ingot_statistics_model;
typedef enum ingot_embeddings { INGOT_EMBEDDINGS_FAIL, INGOT_EMBEDDINGS_CROP } ingot_embeddings;
typedef enum ingot_scales { INGOT_SCALES_FAIL, INGOT_SCALES_IGNORE } ingot_scales;

/** One model of the step, or one source of a slice. */
typedef struct ingot_merge_source {
  ingot_job_reference ref;
  const ingot_value  *value;
  ingot_param_set     params; /* per-model parameters given here */
  bool                has_statistics;
  ingot_job_reference statistics; /* a file, or an earlier step's output; `models` only */
  int64_t             first, end; /* layers [first, end) of a slice's source; unused without slices */
} ingot_merge_source;

typedef struct ingot_merge_slice {
  ingot_merge_source *sources; /* [n_source] */
  int                 n_source;
  ingot_param_set     params;
  const ingot_value  *value;
} ingot_merge_slice;

typedef struct ingot_merge_settings {
  /* filled from the key table */
  const char        *type, *name, *method_name, *base_name, *output, *dtype_name, *config_name;
  const ingot_value *models_value, *parameters_value, *slices_value;
  bool               durable;
  int                nonfinite;        /* ingot_nonfinite */
  int                missing;          /* ingot_missing */
  int                tied;             /* ingot_tied */
  int                vocabulary;       /* ingot_vocabulary */
  int                embeddings;       /* ingot_embeddings */
  int                scales;           /* ingot_scales */
  int                statistics_model; /* ingot_statistics_model */
  int64_t            seed;
  uint64_t           shard_bytes;
  uint64_t           alignment_bytes;    /* 0 (steps without the key): the default */
  uint64_t           memory_limit_bytes; /* 0: none */
  const char        *model_name;         /* export: the one model, copied as it is */
  /* worked out */
  bool is_export;
  bool live_statistics; /* they are gathered while the step runs, for the linear layers of the models' blocks */
  const ingot_method *method;
  bool                has_base, has_config;
  ingot_job_reference base, config;
  bool                keep_dtype; /* every tensor keeps the dtype of the base (or first model) */
  ingot_dtype         dtype;
  ingot_merge_source *models; /* [n_model]; without slices */
  int                 n_model;
  ingot_merge_slice  *slices; /* [n_slice]; 0: none */
  int                 n_slice;
  ingot_param_set     params;
} ingot_merge_settings;

/** Rows of a key table: where a checkpoint is written, and how. */
/* clang-format off: rows of tables */
#define INGOT_MERGE_OUTPUT_ROWS                                                                                     \
  {"output",                                                                                                        \
   INGOT_KEY_STRING,                                                                                                \
   true,                                                                                                            \
   NULL,                                                                                                            \
   NULL,                                                                                                            \
   offsetof(ingot_merge_settings, output),                                                                          \
   "where to write: .h5, .safetensors, or else a Hugging Face directory"},                                          \
      {"shard_size",                                                                                                \
       INGOT_KEY_SIZE,                                                                                              \
       false,                                                                                                       \
       "5GB",                                                                                                       \
       NULL,                                                                                                        \
       offsetof(ingot_merge_settings, shard_bytes),                                                                 \
       "payload of a shard of a directory at most"},                                                                \
  {                                                                                                                 \
    "alignment", INGOT_KEY_SIZE, false, "1MiB", NULL, offsetof(ingot_merge_settings, alignment_bytes),              \
        "where tensors of 16 times this or more begin in a .h5 file: at multiples of it; a power of two from 4096 " \
        "to 1GiB"                                                                                                   \
  }
/* clang-format on */

/** Keys of the step; ends with a row whose name is NULL. */
extern const ingot_key ingot_merge_keys[];
/** Keys of an entry of `models`, of `slices` and of a slice's `sources`, besides parameters. */
extern const ingot_key ingot_merge_model_keys[];
extern const int       ingot_merge_model_n_key;
extern const ingot_key ingot_merge_slice_keys[];
extern const int       ingot_merge_slice_n_key;
extern const ingot_key ingot_merge_source_keys[];
extern const int       ingot_merge_source_n_key;

/** The `read` of the merge step type. */
ingot_status ingot_merge_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);
/** Adds a problem when a merge's or export's `alignment` is none. */
void ingot_merge_check_alignment(const ingot_merge_settings *s, const ingot_value *step, ingot_problems *problems);

#endif
