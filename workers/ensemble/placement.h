/** Where the models of an ensemble are, or the teachers of a student. */
#ifndef INGOT_WORKERS_ENSEMBLE_PLACEMENT_H
#define INGOT_WORKERS_ENSEMBLE_PLACEMENT_H

#include <stdint.h>

typedef enum ingot_placement {
  INGOT_PLACEMENT_REPLICATED, /* all on each rank */
  INGOT_PLACEMENT_SPREAD,     /* each on one rank */
} ingot_placement;

/** home [n]: the largest first, each to the rank with least bytes, the lowest of them. Of equal ones, k is on rank k
 * mod n_rank. */
void ingot_placement_spread(const uint64_t *bytes, int n, int n_rank, int *home);

#endif
