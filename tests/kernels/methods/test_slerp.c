#include <math.h>
#include <stdlib.h>

#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("slerp");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("slerp", "t", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, true, 0);
  assert_int_equal(ingot_method_find("slerp")->base, INGOT_BASE_ENDPOINT);
}

static void test_ends_are_the_models(void **state)
{
  (void)state;
  enum { N = 9000 };
  float       *a = method_random(N, 1, 1), *b = method_random(N, 2, 1), *out = malloc(N * sizeof *out);
  const float *in[] = {a, b};
  method_merge("slerp", "t=0", 2, in, N, out, NULL);
  assert_memory_equal(out, a, N * sizeof *out);
  method_merge("slerp", "t=1", 2, in, N, out, NULL);
  for (int i = 0; i < N; i++) assert_true(fabsf(out[i] - b[i]) <= 2e-7f * (fabsf(a[i]) + fabsf(b[i])));
  free(a), free(b), free(out);
}

/* The angle of the result to the base is t times the whole angle, over several tiles. */
static void test_angle(void **state)
{
  (void)state;
  const int64_t n = INGOT_TILE + 12345;
  float        *a = method_random(n, 1, 1), *b = method_random(n, 2, 1), *out = malloc((size_t)n * sizeof *out);
  const float  *in[] = {a, b};
  double        aa = 0, bb = 0, ab = 0, rr = 0, ar = 0;
  run_report    report;
  method_merge("slerp", "t=0.3", 2, in, n, out, &report);
  for (int64_t i = 0; i < n; i++) {
    aa += (double)a[i] * a[i], bb += (double)b[i] * b[i], ab += (double)a[i] * b[i];
    rr += (double)out[i] * out[i], ar += (double)a[i] * out[i];
  }
  /* Lengths are not equal, so compare with the formula's own vector, built from the angle. */
  double angle = acos(ab / sqrt(aa * bb)), c0 = sin(0.7 * angle) / sin(angle), c1 = sin(0.3 * angle) / sin(angle);
  assert_true(fabs(rr - (c0 * c0 * aa + 2 * c0 * c1 * ab + c1 * c1 * bb)) < 1e-6 * rr);
  assert_true(fabs(ar - (c0 * aa + c1 * ab)) < 1e-6 * fabs(ar));
  assert_int_equal(report.n_pass, 1);
  free(a), free(b), free(out);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_ends_are_the_models),
      cmocka_unit_test(test_angle),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
