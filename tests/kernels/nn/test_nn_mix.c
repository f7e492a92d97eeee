/* Combining distributions: examples of four classes, worked out in float64, and what must hold for any rows. */
#include "tests/kernels/nn/nn_worked.h"

#include <stdlib.h>

#include "tests/kernels/nn/nn_cases.h"

enum { V = 4 };
static const double tolerance = 1e-6;
static const float  a[V] = {2, 1, 0, -1}, b[V] = {0, 2, 1, -1};

/* Mix rows of one model each by the weights given, and normalise. */
static void mix(ingot_nn *nn, ingot_nn_mix kind, int n_member, const float *const *z, const float *weight, float floor,
                int n_vocab, float *q)
{
  float *mixed = malloc((size_t)n_vocab * sizeof *mixed);
  assert_non_null(mixed);
  for (int i = 0; i < n_vocab; i++) mixed[i] = NAN;
  for (int m = 0; m < n_member; m++) {
    const ingot_nn_logits rows = {z[m], 1, n_vocab, n_vocab};
    check_ok(nn->ops->mix(nn, kind, &rows, &weight[m], floor, m == 0, mixed));
  }
  const ingot_nn_logits rows = {mixed, 1, n_vocab, n_vocab};
  check_ok(nn->ops->log_softmax(nn, &rows, mixed));
  for (int i = 0; i < n_vocab; i++) q[i] = expf(mixed[i]);
  free(mixed);
}

static void test_linear(void **state)
{
  const float  weight[2] = {logf(0.6f), logf(0.4f)};
  const float *z[2] = {a, b};
  float        q[V];
  mix(*state, INGOT_NN_MIX_LINEAR, 2, z, weight, 0, V, q);
  nn_worked_check("q", q, (const double[]){0.421206, 0.399695, 0.147040, 0.032059}, V, tolerance);
  const float equal[2] = {logf(0.5f), logf(0.5f)};
  mix(*state, INGOT_NN_MIX_LINEAR, 2, z, equal, 0, V, q);
  nn_worked_check("mean", q, (const double[]){0.365529, 0.440399, 0.162014, 0.032059}, V, tolerance);
}

static void test_log_linear(void **state)
{
  const float *z[2] = {a, b};
  float        q[V];
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 2, z, (const float[]){0.6f, 0.4f}, 0, V, q);
  nn_worked_check("q", q, (const double[]){0.359514, 0.439111, 0.161540, 0.039835}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 2, z, (const float[]){0, 0}, 0, V, q);
  nn_worked_check("no weight", q, (const double[]){0.25, 0.25, 0.25, 0.25}, V, tolerance);
}

/* base + alpha (domain - anti): a negative weight. */
static void test_negative(void **state)
{
  static const float base[V] = {1, 1, 0, 0}, domain[V] = {2, 0, 1, 0}, anti[V] = {0, 2, 0, 0};
  const float       *z[3] = {base, domain, anti};
  float              q[V];
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 3, z, (const float[]){1, 0.5f, -0.5f}, logf(1e-8f), V, q);
  nn_worked_check("0.5", q, (const double[]){0.669433, 0.090598, 0.149371, 0.090598}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 3, z, (const float[]){1, 1, -1}, logf(1e-8f), V, q);
  nn_worked_check("1", q, (const double[]){0.830953, 0.015219, 0.112457, 0.041371}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 3, z, (const float[]){1, 2, -2}, logf(1e-8f), V, q);
  nn_worked_check("2", q, (const double[]){0.946199, 0.000317, 0.047108, 0.006375}, V, tolerance);
}

/* The same, restricted to what the base finds plausible, whichever member comes first. */
static void test_plausible(void **state)
{
  static const float base[V] = {1, 1, 0, 0}, domain[V] = {2, 0, 1, 0}, anti[V] = {0, 2, 0, 0};
  const float       *z[3] = {base, domain, anti};
  const float        weight[3] = {1, 1, -1};
  ingot_nn          *nn = *state;
  for (int first = 0; first < 3; first++) {
    float           mixed[V];
    ingot_nn_logits rows = {mixed, 1, V, V};
    for (int i = 0; i < 3; i++) {
      const int             m = (first + i) % 3;
      const ingot_nn_logits member = {z[m], 1, V, V};
      check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &member, &weight[m], logf(1e-8f), i == 0, mixed));
      if (m == 0) check_ok(nn->ops->rule_out(nn, &member, logf(0.5f), mixed));
    }
    check_ok(nn->ops->log_softmax(nn, &rows, mixed));
    assert_true(mixed[2] == -INFINITY && mixed[3] == -INFINITY);
    for (int i = 0; i < V; i++) mixed[i] = expf(mixed[i]);
    nn_worked_check("half", mixed, (const double[]){0.982014, 0.017986, 0, 0}, V, tolerance);
  }
}

/* What is exactly as likely as asked for stays; a margin of 0 leaves the largest alone, with its equals.
 * Each row has a largest of its own; behind the vocabulary nothing changes. */
