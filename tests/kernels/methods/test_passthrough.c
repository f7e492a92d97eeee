#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("passthrough");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("passthrough", "scale", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
  assert_int_equal(ingot_method_find("passthrough")->max_models, 1);
}

/* Without a scale the bytes are copied, payloads of NaNs included. */
static void test_copy_keeps_bits(void **state)
{
  (void)state;
  uint32_t     bits[3] = {0x7fc12345u, 0xff812345u, 0x80000000u}, got[3];
  float        in_values[3], out[3];
  const float *in[] = {in_values};
  memcpy(in_values, bits, sizeof bits);
  method_merge("passthrough", "", 1, in, 3, out, NULL);
  memcpy(got, out, sizeof got);
  assert_memory_equal(got, bits, sizeof bits);
  method_merge("passthrough", "scale=2", 1, in, 3, out, NULL);
  memcpy(got, out, sizeof got);
  assert_int_equal(got[0], 0x7fc00000u); /* computed NaNs are all the same one */
  assert_int_equal(got[2], 0x80000000u);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),
      cmocka_unit_test(test_parameters),
      cmocka_unit_test(test_copy_keeps_bits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
