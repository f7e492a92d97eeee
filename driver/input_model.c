#include "driver/input_model.h"

#include <string.h>

ingot_status ingot_input_model_spec(const ingot_input *input, int64_t window, ingot_model_spec *out)
{
  ingot_status st = INGOT_OK;
  ingot_text   config = {0}, where = {0};
  bool         found = false;
  INGOT_TRY(ingot_input_side_file(input, "config.json", &config, &found));
  INGOT_CHECK(found, INGOT_ERR_FORMAT, "model \"%s\" (%s) has no config.json, which says what its architecture is", input->id,
              input->path);
  INGOT_TRY(ingot_text_printf(&where, "%s: config.json", input->path));
  INGOT_TRY(ingot_model_spec_parse(ingot_text_string(&config), config.size, ingot_text_string(&where), out));
  INGOT_CHECK(window <= out->n_position, INGOT_ERR_MISMATCH, "windows of %lld tokens, and model \"%s\" (%s) has %lld positions",
              (long long)window, input->id, input->path, (long long)out->n_position);
done:
  ingot_text_release(&config);
  ingot_text_release(&where);
  return st;
}

/* A tensor of an output that is not there yet: by its name, or that without its first part. */
static int find_promised(const ingot_input *input, const char *name)
{
  const char *dot = strchr(name, '.');
  int         index = ingot_input_find(input, name);
  return index >= 0 || !dot ? index : ingot_input_find(input, dot + 1);
}

ingot_status ingot_input_model_bind(const ingot_input *input, const ingot_model_spec *spec, const ingot_model_layout *layout,
                                    int *tensor)
{
  ingot_status st = INGOT_OK;
  if (input->source) return ingot_model_layout_bind(layout, spec, input->source, tensor);
  for (int p = 0; p < layout->n_param; p++) {
    tensor[p] = find_promised(input, layout->params[p].name);
    INGOT_CHECK(tensor[p] >= 0, INGOT_ERR_MISMATCH, "%s: no tensor %s", input->path, layout->params[p].name);
  }
done:
  return st;
}
