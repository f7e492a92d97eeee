#include <math.h>
#include <stdlib.h>

#include "tests/kernels/matrix_test.h"
#include "tests/kernels/method_test.h"

/* X1 = [1 0; 1 1], X2 = [0 2; 1 1]: X^T X, upper triangles, halved as means over two tokens. */
static const float        gram_1[] = {1, .5f, .5f}, gram_2[] = {.5f, .5f, 2.5f};
static const float        weight_1[] = {1, 2}, weight_2[] = {3, -1};
static const float *const weights[] = {weight_1, weight_2}, *const grams[] = {gram_1, gram_2};

static const matrix_test two = {.method = "regmean",
                                .parameters = "",
                                .n_model = 2,
                                .n_out = 1,
                                .n_in = 2,
                                .weights = weights,
                                .grams = grams,
                                .n_statistic = 2,
                                .n_thread = 1};

static void expect(const char *parameters, double a, double b)
{
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.parameters = parameters;
  check_ok(matrix_try(&m, out, &report));
  if (fabs((double)out[0] - a) > 1e-6 || fabs((double)out[1] - b) > 1e-6)
    fail_msg("%s: %.7f %.7f, expected %.7f %.7f", parameters, (double)out[0], (double)out[1], a, b);
  assert_true(report.ridge == 0 && report.n_dead == 0 && report.n_iteration == 0);
}

static void test_worked_example(void **state)
{
  (void)state;
  expect("alpha=1", 2.4285714, -.6428571);
  expect("alpha=0.9", 2.3252033, -.5975610);
  expect("", 2.3252033, -.5975610);
  expect("alpha=0", 1.6666667, -.5);
  expect("alpha=1 weight=7", 2.4285714, -.6428571);
  expect("weight@1=0", 1, 2);
}

static void test_cases(void **state)
{
  (void)state;
  matrix_check_cases("regmean", NULL);
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("regmean", "alpha", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, .9);
  method_check_parameter("regmean", "ridge", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("regmean", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
}

/* One feature, X1 = (1, 0), X2 = (2, 0): its live part is (1 * 1 + 4 * 3) / 5; the dead one gets the mean. */
static void test_dead_feature(void **state)
{
  (void)state;
  const float         g1[] = {1, 0, 0}, g2[] = {4, 0, 0};
  const float *const  both[] = {g1, g2};
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.grams = both;
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs((double)out[0] - 2.6) < 1e-6 && fabs((double)out[1] - .5) < 1e-6);
  assert_int_equal(report.n_dead, 1);
  assert_true(report.ridge == 0);
  const float        nothing[] = {0, 0, 0};
  const float *const none[] = {nothing, nothing};
  m.grams = none;
  m.parameters = "weight@0=3";
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs((double)out[0] - 1.5) < 1e-6 && fabs((double)out[1] - 1.25) < 1e-6);
  assert_int_equal(report.n_dead, 2);
}

/* Two inputs that are always equal: no unique answer until a ridge is added, which is reported. */
static void test_singular(void **state)
{
  (void)state;
  const float         g[] = {1, 1, 1};
  const float *const  both[] = {g, g};
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.grams = both;
  m.parameters = "alpha=1";
  check_ok(matrix_try(&m, out, &report));
  assert_true(report.ridge == 1e-6);
  /* the shortest of all solutions: both columns half of the mean of the weights' sums, (3 + 2) / 2 */
  assert_true(fabs((double)out[0] - 1.25) < 1e-4 && fabs((double)out[1] - 1.25) < 1e-4);
  m.parameters = "alpha=1 ridge=0.5";
  check_ok(matrix_try(&m, out, &report));
  assert_true(report.ridge == .5);
  assert_true(fabs((double)out[0] - 1) < 1e-6); /* 2 (x + y) + x = 5 and the same for y */
  m.parameters = "alpha=0.9";
  check_ok(matrix_try(&m, out, &report));
  assert_true(report.ridge == 0);
}

static void test_indefinite(void **state)
{
  (void)state;
  const float        slightly[] = {1, 1.0002f, 1}, badly[] = {1, 5, 1}, bad[] = {NAN, 0, 1};
  const float *const a[] = {slightly, slightly}, *const b[] = {badly, badly}, *const c[] = {gram_1, bad};
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.parameters = "alpha=1";
  m.grams = a;
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs(report.ridge / 1e-3 - 1) < 1e-9); /* 1e-6 and 1e-4 are not enough for 2e-4 */
  m.grams = b;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_NUMERIC,
              "w: the sum of Gram matrices [2, 2] is not positive definite (leading minor 2), even with 1 of its mean "
              "diagonal (2) added");
  m.grams = c;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_NUMERIC,
              "w: the diagonal of the sum of Gram matrices is not finite");
  const float *const unreadable[] = {gram_1, NULL};
  m.grams = unreadable;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_IO, "gram 1 cannot be read");
  m.grams = grams;
  m.parameters = "weight=0";
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_JOB, "w: the weights of its 2 models are all 0");
}

/* Without statistics: the weighted mean. */
static void test_mean(void **state)
{
  (void)state;
  float        a[2] = {1, 2}, b[2] = {3, 5}, out[2];
  const float *in[] = {a, b};
  method_merge("regmean", "weight@0=3 weight@1=1", 2, in, 2, out, NULL);
  assert_true(out[0] == 1.5f && out[1] == 2.75f);
  method_merge("regmean", "weight=0.3", 1, in, 2, out, NULL);
  assert_true(out[0] == 1 && out[1] == 2);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_worked_example), cmocka_unit_test(test_cases),    cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_dead_feature),   cmocka_unit_test(test_singular), cmocka_unit_test(test_indefinite),
      cmocka_unit_test(test_mean),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
