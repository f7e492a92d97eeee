#include "workers/model/spec.h"

#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "workers/model/config.h"

/* Of one extent, and layers: the bytes of a model stay inside uint64_t. */
enum { MAX_EXTENT = 1 << 22, MAX_LAYER = 1 << 14, MAX_HEAD = 1 << 14 };

/* What families differ in. Values that a config leaves out are those of the family's class in Transformers. */
typedef struct family {
  const char *name;
  int64_t     n_kv_head; /* 0: as many as heads */
  int64_t     head_dim;  /* 0: hidden / heads */
  int64_t     n_position;
  double      eps;
  bool        qkv_bias;  /* always */
  bool        bias_keys; /* attention_bias is read */
  bool        mlp_bias_key;
  bool        qk_norm;
  bool        window_always; /* sliding_window holds without a switch, for every layer */
  bool        window_switch; /* use_sliding_window, max_window_layers, layer_types */
} family;

static const family families[] = {
    {.name = "llama", .n_position = 2048, .eps = 1e-6, .bias_keys = true, .mlp_bias_key = true},
    {.name = "mistral", .n_kv_head = 8, .n_position = 131072, .eps = 1e-6, .window_always = true},
    {.name = "qwen2", .n_kv_head = 32, .n_position = 32768, .eps = 1e-6, .qkv_bias = true, .window_switch = true},
    {.name = "qwen3",
     .n_kv_head = 32,
     .head_dim = 128,
     .n_position = 32768,
     .eps = 1e-6,
     .bias_keys = true,
     .qk_norm = true,
     .window_switch = true},
};

/* Options whose presence would change the result: a value other than the harmless one is refused by name. */
static const struct {
  const char *key;
  bool        harmless;
} switches[] = {
    {"scale_attn_by_inverse_layer_idx", false},
    {"scale_attn_weights", true},
    {"add_cross_attention", false},
    {"is_encoder_decoder", false},
    {"use_mrope", false},
};

static const char *const forbidden[] = {"quantization_config",   "attn_logit_softcapping", "final_logit_softcapping",
                                        "query_pre_attn_scalar", "no_rope_layers",         "compression_config"};

static ingot_status refuse_options(const ingot_config *config)
{
  ingot_status st = INGOT_OK;
  int64_t      parts = 1;
  for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++)
    INGOT_CHECK(!ingot_config_get(config, forbidden[i]), INGOT_ERR_MISMATCH, "%s: %s is not supported", config->where,
                forbidden[i]);
  for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
    bool value = switches[i].harmless;
    INGOT_TRY(ingot_config_bool(config, switches[i].key, &value));
    INGOT_CHECK(value == switches[i].harmless, INGOT_ERR_MISMATCH, "%s: %s = %s is not supported", config->where,
                switches[i].key, value ? "true" : "false");
  }
  INGOT_TRY(ingot_config_integer(config, "pretraining_tp", 1, INT64_MAX, &parts));
  INGOT_CHECK(parts == 1, INGOT_ERR_MISMATCH, "%s: pretraining_tp %lld is not supported; supported: 1", config->where,
              (long long)parts);
done:
  return st;
}

/* The first key that is there names the activation. */
static ingot_status check_activation(const ingot_config *config, const char *const *keys, int n_key,
                                     const char *const *names, int n_name)
{
  const char *found = names[0];
  const char *key = keys[0];
  for (int i = n_key - 1; i >= 0; i--) {
    ingot_status st = ingot_config_string(config, keys[i], &found);
    if (st != INGOT_OK) return st;
    if (ingot_config_get(config, keys[i])) key = keys[i];
  }
  for (int i = 0; i < n_name; i++)
    if (strcmp(found, names[i]) == 0) return INGOT_OK;
  return ingot_fail(INGOT_ERR_MISMATCH, "%s: %s \"%s\" is not supported; supported: %s%s%s", config->where, key, found,
                    names[0], n_name > 1 ? ", " : "", n_name > 1 ? names[1] : "");
}

static ingot_status need_int(const ingot_config *config, const char *key, int max, int *out)
{
  int64_t      value = 0;
  ingot_status st = ingot_config_need(config, key, 1, max, &value);
  *out = (int)value;
  return st;
}

