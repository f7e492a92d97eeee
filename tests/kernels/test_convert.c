/* Conversions against plain arithmetic with ldexp and nearbyint: every stored value, and every halfway case. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/convert.h"

/** A small float format: bits of exponent and mantissa, and whether the top exponent is infinity and NaN. */
typedef struct small_format {
  ingot_dtype dtype;
  int         exponent_bits, mantissa_bits;
  bool        has_inf; /* otherwise only the all-ones pattern is NaN */
} small_format;

static const small_format formats[] = {
    {INGOT_DTYPE_F16, 5, 10, true},
    {INGOT_DTYPE_BF16, 8, 7, true},
    {INGOT_DTYPE_F8_E4M3, 4, 3, false},
    {INGOT_DTYPE_F8_E5M2, 5, 2, true},
};
enum { N_FORMAT = sizeof formats / sizeof *formats };

static int n_pattern(const small_format *f)
{
  return 1 << (1 + f->exponent_bits + f->mantissa_bits);
}

static int bias(const small_format *f)
{
  return (1 << (f->exponent_bits - 1)) - 1;
}

/* The number that a pattern stands for. */
static double decode(const small_format *f, unsigned pattern)
{
  int    top = (1 << f->exponent_bits) - 1, all = (1 << f->mantissa_bits) - 1;
  int    exponent = (int)(pattern >> f->mantissa_bits) & top, mantissa = (int)pattern & all;
  double sign = pattern >> (f->exponent_bits + f->mantissa_bits) ? -1 : 1;
  if (f->has_inf && exponent == top) return mantissa ? (double)NAN : sign * (double)INFINITY;
  if (!f->has_inf && exponent == top && mantissa == all) return (double)NAN;
  if (exponent == 0) return sign * ldexp(mantissa, 1 - bias(f) - f->mantissa_bits);
  return sign * ldexp((1 << f->mantissa_bits) + mantissa, exponent - bias(f) - f->mantissa_bits);
}

static double largest(const small_format *f)
{
  unsigned pattern = (1u << (f->exponent_bits + f->mantissa_bits)) - 1;
  while (!isfinite(decode(f, pattern))) pattern--;
  return decode(f, pattern);
}

/* Round to nearest even, by doing so on a multiple of the unit in the last place; `most` is the largest number. */
static double rounded(const small_format *f, double most, double v)
{
  int exponent;
  if (v == 0 || !isfinite(v)) return isinf(v) && !f->has_inf ? (double)NAN : v;
  frexp(v, &exponent);
  exponent = exponent - 1 < 1 - bias(f) ? 1 - bias(f) : exponent - 1;
  double unit = ldexp(1, exponent - f->mantissa_bits), r = nearbyint(v / unit) * unit;
  if (fabs(r) <= most) return r;
  return f->has_inf ? copysign((double)INFINITY, v) : (double)NAN;
}

static unsigned stored(const small_format *f, const void *bytes, int i)
{
  return ingot_dtype_size(f->dtype) == 1 ? ((const uint8_t *)bytes)[i] : ((const uint16_t *)bytes)[i];
}

