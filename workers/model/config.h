/** Values of a config.json, with messages that name file and key. Inside workers/model/ only. */
#ifndef INGOT_WORKERS_MODEL_CONFIG_H
#define INGOT_WORKERS_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/status.h"
#include "workers/model/spec.h"

/** An object of the file; `prefix` stands before keys in messages ("rope_parameters."). Everything borrowed. */
typedef struct ingot_config {
  const json_t *object;
  const char   *where;
  const char   *prefix;
} ingot_config;

/** The value of a key; NULL when it is absent or null. */
const json_t *ingot_config_get(const ingot_config *config, const char *key);
/** An absent key leaves *out alone. Another type, or a value outside min .. max: INGOT_ERR_FORMAT. */
ingot_status ingot_config_integer(const ingot_config *config, const char *key, int64_t min, int64_t max, int64_t *out);
ingot_status ingot_config_number(const ingot_config *config, const char *key, double *out);
ingot_status ingot_config_bool(const ingot_config *config, const char *key, bool *out);
/** Borrowed from the object. */
ingot_status ingot_config_string(const ingot_config *config, const char *key, const char **out);
/** As ingot_config_integer; an absent key is INGOT_ERR_FORMAT. */
ingot_status ingot_config_need(const ingot_config *config, const char *key, int64_t min, int64_t max, int64_t *out);

/** The rotary embedding of a config whose sizes have been read. In rope_config.c. */
ingot_status ingot_rope_spec_read(const ingot_config *config, ingot_model_spec *spec);

#endif
