/* base/fault: the failures that other tests plan. */
#define _POSIX_C_SOURCE 200809L
#include "tests/check.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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

static volatile sig_atomic_t signals;
static void                  count_signal(int number)
{
  (void)number;
  signals++;
}

static void stop_is_a_signal(void **state)
{
  (void)state;
  struct sigaction action = {.sa_handler = count_signal}, before;
  assert_int_equal(sigaction(SIGTERM, &action, &before), 0);
  check_ok(ingot_fault_init("stop@0:2", 0));
  check_ok(ingot_fault_check(INGOT_FAULT_STOP));
  assert_int_equal(signals, 0);
  check_ok(ingot_fault_check(INGOT_FAULT_STOP));
  assert_int_equal(signals, 1);
  check_ok(ingot_fault_check(INGOT_FAULT_STOP));
  assert_int_equal(signals, 1);
  assert_int_equal(sigaction(SIGTERM, &before, NULL), 0);
}

static void kills_are_kills(void **state)
{
  static const struct {
    const char       *spec;
    ingot_fault_point point;
  } kills[] = {{"kill@0:2", INGOT_FAULT_KILL}, {"list@0:2", INGOT_FAULT_LIST}, {"tidy@0:2", INGOT_FAULT_TIDY}};
  (void)state;
  for (size_t i = 0; i < sizeof kills / sizeof *kills; i++) {
    int   how;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      if (ingot_fault_init(kills[i].spec, 0) != INGOT_OK || ingot_fault_check(kills[i].point) != INGOT_OK) _exit(1);
      (void)ingot_fault_check(kills[i].point);
      _exit(2);
    }
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how));
    assert_int_equal(WTERMSIG(how), SIGKILL);
  }
}

/* The wait is the kernel's to keep: it is never shorter than asked for. */
static void slow_waits_on_every_rank(void **state)
{
  struct timespec before, after;
  (void)state;
  check_ok(ingot_fault_init("slow@-1:30", 5));
  clock_gettime(CLOCK_MONOTONIC, &before);
  for (int i = 0; i < 2; i++) check_ok(ingot_fault_check(INGOT_FAULT_SLOW));
  clock_gettime(CLOCK_MONOTONIC, &after);
  long long ns = (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec;
  assert_true(ns >= 60000000LL);
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
      cmocka_unit_test(nothing_planned),  cmocka_unit_test(nth_call_fails),  cmocka_unit_test(other_ranks_go_on),
      cmocka_unit_test(stop_is_a_signal), cmocka_unit_test(kills_are_kills), cmocka_unit_test(slow_waits_on_every_rank),
      cmocka_unit_test(bad_specs),
  };
  return cmocka_run_group_tests_name("base/fault", tests, NULL, NULL);
}
