/* The rotary embedding in a config.json. Transformers 4 writes rope_theta and rope_scaling, Transformers 5 one object
 * rope_parameters, with one object for each layer type inside where layers differ. */
#include <string.h>

#include "workers/model/config.h"

static const struct {
  const char     *name;
  ingot_rope_type type;
} rope_types[] = {
    {"default", INGOT_ROPE_DEFAULT}, {"linear", INGOT_ROPE_LINEAR}, {"dynamic", INGOT_ROPE_DYNAMIC},
    {"llama3", INGOT_ROPE_LLAMA3},   {"yarn", INGOT_ROPE_YARN},
};

/* Keys whose meaning is known. Others change the embedding in ways that we do not know. */
static const char *const known_keys[] = {
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "finetuned",
    "original_max_position_embeddings",
    "partial_rotary_factor",
};

static bool is_known(const char *key)
{
  for (size_t i = 0; i < sizeof known_keys / sizeof known_keys[0]; i++)
    if (strcmp(key, known_keys[i]) == 0) return true;
  return false;
}

static ingot_status check_partial(const ingot_config *config)
{
  double       part = 1;
  ingot_status st = ingot_config_number(config, "partial_rotary_factor", &part);
  if (st == INGOT_OK && part != 1)
    st = ingot_fail(INGOT_ERR_MISMATCH, "%s: %spartial_rotary_factor %g is not supported; supported: 1", config->where,
                    config->prefix, part);
  return st;
}

static ingot_status read_type(const ingot_config *rope, ingot_rope_spec *out)
{
  ingot_status st = INGOT_OK;
  const char  *name = "default";
  INGOT_TRY(ingot_config_string(rope, "type", &name));
  INGOT_TRY(ingot_config_string(rope, "rope_type", &name));
  for (size_t i = 0; i < sizeof rope_types / sizeof rope_types[0]; i++) {
    if (strcmp(name, rope_types[i].name) != 0) continue;
    out->type = rope_types[i].type;
    goto done;
  }
  st = ingot_fail(INGOT_ERR_MISMATCH,
                  "%s: %srope_type \"%s\" is not supported; supported: default, linear, dynamic, llama3, yarn",
                  rope->where, rope->prefix, name);
done:
  return st;
}

/* A positive number that must be there. */
static ingot_status need_positive(const ingot_config *rope, const char *key, double *out)
{
  *out = 0;
  ingot_status st = ingot_config_number(rope, key, out);
  if (st == INGOT_OK && !ingot_config_get(rope, key))
    st = ingot_fail(INGOT_ERR_FORMAT, "%s: no %s%s", rope->where, rope->prefix, key);
  if (st == INGOT_OK && !(*out > 0))
    st = ingot_fail(INGOT_ERR_FORMAT, "%s: %s%s is %g, not positive", rope->where, rope->prefix, key, *out);
  return st;
}

static ingot_status read_llama3(const ingot_config *rope, ingot_rope_spec *out)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(need_positive(rope, "low_freq_factor", &out->low_freq_factor));
  INGOT_TRY(need_positive(rope, "high_freq_factor", &out->high_freq_factor));
  INGOT_CHECK(out->high_freq_factor > out->low_freq_factor, INGOT_ERR_FORMAT,
              "%s: %shigh_freq_factor %g is not above low_freq_factor %g", rope->where, rope->prefix,
              out->high_freq_factor, out->low_freq_factor);
done:
  return st;
}

static ingot_status read_yarn(const ingot_config *rope, ingot_rope_spec *out)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_config_number(rope, "attention_factor", &out->attention_factor));
  INGOT_TRY(ingot_config_number(rope, "beta_fast", &out->beta_fast));
  INGOT_TRY(ingot_config_number(rope, "beta_slow", &out->beta_slow));
  if (out->beta_fast == 0) out->beta_fast = 32;
  if (out->beta_slow == 0) out->beta_slow = 1;
  INGOT_TRY(ingot_config_number(rope, "mscale", &out->mscale));
  INGOT_TRY(ingot_config_number(rope, "mscale_all_dim", &out->mscale_all_dim));
  out->truncate = true;
  INGOT_TRY(ingot_config_bool(rope, "truncate", &out->truncate));
  INGOT_CHECK(out->beta_fast >= out->beta_slow && out->beta_slow > 0 && out->attention_factor >= 0, INGOT_ERR_FORMAT,
              "%s: %sbeta_fast %g, beta_slow %g and attention_factor %g do not fit together", rope->where, rope->prefix,
              out->beta_fast, out->beta_slow, out->attention_factor);
