#include "tests/kernels/families/block_case.h"

#include "kernels/families/sum.h"

enum { MAX_COEF = 9 };

static const float coefs[MAX_COEF] = {0.3f, -1.7f, 0.25f, 3.0f, -0.0f, 1e-3f, 0.9f, -2.5f, 1.0f};

static ingot_sum_state *sum_state(const block_case *c)
{
  return c->state;
}

static int setup(void **state)
{
  block_case *c = block_begin(ingot_sum_state_bytes(MAX_COEF));
  memcpy(ingot_sum_coef(c->state), coefs, sizeof coefs);
  *state = c;
  return 0;
}

/* Any finite bit pattern: zeros and subnormals of both signs, and values whose sums overflow, are all frequent. */
static void fill_random(block_case *c, uint64_t seed)
{
  for (int k = 0; k < MAX_COEF; k++) {
    for (int64_t i = 0; i < MAX_N; i++) {
      uint32_t word[4];
      ingot_philox4x32(seed, (uint64_t)(k * MAX_N + i), word);
      put(c, k, i, block_finite(block_random_bits(word, 4)));
    }
  }
}

static bool run_fused(block_case *c, int64_t n)
{
  const void *in[MAX_INPUT];
  block_before_fused(c, in);
  return ingot_sum_apply_bf16(NULL, c->state, 0, n, in, c->fused + c->shift);
}

static void run_general(block_case *c, int64_t n)
{
  ingot_chunk chunk = {.n = n, .in = (const float *const *)c->wide};
  block_before_general(c, sum_state(c)->n_input, n);
  ingot_sum_apply(NULL, c->state, &chunk, c->merged);
  block_after_general(c, n);
}

/* Whole arrays are compared: what lies around the output stays as it was. */
static void check_same(block_case *c, int64_t n)
{
  assert_true(run_fused(c, n));
  run_general(c, n);
  assert_memory_equal(c->fused, c->general, OUT_BYTES);
}

static void test_same_bytes_as_general(void **state)
{
  block_case        *c = *state;
  static const float divisors[] = {0, 1, 4, -0.125f, 2.3f, 0x1p-140f, 0x1p127f}; /* 0: do not divide */
  static const int   lengths[] = {1, 2, 3, 31, 64, 65, 1023, 2051, MAX_N - 1, MAX_N};
  for (c->shift = 0; c->shift < 4; c->shift++) {
    fill_random(c, 7 + c->shift);
    for (sum_state(c)->n_input = 1; sum_state(c)->n_input <= MAX_COEF; sum_state(c)->n_input++) {
      for (size_t d = 0; d < sizeof divisors / sizeof *divisors; d++) {
        sum_state(c)->divide = divisors[d] != 0;
        sum_state(c)->divisor = sum_state(c)->divide ? divisors[d] : 1;
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) check_same(c, lengths[i]);
      }
    }
  }
}

/* Worked by hand: largest bfloat16 0x7f7f = 255 2^120, 1.0 = 0x3f80, 3 = 0x4040. */
static void test_values(void **state)
{
  block_case *c = *state;
  *sum_state(c) = (ingot_sum_state){.n_input = 2, .divisor = 1};
  ingot_sum_coef(c->state)[0] = 2, ingot_sum_coef(c->state)[1] = 1;
  put(c, 0, 0, 0x3f80), put(c, 1, 0, 0x3f80);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x4040); /* 2 + 1 */
  put(c, 0, 0, 0x7f7f);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x7f80); /* overflows in the first product */
  ingot_sum_coef(c->state)[1] = -2;
  put(c, 1, 0, 0x7f7f);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x7fc0); /* infinity - infinity: the one NaN */
  put(c, 0, 0, 0x0001), put(c, 1, 0, 0x0000);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x0002); /* subnormals are kept */
  put(c, 0, 0, 0x8000);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x8000); /* 2 (-0) + (-2) 0 = -0 */
}

/* One value that is not finite, in any input and at any place of a vector, is noticed; beyond n it is not looked at. */
static void test_nonfinite_is_noticed(void **state)
{
  block_case           *c = *state;
  static const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81};
  const int64_t         n = 1101;
  fill_random(c, 3);
  for (int divide = 0; divide < 2; divide++) {
    for (int n_input = 1; n_input <= MAX_COEF; n_input++) {
      sum_state(c)->n_input = n_input, sum_state(c)->divide = divide, sum_state(c)->divisor = divide ? 3 : 1;
      assert_true(run_fused(c, n));
      for (int64_t i = 0; i <= n; i += i < 70 ? 1 : 1030 - 70 + 1) {
        int input = (int)(i % n_input);
        put(c, input, i, bad[i % 5]);
        assert_false(run_fused(c, i + 1));
        if (i > 0) assert_true(run_fused(c, i));
        put(c, input, i, 0x3f80);
      }
    }
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_same_bytes_as_general, setup, block_end),
      cmocka_unit_test_setup_teardown(test_values, setup, block_end),
      cmocka_unit_test_setup_teardown(test_nonfinite_is_noticed, setup, block_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
