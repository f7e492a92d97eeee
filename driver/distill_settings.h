/** Settings of the step that trains a student. */
#ifndef INGOT_DRIVER_DISTILL_SETTINGS_H
#define INGOT_DRIVER_DISTILL_SETTINGS_H

#include "driver/gather_settings.h"
#include "driver/plausibility.h"

/** A teacher of the step. */
typedef struct ingot_job_teacher {
  ingot_job_reference ref;
  double              weight;
  bool                has_weight;
  const ingot_value  *value;
} ingot_job_teacher;

/** Which students are kept: the first is the output, the second lies beside it. */
typedef enum ingot_distill_keep {
  INGOT_KEEP_BEST_AND_LAST,
  INGOT_KEEP_LAST_AND_BEST,
  INGOT_KEEP_BEST,
  INGOT_KEEP_LAST,
} ingot_distill_keep;

typedef struct ingot_distill_settings {
  /* filled from the key table */
  const char        *type, *name, *output, *student_name, *config, *logits, *weights_written, *output_dtype;
  const ingot_value *teachers_value, *data_value, *validation_value;
  int                combine, loss, schedule, dtype, keep, placement;
  double             floor, beta, temperature, alpha;
  ingot_plausibility plausibility;
  double             rate, final_rate, beta1, beta2, epsilon, decay, clip;
  int64_t            window, limit, document, steps, batch, micro_batch, warmup, validate_every, validation_limit, seed,
      save_every_s;
  bool     separate, repeat, shift, recompute, durable;
  uint64_t memory_limit_bytes;
  /* worked out */
  bool                has_document;
  bool                has_student;
  ingot_job_reference student;
  const char         *logits_path, *config_path, *weights_path;
  int                 weights_step; /* that makes the file of weights; 0: none of this job */
  ingot_job_teacher  *teachers;     /* [n_teacher] */
  int                 n_teacher;
  ingot_job_data     *data, *validation; /* [n_data], [n_validation] */
  int                 n_data, n_validation;
  double             *weights; /* [n_data][n_teacher]; see ingot_distill_plan */
} ingot_distill_settings;

extern const ingot_key ingot_distill_keys[];
/** Keys of an entry of `teachers` that is a group. */
extern const ingot_key ingot_teacher_keys[];
extern const int       ingot_teacher_n_key;

/** As ingot_step_type.read. */
ingot_status ingot_distill_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);

#endif
