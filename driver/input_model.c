#include "driver/input_model.h"

#include <string.h>

ingot_status ingot_input_model_spec(const ingot_input *input, int64_t window, ingot_model_spec *out)
{
  ingot_status st = INGOT_OK;
  ingot_text   config = {0}, where = {0};
  bool         found = false;
  INGOT_TRY(ingot_input_side_file(input, "config.json", &config, &found));
  INGOT_CHECK(found, INGOT_ERR_FORMAT, "model \"%s\" (%s) has no config.json, which says what its architecture is",
              input->id, input->path);
  INGOT_TRY(ingot_text_printf(&where, "%s: config.json", input->path));
  INGOT_TRY(ingot_model_spec_parse(ingot_text_string(&config), config.size, ingot_text_string(&where), out));
  INGOT_CHECK(window <= out->n_position, INGOT_ERR_MISMATCH,
              "windows of %lld tokens, and model \"%s\" (%s) has %lld positions", (long long)window, input->id,
              input->path, (long long)out->n_position);
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

ingot_status ingot_input_model_bind(const ingot_input *input, const ingot_model_spec *spec,
                                    const ingot_model_layout *layout, int *tensor)
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

/* What a spec says, but for the family, the positions, and which layers have a window. */
typedef struct setting {
  const char *name;
  double      value;
} setting;

enum { SETTINGS_MAX = 40 };

static int list_settings(const ingot_model_spec *s, setting *list)
{
  const ingot_rope_spec *r = &s->rope;
  const setting          all[] = {
               {"layers", s->n_layer},
               {"tokens of the vocabulary", (double)s->n_vocab},
               {"hidden size", (double)s->hidden},
               {"inner size", (double)s->inner},
               {"attention heads", s->n_head},
               {"key and value heads", s->n_kv_head},
               {"head size", s->head_dim},
               {"epsilon of the norms", (double)s->eps},
               {"LayerNorm", s->layer_norm},
               {"gated feed-forward layers", s->gated},
               {"biases of q, k and v", s->qkv_bias},
               {"bias of the attention's output", s->o_bias},
               {"biases of feed-forward layers", s->mlp_bias},
               {"norms of q and k", s->qk_norm},
               {"tied head", s->tied},
               {"learned positions", s->learned_positions},
               {"layers stored as [in, out]", s->conv1d},
               {"type of the rotary embedding", r->type},
               {"rope_theta", r->theta},
               {"factor of the rotary embedding", r->factor},
               {"low_freq_factor", r->low_freq_factor},
               {"high_freq_factor", r->high_freq_factor},
               {"beta_fast", r->beta_fast},
               {"beta_slow", r->beta_slow},
               {"attention_factor", r->attention_factor},
               {"mscale", r->mscale},
               {"mscale_all_dim", r->mscale_all_dim},
               {"truncate", r->truncate},
               {"original positions of the rotary embedding", (double)r->original_positions},
               {"sliding window", s->window},
  };
  int n = sizeof all / sizeof all[0];
  INGOT_ASSERT(n <= SETTINGS_MAX);
  memcpy(list, all, sizeof all);
  return n;
}

ingot_status ingot_input_model_compare(const ingot_input *a, const ingot_model_spec *of_a, const ingot_input *b,
                                       const ingot_model_spec *of_b)
{
  ingot_status st = INGOT_OK;
  setting      in_a[SETTINGS_MAX], in_b[SETTINGS_MAX];
  int          n = list_settings(of_a, in_a);
  list_settings(of_b, in_b);
  INGOT_CHECK(strcmp(of_a->family, of_b->family) == 0, INGOT_ERR_MISMATCH,
              "models of one architecture are needed: \"%s\" (%s) is %s, and \"%s\" (%s) is %s", a->id, a->path,
              of_a->family, b->id, b->path, of_b->family);
  for (int i = 0; i < n; i++)
    INGOT_CHECK(in_a[i].value == in_b[i].value, INGOT_ERR_MISMATCH,
                "models of one architecture are needed: %s: %.7g in \"%s\" (%s), %.7g in \"%s\" (%s)", in_a[i].name,
                in_a[i].value, a->id, a->path, in_b[i].value, b->id, b->path);
  for (int i = 0; i < of_a->n_layer; i++)
    INGOT_CHECK(!of_a->layer_windowed || of_a->layer_windowed[i] == of_b->layer_windowed[i], INGOT_ERR_MISMATCH,
                "models of one architecture are needed: layer %d has a sliding window in one of \"%s\" (%s) and \"%s\" "
                "(%s) alone",
                i, a->id, a->path, b->id, b->path);
done:
  return st;
}
