#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "base/philox.h"
#include "base/tile.h"
#include "kernels/block_sum.h"
#include "kernels/convert_scalar.h"

/* Lane sums as the header has them, one addition at a time: products, or with b NULL magnitudes. */
static double plain_sum(const float *a, const float *b, int64_t n)
{
  volatile double lane[INGOT_SUM_LANES] = {0};
  for (int64_t i = 0; b && i < n; i++) {
    volatile double term = (double)a[i] * (double)b[i];
    lane[i % INGOT_SUM_LANES] = lane[i % INGOT_SUM_LANES] + term;
  }
  for (int64_t i = 0; !b && i < n; i += i % 32 == 31 ? 97 : 1) {
    volatile float four = fabsf(a[i]);
    for (int64_t k = i + 32; k < n && k < i + 128; k += 32) four = four + fabsf(a[k]);
    lane[i % 32] = lane[i % 32] + (double)four;
  }
  for (int width = 16; width > 0; width /= 2)
    for (int j = 0; j < width; j++) lane[j] = lane[j] + lane[j + width];
  return lane[0];
}

static void test_order(void **state)
{
  (void)state;
  float a[INGOT_BLOCK], b[INGOT_BLOCK];
  for (int i = 0; i < INGOT_BLOCK; i++) a[i] = sinf((float)i) * expf((float)(i % 40) - 20), b[i] = cosf((float)i * 3);
  for (int64_t n = 0; n <= INGOT_BLOCK; n += n < 100 ? 1 : 333) {
    assert_true(ingot_block_sum_abs(a, n) == plain_sum(a, NULL, n));
    assert_true(ingot_block_dot(a, b, n) == plain_sum(a, b, n));
    assert_true(ingot_block_dot(a, a, n) == plain_sum(a, a, n));
  }
}

static void test_exact(void **state)
{
  (void)state;
  float ones[INGOT_BLOCK];
  for (int i = 0; i < INGOT_BLOCK; i++) ones[i] = i % 2 ? -1.0f : 1.0f;
  assert_true(ingot_block_sum_abs(ones, INGOT_BLOCK) == INGOT_BLOCK);
  assert_true(ingot_block_dot(ones, ones, 4095) == 4095);
  assert_true(ingot_block_sum_abs(ones, 0) == 0);
}

static void test_masked(void **state)
{
  (void)state;
  static float    a[INGOT_BLOCK], b[INGOT_BLOCK], tau[INGOT_BLOCK], part[INGOT_BLOCK];
  static uint16_t stored[2][INGOT_BLOCK];
  uint16_t        keep[INGOT_BLOCK];
  for (uint32_t i = 0; i < INGOT_BLOCK; i++) {
    stored[0][i] = ingot_bf16_from_f32(sinf((float)i)), stored[1][i] = ingot_bf16_from_f32(cosf((float)i * 3));
    a[i] = ingot_f32_from_bf16(stored[0][i]), b[i] = ingot_f32_from_bf16(stored[1][i]),
    keep[i] = i * 2654435761u % 4 ? 0 : 0xffff;
    tau[i] = a[i] - b[i];
    part[i] = keep[i] ? tau[i] : 0;
  }
  for (int64_t n = 0; n <= INGOT_BLOCK; n += n < 100 ? 1 : 333) {
    double whole, kept;
    ingot_block_sum_masked(a, b, keep, n, &whole, &kept);
    assert_true(whole == plain_sum(tau, NULL, n) && kept == plain_sum(part, NULL, n));
    ingot_block_sum_masked_bf16(stored[0], stored[1], keep, n, &whole, &kept);
    assert_true(whole == plain_sum(tau, NULL, n) && kept == plain_sum(part, NULL, n));
  }
}

#if INGOT_HAVE_AVX512
/* Both loops from any alignment; beyond n nothing is looked at. */
static void test_avx512(void **state)
{
  (void)state;
  enum { STREAM = 11, FIRST = 3 * INGOT_BLOCK };
  const uint64_t       threshold = (uint64_t)1 << 46; /* a quarter */
  static unsigned char stored[2][2 * INGOT_BLOCK + 1], bits[INGOT_BLOCK / 8];
  static float         a[INGOT_BLOCK], b[INGOT_BLOCK], tau[INGOT_BLOCK], part[INGOT_BLOCK];
  if (!ingot_has_avx512()) skip();
  for (uint32_t i = 0; i < INGOT_BLOCK; i++) {
    uint16_t x = ingot_bf16_from_f32(sinf((float)i) * expf((float)(i % 40) - 20)),
             y = ingot_bf16_from_f32(cosf((float)i * 3));
    bool keep = ingot_philox_keep(STREAM, threshold, FIRST + i);
    memcpy(stored[0] + 1 + 2 * i, &x, 2), memcpy(stored[1] + 1 + 2 * i, &y, 2);
    a[i] = ingot_f32_from_bf16(x), b[i] = ingot_f32_from_bf16(y), tau[i] = a[i] - b[i];
    part[i] = keep ? tau[i] : 0;
  }
  for (int64_t n = 1; n <= INGOT_BLOCK; n += n < 140 ? 1 : 333) {
    double         whole, kept, dot[3];
    const uint16_t bad = n % 2 ? 0x7f80 : 0xffc0;
    uint16_t       good;
    assert_true(
        ingot_block_sum_drawn_avx512(stored[0] + 1, stored[1] + 1, STREAM, threshold, FIRST, n, bits, &whole, &kept));
    assert_true(whole == plain_sum(tau, NULL, n) && kept == plain_sum(part, NULL, n));
    assert_true(ingot_block_dots_avx512(stored[0] + 1, stored[1] + 1, n, dot));
    assert_true(dot[0] == plain_sum(a, a, n) && dot[1] == plain_sum(b, b, n) && dot[2] == plain_sum(a, b, n));
    for (int64_t i = 0; i < n; i++)
      assert_int_equal(bits[i / 8] >> i % 8 & 1, ingot_philox_keep(STREAM, threshold, FIRST + i));
    unsigned char *last = stored[n / 2 % 2] + 1 + 2 * (n - 1);
    memcpy(&good, last, 2), memcpy(last, &bad, 2);
    assert_false(
        ingot_block_sum_drawn_avx512(stored[0] + 1, stored[1] + 1, STREAM, threshold, FIRST, n, NULL, &whole, &kept));
    assert_false(ingot_block_dots_avx512(stored[0] + 1, stored[1] + 1, n, dot));
    assert_true(ingot_block_dots_avx512(stored[0] + 1, stored[1] + 1, n - 1, dot));
    memcpy(last, &good, 2);
  }
}
#else
static void test_avx512(void **state)
{
  (void)state;
  skip();
}
#endif

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_exact),
                                     cmocka_unit_test(test_masked), cmocka_unit_test(test_avx512)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
