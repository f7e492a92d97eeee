/**
 * Parameter tables: one row a parameter, feeding the job-file parser, `ingot methods`, the documentation check and
 * the error messages. Values are doubles throughout: a bool is 0 or 1, a choice is the index of its name.
 */
#ifndef INGOT_BASE_PARAMS_H
#define INGOT_BASE_PARAMS_H

#include <stdbool.h>

#include "base/status.h"
#include "base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_param_type {
  INGOT_PARAM_REAL,
  INGOT_PARAM_INT,
  INGOT_PARAM_BOOL,
  INGOT_PARAM_CHOICE
} ingot_param_type;

/** One value for the whole tensor, or one for each model. */
typedef enum ingot_param_scope { INGOT_PARAM_GLOBAL, INGOT_PARAM_PER_MODEL } ingot_param_scope;

typedef struct ingot_param_spec {
  const char        *name;
  ingot_param_type   type;
  ingot_param_scope  scope;
  bool               required; /* no default */
  double             default_value;
  double             min, max; /* closed range; use -INFINITY and INFINITY for "any finite number" */
  bool               min_open; /* min itself is outside */
  const char *const *choices;  /* CHOICE: NULL-terminated names */
  const char        *help;     /* one line */
} ingot_param_spec;

/** Number of choices of a CHOICE parameter. */
int ingot_param_n_choice(const ingot_param_spec *spec);
/** INGOT_OK, or INGOT_ERR_JOB with "density: 1.5 is outside (0, 1]" set. NaN and infinities are always outside. */
ingot_status ingot_param_check(const ingot_param_spec *spec, double value);
/** A choice by name; INGOT_ERR_JOB with the nearest name offered. */
ingot_status ingot_param_choice(const ingot_param_spec *spec, const char *name, double *value);
/** "real", "integer", "bool" or "a|b|c", appended to text. */
ingot_status ingot_param_type_text(const ingot_param_spec *spec, ingot_text *text);
/** "(0, 1]", "any" or "" (bool, choice), appended to text. */
ingot_status ingot_param_range_text(const ingot_param_spec *spec, ingot_text *text);
/** A value as a job file would write it ("0.5", "true", "l1"), appended to text. */
ingot_status ingot_param_value_text(const ingot_param_spec *spec, double value, ingot_text *text);

#ifdef __cplusplus
}
#endif
#endif
