#include <math.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/philox.h"
#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("dare_ties");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("dare_ties", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, true, 0);
  method_check_parameter("dare_ties", "density", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
  method_check_parameter("dare_ties", "lambda", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("dare_ties", "normalize", INGOT_PARAM_BOOL, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("dare_ties", "rescale", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 1);
}

static void test_errors(void **state)
{
  (void)state;
  float        base[1] = {1}, a[1] = {3}, out[1];
  const float *in[] = {base, a, a};
  check_fails(method_try("dare_ties", "weight@0=2 weight@1=-2 normalize=true", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "the weights of its 2 models sum to 0");
  check_fails(method_try("dare_ties", "weight=1 density=0", 3, in, 1, out, NULL), INGOT_ERR_JOB, "outside (0, 1]");
  check_fails(method_try("dare_ties", "weight=1 rescale=l2", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "none|l1|inv_density");
}

/* With density 1 it is TIES without trimming. */
static void test_density_1_is_ties(void **state)
{
  (void)state;
  enum { N = 5000 };
  float *base = method_random(N, 1, 1), *a = method_random(N, 2, 1), *b = method_random(N, 3, 1),
        *c = method_random(N, 4, 1);
  float        out[N], ties[N];
  const float *in[] = {base, a, b, c};
  method_merge("dare_ties", "weight=0.5 weight@1=0.75 normalize=true", 4, in, N, out, NULL);
  method_merge("ties", "weight=0.5 weight@1=0.75", 4, in, N, ties, NULL);
  assert_memory_equal(out, ties, sizeof out);
  free(base), free(a), free(b), free(c);
}

/* The masks are those of dare_linear: with one model there is nothing to vote on. */
static void test_one_model_is_dare_linear(void **state)
{
  (void)state;
  enum { N = 5000 };
  float       *base = method_random(N, 1, 1), *a = method_random(N, 2, 1), out[N], linear[N];
  const float *in[] = {base, a};
  method_merge("dare_ties", "weight=0.5 density=0.3", 2, in, N, out, NULL);
  method_merge("dare_linear", "weight=0.5 density=0.3", 2, in, N, linear, NULL);
  assert_memory_equal(out, linear, sizeof out);
  free(base), free(a);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_errors),
      cmocka_unit_test(test_density_1_is_ties),
      cmocka_unit_test(test_one_model_is_dare_linear),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
