/** Which tokens a log-linear mixture of models leaves any probability: what the steps that mix models have in
 * common. */
#ifndef INGOT_DRIVER_PLAUSIBILITY_H
#define INGOT_DRIVER_PLAUSIBILITY_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "driver/arena.h"
#include "driver/job.h"

/** Filled from the rows below, `reference` but for its default by the check. */
typedef struct ingot_plausibility {
  double      share;   /* 0: all tokens are plausible */
  const char *written; /* id of the reference; NULL: the first */
  int         reference;
} ingot_plausibility;

/** Rows of a key table; field: offset of an ingot_plausibility; what: "models", "teachers". */
/* clang-format off: rows of tables */
#define INGOT_PLAUSIBILITY_ROWS(field, what)                                                                      \
  {"plausibility",                                                                                                \
   INGOT_KEY_REAL,                                                                                                \
   false,                                                                                                         \
   "0",                                                                                                           \
   INGOT_FROM_TO(0.0, 1.0),                                                                                       \
   (field) + offsetof(ingot_plausibility, share),                                                                 \
   "log_linear: tokens with less than this times the largest probability of `reference` are ruled out; 0: none"}, \
  {                                                                                                               \
    "reference", INGOT_KEY_STRING, false, NULL, NULL, (field) + offsetof(ingot_plausibility, written),            \
        "plausibility: the one of the " what " that says what is plausible; without it the first"                 \
  }
/* clang-format on */

/**
 * Numbers, and the reference among ids [n]. log_linear: whether the step's kind, as it is stated, has plausibility;
 * kind_text says which does.
 */
void ingot_plausibility_check(const ingot_job_step *step, ingot_plausibility *p, bool log_linear, const char *kind_text,
                              const char *const *ids, int n, ingot_problems *problems);
/** Rows of weights [n_row][n]: that of the reference is above 0. place begins the message. */
void ingot_plausibility_check_weights(const char *place, double share, int reference, const char *id,
                                      const double *weights, int n_row, int n, ingot_problems *problems);
/** Into a recipe or the output's text; nothing where all tokens are plausible. */
void ingot_plausibility_note(json_t *tree, double share, const char *id);

#endif
