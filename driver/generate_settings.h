/** Settings of the step that generates token files. */
#ifndef INGOT_DRIVER_GENERATE_SETTINGS_H
#define INGOT_DRIVER_GENERATE_SETTINGS_H

#include "driver/ensemble_settings.h"

typedef struct ingot_generate_settings {
  ingot_ensemble_settings ensemble; /* models, kind, weights, data; the window is prompt + length */
  const char             *output;
  int                     prompts; /* 0: of windows, 1: of documents */
  int64_t                 prompt, prompt_end, begin, end, samples, length, top_k, beams, row, fill;
  int                     search, select; /* ingot_generate_search, ingot_generate_select */
  double                  temperature, top_p, penalty;
  int                     truncated; /* 1: dropped */
  bool                    unique;
  bool                    has_prompt_end, has_begin, has_end, has_fill;
} ingot_generate_settings;

extern const ingot_key ingot_generate_keys[];

/** As ingot_step_type.read. */
ingot_status ingot_generate_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);

#endif