done:
  return st;
}

static ingot_status read_scaling(const ingot_config *config, const ingot_config *rope, ingot_model_spec *spec)
{
  ingot_status     st = INGOT_OK;
  ingot_rope_spec *out = &spec->rope;
  out->original_positions = spec->n_position;
  if (out->type == INGOT_ROPE_LLAMA3 || out->type == INGOT_ROPE_YARN) {
    INGOT_TRY(ingot_config_integer(rope, "original_max_position_embeddings", 1, INT64_MAX, &out->original_positions));
    /* Beside the object it comes first, as in Transformers. */
    INGOT_TRY(ingot_config_integer(config, "original_max_position_embeddings", 1, INT64_MAX, &out->original_positions));
  }
  if (out->type == INGOT_ROPE_YARN && !ingot_config_get(rope, "factor"))
    out->factor = (double)spec->n_position / (double)out->original_positions;
  else if (out->type != INGOT_ROPE_DEFAULT) INGOT_TRY(need_positive(rope, "factor", &out->factor));
  if (out->type == INGOT_ROPE_LLAMA3) INGOT_TRY(read_llama3(rope, out));
  if (out->type == INGOT_ROPE_YARN) INGOT_TRY(read_yarn(rope, out));
done:
  return st;
}

/* One object for all layers; layer types are accepted when they agree. */
static ingot_status choose_object(const ingot_config *config, ingot_config *rope)
{
  static const char *const layer_types[] = {"full_attention", "sliding_attention"};
  ingot_status             st = INGOT_OK;
  *rope = (ingot_config){.where = config->where, .prefix = "rope_parameters."};
  rope->object = ingot_config_get(config, "rope_parameters");
  if (!rope->object) {
    rope->prefix = "rope_scaling.";
    rope->object = ingot_config_get(config, "rope_scaling");
  }
  if (!rope->object) goto done;
  INGOT_CHECK(json_is_object(rope->object), INGOT_ERR_FORMAT, "%s: %.*s is not an object", config->where,
              (int)strlen(rope->prefix) - 1, rope->prefix);
  const json_t *first = NULL;
  for (size_t i = 0; i < sizeof layer_types / sizeof layer_types[0]; i++) {
    const json_t *inner = ingot_config_get(rope, layer_types[i]);
    if (!inner) continue;
    INGOT_CHECK(json_is_object(inner), INGOT_ERR_FORMAT, "%s: %s%s is not an object", config->where, rope->prefix,
                layer_types[i]);
    INGOT_CHECK(!first || json_equal(first, inner), INGOT_ERR_MISMATCH,
                "%s: %s differs between layer types, which is not supported", config->where, "rope_parameters");
    first = inner;
  }
  if (first) rope->object = first;
done:
  return st;
}

ingot_status ingot_rope_spec_read(const ingot_config *config, ingot_model_spec *spec)
{
  ingot_status st = INGOT_OK;
  ingot_config rope;
  spec->rope = (ingot_rope_spec){.theta = 10000};
  INGOT_TRY(ingot_config_number(config, "rope_theta", &spec->rope.theta));
  INGOT_TRY(check_partial(config));
  INGOT_TRY(choose_object(config, &rope));
  if (rope.object) {
    const char   *key;
    const json_t *value;
    /* Jansson's iteration takes a pointer to a non-const object and does not change it. */
    json_object_foreach((json_t *)(uintptr_t)rope.object, key, value)
    {
      INGOT_CHECK(json_is_null(value) || is_known(key), INGOT_ERR_MISMATCH, "%s: %s%s is not supported", config->where,
                  rope.prefix, key);
    }
    INGOT_TRY(ingot_config_number(&rope, "rope_theta", &spec->rope.theta));
    INGOT_TRY(check_partial(&rope));
    INGOT_TRY(read_type(&rope, &spec->rope));
    INGOT_TRY(read_scaling(config, &rope, spec));
  }
  INGOT_CHECK(spec->rope.theta > 1, INGOT_ERR_FORMAT, "%s: rope_theta is %g, not above 1", config->where,
              spec->rope.theta);
  INGOT_CHECK(spec->head_dim % 2 == 0, INGOT_ERR_FORMAT, "%s: head_dim %d is odd: rotary embedding needs pairs",
              config->where, spec->head_dim);
done:
  return st;
}
