#include <math.h>
#include <stdlib.h>

#include "tests/kernels/matrix_test.h"
#include "tests/kernels/method_test.h"

/*
 * The worked example has X of in x out: A1 X B1 + A2 X B2 = A1 X1 B1 + A2 X2 B2. Weights here are out x in: W = X^T.
 * X1 = I, X2 = [0 2; 1 0].
 */
static const float        a1[] = {2, .5f, 1}, a2[] = {1, -.25f, 1.5f}, b1[] = {1, 0, .5f}, b2[] = {.5f, .25f, 1};
static const float        w1[] = {1, 0, 0, 1}, w2[] = {0, 1, 2, 0};
static const float *const weights[] = {w1, w2}, *const kfac[] = {a1, a2, b1, b2};

static const matrix_test two = {.method = "mats",
                                .n_model = 2,
                                .n_out = 2,
                                .n_in = 2,
                                .weights = weights,
                                .grams = kfac,
                                .n_statistic = 4,
                                .n_thread = 1};

/* expected: X by rows, in x out. */
static void expect(const char *parameters, const double *x, double norm_of_residual, int64_t n_iteration)
{
  const double        norm_of_b = 3.440;
  float               out[4];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.parameters = parameters;
  check_ok(matrix_try(&m, out, &report));
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++)
      if (fabs((double)out[j * 2 + i] - x[i * 2 + j]) > 1.5e-6)
        fail_msg("%s: X[%d][%d] is %.7f, expected %.7f", parameters, i, j, (double)out[j * 2 + i], x[i * 2 + j]);
  assert_int_equal(report.n_iteration, n_iteration);
  if (norm_of_residual >= 0) assert_true(fabs(report.residual * norm_of_b - norm_of_residual) < 5e-4);
}

static void test_worked_example(void **state)
{
  (void)state;
  const double first[] = {.91633, .843988, .434051, .144684}, second[] = {.78728, 1.015822, .45301, .137082};
  const double solution[] = {.778927, 1.011578, .486213, .120677}, from_mean[] = {.809785, 1.040407, .473062, .163277};
  expect("metric=kfac start=zeros iterations=1", first, .410, 1);
  expect("metric=kfac start=zeros iterations=2", second, .0551, 2);
  expect("metric=kfac start=zeros tolerance=1e-9", solution, 0, 4);
  expect("metric=kfac tolerance=1e-9", solution, 0, 4);
  expect("metric=kfac start=mean iterations=1", from_mean, -1, 1);
}

static void test_cases(void **state)
{
  (void)state;
  matrix_check_cases("mats", NULL);
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("mats", "metric", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("mats", "start", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("mats", "alpha", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("mats", "iterations", INGOT_PARAM_INT, INGOT_PARAM_GLOBAL, false, 100);
  method_check_parameter("mats", "tolerance", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1e-5);
  method_check_parameter("mats", "rest", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("mats", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
}

/* With Gram matrices of inputs it is RegMean's system; with diagonal ones the elements are Fisher's. */
static void test_like_regmean_and_fisher(void **state)
{
  (void)state;
  const float        g1[] = {1, .5f, .5f}, g2[] = {.5f, .5f, 2.5f}, u[] = {1, 2}, v[] = {3, -1};
  const float *const grams[] = {g1, g2}, *const rows[] = {u, v};
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = {.method = "mats",
                           .n_model = 2,
                           .n_out = 1,
                           .n_in = 2,
                           .weights = rows,
                           .grams = grams,
                           .n_statistic = 2,
                           .n_thread = 1,
                           .parameters = "tolerance=1e-12"};
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs((double)out[0] - 2.4285714) < 1e-6 && fabs((double)out[1] + .6428571) < 1e-6);
  assert_false(report.unfinished);
  m.parameters = "tolerance=1e-12 alpha=0";
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs((double)out[0] - 1.6666667) < 1e-6 && fabs((double)out[1] + .5) < 1e-6);
}

/* The null space keeps the start: a dead feature and a direction that no input has. */
static void test_singular(void **state)
{
  (void)state;
  const float        g[] = {1, 1, 0, 1, 0, 0}, u[] = {1, 2, 3}, v[] = {3, -1, 5}, base[] = {10, 20, 30};
  const float *const grams[] = {g, g}, *const rows[] = {u, v};
  float               out[3];
  ingot_matrix_report report;
  matrix_test         m = {.method = "mats",
                           .n_model = 2,
                           .n_out = 1,
                           .n_in = 3,
                           .weights = rows,
                           .grams = grams,
                           .n_statistic = 2,
                           .n_thread = 1,
                           .parameters = "start=zeros"};
  check_ok(matrix_try(&m, out, &report)); /* x + y = 5/2 */
  assert_true(fabs((double)out[0] - 1.25) < 1e-6 && fabs((double)out[1] - 1.25) < 1e-6 && out[2] == 0);
  m.parameters = "start=base";
  m.base = base;
  check_ok(matrix_try(&m, out, &report));
  assert_true(fabs((double)out[0] + 3.75) < 1e-5 && fabs((double)out[1] - 6.25) < 1e-5 && out[2] == 30);
}

static void test_stops(void **state)
{
  (void)state;
  const float        g[] = {-1, 0, -1}, near[] = {1, 1.0002f, 1}, bad[] = {NAN, 0, 1}, u[] = {1, 2}, v[] = {3, -1};
  const float *const grams[] = {g, g}, *const singular[] = {near, near}, *const broken[] = {g, bad},
                     *const rows[] = {u, v};
  float                     out[2];
  ingot_matrix_report       report;
  matrix_test               m = {.method = "mats",
                                 .n_model = 2,
                                 .n_out = 1,
                                 .n_in = 2,
                                 .weights = rows,
                                 .grams = grams,
                                 .n_statistic = 2,
                                 .n_thread = 1,
                                 .parameters = "start=zeros"};
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_NUMERIC,
              "w: the sum of the models' matrices is not positive: a direction has the curvature -2, others up to 2");
  m.grams = singular; /* curvatures 2.0002 along (1, 1), -0.0002 along (1, -1): the mean (2, 1/2) but for the second */
  check_ok(matrix_try(&m, out, &report));
  assert_true(report.unfinished && report.n_iteration == 1);
  assert_true(fabs((double)out[0] - 1.25) < 1e-3 && fabs((double)out[1] - 1.25) < 1e-3);
  m.grams = grams;
  m.parameters = "start=mean iterations=0";
  check_ok(matrix_try(&m, out, &report));
  assert_true(out[0] == 2 && out[1] == .5f && report.n_iteration == 0);
  m.grams = broken;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_NUMERIC, "w: the right-hand side is not finite");
}

static void test_base(void **state)
{
  (void)state;
  float               out[4];
  ingot_matrix_report report;
  matrix_test         m = two;
  m.parameters = "metric=kfac start=base";
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_JOB, "w: start = \"base\" needs the step to have a base");
  m.parameters = "metric=kfac";
  m.base = w1;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_JOB, "this start has no use for one");
}

