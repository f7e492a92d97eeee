/** An input as a decoder: what its config.json says, and its parameters among its tensors. */
#ifndef INGOT_DRIVER_INPUT_MODEL_H
#define INGOT_DRIVER_INPUT_MODEL_H

#include "driver/input.h"
#include "workers/model/spec.h"

/** From the input's config.json. INGOT_ERR_FORMAT, INGOT_ERR_MISMATCH; also for windows longer than its positions. */
ingot_status ingot_input_model_spec(const ingot_input *input, int64_t window, ingot_model_spec *out);
/** The tensor of each parameter: tensor [layout->n_param]. INGOT_ERR_MISMATCH. */
ingot_status ingot_input_model_bind(const ingot_input *input, const ingot_model_spec *spec,
                                    const ingot_model_layout *layout, int *tensor);
/**
 * Whether a block of one model can stand in the other: INGOT_ERR_MISMATCH with the first setting that differs. How many
 * positions a model has may differ.
 */
ingot_status ingot_input_model_compare(const ingot_input *a, const ingot_model_spec *of_a, const ingot_input *b,
                                       const ingot_model_spec *of_b);

#endif
