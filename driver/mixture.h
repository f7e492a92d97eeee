/** Weights that an ensemble step has written, for the steps that take them. */
#ifndef INGOT_DRIVER_MIXTURE_H
#define INGOT_DRIVER_MIXTURE_H

#include <stdint.h>

#include "base/status.h"
#include "driver/arena.h"

/** A model whose weight is wanted. */
typedef struct ingot_mixture_model {
  const char *id;
  uint64_t    identity; /* of its source; 0: not known */
} ingot_mixture_model;

typedef struct ingot_mixture {
  const char   *kind;         /* "linear", "log_linear", ... */
  int           n_row;        /* 1, or n_data */
  const double *weights;      /* [n_row][n_model] */
  double        floor;        /* log-linear: of log-probabilities with negative weights */
  double        plausibility; /* log-linear: as in ingot_ensemble_plan, by models[reference]; 0: none */
  int           reference;
  uint64_t      identity; /* of the file's contents */
} ingot_mixture;

/**
 * Read "<path>", the .json or .h5 that an ensemble step wrote. Models are found by identity, else by id; rows by the
 * names of the data sets [n_data]: one row when the file has one for all. Memory is the arena's. INGOT_ERR_NOTFOUND,
 * INGOT_ERR_FORMAT; INGOT_ERR_MISMATCH for a model or a data set that it does not know, and for one of its models that
 * is not wanted.
 */
ingot_status ingot_mixture_read(const char *path, const ingot_mixture_model *models, int n_model,
                                const char *const *data, int n_data, ingot_arena *arena, ingot_mixture *out);

#endif
