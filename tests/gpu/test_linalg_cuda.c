/*
 * Matrices on the GPU: what every back end must do, every operation of kernels/linalg against the CPU, and the merges'
 * reference numbers. One handle for all of it. For compute-sanitizer: --brief, the first alone; --transfers, of these
 * what has none of the libraries' kernels.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/device.h"
#include "kernels/linalg/linalg.h"
#include "tests/kernels/linalg_cases.h"
#include "tests/kernels/matrix_test.h"

static void fill(float *v, int64_t n, uint64_t seed)
{
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4];
    ingot_philox4x32(seed, (uint64_t)i, word);
    v[i] = (float)word[0] / 4294967296.0f - 0.5f;
  }
}

/* A packed matrix that is positive definite. */
static float *make_gram(int64_t n, uint64_t seed)
{
  float *g = malloc((size_t)ingot_linalg_packed_count(n) * sizeof *g);
  assert_non_null(g);
  fill(g, ingot_linalg_packed_count(n), seed);
  for (int64_t i = 0, at = 0; i < n; at += n - i, i++) g[at] = (float)n;
  return g;
}

static ingot_status keep_result(void *context, int64_t first, int64_t n, const float *values)
{
  memcpy((float *)context + first, values, (size_t)n * sizeof *values);
  return INGOT_OK;
}

/* What one back end makes of the same numbers: y [m][n] after sums, products, a factorisation and a solve. */
static void work(ingot_linalg *l, int64_t m, int64_t n, const float *gram, const float *weights, float *y, double *dot)
{
  const ingot_linalg_ops *ops = l->ops;
  ingot_linalg_array      s = {0}, x = {0}, r = {0}, t = {0};
  ingot_linalg_input      packed = {.form = INGOT_LINALG_PACKED,
                                    .dtype = INGOT_DTYPE_F32,
                                    .rows = n,
                                    .columns = n,
                                    .alpha = 0.5};
  ingot_linalg_input      rows = {.form = INGOT_LINALG_ROWS, .dtype = INGOT_DTYPE_F32, .rows = m, .columns = n};
  ingot_linalg_found      found;
  double                 *column = malloc((size_t)m * sizeof *column), ridge = 0;
  assert_non_null(column);
  check_ok(ops->alloc(l, n * n, &s));
  check_ok(ops->alloc(l, m * n, &x));
  check_ok(ops->alloc(l, m * n, &r));
  check_ok(ops->alloc(l, n * n, &t));
  check_ok(ingot_linalg_load(l, &packed, gram, &s, &found));
  check_ok(ingot_linalg_load(l, &rows, weights, &x, &found));
  check_ok(ops->multiply(l, m, n, n, 0.25, &x, &s, 0, &r));
  check_ok(ops->multiply(l, m, n, n, 2, &x, &s, 1, &r));
  check_ok(ops->axpby(l, m * n, -0.5, &x, 3, &r));
  check_ok(ops->get_column(l, m, n, n - 1, &x, column));
  check_ok(ops->set_column(l, m, n, 0, column, &r));
  check_ok(ops->dot(l, m * n, &x, &r, dot));
  check_ok(ingot_linalg_factor_ridge(l, "s", n, &s, &ridge));
  assert_true(ridge == 0);
  check_ok(ops->solve(l, m, n, &s, &r));
  check_ok(ops->mirror(l, n, &s)); /* the upper triangle has stayed */
  check_ok(ops->copy(l, &s, n * n, &t));
  check_ok(ops->multiply(l, m, n, n, 1, &x, &t, 1, &r));
  check_ok(ops->give(l, m, n, &r, INGOT_LINALG_ROWS, keep_result, y));
  ops->free(l, &s);
  ops->free(l, &x);
  ops->free(l, &r);
  ops->free(l, &t);
  free(column);
}

