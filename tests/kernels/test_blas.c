/* OpenBLAS by kernels/blas.h, and what is said where a library or a function of it is missing (kernels/library.h). */
#include "tests/check.h"

#include "kernels/blas.h"
#include "kernels/library.h"

/* [1 2; 3 4] [5 6; 7 8] = [19 22; 43 50]; the factor of [4 2; 2 10] is [2 0; 1 3], as a column-major upper triangle. */
static void test_functions(void **state)
{
  (void)state;
  ingot_blas    blas;
  const float   a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
  float         c[4] = {0};
  double        s[4] = {4, 2, 2, 10}, x[2] = {4, 11}, y[4] = {0};
  const double  one[4] = {1, 2, 3, 4};
  const blasint n = 2;
  blasint       info = -1;
  check_ok(ingot_blas_load(&blas));
  blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2, 2, 2, 1, a, 2, b, 2, 0, c, 2);
  assert_true(c[0] == 19 && c[1] == 22 && c[2] == 43 && c[3] == 50);
  blas.ssyrk(CblasRowMajor, CblasUpper, CblasTrans, 2, 2, 1, a, 2, 0, c, 2);
  assert_true(c[0] == 10 && c[1] == 14 && c[3] == 20);
  blas.dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 2, 2, 2, 1, one, 2, one, 2, 0, y, 2);
  assert_true(y[0] == 5 && y[1] == 11 && y[2] == 11 && y[3] == 25);
  blas.dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, 2, 2, -1, one, 2, 1, y, 2);
  assert_true(y[0] == 0 && y[2] == 0 && y[3] == 0);
  blas.dpotrf("U", &n, s, &n, &info, 1);
  assert_true(info == 0 && s[0] == 2 && s[2] == 1 && s[3] == 3);
  blas.dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, 1, 2, 1, s, 2, x, 2); /* x L^-T */
  assert_true(x[0] == 2 && x[1] == 3);
}

static void test_one_thread(void **state)
{
  (void)state;
  ingot_blas blas;
  void      *library, *address;
  int (*threads)(void);
  check_ok(ingot_blas_load(&blas));
  check_ok(ingot_library_load("libopenblas.so.0", NULL, &library));
  check_ok(ingot_library_function(library, "libopenblas.so.0", "openblas_get_num_threads", &address));
  memcpy(&threads, &address, sizeof threads);
  assert_int_equal(threads(), 1);
}

static void test_missing(void **state)
{
  (void)state;
  void *library, *address;
  check_fails(ingot_library_load("libnone.so.7", "/no/such/folder", &library), INGOT_ERR_DEVICE,
              "the library libnone.so.7, which this step needs, could not be loaded: libnone.so.7: cannot open");
  check_ok(ingot_library_load("libm.so.6", NULL, &library));
  check_fails(ingot_library_function(library, "libm.so.6", "no_such_function", &address), INGOT_ERR_DEVICE,
              "the library libm.so.6 has no function no_such_function: another version is installed");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_functions),
      cmocka_unit_test(test_one_thread),
      cmocka_unit_test(test_missing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
