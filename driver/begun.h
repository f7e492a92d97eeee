/**
 * What an unfinished output was begun from: "<output>.begun.json" beside it, with the fingerprint, the settings and the
 * inputs. It is there from the step's start to its end, so that a run with other settings or inputs can be refused by
 * the name of what differs, before anything is overwritten.
 */
#ifndef INGOT_DRIVER_BEGUN_H
#define INGOT_DRIVER_BEGUN_H

#include <jansson.h>
#include <stdbool.h>

#include "base/text.h"
#include "driver/step.h"

/**
 * Look for unfinished work of another fingerprint beside the plan's output. *why gets what differs, in words, and stays
 * empty when there is none. INGOT_ERR_NOMEM only: a file that cannot be read is no witness.
 */
ingot_status ingot_begun_look(const ingot_step_plan *plan, ingot_text *why);
/** Whether the file is there and has the plan's fingerprint. A file that cannot be read is not. */
bool ingot_begun_by(const ingot_step_plan *plan);
/** Write the file; INGOT_ERR_IO, INGOT_ERR_NOSPACE. One process at a time: the holder of the output's lock. */
ingot_status ingot_begun_write(const ingot_step_plan *plan);
/** Remove the file; with `unless_needed` only when there is no unfinished work that it speaks of. */
ingot_status ingot_begun_remove(const char *output, bool unless_needed);

/** The settings and inputs as they are in manifests and begun files: a list of id, path, bytes and identity. */
json_t *ingot_inputs_list(const ingot_step_plan *plan);
/**
 * Say in what a plan differs from `tree`, which has the members "recipe", "inputs" and "program" of a manifest: the
 * settings, then the inputs, each with what it was and is now. The first few of them are named, the others counted.
 */
ingot_status ingot_begun_difference(const json_t *tree, const ingot_step_plan *plan, ingot_text *text);

#endif
