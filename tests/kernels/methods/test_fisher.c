#include <math.h>
#include <stdlib.h>

#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("fisher");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("fisher", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
  method_check_parameter("fisher", "floor", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("fisher", "floor_rule", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("fisher", "normalize", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
}

static void test_all_weights_zero(void **state)
{
  (void)state;
  float        x[2] = {1, 2}, f[2] = {1, 1}, out[2];
  const float *in[] = {x, x, f, f};
  check_fails(method_try("fisher", "weight=0", 4, in, 2, out, NULL), INGOT_ERR_JOB,
              "t: the weights of its 2 models are all 0");
  check_fails(method_try("fisher", "floor=-1", 4, in, 2, out, NULL), INGOT_ERR_JOB, "floor: -1 is outside");
}

/* Equal statistics, whatever they are, give the average. */
static void test_equal_statistics(void **state)
{
  (void)state;
  enum { N = 5000 };
  float       *a = method_random(N, 1, 1), *b = method_random(N, 2, 1), *f = method_random(N, 3, 1e-6f), out[N];
  const float *in[] = {a, b, f, f};
  for (int i = 0; i < N; i++) f[i] = f[i] * f[i];
  method_merge("fisher", "", 4, in, N, out, NULL);
  for (int i = 0; i < N; i++) {
    double mean = ((double)a[i] + (double)b[i]) / 2;
    assert_true(fabs((double)out[i] - mean) <= 1e-7 * (fabs((double)a[i]) + fabs((double)b[i])));
  }
  free(a), free(b), free(f);
}

/* Products far below float32's range still weigh. */
static void test_tiny_statistics(void **state)
{
  (void)state;
  float        a[1] = {1e-3f}, b[1] = {3e-3f}, f[1] = {3e-38f}, g[1] = {1e-38f}, out[1];
  const float *in[] = {a, b, f, g};
  method_merge("fisher", "weight=1e-5", 4, in, 1, out, NULL);
  assert_true(fabs((double)out[0] - 1.5e-3) < 1e-8);
}

/* The norms are of the whole model, over tiles and tensors; a model whose information is all 0 has no say. */
static void test_norms(void **state)
{
  (void)state;
  enum { N = 2 << 20 };
  float *a = method_random(N, 1, 1), *b = method_random(N, 2, 1), *f = malloc(N * sizeof *f), *g = calloc(N, sizeof *g);
  float *out = malloc(N * sizeof *out);
  run_report   report;
  const float *in[] = {a, b, f, g};
  assert_true(f && g && out);
  for (int i = 0; i < N; i++) f[i] = 0.5f;
  g[N - 1] = 3;
  method_merge("fisher", "normalize=l2", 4, in, N, out, &report);
  assert_int_equal(report.n_full_pass, 1);
  /* norms: 0.5 sqrt(2^21), and 3 */
  double wa = 0.5 / (0.5 * sqrt(2097152)), wb = 1, x = (double)a[N - 1], y = (double)b[N - 1];
  assert_true(fabs((double)out[N - 1] - (wa * x + wb * y) / (wa + wb)) < 1e-6);
  assert_true(out[0] == a[0]);
  g[N - 1] = 0;
  method_merge("fisher", "normalize=l2 floor=1", 4, in, N, out, &report);
  assert_true(out[N - 1] == a[N - 1]);
  free(a), free(b), free(f), free(g), free(out);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_all_weights_zero),
      cmocka_unit_test(test_equal_statistics),
      cmocka_unit_test(test_tiny_statistics),
      cmocka_unit_test(test_norms),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
