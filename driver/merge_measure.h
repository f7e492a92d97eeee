/** What a merge did, measured on its files: for the report. Reads base, experts and output once, in pieces. */
#ifndef INGOT_DRIVER_MERGE_MEASURE_H
#define INGOT_DRIVER_MERGE_MEASURE_H

#include "base/status.h"
#include "io/source.h"

enum { INGOT_MEASURE_MODELS = 256 };

/** Sums over the tensors of one layer, or of those before (embeddings) or after the layers. */
typedef struct ingot_measure_row {
  char    name[32];
  int64_t n_elem;     /* of floating point, in base, output and every expert */
  int64_t n_active;   /* elements where any expert differs from the base */
  int64_t n_conflict; /* of these, where one is above the base and another below */
  double *square;     /* [n_model] sum of squares of expert - base */
  double *mass;       /* [n_model] sum of |expert - base| */
  double *kept;       /* [n_model] of that sum, the part at elements where the output differs from the base */
} ingot_measure_row;

typedef struct ingot_measure {
  int                n_model, n_row;
  ingot_measure_row *rows;
  double            *dot;       /* [n_model * n_model] inner products of task vectors over all rows */
  int64_t            n_skipped; /* tensors of the output that one of the models lacks or has in another shape */
} ingot_measure;

/** Task vectors are experts[i] - base. The caller releases *out, also after a failure. INGOT_ERR_IO,
 * INGOT_ERR_NOMEM. */
ingot_status ingot_measure_make(const ingot_source *base, ingot_source *const *experts, int n_model,
                                const ingot_source *output, ingot_measure *out);
void         ingot_measure_release(ingot_measure *measure);

#endif
