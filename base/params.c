#include "base/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ingot_param_n_choice(const ingot_param_spec *spec)
{
  int n = 0;
  while (spec->choices && spec->choices[n]) n++;
  return n;
}

ingot_status ingot_param_check(const ingot_param_spec *spec, double value)
{
  bool inside = isfinite(value) && value <= spec->max && (spec->min_open ? value > spec->min : value >= spec->min);
  if (spec->type == INGOT_PARAM_BOOL || spec->type == INGOT_PARAM_CHOICE) return INGOT_OK;
  if (inside && spec->type == INGOT_PARAM_INT && value != floor(value))
    return ingot_fail(INGOT_ERR_JOB, "%s: %g is not a whole number", spec->name, value);
  if (inside) return INGOT_OK;

  ingot_text   range = {0};
  ingot_status st = ingot_param_range_text(spec, &range);
  if (st == INGOT_OK)
    st = ingot_fail(INGOT_ERR_JOB, "%s: %g is outside %s", spec->name, value,
                    strcmp(ingot_text_string(&range), "any") == 0 ? "the finite numbers" : ingot_text_string(&range));
  ingot_text_release(&range);
  return st;
}

ingot_status ingot_param_choice(const ingot_param_spec *spec, const char *name, double *value)
{
  int n = ingot_param_n_choice(spec);
  for (int i = 0; i < n; i++) {
    if (strcmp(spec->choices[i], name) == 0) {
      *value = i;
      return INGOT_OK;
    }
  }
  ingot_text   choices = {0};
  const char  *nearest = ingot_nearest_name(name, spec->choices, n);
  ingot_status st = ingot_param_type_text(spec, &choices);
  if (st == INGOT_OK)
    st = ingot_fail(INGOT_ERR_JOB, "%s: \"%s\" is not one of %s%s%s%s", spec->name, name, ingot_text_string(&choices),
                    nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
  ingot_text_release(&choices);
  return st;
}

ingot_status ingot_param_type_text(const ingot_param_spec *spec, ingot_text *text)
{
  switch (spec->type) {
  case INGOT_PARAM_REAL: return ingot_text_printf(text, "real");
  case INGOT_PARAM_INT: return ingot_text_printf(text, "integer");
  case INGOT_PARAM_BOOL: return ingot_text_printf(text, "bool");
  case INGOT_PARAM_CHOICE: break;
  }
  ingot_status st = INGOT_OK;
  for (int i = 0; st == INGOT_OK && i < ingot_param_n_choice(spec); i++)
    st = ingot_text_printf(text, "%s%s", i ? "|" : "", spec->choices[i]);
  return st;
}

ingot_status ingot_param_range_text(const ingot_param_spec *spec, ingot_text *text)
{
  if (spec->type == INGOT_PARAM_BOOL || spec->type == INGOT_PARAM_CHOICE) return ingot_text_printf(text, "%s", "");
  if (isinf(spec->min) && isinf(spec->max)) return ingot_text_printf(text, "any");
  ingot_status st = isinf(spec->min) ? ingot_text_printf(text, "(-inf, ")
                                     : ingot_text_printf(text, "%c%g, ", spec->min_open ? '(' : '[', spec->min);
  if (st != INGOT_OK) return st;
  return isinf(spec->max) ? ingot_text_printf(text, "inf)") : ingot_text_printf(text, "%g]", spec->max);
}

ingot_status ingot_param_value_text(const ingot_param_spec *spec, double value, ingot_text *text)
{
  if (spec->type == INGOT_PARAM_BOOL) return ingot_text_printf(text, "%s", value != 0.0 ? "true" : "false");
  if (spec->type == INGOT_PARAM_CHOICE) return ingot_text_printf(text, "%s", spec->choices[(int)value]);
  char shortest[32]; /* that reads as the same number */
  snprintf(shortest, sizeof shortest, "%.15g", value);
  return ingot_text_printf(text, strtod(shortest, NULL) == value ? "%.15g" : "%.17g", value);
}
