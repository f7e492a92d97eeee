/* workers/merge: the times of lanes. */
#include "tests/check.h"

#include "workers/merge.h"

/* Half a second of reading by which three lanes went on is one and a half of theirs; the step's own times are not the lanes'. */
static void test_timing_of_lanes(void **state)
{
  (void)state;
  ingot_merge_timing t = {.read_s = 0.5, .move_s = 1, .merge_s = 2, .write_s = 4, .wait_s = 8, .device_s = 3, .wall_s = 20, .cpu_s = 30, .n_lane = 1};
  ingot_timing_of_lanes(&t, 3);
  const double found[] = {t.read_s, t.move_s, t.merge_s, t.write_s, t.wait_s, t.device_s, t.wall_s, t.cpu_s};
  const double expected[] = {1.5, 3, 6, 12, 24, 9, 20, 30};
  for (size_t i = 0; i < sizeof found / sizeof *found; i++) assert_true(found[i] == expected[i]);
  assert_int_equal(t.n_lane, 3);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_timing_of_lanes)};
  return cmocka_run_group_tests_name("merge", tests, NULL, NULL);
}
