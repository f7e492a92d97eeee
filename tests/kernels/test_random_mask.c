#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/random_mask.h"

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

/* The halves of those words are 16-bit numbers in this order; T with such a top keeps by the second draw, or not. */
static void test_halves_of_known_answer(void **state)
{
  (void)state;
  static const uint32_t half[8] = {0xe8d5, 0x6627, 0xc58d, 0xe169, 0xac4c, 0xbc57, 0xdbd8, 0x9b00};
  for (int i = 0; i < 8; i++) {
    assert_true(ingot_philox_keep(0, (uint64_t)(half[i] + 1) << 32, i));
    assert_false(ingot_philox_keep(0, (uint64_t)half[i] << 32, i)); /* no number is below 0 */
    uint32_t word[4];
    ingot_philox4x32_of(0, (uint64_t)i, 1, word);
    assert_false(ingot_philox_keep(0, ((uint64_t)half[i] << 32) + word[0], i));
    assert_true(ingot_philox_keep(0, ((uint64_t)half[i] << 32) + word[0] + 1, i));
  }
}

static void test_threshold(void **state)
{
  (void)state;
  assert_true(ingot_philox_threshold(0.5) == (uint64_t)1 << 47);
  assert_true(ingot_philox_threshold(0x1p-48) == 1);
  assert_true(ingot_philox_threshold(0x1p-49) == 0);
  assert_true(ingot_philox_threshold(1 - 0x1p-53) == ((uint64_t)1 << 48) - 1);
}

/* The bits of a run whose end is inside of a group, against the definition, and back. */
static void test_bits(void **state)
{
  (void)state;
  enum { N = 1000, ROOM = 1024 };
  uint16_t       keep[ROOM], back[ROOM];
  unsigned char  bits[ROOM / 8];
  const uint64_t threshold = (uint64_t)3 << 45; /* 3/8 */
  ingot_random_mask(77, threshold, 4096, N, keep);
  ingot_mask_pack(keep, N, bits);
  for (int i = 0; i < N; i++) assert_int_equal(bits[i / 8] >> i % 8 & 1, ingot_philox_keep(77, threshold, 4096 + i));
  memset(back, 0x5a, sizeof back);
  ingot_mask_unpack(bits, N, back);
  assert_memory_equal(keep, back, N * sizeof *keep);
}

/* Drawn as bits, with thresholds that many first draws equal, and nothing written beyond the last group. */
static void test_drawn_bits(void **state)
{
  (void)state;
  enum { N = 1200, ROOM = 1280 };
  for (int64_t first = 0; first < 300; first += first < 8 ? 8 : 60 / 4 * 8) {
    for (int64_t n = 1; n <= N; n += n < 130 ? 43 : 357) {
      uint32_t word[4];
      ingot_philox4x32(77, (uint64_t)first / 8, word);
      uint64_t      threshold = (uint64_t)(word[0] & 0xffffu) << 32 | 0x80000000u;
      unsigned char bits[ROOM / 8];
      memset(bits, 0x5a, sizeof bits);
      ingot_random_mask_bits(77, threshold, first, n, bits);
      for (int64_t i = 0; i < n; i++)
        assert_int_equal(bits[i / 8] >> i % 8 & 1, ingot_philox_keep(77, threshold, first + i));
      for (int64_t i = (n + 127) / 128 * 16; i < ROOM / 8; i++) assert_int_equal(bits[i], 0x5a);
    }
  }
}