/* rest = start: tensors without a metric are the base's, bit for bit, whatever the models have. */
static void test_rest(void **state)
{
  (void)state;
  static const char *const parameters[] = {"start=base rest=start", "metric=fisher start=base rest=start"};
  const float              base[] = {-.0f, 3e38f, 1e-40f}, a[] = {1, 2, INFINITY}, b[] = {3, 5, 7};
  const void *const        in[] = {base, a, b};
  const ingot_dtype        dtypes[] = {INGOT_DTYPE_F32, INGOT_DTYPE_F32, INGOT_DTYPE_F32};
  float                    out[3];
  double                   global[16], per_model[16];
  run_tensor               tensor =
      {.name = "w", .shape = {1, {3}}, .in = in, .in_dtype = dtypes, .out = out, .out_dtype = INGOT_DTYPE_F32};
  run_setup r = {.method = ingot_method_find("mats"),
                 .tensors = &tensor,
                 .n_tensor = 1,
                 .n_model = 2,
                 .has_base = true,
                 .global = global,
                 .per_model = per_model};
  for (int i = 0; i < 2; i++) {
    check_ok(run_parameters(r.method, 2, parameters[i], global, per_model));
    check_ok(run_method(&r, NULL));
    assert_memory_equal(out, base, sizeof base);
  }
  check_ok(run_parameters(r.method, 2, "start=base rest=mean", global, per_model));
  check_ok(run_method(&r, NULL));
  assert_true(out[0] == 2 && out[1] == 3.5f);
  r.has_base = false;
  tensor.in = in + 1;
  check_ok(run_parameters(r.method, 2, "rest=start", global, per_model));
  check_fails(run_method(&r, NULL), INGOT_ERR_JOB,
              "w: rest = \"start\" takes what the base has, and needs start = \"base\"");
}

/* Without statistics: the weighted mean. */
static void test_mean(void **state)
{
  (void)state;
  float        a[2] = {1, 2}, b[2] = {3, 5}, out[2];
  const float *in[] = {a, b};
  method_merge("mats", "weight@0=3 weight@1=1", 2, in, 2, out, NULL);
  assert_true(out[0] == 1.5f && out[1] == 2.75f);
  method_merge("mats", "metric=fisher weight@0=3 weight@1=1", 2, in, 2, out, NULL);
  assert_true(out[0] == 1.5f && out[1] == 2.75f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_worked_example), cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),     cmocka_unit_test(test_like_regmean_and_fisher),
      cmocka_unit_test(test_singular),       cmocka_unit_test(test_stops),
      cmocka_unit_test(test_base),           cmocka_unit_test(test_rest),
      cmocka_unit_test(test_mean),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
