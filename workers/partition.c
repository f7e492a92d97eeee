/* Which tiles are whose: a contiguous split in file order, cut only where grains allow. */
#include <stdlib.h>

#include "base/partition.h"
#include "workers/merge.h"

/*
 * Cost of one tile in units of a byte moved. A multiply-add on cached float32 costs about as much as moving half a
 * byte; the figure only weighs arithmetic against traffic where tensors differ.
 */
static const double BYTES_PER_OPERATION = 0.5;

static double element_cost(const ingot_merge_plan *plan, const ingot_merge_tensor *t)
{
  double bytes = 0.0;
  if (t->grain == INGOT_GRAIN_MATRIX)
    return (double)ingot_dtype_size(t->dtype); /* solved elsewhere: looked after, no more */
  for (int i = 0; i < t->view.n_input; i++)
    bytes += (double)ingot_dtype_size(ingot_source_tensor(plan->sources[t->source[i]], t->tensor[i])->dtype);
  if (t->copy) return bytes + (double)ingot_dtype_size(t->dtype);
  if (t->grain != INGOT_GRAIN_ELEMENT) bytes *= 2.0; /* a summary reads the inputs once more */
  return bytes + (double)ingot_dtype_size(t->dtype) + BYTES_PER_OPERATION * plan->method->cost(&t->view);
}

static bool is_whole(const ingot_merge_tensor *t)
{
  return t->grain == INGOT_GRAIN_TENSOR;
}

/* Units that stay together: a whole tensor where a summary needs it, a tile elsewhere. Both arrays [plan->n_tile +
 * 1]. */
static int64_t list_units(const ingot_merge_plan *plan, double *cost, int64_t *first_tile)
{
  int64_t n_unit = 0;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &plan->tensors[i];
    double                    each = element_cost(plan, t);
    int64_t                   n_tile = ingot_tile_count(t->view.n_elem);
    for (int64_t k = 0; k < n_tile; k++) {
      int64_t left = t->view.n_elem - k * INGOT_TILE;
      double  tile_cost = each * (double)(left < INGOT_TILE ? left : INGOT_TILE);
      if (k > 0 && is_whole(t)) {
        cost[n_unit - 1] += tile_cost;
        continue;
      }
      first_tile[n_unit] = t->first_tile + k;
      cost[n_unit++] = tile_cost;
    }
  }
  first_tile[n_unit] = plan->n_tile;
  return n_unit;
}

ingot_status ingot_merge_partition(const ingot_merge_plan *plan, int n_rank, int64_t *begin)
{
  ingot_status st = INGOT_OK;
  double      *cost = malloc(((size_t)plan->n_tile + 1) * sizeof *cost);
  int64_t     *first_tile = malloc(((size_t)plan->n_tile + 1) * sizeof *first_tile);
  INGOT_CHECK(cost && first_tile, INGOT_ERR_NOMEM, "no memory to partition %lld tiles", (long long)plan->n_tile);
  ingot_partition_by_cost(list_units(plan, cost, first_tile), cost, n_rank, begin);
  for (int r = 0; r <= n_rank; r++) begin[r] = first_tile[begin[r]];
done:
  free(cost);
  free(first_tile);
  return st;
}

ingot_status ingot_merge_cost(const ingot_merge_plan *plan, int n_rank, double *total, double *largest)
{
  ingot_status st = INGOT_OK;
  double      *cost = malloc(((size_t)plan->n_tile + 1) * sizeof *cost);
  int64_t     *first_tile = malloc(((size_t)plan->n_tile + 1) * sizeof *first_tile);
  int64_t     *begin = calloc((size_t)n_rank + 1, sizeof *begin);
  *total = *largest = 0.0;
  INGOT_CHECK(cost && first_tile && begin, INGOT_ERR_NOMEM, "no memory to partition %lld tiles",
              (long long)plan->n_tile);
  ingot_partition_by_cost(list_units(plan, cost, first_tile), cost, n_rank, begin);
  for (int r = 0; r < n_rank; r++) {
    double part = 0.0;
    for (int64_t k = begin[r]; k < begin[r + 1]; k++) part += cost[k];
    *total += part;
    if (part > *largest) *largest = part;
  }
done:
  free(cost);
  free(first_tile);
  free(begin);
  return st;
}
