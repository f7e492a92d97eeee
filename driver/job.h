/** A job file, read and checked as far as the file alone allows. */
#ifndef INGOT_DRIVER_JOB_H
#define INGOT_DRIVER_JOB_H

#include <stdint.h>

#include "base/problems.h"
#include "driver/io_settings.h"
#include "driver/value.h"

typedef struct ingot_step_type ingot_step_type;

typedef struct ingot_job_model {
  const char        *id;
  const char        *written; /* path as the file has it */
  const char        *path;    /* relative ones are taken from the job file's folder */
  const ingot_value *value;
} ingot_job_model;

typedef struct ingot_job_step {
  const ingot_step_type *type;           /* NULL: unknown, reported */
  int                    number;         /* from 1 */
  const char            *name;           /* NULL: none */
  const char            *written_output; /* as the file has it; NULL when missing */
  const char            *output;         /* resolved path */
  const ingot_value     *value;
  void                  *settings; /* the type's own structure */
} ingot_job_step;

/** Everything lives in the arena. */
typedef struct ingot_job {
  const char      *path; /* of the file */
  const char      *text; /* as it stands in the file */
  const char      *name;
  int64_t          seed;
  ingot_job_model *models;
  int              n_model;
  ingot_sink_io    io; /* of every output */
  ingot_job_step  *steps;
  int              n_step;
  ingot_value     *root;
  ingot_arena      arena;
} ingot_job;

/** A model that a step names: one of the job's models, or an earlier step's output. */
typedef struct ingot_job_reference {
  const char *id;      /* as written */
  const char *written; /* path as the file has it */
  const char *path;
  int         step; /* number of the earlier step; 0: a model of the job */
} ingot_job_reference;

/** The keys of the job file's top level. */
extern const ingot_key ingot_job_keys[];
extern const int       ingot_job_n_key;

/**
 * Read a job file, apply the assignments of --set [n_set], check everything. All problems together become the error
 * (INGOT_ERR_JOB, INGOT_ERR_USAGE for a bad --set). *job may be released in any case.
 */
ingot_status ingot_job_read(const char *path, const char *const *set, int n_set, ingot_job *job);
/** The same from text; path stands for it in messages and is what relative paths start from. No @include. */
ingot_status ingot_job_parse(const char *text, size_t size, const char *path, const char *const *set, int n_set,
                             ingot_job *job);
void         ingot_job_release(ingot_job *job);

/** A path of the job file as the program shall use it. NULL when memory is out. */
const char *ingot_job_path(ingot_job *job, const char *written);

/**
 * Resolve a model named by step `number`: a model's id, an earlier step's name, or an earlier step's output path.
 * False after adding a problem at `where` with the nearest name.
 */
bool ingot_job_resolve(const ingot_job *job, int number, const char *name, const ingot_value *where,
                       ingot_problems *problems, ingot_job_reference *out);

#endif
