#include <math.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/philox.h"
#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("dare_linear");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("dare_linear", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, true, 0);
  method_check_parameter("dare_linear", "density", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
  method_check_parameter("dare_linear", "lambda", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("dare_linear", "normalize", INGOT_PARAM_BOOL, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("dare_linear", "rescale", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 1);
}

static void test_errors(void **state)
{
  (void)state;
  float        base[1] = {1}, a[1] = {3}, out[1];
  const float *in[] = {base, a, a};
  check_fails(method_try("dare_linear", "weight@0=2 weight@1=-2 normalize=true", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "the weights of its 2 models sum to 0");
  check_fails(method_try("dare_linear", "weight=1 density=0", 3, in, 1, out, NULL), INGOT_ERR_JOB, "outside (0, 1]");
  check_fails(method_try("dare_linear", "weight=1 rescale=l2", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "none|l1|inv_density");
}

/* Which elements are kept, one by one from the words of the generator, across blocks and tiles. */
static void test_mask(void **state)
{
  (void)state;
  const int64_t n = INGOT_TILE + 777;
  float        *base = calloc((size_t)n, sizeof *base), *ones = malloc((size_t)n * sizeof *ones);
  float        *out = malloc((size_t)n * sizeof *out);
  const float  *in[] = {base, ones, ones};
  uint64_t      key = ingot_philox_key(42, ingot_hash_string("t"), 1);
  int64_t       kept = 0;
  for (int64_t i = 0; i < n; i++) ones[i] = 1;
  method_merge("dare_linear", "weight@0=0 weight@1=1 density=0.3 rescale=none", 3, in, n, out, NULL);
  for (int64_t i = 0; i < n; i++) {
    uint32_t word[4], second[4];
    ingot_philox4x32(key, (uint64_t)i / 8, word);
    ingot_philox4x32_of(key, (uint64_t)i, 1, second);
    uint32_t half = i % 2 ? word[i % 8 / 2] >> 16 : word[i % 8 / 2] & 0xffff;
    bool     keep = ((double)half * 0x1p32 + second[0] + 1) * 0x1p-48 <= 0.3;
    assert_true(out[i] == (keep ? 1.0f : 0.0f));
    kept += keep;
  }
  assert_true(fabs((double)kept / (double)n - 0.3) < 5 * sqrt(0.21 / (double)n));
  free(base), free(ones), free(out);
}

/* What the rescaling is for: the L1 norm of what is kept, times the factor, is that of the whole task vector. */
static void test_l1_norm_is_kept(void **state)
{
  (void)state;
  const int64_t n = 2 * INGOT_TILE + 4097;
  float *base = calloc((size_t)n, sizeof *base), *a = method_random(n, 5, 1), *out = malloc((size_t)n * sizeof *out);
  const float *in[] = {base, a};
  double       whole = 0, kept = 0;
  run_report   report;
  method_merge("dare_linear", "weight=1 density=0.1", 2, in, n, out, &report);
  for (int64_t i = 0; i < n; i++) whole += fabs((double)a[i]), kept += fabs((double)out[i]);
  assert_true(fabs(kept / whole - 1) < 1e-6);
  assert_int_equal(report.n_pass, 1);
  method_merge("dare_linear", "weight=1 density=0.1 rescale=inv_density", 2, in, n, out, &report);
  assert_int_equal(report.n_pass, 0);
  free(base), free(a), free(out);
}

/* A task vector that is all dropped, or nothing to begin with, is left alone. */
static void test_nothing_left(void **state)
{
  (void)state;
  float        base[3] = {1, 2, 3}, out[3];
  const float *in[] = {base, base};
  method_merge("dare_linear", "weight=1 density=0.000001", 2, in, 3, out, NULL);
  assert_memory_equal(out, base, sizeof base);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases), cmocka_unit_test(test_parameters),      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_mask),  cmocka_unit_test(test_l1_norm_is_kept), cmocka_unit_test(test_nothing_left),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
