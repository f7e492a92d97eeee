#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/convert.h"
#include "kernels/families/sum.h"
#include "tests/check.h"

enum { MAX_INPUT = 9, MAX_N = INGOT_BLOCK };

static const float coefs[MAX_INPUT] = {0.3f, -1.7f, 0.25f, 3.0f, -0.0f, 1e-3f, 0.9f, -2.5f, 1.0f};

/* One sum by both paths. Stored elements begin `shift` bytes into their arrays. */
typedef struct sum_case {
  ingot_sum_state *state;
  unsigned char   *stored[MAX_INPUT]; /* room for MAX_N elements and any shift */
  unsigned char   *fused, *general;
  float           *wide[MAX_INPUT], *merged;
  size_t           shift;
} sum_case;

static void *allocate(size_t bytes)
{
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  assert_non_null(memory);
  return memory;
}

static int setup(void **state)
{
  sum_case *c = allocate(sizeof *c);
  c->state = allocate(ingot_sum_state_bytes(MAX_INPUT));
  memcpy(ingot_sum_coef(c->state), coefs, sizeof coefs);
  for (int k = 0; k < MAX_INPUT; k++) {
    c->stored[k] = allocate((MAX_N + 2) * sizeof(uint16_t));
    c->wide[k] = allocate(MAX_N * sizeof(float));
  }
  c->fused = allocate((MAX_N + 2) * sizeof(uint16_t));
  c->general = allocate((MAX_N + 2) * sizeof(uint16_t));
  c->merged = allocate(MAX_N * sizeof(float));
  c->shift = 0;
  *state = c;
  return 0;
}

static int teardown(void **state)
{
  sum_case *c = *state;
  for (int k = 0; k < MAX_INPUT; k++) free(c->stored[k]), free(c->wide[k]);
  free(c->fused), free(c->general), free(c->merged), free(c->state), free(c);
  return 0;
}

static void put(sum_case *c, int input, int64_t i, uint16_t bits)
{
  memcpy(c->stored[input] + c->shift + (size_t)i * sizeof bits, &bits, sizeof bits);
}

/* Any finite bit pattern: zeros and subnormals of both signs, and values whose sums overflow, are all frequent. */
static void fill_random(sum_case *c, uint64_t seed)
{
  static const uint16_t special[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x7f7f, 0xff7f};
  for (int k = 0; k < MAX_INPUT; k++) {
    for (int64_t i = 0; i < MAX_N; i++) {
      uint32_t word[4];
      ingot_philox4x32(seed, (uint64_t)(k * MAX_N + i), word);
      uint16_t bits = (uint16_t)word[0];
      if (word[1] % 4 == 0) bits = special[word[2] % 8];
      if ((bits & 0x7f80) == 0x7f80) bits = (uint16_t)(bits ^ 0x0100);
      put(c, k, i, bits);
    }
  }
}

static bool run_fused(sum_case *c, int64_t n)
{
  const void *in[MAX_INPUT];
  for (int k = 0; k < MAX_INPUT; k++) in[k] = c->stored[k] + c->shift;
  memset(c->fused, 0x5a, (MAX_N + 2) * sizeof(uint16_t));
  return ingot_sum_apply_bf16(NULL, c->state, 0, n, in, c->fused + c->shift);
}

static void run_general(sum_case *c, int64_t n)
{
  ingot_chunk chunk = {.n = n, .in = (const float *const *)c->wide};
  for (int k = 0; k < c->state->n_input; k++) ingot_widen(INGOT_DTYPE_BF16, c->stored[k] + c->shift, c->wide[k], n);
  memset(c->general, 0x5a, (MAX_N + 2) * sizeof(uint16_t));
  ingot_sum_apply(NULL, c->state, &chunk, c->merged);
  ingot_narrow(INGOT_DTYPE_BF16, c->merged, c->general + c->shift, n);
}

/* Whole arrays are compared: what lies around the output stays as it was. */
static void check_same(sum_case *c, int64_t n)
{
  assert_true(run_fused(c, n));
  run_general(c, n);
  assert_memory_equal(c->fused, c->general, (MAX_N + 2) * sizeof(uint16_t));
}

static void test_same_bytes_as_general(void **state)
{
  sum_case          *c = *state;
  static const float divisors[] = {0, 1, 4, -0.125f, 2.3f, 0x1p-140f, 0x1p127f}; /* 0: do not divide */
  static const int   lengths[] = {1, 2, 3, 31, 64, 65, 1023, 2051, MAX_N - 1, MAX_N};
  for (c->shift = 0; c->shift < 4; c->shift++) {
    fill_random(c, 7 + c->shift);
    for (c->state->n_input = 1; c->state->n_input <= MAX_INPUT; c->state->n_input++) {
      for (size_t d = 0; d < sizeof divisors / sizeof *divisors; d++) {
        c->state->divide = divisors[d] != 0;
        c->state->divisor = c->state->divide ? divisors[d] : 1;
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) check_same(c, lengths[i]);
      }
    }
  }
}

static uint16_t fused_bits(const sum_case *c)
{
  uint16_t bits;
  memcpy(&bits, c->fused, sizeof bits);
  return bits;
}

/* Worked by hand: largest bfloat16 0x7f7f = 255 2^120, 1.0 = 0x3f80, 3 = 0x4040. */
static void test_values(void **state)
{
  sum_case *c = *state;
  *c->state = (ingot_sum_state){.n_input = 2, .divisor = 1};
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
  sum_case             *c = *state;
  static const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81};
  const int64_t         n = 1101;
  fill_random(c, 3);
  for (int divide = 0; divide < 2; divide++) {
    for (int n_input = 1; n_input <= MAX_INPUT; n_input++) {
      c->state->n_input = n_input, c->state->divide = divide, c->state->divisor = divide ? 3 : 1;
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
    cmocka_unit_test_setup_teardown(test_same_bytes_as_general, setup, teardown),
    cmocka_unit_test_setup_teardown(test_values, setup, teardown),
    cmocka_unit_test_setup_teardown(test_nonfinite_is_noticed, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