static bool same(double a, double b)
{
  return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

static void test_widen_every_pattern(void **state)
{
  (void)state;
  for (int k = 0; k < N_FORMAT; k++) {
    const small_format *f = &formats[k];
    int                 n = n_pattern(f);
    uint16_t           *wide_bits = malloc((size_t)n * sizeof *wide_bits);
    uint8_t            *byte_bits = malloc((size_t)n);
    float              *v = malloc((size_t)n * sizeof *v);
    for (int i = 0; i < n; i++) wide_bits[i] = (uint16_t)i, byte_bits[i] = (uint8_t)i;
    const void *src = ingot_dtype_size(f->dtype) == 1 ? (const void *)byte_bits : (const void *)wide_bits;
    int64_t     nonfinite = 0, counted = ingot_widen_counting(f->dtype, src, v, n);
    for (int i = 0; i < n; i++) {
      if (!same((double)v[i], decode(f, (unsigned)i)))
        fail_msg("%s 0x%x: %g, expected %g", ingot_dtype_name(f->dtype), i, (double)v[i], decode(f, (unsigned)i));
      nonfinite += !isfinite(v[i]);
      if (isnan(v[i])) {
        uint32_t bits;
        memcpy(&bits, &v[i], sizeof bits);
        if (f->dtype != INGOT_DTYPE_BF16) assert_true(bits & 0x00400000u); /* quiet */
      }
    }
    assert_int_equal(counted, nonfinite);
    free(wide_bits), free(byte_bits), free(v);
  }
}

static void check_narrow(const small_format *f, const float *v, int n)
{
  uint16_t *bits = malloc((size_t)n * 2);
  double    most = largest(f);
  assert_non_null(bits);
  ingot_narrow(f->dtype, v, bits, n);
  for (int i = 0; i < n; i++) {
    double got = decode(f, stored(f, bits, i)), expected = rounded(f, most, (double)v[i]);
    if (!same(got, expected))
      fail_msg("%s of %.9g (%a): %g, expected %g", ingot_dtype_name(f->dtype), (double)v[i], (double)v[i], got,
               expected);
  }
  free(bits);
}

/* Every value, every point halfway to the next, and the float32 numbers on both sides of each. */
static void test_narrow_halfway(void **state)
{
  (void)state;
  for (int k = 0; k < N_FORMAT; k++) {
    const small_format *f = &formats[k];
    int                 n = n_pattern(f), count = 0;
    float              *v = malloc((size_t)n * 6 * sizeof *v);
    for (int i = 0; i < n; i++) {
      double a = decode(f, (unsigned)i), b = decode(f, (unsigned)i + 1);
      if (!isfinite(a)) continue;
      if (!isfinite(b)) b = a + (a - decode(f, (unsigned)i - 1)); /* where the next one would be */
      float points[2] = {(float)a, (float)((a + b) / 2)};
      for (int p = 0; p < 2; p++) {
        v[count++] = points[p];
        v[count++] = nextafterf(points[p], INFINITY);
        v[count++] = nextafterf(points[p], -INFINITY);
      }
    }
    check_narrow(f, v, count);
    free(v);
  }
}

static void test_narrow_any_bits(void **state)
{
  (void)state;
  enum { N = 1 << 15 };
  float *v = malloc(N * sizeof *v);
  for (int i = 0; i < N / 4; i++) ingot_philox4x32(1, (uint64_t)i, (uint32_t *)(void *)v + 4 * i);
  v[0] = INFINITY, v[1] = -INFINITY, v[2] = NAN, v[3] = 0.0f, v[4] = -0.0f, v[5] = 3.4028235e38f, v[6] = 1e-45f;
  for (int k = 0; k < N_FORMAT; k++) {
    check_narrow(&formats[k], v, N);
    for (int i = 0; i < N; i += 9)
      v[i] = ldexpf(v[i] - truncf(v[i]), -(i % 30)); /* more near the small formats' range */
    check_narrow(&formats[k], v, N);
  }
  free(v);
}

/* A stored value survives the way there and back, and every NaN becomes the one quiet NaN. */
static void test_round_trip(void **state)
{
  (void)state;
  static const unsigned quiet[N_FORMAT] = {0x7e00, 0x7fc0, 0x7f, 0x7f};
  for (int k = 0; k < N_FORMAT; k++) {
    const small_format *f = &formats[k];
    for (int i = 0; i < n_pattern(f); i++) {
      uint16_t pattern = (uint16_t)i, back = 0;
      uint8_t  byte = (uint8_t)i;
      float    v;
      ingot_widen(f->dtype, ingot_dtype_size(f->dtype) == 1 ? (const void *)&byte : (const void *)&pattern, &v, 1);
      ingot_narrow(f->dtype, &v, &back, 1);
      unsigned got = ingot_dtype_size(f->dtype) == 1 ? *(uint8_t *)&back : back;
      assert_int_equal(got, isnan(v) ? quiet[k] : (unsigned)i);
    }
  }
}

static void test_f32_and_f64(void **state)
{
  (void)state;
  double   d[8] = {1.0, 1 + 0x1p-24, 1 + 0x1p-24 + 0x1p-50, 1 + 0x3p-24, 1e300, -1e300, (double)NAN, 0x1p-149};
  double   expected[7] = {1.0, 1.0, 1 + 0x1p-23, 1 + 0x1p-22, (double)INFINITY, -(double)INFINITY, 0};
  float    v[8];
  uint32_t nan_bits[2] = {0xffc12345u, 0x7f800001u}, out[2];
  assert_int_equal(ingot_widen_counting(INGOT_DTYPE_F64, d, v, 8), 3);
  for (int i = 0; i < 6; i++) assert_true((double)v[i] == expected[i]);
  assert_true(isnan(v[6]) && v[7] == 0x1p-149f);
  double back[8];
  ingot_narrow(INGOT_DTYPE_F64, v, back, 8);
  for (int i = 0; i < 8; i++) assert_true(same(back[i], (double)v[i]));
  memcpy(v, nan_bits, sizeof nan_bits);
  ingot_narrow(INGOT_DTYPE_F32, v, out, 2);
  assert_int_equal(out[0], 0x7fc00000u);
  assert_int_equal(out[1], 0x7fc00000u);
}

/* Odd lengths at odd addresses give the same as one element at a time. */
static void test_any_alignment(void **state)
{
  (void)state;
  enum { N = 133 };
  unsigned char raw[N * 8 + 8], *src = raw;
  float         random[N];
  for (int i = 0; i < N; i++) {
    uint32_t word[4];
    ingot_philox4x32(9, (uint64_t)i, word);
    random[i] = (float)(int32_t)word[0] * 0x1p-31f;
  }
  for (int d = 0; d <= INGOT_DTYPE_F8_E5M2; d++) {
    for (int shift = 0; shift < 3; shift++) {
      unsigned char one[8];
      float         v[N], w;
      size_t        size = ingot_dtype_size((ingot_dtype)d);
      ingot_narrow((ingot_dtype)d, random, src + shift, N);
      ingot_widen((ingot_dtype)d, src + shift, v, N);
      for (int i = 0; i < N; i++) {
        ingot_narrow((ingot_dtype)d, &random[i], one, 1);
        assert_memory_equal(one, src + shift + (size_t)i * size, size);
        ingot_widen((ingot_dtype)d, one, &w, 1);
        assert_true(w == v[i]);
      }
    }
  }
}

static void test_nonfinite(void **state)
{
  (void)state;
  enum { N = 9000 };
  float *v = calloc(N, sizeof *v), *fill = malloc(N * sizeof *fill);
  bool   is_nan = true;
  for (int i = 0; i < N; i++) fill[i] = (float)i;
  assert_int_equal(ingot_first_nonfinite(INGOT_DTYPE_F32, v, N, &is_nan), -1);
  v[8191] = INFINITY, v[8192] = NAN;
  assert_int_equal(ingot_first_nonfinite(INGOT_DTYPE_F32, v, N, &is_nan), 8191);
  assert_false(is_nan);
  v[300] = NAN;
  assert_int_equal(ingot_first_nonfinite(INGOT_DTYPE_F32, v, N, &is_nan), 300);
  assert_true(is_nan);
  ingot_replace_nonfinite(v, fill, N);
  assert_true(v[300] == 300 && v[8191] == 8191 && v[8192] == 8192 && v[5] == 0);
  v[7] = -INFINITY;
  ingot_replace_nonfinite(v, NULL, N);
  assert_true(v[7] == 0 && v[300] == 300);
  free(v), free(fill);
}

static void test_negative(void **state)
{
  (void)state;
  enum { N = 700 };
  float  v[N] = {0}, narrow[4] = {1, -0.0F, -2, -INFINITY};
  double tiny[3] = {1, -1e-300, -1e-40}; /* the first of them becomes -0.0 in float32, the second a subnormal number */
  unsigned char stored[4];
  v[3] = -0.0F, v[4] = NAN, v[5] = -NAN;
  assert_int_equal(ingot_count_negative(v, N), 0);
  assert_int_equal(ingot_first_negative(INGOT_DTYPE_F32, v, N), -1);
  v[699] = -INFINITY, v[300] = -1e-45F;
  assert_int_equal(ingot_count_negative(v, N), 2);
  assert_int_equal(ingot_count_negative(v + 301, N - 301), 1);
  assert_int_equal(ingot_first_negative(INGOT_DTYPE_F32, v, N), 300);
  assert_int_equal(ingot_first_negative(INGOT_DTYPE_F64, tiny, 3), 2);
  ingot_narrow(INGOT_DTYPE_F8_E5M2, narrow, stored, 4);
  assert_int_equal(ingot_first_negative(INGOT_DTYPE_F8_E5M2, stored, 4), 2);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_widen_every_pattern), cmocka_unit_test(test_narrow_halfway),
      cmocka_unit_test(test_narrow_any_bits),     cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_f32_and_f64),         cmocka_unit_test(test_any_alignment),
      cmocka_unit_test(test_nonfinite),           cmocka_unit_test(test_negative),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
