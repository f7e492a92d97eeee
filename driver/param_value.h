/**
 * Parameter values of a job file: a scalar, a gradient over layers (a list of scalars), or a list of filters with a
 * scalar or gradient each. docs/job-file.md, "Parameter values".
 */
#ifndef INGOT_DRIVER_PARAM_VALUE_H
#define INGOT_DRIVER_PARAM_VALUE_H

#include "base/params.h"
#include "base/problems.h"
#include "driver/value.h"
#include "kernels/method.h"

typedef struct ingot_param_entry {
  const char *filter; /* matches tensor names that contain it; NULL: all */
  double     *values; /* [n]: one scalar, or a gradient */
  int         n;
} ingot_param_entry;

typedef struct ingot_param_value {
  const ingot_param_spec *spec;
  ingot_param_entry      *entries; /* [n_entry]: the first that matches wins */
  int                     n_entry;
} ingot_param_value;

/** The values given in one place for a method's parameters: [n_param] in table order, NULL where nothing was given. */
typedef struct ingot_param_set {
  const ingot_param_value **value;
  int                       n_param;
} ingot_param_set;

/**
 * Value for a tensor at depth t in [0, 1] of its layer stack: the first matching entry, interpolated between the two
 * nearest points of a gradient (bool and choice: the entry at or below). False when no filter matches.
 */
bool ingot_param_value_at(const ingot_param_value *v, const char *tensor, double t, double *out);

/** Which scopes may be given in a place (bit set). */
enum { INGOT_ALLOW_GLOBAL = 1, INGOT_ALLOW_PER_MODEL = 2 };

/**
 * Read a method's parameters from a group. Members named in other_names [n_other] are no parameters and are left alone.
 * Unknown names, wrong types and values out of range are added to problems. group NULL gives an empty set.
 * INGOT_ERR_NOMEM only.
 */
ingot_status ingot_param_set_read(const ingot_method *method, unsigned allowed, const ingot_value *group,
                                  const char *const *other_names, int n_other, ingot_arena *arena,
                                  ingot_problems *problems, ingot_param_set *out);

#endif