static void test_like_cpu(void **state)
{
  static const int64_t sizes[][2] = {{64, 1100}, {1, 1}, {3, 7}, {7, 3}, {70, 127}, {257, 513}, {300, 1000}};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    int64_t       m = sizes[k][0], n = sizes[k][1];
    float        *gram = make_gram(n, 1 + k), *w = malloc((size_t)(m * n) * sizeof *w);
    float        *a = malloc((size_t)(m * n) * sizeof *a), *b = malloc((size_t)(m * n) * sizeof *b);
    double        dot_a, dot_b;
    ingot_linalg *cpu = NULL;
    assert_true(w && a && b);
    fill(w, m * n, 100 + k);
    check_ok(ingot_linalg_open_cpu(2, &cpu));
    work(cpu, m, n, gram, w, a, &dot_a);
    work(*state, m, n, gram, w, b, &dot_b);
    assert_true(fabs(dot_a - dot_b) <= 1e-10 * fabs(dot_a));
    for (int64_t i = 0; i < m * n; i++) assert_true(fabsf(a[i] - b[i]) <= 1e-6f * (1 + fabsf(a[i])));
    ingot_linalg_close(&cpu);
    free(gram), free(w), free(a), free(b);
  }
}

static void test_transfer(void **state)
{
  linalg_check_transfer(*state);
}

static void test_found(void **state)
{
  linalg_check_found(*state);
}

static void test_solve(void **state)
{
  linalg_check_solve(*state);
}

static void test_reference(void **state)
{
  matrix_check_cases("regmean", *state);
  matrix_check_cases("mats", *state);
}

static void test_failures(void **state)
{
  const float        singular[] = {1, 1, 1}, indefinite[] = {1, 5, 1};
  const float        w1[] = {1, 2}, w2[] = {3, -1};
  const float *const weights[] = {w1, w2}, *const a[] = {singular, singular}, *const b[] = {indefinite, indefinite};
  float               out[2];
  ingot_matrix_report report;
  matrix_test         m = {.method = "regmean",
                           .parameters = "alpha=1",
                           .n_model = 2,
                           .n_out = 1,
                           .n_in = 2,
                           .weights = weights,
                           .grams = a,
                           .n_statistic = 2,
                           .linalg = *state};
  check_ok(matrix_try(&m, out, &report));
  assert_true(report.ridge == 1e-6);
  m.grams = b;
  check_fails(matrix_try(&m, out, &report), INGOT_ERR_NUMERIC, "not positive definite");
  ingot_linalg      *l = *state;
  ingot_linalg_array huge = {0};
  check_fails(l->ops->alloc(l, INT64_C(1) << 42, &huge), INGOT_ERR_NOMEM, "no GPU memory");
}

int main(int argc, char **argv)
{
  ingot_linalg *l = NULL;
  bool          transfers = argc > 1 && strcmp(argv[1], "--transfers") == 0;
  bool          brief = transfers || (argc > 1 && strcmp(argv[1], "--brief") == 0);
  if (ingot_device_count() == 0) {
    printf("skipped: there is no GPU\n");
    return 77;
  }
  if (ingot_linalg_open_cuda(0, &l) != INGOT_OK) {
    printf("%s\n", ingot_error_message());
    return 1;
  }
  const struct CMUnitTest first[] = {
      cmocka_unit_test_prestate(test_transfer, l),
      cmocka_unit_test_prestate(test_found, l),
  };
  const struct CMUnitTest solve[] = {cmocka_unit_test_prestate(test_solve, l)};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_like_cpu, l),
      cmocka_unit_test_prestate(test_reference, l),
      cmocka_unit_test_prestate(test_failures, l),
  };
  int failed = cmocka_run_group_tests_name("matrices in and out of the GPU", first, NULL, NULL);
  if (!transfers) failed += cmocka_run_group_tests_name("matrices on the GPU", solve, NULL, NULL);
  if (!brief) failed += cmocka_run_group_tests_name("matrices on the GPU against the CPU", tests, NULL, NULL);
  ingot_linalg_close(&l);
  return failed;
}