static ingot_status read_heads(const ingot_config *config, const family *f, ingot_model_spec *spec)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(need_int(config, "num_attention_heads", MAX_HEAD, &spec->n_head));
  int64_t n_kv_head = f->n_kv_head > 0 ? f->n_kv_head : spec->n_head;
  /* A null is not an absent key: it stands for as many as heads. */
  if (json_is_null(json_object_get(config->object, "num_key_value_heads"))) n_kv_head = spec->n_head;
  INGOT_TRY(ingot_config_integer(config, "num_key_value_heads", 1, spec->n_head, &n_kv_head));
  INGOT_CHECK(spec->n_head % n_kv_head == 0, INGOT_ERR_FORMAT,
              "%s: num_attention_heads %d is not a multiple of num_key_value_heads %lld", config->where, spec->n_head,
              (long long)n_kv_head);
  spec->n_kv_head = (int)n_kv_head;
  int64_t head_dim = f->head_dim;
  INGOT_TRY(ingot_config_integer(config, "head_dim", 1, MAX_EXTENT / spec->n_head, &head_dim));
  INGOT_CHECK(head_dim > 0 || spec->hidden % spec->n_head == 0, INGOT_ERR_FORMAT,
              "%s: hidden_size %lld is not a multiple of num_attention_heads %d", config->where,
              (long long)spec->hidden, spec->n_head);
  spec->head_dim = (int)(head_dim > 0 ? head_dim : spec->hidden / spec->n_head);
done:
  return st;
}

/* layer_types, when there, decides for each layer. */
static ingot_status read_layer_types(const ingot_config *config, ingot_model_spec *spec, bool all_windowed)
{
  ingot_status  st = INGOT_OK;
  const json_t *types = ingot_config_get(config, "layer_types");
  if (!types) goto done;
  INGOT_CHECK(json_is_array(types) && json_array_size(types) == (size_t)spec->n_layer, INGOT_ERR_FORMAT,
              "%s: layer_types is not an array of num_hidden_layers = %d", config->where, spec->n_layer);
  for (int i = 0; i < spec->n_layer; i++) {
    const char *name = json_string_value(json_array_get(types, (size_t)i));
    const bool  windowed = name && strcmp(name, "sliding_attention") == 0;
    INGOT_CHECK(windowed || (name && strcmp(name, "full_attention") == 0), INGOT_ERR_MISMATCH,
                "%s: layer_types[%d] \"%s\" is not supported; supported: full_attention, sliding_attention",
                config->where, i, name ? name : "?");
    INGOT_CHECK(!windowed || spec->window > 0, INGOT_ERR_FORMAT,
                "%s: layer_types[%d] is sliding_attention, and there is no sliding_window", config->where, i);
    INGOT_CHECK(!all_windowed || windowed == (spec->window > 0), INGOT_ERR_MISMATCH,
                "%s: layer_types[%d] \"%s\" is not supported: all layers of %s are alike", config->where, i, name,
                spec->family);
    spec->layer_windowed[i] = windowed;
  }
done:
  return st;
}

static ingot_status read_window(const ingot_config *config, const family *f, ingot_model_spec *spec)
{
  ingot_status st = INGOT_OK;
  int64_t      window = 4096, from = 28;
  bool         use = f->window_always;
  if (!f->window_always && !f->window_switch) goto done;
  if (f->window_switch) INGOT_TRY(ingot_config_bool(config, "use_sliding_window", &use));
  if (json_is_null(json_object_get(config->object, "sliding_window"))) use = false; /* null is no window */
  INGOT_TRY(ingot_config_integer(config, "sliding_window", 1, INT32_MAX, &window));
  if (f->window_switch) INGOT_TRY(ingot_config_integer(config, "max_window_layers", 0, INT32_MAX, &from));
  if (f->window_always) from = 0;
  spec->window = use ? (int)window : 0;
  for (int i = 0; i < spec->n_layer; i++) spec->layer_windowed[i] = use && i >= from;
  INGOT_TRY(read_layer_types(config, spec, f->window_always));
done:
  return st;
}

static ingot_status allocate_layers(const ingot_config *config, ingot_model_spec *spec)
{
  spec->layer_windowed = calloc((size_t)spec->n_layer, sizeof *spec->layer_windowed);
  if (spec->layer_windowed) return INGOT_OK;
  return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for %d layers", config->where, spec->n_layer);
}

