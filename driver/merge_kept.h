/**
 * What a method kept of each expert: task vectors after its mask (TIES' trimming, DARE's drawing) and after its vote.
 * Worked out anew from the manifest's recipe and the inputs, on one thread.
 */
#ifndef INGOT_DRIVER_MERGE_KEPT_H
#define INGOT_DRIVER_MERGE_KEPT_H

#include <jansson.h>

#include "base/status.h"

/** Sums over all merged tensors for one expert. */
typedef struct ingot_kept_model {
  double mass, square;               /* of |expert - base|, of its square */
  double kept_mass, kept_square;     /* of these, at elements that the mask keeps */
  double agreed_mass, agreed_square; /* of these, where the expert's sign is the elected one; as kept_ without a vote */
} ingot_kept_model;

typedef struct ingot_kept {
  int               n_model; /* 0: the method neither masks nor votes, or the recipe does not plan any more */
  ingot_kept_model *models;  /* [n_model], in the step's order */
  char            **names;   /* [n_model]: ids */
} ingot_kept;

/** The caller releases *out, also after a failure. INGOT_ERR_IO, INGOT_ERR_NOMEM. */
ingot_status ingot_kept_make(const json_t *manifest, const char *output, ingot_kept *out);
void         ingot_kept_release(ingot_kept *kept);

#endif
