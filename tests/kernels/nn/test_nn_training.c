/* AdamW, norms of gradients, conversions. */
#include "tests/kernels/nn/nn_worked.h"

#include <stdlib.h>

#include "tests/kernels/nn/nn_cases.h"

/* rate 1e-3, betas 0.9 and 0.95, decay 0.1; gradients 0.5 and -0.2. */
static void test_adamw(void **state)
{
  ingot_nn      *nn = *state;
  ingot_nn_adamw how = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 1};
  float          master = 1, m = 0, v = 0, weight = NAN, g = 0.5f;
  check_ok(nn->ops->adamw(nn, &how, 1, &g, &master, &m, &v, &weight));
  nn_worked_check("m", &m, (const double[]){0.05}, 1, 3e-8);
  nn_worked_check("v", &v, (const double[]){0.0125}, 1, 3e-8);
  nn_worked_check("master", &master, (const double[]){0.99890000002}, 1, 6e-8);
  assert_true(weight == master);
  how.step = 2;
  how.gradient_scale = 0.5f;
  g = -0.4f;
  check_ok(nn->ops->adamw(nn, &how, 1, &g, &master, &m, &v, NULL));
  nn_worked_check("m", &m, (const double[]){0.025}, 1, 3e-8);
  nn_worked_check("v", &v, (const double[]){0.013875}, 1, 3e-8);
  nn_worked_check("master", &master, (const double[]){0.9984513134}, 1, 1.2e-7);
  assert_true(weight != master);
}

/* Clipped to norm 1: (3, 4, 12) has norm 13, and without decay the first step is the rate in the gradient's
 * direction. */
static void test_clip(void **state)
{
  ingot_nn   *nn = *state;
  const float g[3] = {3, 4, 12};
  float       master[3] = {0}, m[3] = {0}, v[3] = {0};
  double      sum;
  check_ok(nn->ops->sum_squares(nn, 3, g, &sum));
  assert_true(sum == 169);
  ingot_nn_adamw how = {1, 0, 0.5f, 1, 0, (float)(1 / sqrt(sum)), 1}; /* beta1 0: m is the clipped gradient */
  check_ok(nn->ops->adamw(nn, &how, 3, g, master, m, v, NULL));
  nn_worked_check("m", m, (const double[]){0.230769, 0.307692, 0.923077}, 3, 1e-6);
  /* debiased v is the square: g / (|g| + 1) */
  nn_worked_check("master", master, (const double[]){-0.1875, -0.2352941, -0.48}, 3, 1e-6);
}

/* A slice gives the bits that the whole gives; against the formula in float64, over several steps. */
static void test_adamw_slices(void **state)
{
  enum { N = 40001, STEPS = 4 };
  static float  g[N], master[N], m[N], v[N], weight[N], part[N], part_m[N], part_v[N];
  static double w[N], dm[N], dv[N];
  ingot_nn     *nn = *state;
  for (int i = 0; i < N; i++) {
    master[i] = part[i] = nn_case_value(1, i);
    w[i] = (double)master[i];
  }
  for (int step = 1; step <= STEPS; step++) {
    const ingot_nn_adamw how = {0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 0.5f, step};
    for (int i = 0; i < N; i++) {
      g[i] = i % 7 ? nn_case_value((uint32_t)(1 + step), i) : 0;
      const double x = 0.5 * (double)g[i];
      dm[i] = 0.9 * dm[i] + 0.1 * x;
      dv[i] = 0.95 * dv[i] + 0.05 * x * x;
      const double mean = dm[i] / (1 - pow(0.9, step)), square = dv[i] / (1 - pow(0.95, step));
      w[i] -= 0.01 * (mean / (sqrt(square) + 1e-8) + 0.1 * w[i]);
    }
    check_ok(nn->ops->adamw(nn, &how, N, g, master, m, v, weight));
    for (int first = 0, n = 0; first < N; first += n) {
      n = first + 777 < N ? 777 : N - first;
      check_ok(nn->ops->adamw(nn, &how, n, g + first, part + first, part_m + first, part_v + first, NULL));
    }
  }
  assert_memory_equal(master, part, sizeof master);
  assert_memory_equal(m, part_m, sizeof m);
  assert_memory_equal(v, part_v, sizeof v);
  assert_memory_equal(master, weight, sizeof master);
  nn_worked_check("master", master, w, N, 2e-6);
}

static void test_sum_squares(void **state)
{
  enum { N = 100003 };
  ingot_nn *nn = *state;
  float    *x = malloc(N * sizeof *x);
  double    expected = 0, sum = -1;
  assert_non_null(x);
  for (int i = 0; i < N; i++) {
    x[i] = 1e20f * nn_case_value(1, i); /* squares that float32 does not hold */
    expected += (double)x[i] * (double)x[i];
  }
  check_ok(nn->ops->sum_squares(nn, N, x, &sum));
  assert_true(fabs(sum / expected - 1) < 1e-12);
  check_ok(nn->ops->sum_squares(nn, 0, x, &sum));
  assert_true(sum == 0);
  x[N - 1] = NAN;
  check_ok(nn->ops->sum_squares(nn, N, x, &sum));
  assert_true(isnan(sum));
  free(x);
}

static void test_conversions(void **state)
{
  ingot_nn   *nn = *state;
  const float x[3] = {1, -2.5f, 1e30f};
  float       y[3] = {0}, z[3] = {0};
  check_ok(nn->ops->round_to(nn, 3, x, y));
  check_ok(nn->ops->widen(nn, 3, y, z));
  assert_memory_equal(x, y, sizeof x);
  assert_memory_equal(x, z, sizeof x);
  check_ok(nn->ops->widen(nn, 3, z, z));
  assert_memory_equal(x, z, sizeof x);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_adamw),       cmocka_unit_test(test_clip),        cmocka_unit_test(test_adamw_slices),
      cmocka_unit_test(test_sum_squares), cmocka_unit_test(test_conversions),
  };
  return cmocka_run_group_tests(tests, nn_worked_open, nn_worked_close);
}
