/** Settings of the steps that combine the predictions of models: ensemble, logits. */
#ifndef INGOT_DRIVER_ENSEMBLE_SETTINGS_H
#define INGOT_DRIVER_ENSEMBLE_SETTINGS_H

#include "driver/gather_settings.h"
#include "driver/plausibility.h"

typedef enum ingot_weights_source {
  INGOT_WEIGHTS_UNIFORM,
  INGOT_WEIGHTS_GIVEN,
  INGOT_WEIGHTS_LEARNT,
  INGOT_WEIGHTS_FILE, /* of an earlier ensemble */
} ingot_weights_source;

/** One structure for the two types; each uses what its keys fill. */
typedef struct ingot_ensemble_settings {
  ingot_gather_settings gather; /* data: the sets to score or write, then those to learn from; output is NULL */
  const char           *output;
  const ingot_value    *weights_value, *learn_value;
  int                   kind;      /* ingot_ensemble_kind */
  int                   placement; /* ingot_placement_choice */
  bool                  per_data;  /* weights are learnt for each data set */
  int64_t               k;
  int                   logp, tail; /* 0: float16, 1: float32; ingot_logits_tail */
  ingot_weights_source  source;
  double               *weights;                        /* GIVEN: [n_row][n_model] */
  int                   n_row;                          /* GIVEN, LEARNT, UNIFORM */
  const char           *weights_path, *weights_written; /* FILE */
  int                   weights_step;                   /* FILE: number of the earlier step that makes it; 0: none */
  int                   n_score;                        /* of gather.data */
  double                floor, l2;                      /* floor: a logarithm once it is read */
  bool                  has_floor;                      /* it was written */
  ingot_plausibility    plausibility;
} ingot_ensemble_settings;

/** What `floor` may be. */
#define INGOT_ENSEMBLE_FLOOR INGOT_FROM_TO(1e-300, 1.0)

extern const ingot_key ingot_ensemble_keys[], ingot_logits_keys[];

/**
 * The file of weights that `written` names in a job: the output of an ensemble step before this one, by its name or
 * path, or any other file. *number: of that step, which makes it; 0: none. *path is kept in the job's arena.
 * INGOT_ERR_NOMEM.
 */
ingot_status ingot_ensemble_find_output(ingot_job *job, const ingot_job_step *step, const char *written, int *number,
                                        const char **path);
/** As ingot_step_type.read, of both types. */
ingot_status ingot_ensemble_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);

#endif
