#include "workers/model/config.h"

#include "io/json.h"

const json_t *ingot_config_get(const ingot_config *config, const char *key)
{
  const json_t *value = json_object_get(config->object, key);
  return json_is_null(value) ? NULL : value;
}

static ingot_status wrong_type(const ingot_config *config, const char *key, const char *wanted, const json_t *value)
{
  return ingot_fail(INGOT_ERR_FORMAT, "%s: %s%s is %s, not %s", config->where, config->prefix, key,
                    ingot_json_type_text(value), wanted);
}

ingot_status ingot_config_integer(const ingot_config *config, const char *key, int64_t min, int64_t max, int64_t *out)
{
  const json_t *value = ingot_config_get(config, key);
  if (!value) return INGOT_OK;
  if (!json_is_integer(value)) return wrong_type(config, key, "an integer", value);
  const int64_t found = json_integer_value(value);
  if (found < min || found > max)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: %s%s is %lld, not in %lld to %lld", config->where, config->prefix, key,
                      (long long)found, (long long)min, (long long)max);
  *out = found;
  return INGOT_OK;
}

ingot_status ingot_config_need(const ingot_config *config, const char *key, int64_t min, int64_t max, int64_t *out)
{
  if (!ingot_config_get(config, key))
    return ingot_fail(INGOT_ERR_FORMAT, "%s: no %s%s", config->where, config->prefix, key);
  return ingot_config_integer(config, key, min, max, out);
}

ingot_status ingot_config_number(const ingot_config *config, const char *key, double *out)
{
  const json_t *value = ingot_config_get(config, key);
  if (!value) return INGOT_OK;
  if (!json_is_number(value)) return wrong_type(config, key, "a number", value);
  *out = json_number_value(value);
  return INGOT_OK;
}

ingot_status ingot_config_bool(const ingot_config *config, const char *key, bool *out)
{
  const json_t *value = ingot_config_get(config, key);
  if (!value) return INGOT_OK;
  if (!json_is_boolean(value)) return wrong_type(config, key, "true or false", value);
  *out = json_is_true(value);
  return INGOT_OK;
}

ingot_status ingot_config_string(const ingot_config *config, const char *key, const char **out)
{
  const json_t *value = ingot_config_get(config, key);
  if (!value) return INGOT_OK;
  if (!json_is_string(value)) return wrong_type(config, key, "a string", value);
  *out = json_string_value(value);
  return INGOT_OK;
}
