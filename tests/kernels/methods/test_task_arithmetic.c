#include <math.h>
#include <stdlib.h>

#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("task_arithmetic");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("task_arithmetic", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, true, 0);
  method_check_parameter("task_arithmetic", "lambda", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("task_arithmetic", "normalize", INGOT_PARAM_BOOL, INGOT_PARAM_GLOBAL, false, 0);
  assert_int_equal(ingot_method_find("task_arithmetic")->base, INGOT_BASE_TASK_VECTOR);
}

static void test_weights_that_sum_to_zero(void **state)
{
  (void)state;
  float        base[1] = {1}, a[1] = {3}, out[1];
  const float *in[] = {base, a, a};
  check_fails(method_try("task_arithmetic", "weight@0=2 weight@1=-2 normalize=true", 3, in, 1, out, NULL),
              INGOT_ERR_JOB, "set normalize = false");
  method_merge("task_arithmetic", "weight@0=2 weight@1=-2", 3, in, 1, out, NULL);
  assert_true(out[0] == 1);
}

/* A model equal to the base adds nothing, unless it takes part in the divisor. */
static void test_base_as_model(void **state)
{
  (void)state;
  enum { N = 5000 };
  float       *base = method_random(N, 1, 1), *noise = method_random(N, 2, 1), *a = method_near(base, noise, N, 0.01f);
  float        out[N], with_base[N];
  const float *in[] = {base, a, base};
  method_merge("task_arithmetic", "weight=0.6", 2, in, N, out, NULL);
  method_merge("task_arithmetic", "weight=0.6", 3, in, N, with_base, NULL);
  assert_memory_equal(out, with_base, sizeof out);
  method_merge("task_arithmetic", "weight=0.6 normalize=true", 3, in, N, with_base, NULL);
  assert_memory_not_equal(out, with_base, sizeof out);
  free(base), free(noise), free(a);
}

static void test_order_of_operations(void **state)
{
  (void)state;
  enum { N = 4099, N_MODEL = 6 };
  float       *x[1 + N_MODEL], out[N];
  const float *in[1 + N_MODEL];
  for (int m = 0; m <= N_MODEL; m++) in[m] = x[m] = method_random(N, (uint64_t)m, 1);
  method_merge("task_arithmetic", "weight=0.3 weight@4=-0.2 lambda=0.9 normalize=true", 1 + N_MODEL, in, N, out, NULL);
  for (int i = 0; i < N; i++) {
    volatile float acc = 0;
    for (int m = 1; m <= N_MODEL; m++) {
      volatile float tau = x[m][i] - x[0][i], y = (m == 5 ? -0.2f : 0.3f) * tau;
      acc = acc + y;
    }
    acc = acc / (float)(0.3 + 0.3 + 0.3 + 0.3 - 0.2 + 0.3);
    volatile float scaled = 0.9f * acc;
    assert_true(out[i] == x[0][i] + scaled);
  }
  for (int m = 0; m <= N_MODEL; m++) free(x[m]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_weights_that_sum_to_zero),
      cmocka_unit_test(test_base_as_model),
      cmocka_unit_test(test_order_of_operations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
