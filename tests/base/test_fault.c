/* base/fault: the failures that other tests plan. */
#include "tests/check.h"

#include "base/fault.h"

static void nothing_planned(void **state)
{
  (void)state;
  check_ok(ingot_fault_init(NULL, 0));
  for (int i = 0; i < 10; i++) check_ok(ingot_fault_check(INGOT_FAULT_WRITE));
}

static void nth_call_fails(void **state)
{
  (void)state;
  check_ok(ingot_fault_init("write@2:3", 2));
  check_ok(ingot_fault_check(INGOT_FAULT_WRITE));
  check_ok(ingot_fault_check(INGOT_FAULT_READ));
  check_ok(ingot_fault_check(INGOT_FAULT_WRITE));
  check_fails(ingot_fault_check(INGOT_FAULT_WRITE), INGOT_ERR_NOSPACE, "planned fault: write number 3");
  check_ok(ingot_fault_check(INGOT_FAULT_WRITE));
}

static void other_ranks_go_on(void **state)
{
  (void)state;
  check_ok(ingot_fault_init("read@1:1", 0));
  check_ok(ingot_fault_check(INGOT_FAULT_READ));
}

static void bad_specs(void **state)
{
  (void)state;
  check_fails(ingot_fault_init("write", 0), INGOT_ERR_USAGE, "not POINT@RANK:N");
  check_fails(ingot_fault_init("write@0:1x", 0), INGOT_ERR_USAGE, "not POINT@RANK:N");
  check_fails(ingot_fault_init("wrote@0:1", 0), INGOT_ERR_USAGE, "no point \"wrote\"");
  check_ok(ingot_fault_init("", 0));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(nothing_planned),
      cmocka_unit_test(nth_call_fails),
      cmocka_unit_test(other_ranks_go_on),
      cmocka_unit_test(bad_specs),
  };
  return cmocka_run_group_tests_name("base/fault", tests, NULL, NULL);
}