static void test_rule_out(void **state)
{
  ingot_nn             *nn = *state;
  const float           z[2 * 6] = {3, 2, 1, 1, 99, 99, -7, -5, -5, -6.5f, 99, 99};
  const ingot_nn_logits rows = {z, 2, V, 6};
  float                 mixed[2 * 6];
  for (int i = 0; i < 12; i++) mixed[i] = (float)i;
  check_ok(nn->ops->rule_out(nn, &rows, -1, mixed));
  for (int i = 0; i < 12; i++) {
    const bool out = i == 2 || i == 3 || i == 6 || i == 9;
    assert_true(out ? mixed[i] == -INFINITY : mixed[i] == (float)i);
  }
  check_ok(nn->ops->rule_out(nn, &rows, 0, mixed));
  for (int i = 0; i < 12; i++) {
    const bool out = (i < V && i != 0) || i == 6 || i == 9;
    assert_true(out ? mixed[i] == -INFINITY : mixed[i] == (float)i);
  }
}

/* Unnormalised, exp(mixed) sums to exp(-0.217187). */
static void test_log_z(void **state)
{
  ingot_nn   *nn = *state;
  const float weight[2] = {0.6f, 0.4f};
  float       mixed[V], sum = 0;
  for (int m = 0; m < 2; m++) {
    const ingot_nn_logits rows = {m ? b : a, 1, V, V};
    check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &rows, &weight[m], 0, m == 0, mixed));
  }
  for (int i = 0; i < V; i++) sum += expf(mixed[i]);
  sum = logf(sum);
  nn_worked_check("log Z", &sum, (const double[]){-0.217187}, 1, tolerance);
}

static void test_max(void **state)
{
  const float *z[2] = {a, b}, *turned[2] = {b, a};
  float        q[V], other[V];
  mix(*state, INGOT_NN_MIX_MAX, 2, z, (const float[]){0, 0}, 0, V, q);
  nn_worked_check("q", q, (const double[]){0.413622, 0.413622, 0.152163, 0.020593}, V, tolerance);
  mix(*state, INGOT_NN_MIX_MAX, 2, turned, (const float[]){0, 0}, 0, V, other);
  assert_memory_equal(q, other, sizeof q);
  mix(*state, INGOT_NN_MIX_MAX, 2, z, (const float[]){logf(0.6f), logf(0.4f)}, 0, V, q);
  const double sum = 0.386349 + 0.257566 + 0.094753 + 0.019235;
  nn_worked_check("weighted", q, (const double[]){0.386349 / sum, 0.257566 / sum, 0.094753 / sum, 0.019235 / sum}, V,
                  tolerance);
}

/* A class that one model rules out: a mixture keeps it, a product does not; under a negative weight it meets the
 * floor. */
static void test_ruled_out(void **state)
{
  static const float none[V] = {-INFINITY, 0, 0, -INFINITY}, some[V] = {0, 0, 0, -INFINITY};
  const float       *z[2] = {none, some};
  const float        half[2] = {logf(0.5f), logf(0.5f)}, left_out[2] = {-INFINITY, 0};
  float              q[V];
  mix(*state, INGOT_NN_MIX_LINEAR, 2, z, half, 0, V, q);
  nn_worked_check("linear", q, (const double[]){1.0 / 6, 5.0 / 12, 5.0 / 12, 0}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LINEAR, 2, z, left_out, 0, V, q);
  nn_worked_check("left out", q, (const double[]){1.0 / 3, 1.0 / 3, 1.0 / 3, 0}, V, tolerance);
  mix(*state, INGOT_NN_MIX_MAX, 2, z, left_out, 0, V, q);
  nn_worked_check("left out of max", q, (const double[]){1.0 / 3, 1.0 / 3, 1.0 / 3, 0}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 2, z, (const float[]){0.5f, 0.5f}, 0, V, q);
  nn_worked_check("product", q, (const double[]){0, 0.5, 0.5, 0}, V, tolerance);
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 2, z, (const float[]){0, 1}, 0, V, q);
  nn_worked_check("no weight", q, (const double[]){1.0 / 3, 1.0 / 3, 1.0 / 3, 0}, V, tolerance);
  /* 1/3 over floor 1/8, 1/3 over 1/2 twice: 8 : 2 : 2 */
  mix(*state, INGOT_NN_MIX_LOG_LINEAR, 2, (const float *[]){some, none}, (const float[]){1, -1}, logf(0.125f), V, q);
  nn_worked_check("floor", q, (const double[]){8.0 / 12, 2.0 / 12, 2.0 / 12, 0}, V, tolerance);
}

/* One model with weight 1 is itself bit for bit; copies mix to the same; adding to a member's logits changes
 * nothing. */
