#include "tests/kernels/families/block_case.h"

#include "kernels/families/delta.h"

enum { MAX_MODEL = 9, FIRST = 3 * INGOT_BLOCK };

static const float weights[MAX_MODEL] = {0.3f, -1.7f, 0.25f, 3.0f, 0.0f, 1e-3f, 0.9f, -2.5f, 1.0f};

/* Input 0 is the base. */
static ingot_delta_state *delta_state(const block_case *c)
{
  return c->state;
}

static int setup(void **state)
{
  *state = block_begin(ingot_delta_state_bytes(MAX_MODEL));
  return 0;
}

/*
 * Any finite bit pattern, or with `small` any magnitude below 2, of which no sum overflows; a model's element is often
 * the base's, its opposite, or next to it, so that sums vanish often.
 */
static void fill_random(block_case *c, uint64_t seed, bool small)
{
  uint16_t base[MAX_N];
  for (int k = 0; k <= MAX_MODEL; k++) {
    for (int64_t i = 0; i < MAX_N; i++) {
      uint32_t word[4];
      ingot_philox4x32(seed, (uint64_t)(k * MAX_N + i), word);
      uint16_t bits = block_random_bits(word, 8);
      if (k && word[1] % 8 > 0 && word[1] % 8 < 6)
        bits = (uint16_t)(base[i] ^ (word[3] % 4 == 0 ? 0x8000 : word[3] >> 2 & 3));
      bits = small ? (uint16_t)(bits & ~0x4000u) : block_finite(bits);
      if (k == 0) base[i] = bits;
      put(c, k, i, bits);
    }
  }
}

static bool run_fused(block_case *c, int64_t n)
{
  const void *in[MAX_INPUT];
  block_before_fused(c, in);
  return ingot_delta_apply_bf16(NULL, c->state, FIRST, n, in, c->fused + c->shift);
}

static void run_general(block_case *c, int64_t n)
{
  ingot_chunk chunk = {.first = FIRST, .n = n, .in = (const float *const *)c->wide};
  block_before_general(c, delta_state(c)->n_model + 1, n);
  ingot_delta_apply(NULL, c->state, &chunk, c->merged);
  block_after_general(c, n);
}

/* Whole arrays are compared: what lies around the output stays as it was. */
static void check_same(block_case *c, int64_t n)
{
  assert_true(run_fused(c, n));
  run_general(c, n);
  assert_memory_equal(c->fused, c->general, OUT_BYTES);
}

/* Masks of three kinds; the second model's is ALL, and cuts lie before and behind the block. */
static void set_models(block_case *c, int n_model, uint32_t mask, bool vote, bool divide)
{
  *delta_state(c) = (ingot_delta_state){.n_model = n_model,
                                        .vote = vote,
                                        .zero_sign = n_model % 2 ? 1 : -1,
                                        .divide = divide,
                                        .divisor = divide ? 1.3f : 1,
                                        .lambda = 0.7f};
  for (int g = 0; g < n_model; g++) {
    ingot_delta_model *m = &ingot_delta_models(c->state)[g];
    *m = (ingot_delta_model){.weight = weights[g],
                             .scale = mask == INGOT_MASK_RANDOM ? 1.0f + 0.25f * (float)g : 1.0f,
                             .mask = g == 1 ? INGOT_MASK_ALL : mask};
    if (m->mask == INGOT_MASK_RANDOM)
      m->stream = 17 + (uint64_t)g, m->keep_below = ingot_philox_threshold(0.3 + 0.05 * g);
    if (m->mask == INGOT_MASK_CUT) {
      static const uint32_t keys[] = {0x3c000000, 0, 0x00010000, 0x7f7fffff, 0x7f800000};
      m->threshold = keys[g % (n_model % 2 ? 5 : 4)];
      m->cut = g % 3 == 0 ? FIRST : g % 3 == 1 ? 0 : FIRST + MAX_N;
    }
  }
}

