#include <math.h>
#include <stdlib.h>

#include "kernels/families/select.h"
#include "tests/kernels/method_test.h"

static void test_cases(void **state)
{
  (void)state;
  method_check_cases("ties");
}

static void test_parameters(void **state)
{
  (void)state;
  method_check_parameter("ties", "weight", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, true, 0);
  method_check_parameter("ties", "density", INGOT_PARAM_REAL, INGOT_PARAM_PER_MODEL, false, 1);
  method_check_parameter("ties", "lambda", INGOT_PARAM_REAL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("ties", "normalize", INGOT_PARAM_BOOL, INGOT_PARAM_GLOBAL, false, 1);
  method_check_parameter("ties", "rescale", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
  method_check_parameter("ties", "scope", INGOT_PARAM_CHOICE, INGOT_PARAM_GLOBAL, false, 0);
}

static void test_errors(void **state)
{
  (void)state;
  float        base[1] = {1}, a[1] = {3}, out[1];
  const float *in[] = {base, a, a};
  check_fails(method_try("ties", "weight@0=2 weight@1=-2", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "the weights of its 2 models sum to 0");
  check_fails(method_try("ties", "weight=1 density=1.5", 3, in, 1, out, NULL), INGOT_ERR_JOB, "1.5 is outside (0, 1]");
  check_fails(method_try("ties", "weight=1 zero=majority", 3, in, 1, out, NULL), INGOT_ERR_JOB,
              "needs scope = \"model\"");
}

/* Which elements a sort keeps: larger magnitude first, then lower index; a NaN is larger than all. */
typedef struct ranked {
  uint32_t key;
  int64_t  index;
} ranked;

static int by_rank(const void *pa, const void *pb)
{
  const ranked *a = pa, *b = pb;
  if (a->key != b->key) return a->key > b->key ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

static uint32_t plain_key(float tau)
{
  if (tau != tau) return UINT32_MAX;
  float    magnitude = fabsf(tau);
  uint32_t bits;
  memcpy(&bits, &magnitude, sizeof bits);
  return bits;
}

static const double densities[] = {1e-9, 0.01, 0.2, 0.5, 0.77, 0.999999};
enum { N_DENSITY = sizeof densities / sizeof *densities };

/* Merge one task vector over a zero base, and compare what is kept with the ranks of a sort. */
static void check_density(const float *tau, const float *other, const ranked *r, int64_t n, double density,
                          int most_full_passes)
{
  float       *base = calloc((size_t)n, sizeof *base), *out = malloc((size_t)n * sizeof *out);
  const float *in[] = {base, tau, other};
  char         parameters[128];
  run_report   report;
  int64_t      k = (int64_t)(density * (double)n);
  assert_true(base && out);
  if (k < 1) k = 1;
  /* weight 0 for the second model: it goes through selection as well but adds nothing */
  snprintf(parameters, sizeof parameters, "weight@0=1 weight@1=0 normalize=false density=%.17g", density);
  method_merge("ties", parameters, 3, in, n, out, &report);
  for (int64_t i = 0; i < n; i++) {
    float value = tau[r[i].index];
    bool  kept = out[r[i].index] != 0;
    if (value == 0 || value != value) continue; /* kept or dropped, they look the same in the output */
    if (kept != (i < k))
      fail_msg("element %lld, rank %lld, keeping %lld of %lld: %s", (long long)r[i].index, (long long)i, (long long)k,
               (long long)n, kept ? "kept" : "dropped");
  }
  if (report.n_full_pass > most_full_passes)
    fail_msg("%d full passes over %lld elements, at most %d expected", report.n_full_pass, (long long)n,
             most_full_passes);
  assert_true(report.n_pass <= most_full_passes + 1);
  assert_true(report.max_slot_bytes <= (size_t)65 << 20);
  free(base), free(out);
}

static void check_selection(const float *tau, int64_t n, int density_step, int most_full_passes)
{
  ranked *r = malloc((size_t)n * sizeof *r);
  float  *other = method_random(n, 99, 1);
  assert_non_null(r);
  for (int64_t i = 0; i < n; i++) r[i] = (ranked){plain_key(tau[i]), i};
  qsort(r, (size_t)n, sizeof *r, by_rank);
  for (int d = 0; d < N_DENSITY; d += density_step) check_density(tau, other, r, n, densities[d], most_full_passes);
  free(r), free(other);
}

static void test_small_sizes(void **state)
{
  (void)state;
  for (int64_t n = 1; n <= 70; n++) {
    float *random = method_random(n, (uint64_t)n, 1), *few = method_random(n, (uint64_t)n, 1);
    for (int64_t i = 0; i < n; i++) few[i] = roundf(few[i] * 2) / 2;
    check_selection(random, n, 1, 1);
    check_selection(few, n, 1, 1);
    free(random), free(few);
  }
}

static void test_trained_like(void **state)
{
  (void)state;
  const int64_t n = INGOT_TILE + 54321;
  float        *smooth = method_random(n, 1, 0.01f), *a = method_random_bf16(n, 2, 0.02f);
  float *noise = method_random(n, 3, 0.001f), *b = method_near(a, noise, n, 1), *tau = malloc((size_t)n * sizeof *tau);
  for (int64_t i = 0; i < n; i++) { /* a real task vector: differences of bfloat16 numbers, few values, many zeros */
    uint32_t bits;
    memcpy(&bits, &b[i], sizeof bits);
    bits = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    memcpy(&b[i], &bits, sizeof bits);
    tau[i] = b[i] - a[i];
  }
  check_selection(smooth, n, 2, 1);
  check_selection(tau, n, 1, 1);
  free(smooth), free(a), free(noise), free(b), free(tau);
}

enum {
  FILL_EQUAL,
  FILL_ZERO,
  FILL_TWO_VALUES,
  FILL_ONE_LARGE,
  FILL_RAMP_PER_ROW,
  FILL_SPIKE_TILE,
  FILL_HIDDEN,
  FILL_NAN,
  FILL_TINY_AND_HUGE,
  FILL_COUNT
};

static float adversary(int kind, int64_t i, int64_t n)
{
  uint32_t word[4], bits;
  float    value;
  ingot_philox4x32(77, (uint64_t)i, word);
  switch (kind) {
  case FILL_EQUAL: return i % 2 ? 0.25f : -0.25f;
  case FILL_ZERO: return 0;
  case FILL_TWO_VALUES: return word[0] & 1 ? 1.0f : 2.0f;
  case FILL_ONE_LARGE: return i == n / 3 ? 1e30f : 1e-30f;
  case FILL_RAMP_PER_ROW: return (float)(i / 256 % 97) + (float)(word[0] >> 8) * 0x1p-24f; /* runs that differ wholly */
  case FILL_SPIKE_TILE:
    return i < INGOT_TILE / 2 ? 1 + (float)(word[0] >> 8) * 0x1p-24f : (float)(word[0] >> 8) * 0x1p-26f;
  case FILL_HIDDEN: /* large exactly where no sample looks: the first half of every 512 */
    return i % 512 < 256 ? 0.001f + (float)(word[0] >> 8) * 0x1p-44f : 5 + (float)(word[0] >> 8) * 0x1p-24f;
  case FILL_NAN: return word[0] % 5 == 0 ? NAN : (float)(word[1] >> 8) * 0x1p-24f;
  default: /* any bit pattern that is finite */
    bits = word[0] & 0x7fffffffu;
    bits = bits >= 0x7f800000u ? bits - 0x40000000u : bits;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
}

static void test_adversaries(void **state)
{
  (void)state;
  const int64_t sizes[] = {200001, INGOT_TILE + 17};
  for (int kind = 0; kind < FILL_COUNT; kind++) {
    for (int s = 0; s < 2; s++) {
      int64_t n = sizes[s];
      float  *tau = malloc((size_t)n * sizeof *tau);
      for (int64_t i = 0; i < n; i++) tau[i] = adversary(kind, i, n);
      check_selection(tau, n, 1 + 2 * s, 7);
      free(tau);
    }
  }
}

static void test_radix_rank(void **state)
{
  (void)state;
  enum { N = 3000 };
  uint32_t key[N], room[N];
  for (int kind = 0; kind < 3; kind++) {
    ranked  r[N];
    int64_t above;
    for (int i = 0; i < N; i++) {
      uint32_t word[4];
      ingot_philox4x32(5, (uint64_t)i, word);
      key[i] = kind == 0 ? word[0] % INGOT_DELTA_KEY_MAX : kind == 1 ? word[0] % 7 : INGOT_DELTA_KEY_MAX - word[0] % 3;
      r[i] = (ranked){key[i], i};
    }
    qsort(r, N, sizeof *r, by_rank);
    for (int rank = 1; rank <= N; rank += 13) {
      assert_int_equal(ingot_select_rank(key, N, room, rank, &above), r[rank - 1].key);
      assert_true(above < rank && (above == 0 || r[above - 1].key > r[rank - 1].key) &&
                  r[above].key == r[rank - 1].key);
    }
  }
}

/* Zeros neither vote nor match: a model equal to the base changes nothing. */
static void test_base_as_model(void **state)
{
  (void)state;
  enum { N = 5000 };
  float *base = method_random(N, 1, 1), *a = method_random(N, 2, 1), *b = method_random(N, 3, 1), out[N], with_base[N];
  const float *in[] = {base, a, b, base};
  method_merge("ties", "weight@0=0.5 weight@1=0.75 density=0.3", 3, in, N, out, NULL);
  method_merge("ties", "weight@0=0.5 weight@1=0.75 weight@2=2 density=0.3", 4, in, N, with_base, NULL);
  assert_memory_equal(out, with_base, sizeof out);
  free(base), free(a), free(b);
}

/* One model, density 1, weight 1: the model, to rounding. Equal weights: the order of models is nothing. */
static void test_limits(void **state)
{
  (void)state;
  enum { N = 5000 };
  float *base = method_random(N, 1, 1), *a = method_random(N, 2, 1), *b = method_random(N, 3, 1), out[N], swapped[N];
  const float *in[] = {base, a, b}, *other[] = {base, b, a};
  method_merge("ties", "weight=1", 2, in, N, out, NULL);
  for (int i = 0; i < N; i++) assert_true(fabsf(out[i] - a[i]) <= 2e-7f * (fabsf(base[i]) + fabsf(a[i])));
  method_merge("ties", "weight=1 density=0.4", 3, in, N, out, NULL);
  method_merge("ties", "weight=1 density=0.4", 3, other, N, swapped, NULL);
  assert_memory_equal(out, swapped, sizeof out);
  free(base), free(a), free(b);
}

/* A NaN votes for nobody under "keep": the total is NaN, which elects minus. */
static void test_nan_vote(void **state)
{
  (void)state;
  float        base[1] = {0}, a[1] = {NAN}, b[1] = {2}, c[1] = {-3}, out[1];
  const float *in[] = {base, a, b, c};
  method_merge("ties", "weight=1", 4, in, 1, out, NULL);
  assert_true(out[0] == -3);
}

static void test_many_models(void **state)
{
  (void)state;
  enum { N_MODEL = 130, N = 131072 + 5 };
  float       *x = method_random(N, 1, 1), *out = malloc(N * sizeof *out), *one = malloc(N * sizeof *one);
  float       *base = calloc(N, sizeof *base);
  const float *in[1 + N_MODEL];
  in[0] = base;
  for (int m = 1; m <= N_MODEL; m++) in[m] = x;
  run_report report;
  method_merge("ties", "weight=1 density=0.3", 1 + N_MODEL, in, N, out, &report);
  method_merge("ties", "weight=1 density=0.3", 2, in, N, one, NULL);
  for (int i = 0; i < N; i++) assert_true(fabsf(out[i] - one[i]) <= 1e-4f * fabsf(one[i]));
  assert_true(report.max_slot_bytes <= (size_t)65 << 20);
  free(x), free(out), free(one), free(base);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cases),       cmocka_unit_test(test_parameters),    cmocka_unit_test(test_errors),
      cmocka_unit_test(test_small_sizes), cmocka_unit_test(test_trained_like),  cmocka_unit_test(test_adversaries),
      cmocka_unit_test(test_radix_rank),  cmocka_unit_test(test_base_as_model), cmocka_unit_test(test_limits),
      cmocka_unit_test(test_nan_vote),    cmocka_unit_test(test_many_models),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