static ingot_status read_llama_like(const ingot_config *config, const family *f, ingot_model_spec *spec)
{
  static const char *const activation_keys[] = {"hidden_act", "hidden_activation"};
  static const char *const activations[] = {"silu", "swish"};
  ingot_status             st = INGOT_OK;
  double                   eps = f->eps;
  spec->gated = true;
  spec->qk_norm = f->qk_norm;
  spec->n_position = f->n_position;
  INGOT_TRY(ingot_config_need(config, "vocab_size", 1, MAX_EXTENT, &spec->n_vocab));
  INGOT_TRY(ingot_config_need(config, "hidden_size", 1, MAX_EXTENT, &spec->hidden));
  INGOT_TRY(ingot_config_need(config, "intermediate_size", 1, MAX_EXTENT, &spec->inner));
  INGOT_TRY(need_int(config, "num_hidden_layers", MAX_LAYER, &spec->n_layer));
  INGOT_TRY(read_heads(config, f, spec));
  INGOT_TRY(ingot_config_integer(config, "max_position_embeddings", 1, INT64_MAX, &spec->n_position));
  INGOT_TRY(ingot_config_number(config, "rms_norm_eps", &eps));
  spec->eps = (float)eps;
  INGOT_TRY(ingot_config_bool(config, "tie_word_embeddings", &spec->tied));
  INGOT_TRY(check_activation(config, activation_keys, 2, activations, 2));
  if (f->bias_keys) INGOT_TRY(ingot_config_bool(config, "attention_bias", &spec->qkv_bias));
  spec->o_bias = spec->qkv_bias;
  if (f->qkv_bias) spec->qkv_bias = true;
  if (f->mlp_bias_key) INGOT_TRY(ingot_config_bool(config, "mlp_bias", &spec->mlp_bias));
  INGOT_TRY(allocate_layers(config, spec));
  INGOT_TRY(read_window(config, f, spec));
  INGOT_TRY(ingot_rope_spec_read(config, spec));
done:
  return st;
}

/* The first of two spellings that is there. */
static ingot_status need_either(const ingot_config *config, const char *key, const char *other, int64_t max,
                                int64_t *out)
{
  return ingot_config_need(config, !ingot_config_get(config, key) && ingot_config_get(config, other) ? other : key, 1,
                           max, out);
}

static ingot_status read_gpt2(const ingot_config *config, ingot_model_spec *spec)
{
  static const char *const activation_keys[] = {"activation_function"};
  static const char *const activations[] = {"gelu_new", "gelu_pytorch_tanh"};
  ingot_status             st = INGOT_OK;
  int64_t                  n_layer = 0, n_head = 0;
  double                   eps = 1e-5;
  spec->layer_norm = spec->qkv_bias = spec->o_bias = spec->mlp_bias = true;
  spec->learned_positions = spec->conv1d = spec->tied = true;
  INGOT_TRY(ingot_config_need(config, "vocab_size", 1, MAX_EXTENT, &spec->n_vocab));
  INGOT_TRY(need_either(config, "n_embd", "hidden_size", MAX_EXTENT, &spec->hidden));
  INGOT_TRY(need_either(config, "n_layer", "num_hidden_layers", MAX_LAYER, &n_layer));
  INGOT_TRY(need_either(config, "n_head", "num_attention_heads", MAX_HEAD, &n_head));
  spec->n_layer = (int)n_layer;
  spec->n_head = spec->n_kv_head = (int)n_head;
  INGOT_CHECK(spec->hidden % n_head == 0, INGOT_ERR_FORMAT, "%s: n_embd %lld is not a multiple of n_head %lld",
              config->where, (long long)spec->hidden, (long long)n_head);
  spec->head_dim = (int)(spec->hidden / n_head);
  spec->n_position = 1024;
  INGOT_TRY(ingot_config_integer(config, "max_position_embeddings", 1, MAX_EXTENT, &spec->n_position));
  INGOT_TRY(ingot_config_integer(config, "n_positions", 1, MAX_EXTENT, &spec->n_position));
  spec->inner = 4 * spec->hidden;
  INGOT_TRY(ingot_config_integer(config, "n_inner", 1, MAX_EXTENT, &spec->inner));
  INGOT_TRY(ingot_config_number(config, "layer_norm_epsilon", &eps));
  spec->eps = (float)eps;
  INGOT_TRY(ingot_config_bool(config, "tie_word_embeddings", &spec->tied));
  INGOT_TRY(check_activation(config, activation_keys, 1, activations, 2));
  INGOT_TRY(allocate_layers(config, spec));
done:
  return st;
}

static ingot_status read_family(const ingot_config *config, ingot_model_spec *spec)
{
  const char  *name = NULL;
  ingot_status st = ingot_config_string(config, "model_type", &name);
  if (st != INGOT_OK) return st;
  if (!name) return ingot_fail(INGOT_ERR_FORMAT, "%s: no model_type", config->where);
  if (strlen(name) < sizeof spec->family) memcpy(spec->family, name, strlen(name) + 1);
  const bool gpt2 = strcmp(name, "gpt2") == 0;
  for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
    if (strcmp(name, families[i].name) != 0) continue;
    st = refuse_options(config);
    return st == INGOT_OK ? read_llama_like(config, &families[i], spec) : st;
  }
  if (gpt2) {
    st = refuse_options(config);
    return st == INGOT_OK ? read_gpt2(config, spec) : st;
  }
  return ingot_fail(INGOT_ERR_MISMATCH,
                    "%s: model_type \"%s\" is not supported; supported: llama, mistral, qwen2, qwen3, gpt2",
                    config->where, name);
}

