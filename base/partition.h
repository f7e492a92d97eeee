/**
 * A partition is an array of n_part + 1 boundaries over items in order; part p owns items begin[p] to begin[p + 1].
 * Empty parts are normal.
 */
#ifndef INGOT_BASE_PARTITION_H
#define INGOT_BASE_PARTITION_H

#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Split items in order so that the largest part's cost is the smallest possible (to a relative 1e-9).
 *
 * @param n_item  Number of items, at least 0.
 * @param cost    [n_item], finite and not negative. Borrowed.
 * @param n_part  At least 1.
 * @param begin   [n_part + 1], filled with ascending boundaries from 0 to n_item.
 */
void ingot_partition_by_cost(int64_t n_item, const double *cost, int n_part, int64_t *begin);

/** The part that owns an item. */
int ingot_partition_owner(const int64_t *begin, int n_part, int64_t item);

#ifdef __cplusplus
}
#endif
#endif
