/* Learning weights: worked examples, and what must hold of every step. */
#include "tests/check.h"

#include <math.h>

#include "workers/ensemble/weights.h"

/* Four tokens, two models: P = [[.5,.1],[.2,.4],[.05,.3],[.6,.2]]. */
static const double P[4][2] = {{.5, .1}, {.2, .4}, {.05, .3}, {.6, .2}};

static void test_em(void **state)
{
  (void)state;
  /* Values of four steps and of the fixed point, by an independent program in float64. */
  static const double expected[4] = {-5.067206, -5.064245, -5.062913, -5.062314};
  static const double first[4] = {0.5, 0.514881, 0.524859, 0.531544};
  float               logp[8];
  double              w[2] = {0.5, 0.5}, before = -INFINITY, likelihood = 0.0;
  for (int i = 0; i < 8; i++) logp[i] = (float)log(P[i / 2][i % 2]);
  for (int step = 0; step < 200; step++) {
    double sums[2] = {0, 0};
    likelihood = 0.0;
    assert_int_equal(ingot_em_expect(2, w, 4, logp, sums, &likelihood), 4);
    if (step < 4) assert_true(fabs(likelihood - expected[step]) < 2e-6 && fabs(w[0] - first[step]) < 2e-6);
    assert_true(likelihood >= before - 1e-12);
    before = likelihood;
    for (int m = 0; m < 2; m++) w[m] = sums[m] / 4.0;
  }
  assert_true(fabs(w[0] - 0.545150) < 2e-6 && fabs(likelihood + 5.061824) < 2e-6);
  for (int m = 0; m < 2; m++) { /* at the optimum the mean of p_m / q is 1 */
    double ratio = 0.0;
    for (int t = 0; t < 4; t++) ratio += P[t][m] / (w[0] * P[t][0] + w[1] * P[t][1]) / 4.0;
    assert_true(fabs(ratio - 1.0) < 1e-5);
  }
}

static void test_em_edges(void **state)
{
  (void)state;
  const float  logp[4] = {-INFINITY, -1.0f, -INFINITY, -INFINITY};
  const double w[2] = {0.5, 0.5}, one[2] = {1.0, 0.0};
  double       sums[2] = {0, 0}, likelihood = 0.0;
  assert_int_equal(ingot_em_expect(2, w, 2, logp, sums, &likelihood), 1); /* nobody explains the second token */
  assert_true(fabs(sums[0]) < 1e-15 && fabs(sums[1] - 1.0) < 1e-15 && fabs(likelihood - (log(0.5) - 1.0)) < 1e-12);
  sums[0] = sums[1] = likelihood = 0.0;
  assert_int_equal(ingot_em_expect(2, one, 1, logp, sums, &likelihood), 0); /* a weight of 0 leaves its model out */
}

/* Log-linear loss of two models of four classes on three tokens, in float64, with derivatives by its definition. */
static const double Z[2][4] = {{2, 1, 0, -1}, {0, 2, 1, -1}};
static const int    Y[3] = {1, 1, 0};

static double loss(const double *w, double *gradient, double *hessian)
{
  double logp[2][4], s[4], total = 0.0, value = 0.0, mean[2] = {0, 0}, product[2][2] = {{0, 0}, {0, 0}};
  for (int m = 0; m < 2; m++) {
    double z = 0.0;
    for (int v = 0; v < 4; v++) z += exp(Z[m][v]);
    for (int v = 0; v < 4; v++) logp[m][v] = Z[m][v] - log(z);
  }
  for (int v = 0; v < 4; v++) total += exp(s[v] = w[0] * logp[0][v] + w[1] * logp[1][v]);
  for (int v = 0; v < 4; v++)
    for (int m = 0; m < 2; m++) {
      mean[m] += exp(s[v]) / total * logp[m][v];
      for (int k = 0; k < 2; k++) product[m][k] += exp(s[v]) / total * logp[m][v] * logp[k][v];
    }
  memset(gradient, 0, 2 * sizeof *gradient);
  for (int t = 0; t < 3; t++) {
    value += (log(total) - s[Y[t]]) / 3.0;
    for (int m = 0; m < 2; m++) gradient[m] += (mean[m] - logp[m][Y[t]]) / 3.0;
  }
  for (int m = 0; m < 2; m++)
    for (int k = 0; k < 2; k++) hessian[m * 2 + k] = product[m][k] - mean[m] * mean[k];
  return value;
}

static void test_newton(void **state)
{
  (void)state;
  const double w[2] = {0.5, 0.5}, l2 = 1e-3;
  double       gradient[2], hessian[4], best = INFINITY;
  ingot_newton s;
  ingot_newton_begin(&s, 2, w, l2);
  assert_true(s.trial[0] == w[0] && s.trial[1] == w[1]);
  while (!s.done) {
    double value = loss(s.trial, gradient, hessian);
    ingot_newton_tell(&s, value, gradient, hessian);
    assert_true(s.value <= best); /* never worse */
    best = s.value;
    assert_true(s.n_eval <= 25);
  }
  assert_true(s.converged);
  /* Finite differences of the whole objective vanish there. */
  for (int m = 0; m < 2; m++) {
    double side[2], h = 1e-4;
    for (int k = 0; k < 2; k++) {
      double at[2] = {s.at[0], s.at[1]};
      at[m] += k ? h : -h;
      side[k] = loss(at, gradient, hessian) + 0.5 * l2 * (at[0] * at[0] + at[1] * at[1]);
    }
    assert_true(fabs(side[1] - side[0]) / (2 * h) < 5e-4);
    assert_true(side[0] > s.value - 1e-12 && side[1] > s.value - 1e-12);
  }
}

static void test_newton_overshoot(void **state)
{
  (void)state;
  /* log cosh(5 x) from far out: full steps of Newton diverge, damped ones must not. */
  const double w = 2.0;
  ingot_newton s;
  ingot_newton_begin(&s, 1, &w, 0.0);
  while (!s.done) {
    double x = 5 * s.trial[0], value = fabs(x) > 300 ? fabs(x) : log(cosh(x)), gradient = 5 * tanh(x);
    double hessian = 25 * (1 - tanh(x) * tanh(x));
    ingot_newton_tell(&s, value, &gradient, &hessian);
  }
  assert_true(s.converged && fabs(s.at[0]) < 1e-3);
}

static void test_newton_not_finite(void **state)
{
  (void)state;
  const double w[2] = {0.5, 0.5}, gradient[2] = {NAN, NAN}, hessian[4] = {NAN, NAN, NAN, NAN};
  ingot_newton s;
  ingot_newton_begin(&s, 2, w, 0.0);
  ingot_newton_tell(&s, NAN, gradient, hessian);
  assert_true(s.done && !s.converged);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_em), cmocka_unit_test(test_em_edges),
                                     cmocka_unit_test(test_newton), cmocka_unit_test(test_newton_overshoot),
                                     cmocka_unit_test(test_newton_not_finite)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