/* Every version against the definition, with thresholds of which many elements equal the top 16 bits and few do. */
static void test_versions(void **state)
{
  (void)state;
  enum { N = 1024 };
  const uint64_t streams[] = {0, 1, 0x0123456789abcdefu, UINT64_MAX};
  const uint64_t tops[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  const int64_t  firsts[] =
      {0, 8, 4096, (int64_t)8 * 0xfffffff0, ((int64_t)1 << 40) + 128, (INT64_MAX - 4095) / 128 * 128};
  for (int version = INGOT_MASK_PLAIN; version <= INGOT_MASK_AVX512; version++) {
    for (int c = 0; c < 4 * 6 * 6; c++) {
      uint16_t keep[N];
      uint64_t stream = streams[c % 4], threshold = tops[c / 4 % 6] << 32 | (c % 3 == 0 ? 0 : 0x80000000u);
      int64_t  first = firsts[c / 24];
      if (!ingot_random_mask_version((ingot_mask_version)version, stream, threshold, first, N, keep)) continue;
      for (int i = 0; i < N; i++)
        if (keep[i] != (ingot_philox_keep(stream, threshold, first + i) ? 0xffff : 0))
          fail_msg("version %d, case %d, element %d", version, c, i);
    }
  }
}

/* An element whose first draw equals the top of T is settled by its second draw, wherever it stands in a vector. */
static void test_equal_halves(void **state)
{
  (void)state;
  enum { N = 1024 };
  for (int version = INGOT_MASK_PLAIN; version <= INGOT_MASK_AVX512; version++) {
    for (int i = 0; i < N; i++) {
      uint16_t keep[N];
      uint32_t word[4], second[4];
      ingot_philox4x32(9, (uint64_t)(4096 + i) / 8, word);
      ingot_philox4x32_of(9, (uint64_t)(4096 + i), 1, second);
      uint64_t top = word[i % 8 / 2] >> (i % 2 * 16) & 0xffff, threshold = top << 32 | second[0];
      if (!ingot_random_mask_version((ingot_mask_version)version, 9, threshold, 4096, N, keep)) continue;
      assert_int_equal(keep[i], 0);
      if (second[0] == UINT32_MAX) continue;
      ingot_random_mask_version((ingot_mask_version)version, 9, threshold + 1, 4096, N, keep);
      assert_int_equal(keep[i], 0xffff);
    }
  }
}

static void test_any_length(void **state)
{
  (void)state;
  uint16_t all[512], some[512];
  for (int64_t first = 0; first < 256; first += 8) {
    ingot_random_mask(3, (uint64_t)1 << 46, first, 512, all);
    for (int64_t n = 0; n <= 512; n += 7) {
      memset(some, 1, sizeof some);
      ingot_random_mask(3, (uint64_t)1 << 46, first, n, some);
      assert_memory_equal(some, all, (size_t)n * sizeof *some);
      for (int64_t i = (n + 127) / 128 * 128; i < 512; i++) assert_int_equal(some[i], 0x0101);
    }
  }
}

/* Kept parts are those asked for, and neighbours are kept independently. */
static void test_frequency(void **state)
{
  (void)state;
  enum { N = 1 << 20 };
  static const double parts[] = {1e-5, 0.1, 1.0 / 3, 0.5, 0.999};
  uint16_t           *keep = malloc(N * sizeof *keep);
  assert_non_null(keep);
  for (int p = 0; p < 5; p++) {
    double kept = 0, both = 0, part = parts[p];
    ingot_random_mask(77 + (uint64_t)p, ingot_philox_threshold(part), 0, N, keep);
    for (int i = 0; i < N; i++) kept += keep[i] != 0;
    for (int i = 1; i < N; i++) both += keep[i] != 0 && keep[i - 1] != 0;
    assert_true(fabs(kept - part * N) < 5 * sqrt(part * (1 - part) * N));
    assert_true(fabs(both - part * part * N) < 5 * sqrt(part * N) * part + 10);
  }
  free(keep);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_known_answer), cmocka_unit_test(test_halves_of_known_answer),
      cmocka_unit_test(test_threshold),    cmocka_unit_test(test_bits),
      cmocka_unit_test(test_drawn_bits),   cmocka_unit_test(test_versions),
      cmocka_unit_test(test_equal_halves), cmocka_unit_test(test_any_length),
      cmocka_unit_test(test_frequency),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
