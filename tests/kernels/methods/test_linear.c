#include <math.h>
#include <stdlib.h>

#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("linear");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("linear", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, true, 0);
  method_check_parameter("linear", "normalize", INGOT_PARAM_BOOL, INGOT_PARAM_GLOBAL, false, 1);
}

static void test_weights_that_sum_to_zero(void **state)
{
  (void)state;
  float        a[2] = {1, 2}, b[2] = {3, 5}, out[2];
  const float *in[] = {a, b};
  check_fails(method_try("linear", "weight@0=1 weight@1=-1", 2, in, 2, out, NULL), INGOT_ERR_JOB,
              "t: the weights of its 2 models sum to 0");
  method_merge("linear", "weight@0=1 weight@1=-1 normalize=false", 2, in, 2, out, NULL);
  assert_true(out[0] == -2 && out[1] == -3);
}

static void test_equal_models_give_themselves(void **state)
{
  (void)state;
  enum { N = 5000 };
  float       *x = method_random(N, 3, 0.1f), out[N];
  const float *in[] = {x, x, x, x, x, x};
  for (int n = 1; n <= 6; n++) {
    method_merge("linear", "weight=1", n, in, N, out, NULL);
    for (int i = 0; i < N; i++) assert_true(fabsf(out[i] - x[i]) <= 4e-7f * fabsf(x[i]));
  }
  free(x);
}

static void test_many_models(void **state)
{
  (void)state;
  enum { N_MODEL = 301, N = 33 };
  float       *x[N_MODEL], out[N];
  const float *in[N_MODEL];
  for (int m = 0; m < N_MODEL; m++) in[m] = x[m] = method_random(N, (uint64_t)m, 1);
  method_merge("linear", "weight=0.25 weight@300=3", N_MODEL, in, N, out, NULL);
  for (int i = 0; i < N; i++) {
    double sum = 0;
    for (int m = 0; m < N_MODEL; m++) sum += (m == 300 ? 3 : 0.25) * (double)x[m][i];
    assert_true(fabs((double)out[i] - sum / 78) < 1e-5);
  }
  for (int m = 0; m < N_MODEL; m++) free(x[m]);
}

/* Every operation rounds to float32, in the order of families/sum.h; a fused multiply-add would give other bits. */
static void test_order_of_operations(void **state)
{
  (void)state;
  enum { N = 4099 };
  float       *a = method_random(N, 1, 1), *b = method_random(N, 2, 1), *c = method_random(N, 3, 1), out[N];
  const float *in[] = {a, b, c};
  method_merge("linear", "weight@0=0.3 weight@1=0.7 weight@2=0.1", 3, in, N, out, NULL);
  for (int i = 0; i < N; i++) {
    volatile float p0 = 0.3f * a[i], p1 = 0.7f * b[i], p2 = 0.1f * c[i];
    volatile float acc = p0 + p1;
    acc = acc + p2;
    acc = acc / (float)(0.3 + 0.7 + 0.1);
    assert_true(out[i] == acc);
  }
  free(a), free(b), free(c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_weights_that_sum_to_zero),
      cmocka_unit_test(test_equal_models_give_themselves),
      cmocka_unit_test(test_many_models),
      cmocka_unit_test(test_order_of_operations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