static void test_identities(void **state)
{
  enum { WIDE = 3001 };
  static float z[WIDE], other[WIDE], shifted[WIDE], alone[WIDE], got[WIDE];
  ingot_nn    *nn = *state;
  for (int i = 0; i < WIDE; i++) {
    z[i] = 9 * nn_case_value(1, i);
    other[i] = 9 * nn_case_value(2, i);
    shifted[i] = z[i] + 4;
  }
  const ingot_nn_logits rows = {z, 1, WIDE, WIDE}, more = {other, 1, WIDE, WIDE};
  const float           one = 1, zero = 0, out = -INFINITY;
  check_ok(nn->ops->log_softmax(nn, &rows, alone));
  check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LINEAR, &rows, &zero, 0, true, got));
  check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LINEAR, &more, &out, 0, false, got));
  assert_memory_equal(alone, got, sizeof got);
  check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &more, &zero, 0, true, got));
  check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &rows, &one, 0, false, got));
  assert_memory_equal(alone, got, sizeof got);

  double expected[WIDE], sum = 0;
  for (int i = 0; i < WIDE; i++) sum += exp((double)z[i]);
  for (int i = 0; i < WIDE; i++) expected[i] = exp((double)z[i]) / sum;
  for (ingot_nn_mix kind = INGOT_NN_MIX_LINEAR; kind <= INGOT_NN_MIX_MAX; kind++) {
    const float third = kind == INGOT_NN_MIX_LOG_LINEAR ? 1.0f / 3 : logf(1.0f / 3);
    mix(nn, kind, 3, (const float *[]){z, shifted, z}, (const float[]){third, third, third}, 0, WIDE, got);
    nn_worked_check("copies", got, expected, WIDE, tolerance);
  }
}

/* Behind the vocabulary nothing is read; logits far from 0 are fine. */
static void test_far(void **state)
{
  ingot_nn             *nn = *state;
  const float           z[5] = {30000, 29999, -30000, NAN, NAN}, one = 1;
  float                 got[5];
  const ingot_nn_logits rows = {z, 1, 3, 5};
  check_ok(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &rows, &one, 0, true, got));
  nn_worked_check("logp", got, (const double[]){-0.3132617, -1.3132617}, 2, tolerance);
  assert_true(got[2] < -59999);
}

/* Gradient E_q[logp] - logp(y) and covariance of weights (0.6, 0.4) at y = 1. */
static void test_moments(void **state)
{
  ingot_nn             *nn = *state;
  const float           weight[2] = {0.6f, 0.4f};
  float                 logp[2][2 * V], mixed[2 * V], mean[4], product[8], label[4];
  const float           z[2][2 * V] = {{2, 1, 0, -1, 2, 1, 0, -1}, {0, 2, 1, -1, 0, 2, 1, -1}};
  const int32_t         labels[2] = {1, INGOT_NN_IGNORE};
  const ingot_nn_logits rows = {mixed, 2, V, V};
  for (int m = 0; m < 2; m++) {
    const ingot_nn_logits member = {z[m], 2, V, V};
    check_ok(nn->ops->log_softmax(nn, &member, logp[m]));
    check_ok(
        nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &member, (const float[]){weight[m], weight[m]}, 0, m == 0, mixed));
  }
  check_ok(nn->ops->moments(nn, &rows, 2, (const float *[]){logp[0], logp[1]}, labels, mean, product, label));
  const float gradient[2] = {mean[0] - label[0], mean[1] - label[1]};
  const float covariance[4] = {product[0] - mean[0] * mean[0], product[1] - mean[0] * mean[1],
                               product[2] - mean[0] * mean[1], product[3] - mean[1] * mean[1]};
  nn_worked_check("gradient", gradient, (const double[]){0.118303, -1.000073}, 2, tolerance);
  nn_worked_check("covariance", covariance, (const double[]){0.666399, -0.200164, -0.200164, 0.957966}, 4, 2e-6);
  for (int i = 0; i < 2; i++) assert_true(mean[2 + i] == 0 && label[2 + i] == 0);
  for (int i = 0; i < 4; i++) assert_true(product[4 + i] == 0);
}

/* What no model gives a share to adds nothing, though its logarithm is -inf. */
static void test_moments_ruled_out(void **state)
{
  ingot_nn             *nn = *state;
  const float           logp[V] = {logf(0.5f), logf(0.5f), -INFINITY, -INFINITY};
  const int32_t         labels[1] = {0};
  const ingot_nn_logits rows = {logp, 1, V, V};
  float                 mean, product, label;
  check_ok(nn->ops->moments(nn, &rows, 1, (const float *[]){logp}, labels, &mean, &product, &label));
  nn_worked_check("mean", &mean, (const double[]){-0.6931472}, 1, tolerance);
  nn_worked_check("product", &product, (const double[]){0.4804530}, 1, tolerance);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_linear), cmocka_unit_test(test_log_linear), cmocka_unit_test(test_negative),
      cmocka_unit_test(test_log_z),  cmocka_unit_test(test_plausible),  cmocka_unit_test(test_rule_out),
      cmocka_unit_test(test_max),    cmocka_unit_test(test_ruled_out),  cmocka_unit_test(test_identities),
      cmocka_unit_test(test_far),    cmocka_unit_test(test_moments),    cmocka_unit_test(test_moments_ruled_out),
  };
  return cmocka_run_group_tests(tests, nn_worked_open, nn_worked_close);
}