/* The architecture must be the decoder with its head. Absent is fine: the tensors decide. */
static ingot_status check_architecture(const ingot_config *config)
{
  static const char *const known[] = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
                                      "GPT2LMHeadModel"};
  const json_t            *list = ingot_config_get(config, "architectures");
  const char              *name = json_string_value(json_array_get(list, 0));
  if (!name) return INGOT_OK;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(name, known[i]) == 0) return INGOT_OK;
  return ingot_fail(INGOT_ERR_MISMATCH,
                    "%s: architecture \"%s\" is not supported; supported: LlamaForCausalLM, MistralForCausalLM, "
                    "Qwen2ForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel",
                    config->where, name);
}

ingot_status ingot_model_spec_parse(const char *json, size_t size, const char *where, ingot_model_spec *out)
{
  ingot_status st = INGOT_OK;
  json_t      *root = NULL;
  ingot_config config = {.where = where, .prefix = ""};
  *out = (ingot_model_spec){0};
  INGOT_TRY(ingot_json_parse(where, json, size, &root));
  INGOT_CHECK(json_is_object(root), INGOT_ERR_FORMAT, "%s: %s instead of an object", where, ingot_json_type_text(root));
  config.object = root;
  INGOT_TRY(read_family(&config, out));
  INGOT_TRY(check_architecture(&config));
  INGOT_CHECK(out->eps > 0, INGOT_ERR_FORMAT, "%s: the epsilon of the norms is %g, not positive", where,
              (double)out->eps);
done:
  json_decref(root);
  if (st != INGOT_OK) ingot_model_spec_release(out);
  return st;
}

ingot_status ingot_model_spec_read(const ingot_source *src, ingot_model_spec *out)
{
  ingot_status st = INGOT_OK;
  ingot_text   json = {0}, where = {0};
  *out = (ingot_model_spec){0};
  const int file = ingot_source_find_side_file(src, "config.json");
  INGOT_CHECK(file >= 0, INGOT_ERR_FORMAT, "%s: no config.json, which says what model this is", ingot_source_path(src));
  INGOT_TRY(ingot_text_printf(&where, "%s: config.json", ingot_source_path(src)));
  INGOT_TRY(ingot_source_side_file_read(src, file, &json));
  INGOT_TRY(ingot_model_spec_parse(ingot_text_string(&json), json.size, ingot_text_string(&where), out));
done:
  ingot_text_release(&json);
  ingot_text_release(&where);
  return st;
}

void ingot_model_spec_release(ingot_model_spec *spec)
{
  free(spec->layer_windowed);
  *spec = (ingot_model_spec){0};
}

ingot_status ingot_model_check_window(const ingot_model_spec *spec, const char *where, int64_t n_time)
{
  double limit = (double)spec->n_position;
  if (!spec->learned_positions && spec->rope.type == INGOT_ROPE_DYNAMIC) return INGOT_OK;
  if (!spec->learned_positions && spec->rope.factor > 1) {
    const double stretched = spec->rope.factor * (double)spec->rope.original_positions;
    if (stretched > limit) limit = stretched;
  }
  if ((double)n_time <= limit) return INGOT_OK;
  return ingot_fail(INGOT_ERR_MISMATCH, "%s: windows of %lld tokens are longer than the model's %.0f positions", where,
                    (long long)n_time, limit);
}

double ingot_model_forward_flops(const ingot_model_spec *spec, int64_t n_time, bool head)
{
  const double q = (double)spec->n_head * spec->head_dim, kv = (double)spec->n_kv_head * spec->head_dim;
  const double hidden = (double)spec->hidden, t = (double)n_time;
  const double matrices = hidden * (q + 2 * kv) + q * hidden + (spec->gated ? 3 : 2) * hidden * (double)spec->inner;
  double       sum = 2 * matrices * spec->n_layer + (head ? 2 * hidden * (double)spec->n_vocab : 0);
  for (int i = 0; i < spec->n_layer; i++) {
    const double w = spec->layer_windowed[i] && spec->window < n_time ? spec->window : t;
    sum += 4 * q * (w - w * w / (2 * t)); /* a query's mean number of keys: half of the window's when it is whole */
  }
  return sum;
}
