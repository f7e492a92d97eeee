/* base/partition: hand-worked splits, and the optimum against an exhaustive search. */
#include "tests/check.h"

#include <stdlib.h>

#include "base/partition.h"

static void hand_worked(void **state)
{
  (void)state;
  const double cost[] = {1, 1, 1, 3, 1, 1};
  int64_t      begin[5];
  ingot_partition_by_cost(6, cost, 2, begin); /* 1+1+1 | 3+1+1 or 1+1+1+3 is worse: best is 5 */
  assert_int_equal(begin[0], 0);
  assert_int_equal(begin[2], 6);
  double left = 0;
  for (int64_t i = 0; i < begin[1]; i++) left += cost[i];
  assert_true(left <= 5.0 && 8.0 - left <= 5.0);
}

static void more_parts_than_items(void **state)
{
  (void)state;
  const double cost[] = {2, 2};
  int64_t      begin[6];
  ingot_partition_by_cost(2, cost, 5, begin);
  assert_int_equal(begin[0], 0);
  assert_int_equal(begin[1], 1);
  assert_int_equal(begin[5], 2);
  ingot_partition_by_cost(0, NULL, 5, begin);
  for (int p = 0; p <= 5; p++) assert_int_equal(begin[p], 0);
}

static void zero_costs(void **state)
{
  (void)state;
  const double cost[] = {0, 0, 0};
  int64_t      begin[3];
  ingot_partition_by_cost(3, cost, 2, begin);
  assert_int_equal(begin[0], 0);
  assert_int_equal(begin[2], 3);
}

/* Largest part of the best split of items [from, n) into `parts`, by trying everything. */
static double best(const double *cost, int from, int n, int parts)
{
  if (parts == 1) {
    double sum = 0;
    for (int i = from; i < n; i++) sum += cost[i];
    return sum;
  }
  double least = 1e300, head = 0;
  for (int cut = from; cut <= n; cut++) {
    double rest = best(cost, cut, n, parts - 1);
    double here = head > rest ? head : rest;
    if (here < least) least = here;
    if (cut < n) head += cost[cut];
  }
  return least;
}

static void optimal(void **state)
{
  (void)state;
  srand(7);
  for (int trial = 0; trial < 200; trial++) {
    double  cost[9], largest = 0;
    int64_t begin[5];
    int     n = 1 + rand() % 9, parts = 1 + rand() % 4;
    for (int i = 0; i < n; i++) cost[i] = (rand() % 5 == 0) ? 40 + rand() % 50 : rand() % 10;
    ingot_partition_by_cost(n, cost, parts, begin);
    assert_int_equal(begin[0], 0);
    assert_int_equal(begin[parts], n);
    for (int p = 0; p < parts; p++) {
      double sum = 0;
      assert_true(begin[p] <= begin[p + 1]);
      for (int64_t i = begin[p]; i < begin[p + 1]; i++) sum += cost[i];
      if (sum > largest) largest = sum;
    }
    assert_true(largest <= best(cost, 0, n, parts) * (1 + 1e-6));
  }
}

static void owners(void **state)
{
  (void)state;
  const int64_t begin[] = {0, 3, 3, 7};
  const int     owner[] = {0, 0, 0, 2, 2, 2, 2};
  for (int64_t i = 0; i < 7; i++) assert_int_equal(ingot_partition_owner(begin, 3, i), owner[i]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(hand_worked), cmocka_unit_test(more_parts_than_items),
      cmocka_unit_test(zero_costs),  cmocka_unit_test(optimal),
      cmocka_unit_test(owners),
  };
  return cmocka_run_group_tests_name("base/partition", tests, NULL, NULL);
}
