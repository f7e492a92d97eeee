/** config.json of a merged model. */
#ifndef INGOT_DRIVER_MODEL_CONFIG_H
#define INGOT_DRIVER_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>

#include "base/dtype.h"
#include "base/text.h"

typedef struct ingot_config_slice {
  const json_t *config; /* of the model whose layers these are; NULL: none */
  int64_t       first, n_layer;
} ingot_config_slice;

typedef struct ingot_config_change {
  bool                      new_dtype; /* the output's dtype, instead of the input's */
  ingot_dtype               dtype;
  int64_t                   n_token; /* new vocab_size; 0 or less: it stays */
  const ingot_config_slice *slices;  /* [n_slice]; 0: the layers stay */
  int                       n_slice;
} ingot_config_change;

/**
 * Change what must change: the number of layers (num_hidden_layers, n_layer, num_layers), layer_types, the dtype
 * (dtype, torch_dtype) and vocab_size. All other keys keep their values and order; when nothing changes, `written` is
 * kept byte for byte. Appends to *out.
 */
ingot_status ingot_model_config_change(const json_t *config, const ingot_config_change *change,
                                       const ingot_text *written, ingot_text *out);

#endif
