/**
 * Steps that run models on data and merge them by what comes of it (soup, regmean_plus): two plans of one output, that
 * of running all models on the data, and that of a merge of them.
 */
#ifndef INGOT_DRIVER_DATA_MERGE_H
#define INGOT_DRIVER_DATA_MERGE_H

#include <jansson.h>

#include "driver/gather_plan.h"
#include "driver/merge_plan.h"
#include "driver/pack.h"

typedef struct ingot_data_merge_settings {
  ingot_gather_settings gather; /* keys are read into it; its output stays NULL */
  ingot_merge_settings  merge;  /* all models as listed, without parameters of their own */
  const char           *output, *output_dtype;
} ingot_data_merge_settings;

/** Rows of such a step's keys. Define DATA_MERGE_FIELD(name) as the offset of a field of its
 * ingot_data_merge_settings. */
/* clang-format off: rows of tables */
#define ROWS_OF_MERGED_OUTPUT(first)                                                                          \
  {"output",                                                                                                  \
   INGOT_KEY_STRING,                                                                                          \
   true,                                                                                                      \
   NULL,                                                                                                      \
   NULL,                                                                                                      \
   DATA_MERGE_FIELD(output),                                                                                  \
   "where to write: .h5, .safetensors, or else a Hugging Face directory"},                                    \
      {"output_dtype",                                                                                        \
       INGOT_KEY_STRING,                                                                                      \
       false,                                                                                                 \
       "source",                                                                                              \
       NULL,                                                                                                  \
       DATA_MERGE_FIELD(output_dtype),                                                                        \
       "dtype of the output: source (each tensor as in the first " first "), or one of " INGOT_FLOAT_DTYPES}, \
  {                                                                                                           \
    "shard_size", INGOT_KEY_SIZE, false, "5GB", NULL, DATA_MERGE_FIELD(merge.shard_bytes),                    \
        "payload of a shard of a directory at most"                                                           \
  }
/* clang-format on */

/**
 * What the keys have left to read, and the merge by `method`: its parameters are the members of `parameters` but for
 * those named in `others` [n_other]. Adds problems; INGOT_ERR_NOMEM only.
 */
ingot_status ingot_data_merge_settings_read(ingot_job *job, const ingot_job_step *step, ingot_data_merge_settings *s,
                                            const char *method, const ingot_value *parameters,
                                            const char *const *others, int n_other, ingot_problems *problems);

/** A part of the step's body. */
typedef struct ingot_data_merge {
  ingot_step_plan gather; /* of all models */
  ingot_step_plan merge;
} ingot_data_merge;

/** How a step's output differs from its merge's. */
typedef struct ingot_data_merge_output {
  json_t     *recipe;  /* what decides the result, but for output_dtype */
  const char *heading; /* of the model card, where the job has no name */
  const char *about;   /* a paragraph of it, and the source of the method */
  const char
      *version; /* part of the fingerprint: counts up when the same settings and inputs come to mean other results */
} ingot_data_merge_output;

/** Make both plans; *good is false after problems. Inputs of the step are those of the gathering. */
ingot_status ingot_data_merge_plan(ingot_planner *planner, const ingot_job_step *step, ingot_data_merge_settings *s,
                                   ingot_data_merge *d, ingot_step_plan *plan, bool *good);
/** What follows from both plans: all of *plan but its title, work, memory and bytes read. */
ingot_status ingot_data_merge_finish(const ingot_planner *planner, const ingot_data_merge_settings *s,
                                     const ingot_data_merge_output *output, ingot_data_merge *d, ingot_step_plan *plan);

/** Part of the step's packed plan, and from there. */
ingot_status ingot_data_merge_pack(const ingot_data_merge *d, ingot_text *bytes);
ingot_status ingot_data_merge_unpack(ingot_unpacker *u, ingot_data_merge *d);
void         ingot_data_merge_release(ingot_data_merge *d);

/** The models' part added to that of the merge; the step's work is in windows. */
void ingot_data_merge_add_timing(ingot_merge_timing *t, const ingot_merge_timing *gather);

#endif
