/* Float64 matrices on the CPU, for any number of threads, and where packed elements lie. */
#include "tests/check.h"

#include "kernels/linalg/input.h"
#include "tests/kernels/linalg_cases.h"

static void test_packed_row(void **state)
{
  static const int64_t widths[] = {14336, 53248, 200000};
  (void)state;
  for (int64_t n = 1; n <= 40; n++)
    for (int64_t i = 0, e = 0; i < n; i++) {
      assert_int_equal(ingot_packed_row_start(n, i), e);
      for (int64_t j = i; j < n; j++, e++) assert_int_equal(ingot_packed_row(n, e), i);
    }
  for (size_t k = 0; k < sizeof widths / sizeof *widths; k++)
    for (int64_t n = widths[k], i = 0, start = 0; i < n; start += n - i, i++) {
      assert_int_equal(ingot_packed_row_start(n, i), start);
      assert_int_equal(ingot_packed_row(n, start), i);
      assert_int_equal(ingot_packed_row(n, start + (n - i) - 1), i);
    }
}

static void with_threads(int n_thread, void (*check)(ingot_linalg *l))
{
  ingot_linalg *l = NULL;
  check_ok(ingot_linalg_open_cpu(n_thread, &l));
  check(l);
  ingot_linalg_close(&l);
  assert_null(l);
}

static void test_transfer(void **state)
{
  (void)state;
  with_threads(3, linalg_check_transfer);
}

static void test_found(void **state)
{
  (void)state;
  with_threads(1, linalg_check_found);
  with_threads(3, linalg_check_found);
}

static void test_solve(void **state)
{
  (void)state;
  with_threads(2, linalg_check_solve);
}

/* Then a failed allocation is NULL with a sanitizer too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
  return "allocator_may_return_null=1";
}

static void test_no_memory(void **state)
{
  ingot_linalg      *l = NULL;
  ingot_linalg_array huge = {0};
  (void)state;
  check_ok(ingot_linalg_open_cpu(1, &l));
  check_fails(l->ops->alloc(l, INT64_C(1) << 46, &huge), INGOT_ERR_NOMEM, "no memory for a matrix of 5629499534213");
  assert_null(huge.at);
  l->ops->free(l, &huge);
  ingot_linalg_close(&l);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_packed_row), cmocka_unit_test(test_transfer),  cmocka_unit_test(test_found),
      cmocka_unit_test(test_solve),      cmocka_unit_test(test_no_memory),
  };
  return cmocka_run_group_tests_name("linear algebra", tests, NULL, NULL);
}
