#include "tests/check.h"

#include "base/philox.h"
#include "kernels/philox_block.h"

/* Salmon et al., Random123, kat_vectors: philox4x32 with 10 rounds. The other vectors have counters of 128 bits. */
static void test_known_answer(void **state)
{
  (void)state;
  uint32_t word[4];
  ingot_philox4x32(0, 0, word);
  assert_int_equal(word[0], 0x6627e8d5u);
  assert_int_equal(word[1], 0xe169c58du);
  assert_int_equal(word[2], 0xbc57ac4cu);
  assert_int_equal(word[3], 0x9b00dbd8u);
}

static void test_versions(void **state)
{
  (void)state;
  enum { N = 1024 };
  const uint64_t keys[] = {0, 1, 0x0123456789abcdefu, UINT64_MAX};
  const int64_t  firsts[] = {0, 4, 4096, (int64_t)4 * 0xfffffff0, ((int64_t)1 << 40) + 64, (INT64_MAX - 4095) / 64 * 64};
  for (int version = INGOT_PHILOX_PLAIN; version <= INGOT_PHILOX_AVX512; version++) {
    for (int k = 0; k < 4; k++) {
      for (int f = 0; f < 6; f++) {
        uint32_t word[N], one[4];
        int64_t  first = firsts[f] / 4 * 4;
        if (!ingot_philox_block_version((ingot_philox_version)version, keys[k], first, N, word)) continue;
        for (int i = 0; i < N; i++) {
          ingot_philox4x32(keys[k], (uint64_t)(first / 4 + i / 4), one);
          if (word[i] != one[i % 4]) fail_msg("version %d, key %d, first %d, word %d", version, k, f, i);
        }
      }
    }
  }
}

static void test_any_length(void **state)
{
  (void)state;
  uint32_t all[512], some[512];
  ingot_philox_block(3, 8, 512, all);
  for (int64_t n = 0; n <= 512; n += 7) {
    memset(some, 0, sizeof some);
    ingot_philox_block(3, 8, n, some);
    assert_memory_equal(some, all, (size_t)n * sizeof *some);
    for (int64_t i = (n + 63) / 64 * 64; i < 512; i++) assert_int_equal(some[i], 0);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_known_answer),
    cmocka_unit_test(test_versions),
    cmocka_unit_test(test_any_length),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
