#include "base/partition.h"

/* Fill parts greedily up to `limit` each; returns the number of parts that takes, or n_part + 1 when too many. */
static int fill(int64_t n_item, const double *cost, int n_part, double limit, int64_t *begin)
{
  int64_t item = 0;
  int     part = 0;
  while (item < n_item) {
    if (part == n_part) return n_part + 1;
    if (begin) begin[part] = item;
    double sum = 0.0;
    while (item < n_item && sum + cost[item] <= limit) sum += cost[item++];
    part++;
  }
  if (begin)
    for (int p = part; p <= n_part; p++) begin[p] = n_item;
  return part;
}

void ingot_partition_by_cost(int64_t n_item, const double *cost, int n_part, int64_t *begin)
{
  double total = 0.0, largest = 0.0;
  for (int64_t i = 0; i < n_item; i++) {
    total += cost[i];
    if (cost[i] > largest) largest = cost[i];
  }
  /* Bisect the largest part's cost. `high` always works: n_part parts of it hold everything. */
  double low = total / n_part > largest ? total / n_part : largest;
  double high = total / n_part + largest;
  low *= 1.0 - 1e-12;
  high *= 1.0 + 1e-9;
  while (fill(n_item, cost, n_part, high, (int64_t *)0) > n_part) high *= 2.0; /* rounding of long sums */
  for (int step = 0; step < 60 && high - low > 1e-9 * high; step++) {
    double middle = 0.5 * (low + high);
    if (fill(n_item, cost, n_part, middle, (int64_t *)0) <= n_part) high = middle;
    else low = middle;
  }
  fill(n_item, cost, n_part, high, begin);
}

int ingot_partition_owner(const int64_t *begin, int n_part, int64_t item)
{
  int low = 0, high = n_part; /* begin[low] <= item < begin[high] */
  while (high - low > 1) {
    int middle = low + (high - low) / 2;
    if (begin[middle] <= item) low = middle;
    else high = middle;
  }
  return low;
}