static void test_same_bytes_as_general(void **state)
{
  block_case           *c = *state;
  static const int      lengths[] = {1, 2, 31, 32, 33, 1023, 1024, 1025, 2051, MAX_N - 1, MAX_N};
  static const uint32_t masks[] = {INGOT_MASK_ALL, INGOT_MASK_CUT, INGOT_MASK_RANDOM};
  for (int k = 0; k < 2 * 8 * 3 * 4; k++) {
    bool vote = k & 1, divide = k & 2;
    if (masks[k / 4 % 3] == INGOT_MASK_CUT && !vote) continue; /* no method has that */
    c->shift = (size_t)k % 3;
    fill_random(c, 7 + (uint64_t)k, k / 12 % 2);
    set_models(c, 1 + k / 24, masks[k / 4 % 3], vote, divide);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) check_same(c, lengths[i]);
  }
}

/* Worked by hand: 1 = 0x3f80, 2 = 0x4000, 3 = 0x4040, 0.5 = 0x3f00, -1 = 0xbf80. */
static void test_values(void **state)
{
  block_case *c = *state;
  set_models(c, 2, INGOT_MASK_ALL, false, false);
  ingot_delta_models(c->state)[0].weight = 1, ingot_delta_models(c->state)[1].weight = 0.5f, delta_state(c)->lambda = 1;
  put(c, 0, 0, 0x3f80), put(c, 1, 0, 0x4000), put(c, 2, 0, 0x4040);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x4040); /* 1 + (1 + 0.5 * 2) */
  set_models(c, 2, INGOT_MASK_ALL, true, true);
  ingot_delta_models(c->state)[0].weight = 1, ingot_delta_models(c->state)[1].weight = 0.5f, delta_state(c)->lambda = 1;
  put(c, 2, 0, 0xbf80);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0xbf80); /* 1 against -1: a zero sum, which elects -: 1 + -1 / 0.5 */
  delta_state(c)->zero_sign = 1;
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x4000); /* and +: 1 + 1 / 1 */
  put(c, 0, 0, 0x8000), put(c, 1, 0, 0x8000), put(c, 2, 0, 0x8000);
  assert_true(run_fused(c, 1));
  assert_int_equal(fused_bits(c), 0x0000); /* -0 + 0 */
}

/* One value that is not finite, in any input and at any place of a vector, is noticed; beyond n it is not looked at. */
static void test_nonfinite_is_noticed(void **state)
{
  block_case           *c = *state;
  static const uint16_t bad[] = {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f81};
  static const uint32_t masks[] = {INGOT_MASK_ALL, INGOT_MASK_CUT, INGOT_MASK_RANDOM};
  const int64_t         n = 1101;
  fill_random(c, 3, true);
  for (int k = 0; k < 24; k++) {
    int n_model = 1 + k / 3;
    set_models(c, n_model, masks[k % 3], true, true);
    assert_true(run_fused(c, n));
    for (int64_t i = 0; i <= n; i += i < 70 ? 1 : 1030 - 70 + 1) {
      int input = (int)(i % (n_model + 1));
      put(c, input, i, bad[i % 5]);
      assert_false(run_fused(c, i + 1));
      if (i > 0) assert_true(run_fused(c, i));
      put(c, input, i, 0x3f80);
    }
  }
}

/* Blocks that the loops are not made for are left to the general path. */
static void test_left_to_general(void **state)
{
  block_case *c = *state;
  fill_random(c, 4, true);
  set_models(c, 3, INGOT_MASK_CUT, true, true);
  ingot_delta_models(c->state)[0].cut = FIRST + 5;
  assert_false(run_fused(c, MAX_N));
  assert_true(run_fused(c, 5));
  ingot_delta_models(c->state)[0].cut = FIRST;
  ingot_delta_models(c->state)[0].nth = 1;
  assert_false(run_fused(c, MAX_N));
  ingot_delta_models(c->state)[0].cut = FIRST - INGOT_BLOCK;
  assert_true(run_fused(c, MAX_N));
  set_models(c, 9, INGOT_MASK_ALL, false, false);
  assert_false(run_fused(c, MAX_N));
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_same_bytes_as_general, setup, block_end),
      cmocka_unit_test_setup_teardown(test_values, setup, block_end),
      cmocka_unit_test_setup_teardown(test_nonfinite_is_noticed, setup, block_end),
      cmocka_unit_test_setup_teardown(test_left_to_general, setup, block_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
