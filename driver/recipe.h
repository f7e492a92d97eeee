/** The resolved settings of a merge step as JSON and as YAML, and the model card. */
#ifndef INGOT_DRIVER_RECIPE_H
#define INGOT_DRIVER_RECIPE_H

#include <jansson.h>

#include "base/text.h"
#include "driver/input.h"
#include "driver/json_values.h"
#include "driver/merge_settings.h"
#include "driver/step.h"

/** The text of a recipe, kept in the arena. INGOT_ERR_NOMEM, also for a recipe that is NULL because memory was out. */
ingot_status ingot_recipe_keep(const json_t *recipe, ingot_arena *arena, const char **out);

/**
 * All that decides the result of a merge besides the inputs' contents: no paths, no switches that only change how it
 * runs. Two jobs with the same recipe and inputs make the same tensors.
 */
ingot_status ingot_recipe_json(const ingot_merge_settings *settings, json_t **out);
/** The recipe of an exported checkpoint: the model's own one, if it has one, or a plain note of the copy. */
ingot_status ingot_recipe_of_export(const ingot_merge_settings *settings, const ingot_input *model, json_t **out);
/** JSON as block-style YAML, each line behind `indent` spaces. */
ingot_status ingot_yaml_append(const json_t *value, int indent, ingot_text *text);
/** README.md of a merged Hugging Face directory. */
ingot_status ingot_model_card(const ingot_job *job, const ingot_merge_settings *settings, const json_t *recipe,
                              const ingot_step_plan *plan, ingot_text *text);
/** The inputs with sizes and identities, JSON text: goes into the output. */
ingot_status ingot_inputs_json(const ingot_job_reference *refs, const ingot_plan_input *inputs, int n_input,
                               ingot_text *text);

#endif
