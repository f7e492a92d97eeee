#include "driver/model_config.h"

#include <stdlib.h>
#include <string.h>

#include "driver/recipe.h"

/* Replace an integer that is there. */
static bool set_integer(json_t *config, const char *key, int64_t value)
{
  json_t *old = json_object_get(config, key);
  if (!json_is_integer(old) || json_integer_value(old) == value) return false;
  json_object_set_new(config, key, json_integer(value));
  return true;
}

static bool set_layers(json_t *config, const ingot_config_change *change)
{
  static const char *const counts[] = {"num_hidden_layers", "n_layer", "num_layers"};
  int64_t                  n_layer = 0;
  bool                     changed = false;
  json_t                  *types = json_is_array(json_object_get(config, "layer_types")) ? json_array() : NULL;
  for (int i = 0; i < change->n_slice; i++) {
    const ingot_config_slice *s = &change->slices[i];
    const json_t             *from = json_object_get(s->config, "layer_types");
    for (int64_t k = 0; types && k < s->n_layer; k++) {
      json_t *type = json_array_get(from, (size_t)(s->first + k));
      if (type) json_array_append(types, type);
    }
    n_layer += s->n_layer;
  }
  for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
    changed = set_integer(config, counts[i], n_layer) || changed;
  if (types && !json_equal(types, json_object_get(config, "layer_types"))) {
    json_object_set(config, "layer_types", types);
    changed = true;
  }
  json_decref(types);
  return changed;
}

static bool set_dtype(json_t *config, const char *key, ingot_dtype dtype)
{
  json_t     *old = json_object_get(config, key);
  const char *name = ingot_dtype_long_name(dtype);
  if (!json_is_string(old) || strcmp(json_string_value(old), name) == 0) return false;
  json_object_set_new(config, key, json_string(name));
  return true;
}

ingot_status ingot_model_config_change(const json_t *config, const ingot_config_change *change,
                                       const ingot_text *written, ingot_text *out)
{
  ingot_status st = INGOT_OK;
  char        *text = NULL;
  bool         changed = false;
  json_t      *copy = json_deep_copy(config);
  INGOT_CHECK(copy, INGOT_ERR_NOMEM, "no memory for config.json");
  if (change->n_slice > 0) changed = set_layers(copy, change);
  if (change->new_dtype) {
    changed = set_dtype(copy, "dtype", change->dtype) || changed;
    changed = set_dtype(copy, "torch_dtype", change->dtype) || changed;
  }
  if (change->n_token > 0) {
    changed = set_integer(copy, "vocab_size", change->n_token) || changed;
    changed = set_integer(json_object_get(copy, "text_config"), "vocab_size", change->n_token) || changed;
  }
  if (!changed) {
    st = ingot_text_append(out, ingot_text_string(written), written->size);
    goto done;
  }
  text = ingot_json_dump(copy, JSON_INDENT(2));
  INGOT_CHECK(text, INGOT_ERR_NOMEM, "no memory for config.json");
  st = ingot_text_printf(out, "%s\n", text);
done:
  free(text);
  json_decref(copy);
  return st;
}
