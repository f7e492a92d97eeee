/* Examples small enough to be worked by hand, for the CPU back end. */
#include "tests/check.h"

#include <math.h>

#include "kernels/nn/nn.h"

static ingot_nn *nn;

static int open_nn(void **state)
{
  (void)state;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = 2, .dtype = INGOT_DTYPE_F32};
  return ingot_nn_open(&options, &nn) != INGOT_OK;
}

static int close_nn(void **state)
{
  (void)state;
  ingot_nn_close(&nn);
  return 0;
}

static void check_floats(const float *got, const double *expected, int n)
{
  for (int i = 0; i < n; i++)
    if (!(fabs((double)got[i] - expected[i]) <= 1.1e-6))
      fail_msg("[%d]: %.9g instead of %.7g", i, (double)got[i], expected[i]);
}

static const ingot_nn_norm one_row = {.n_token = 1, .n_group = 1, .width = 4, .ld_x = 4, .ld_y = 4};
static const float         counting[4] = {1, 2, 3, 4}, ones[4] = {1, 1, 1, 1}, zeros[4] = {0};

/* Mean square 7.5: r = 7.5^-1/2; dy picks the first element: dx = r (e1 - xhat xhat_1 / 4). */
static void test_rms(void **state)
{
  (void)state;
  ingot_nn_norm shape = one_row;
  float         y[4], r, dx[4], dweight[4] = {0};
  const float   dy[4] = {1, 0, 0, 0};
  shape.eps = 1e-6f;
  check_ok(nn->ops->norm(nn, &shape, counting, NULL, NULL, ones, NULL, y, &r));
  check_floats(y, (const double[]){0.365148, 0.730297, 1.095445, 1.460593}, 4);
  check_ok(nn->ops->norm_backward(nn, &shape, counting, ones, &r, dy, NULL, dx, dweight, NULL));
  check_floats(dx, (const double[]){0.352977, -0.024343, -0.036515, -0.048686}, 4);
  check_floats(dweight, (const double[]){0.365148, 0, 0, 0}, 4);
}

static void test_layer_norm(void **state)
{
  (void)state;
  ingot_nn_norm shape = one_row;
  float         y[4], stats[2], dx[4];
  const float   dy[4] = {1, 0, 0, 0};
  shape.eps = 1e-5f;
  shape.centred = true;
  check_ok(nn->ops->norm(nn, &shape, counting, NULL, NULL, ones, zeros, y, stats));
  check_floats(y, (const double[]){-1.341635, -0.447212, 0.447212, 1.341635}, 4);
  check_floats(stats, (const double[]){2.5, 0.8944236}, 2);
  check_ok(nn->ops->norm_backward(nn, &shape, counting, ones, stats, dy, NULL, dx, NULL, NULL));
  check_floats(dx, (const double[]){0.268330, -0.357768, -0.089443, 0.178882}, 4);
}

/* Position 3, theta 10^4, d = 4: angles 3 and 0.03; turned back, the row is itself again. */
static void test_rope(void **state)
{
  (void)state;
  const float   cos_[2] = {-0.98999250f, 0.99955003f}, sin_[2] = {0.14112001f, 0.02999550f};
  const int32_t position = 0;
  float         x[4] = {1, 2, 3, 4};
  ingot_nn_rope shape = {.n_token = 1,
                         .n_head = 1,
                         .head_dim = 4,
                         .rotary_dim = 4,
                         .ld = 4,
                         .cos = cos_,
                         .sin = sin_,
                         .positions = &position};
  check_ok(nn->ops->rope(nn, &shape, x, false));
  check_floats(x, (const double[]){-1.413353, 1.879118, -2.828857, 4.058191}, 4);
  check_ok(nn->ops->rope(nn, &shape, x, true));
  check_floats(x, (const double[]){1, 2, 3, 4}, 4);
}

/* The second query's scores are equal: it sees both values by half. */
static void test_attention(void **state)
{
  (void)state;
  const float        q[4] = {1, 0, 1, 1}, k[4] = {1, 1, 0, 2}, v[4] = {1, 0, 0, 1}, d_o[4] = {0, 0, 1, 0};
  float              o[4], lse[2], dq[4], dk[4], dv[4];
  ingot_nn_attention shape = {.n_batch = 1,
                              .n_time = 2,
                              .n_head = 1,
                              .n_kv_head = 1,
                              .head_dim = 2,
                              .scale = 0.70710678f,
                              .ld_q = 2,
                              .ld_k = 2,
                              .ld_v = 2,
                              .ld_o = 2};
  check_ok(nn->ops->attention(nn, &shape, q, k, v, o, lse));
  check_floats(o, (const double[]){1, 0, 0.5, 0.5}, 4);
  check_floats(lse, (const double[]){0.7071068, 1.4142136 + 0.6931472}, 2);
  check_ok(nn->ops->attention_backward(nn, &shape, q, k, v, o, lse, d_o, dq, dk, dv));
  check_floats(dv, (const double[]){0.5, 0, 0.5, 0}, 4);
  check_floats(dq, (const double[]){0, 0, 0.176777, -0.176777}, 4);
  check_floats(dk, (const double[]){0.176777, 0.176777, -0.176777, -0.176777}, 4);
}

static void test_swiglu(void **state)
{
  (void)state;
  const float gate_up[2] = {1, 2}, d_out = 1;
  float       out, d[2];
  check_ok(nn->ops->swiglu(nn, 1, 1, gate_up, &out));
  check_floats(&out, (const double[]){1.462117}, 1);
  check_ok(nn->ops->swiglu_backward(nn, 1, 1, gate_up, &d_out, d));
  check_floats(d, (const double[]){1.855341, 0.731059}, 2);
}

/* Far out, activations are 0 or the identity, and their derivatives 0 or 1: no overflow, no NaN. */
static void test_far_activations(void **state)
{
  (void)state;
  const float gate_up[4] = {1000, -1000, 1, 1}, ones2[2] = {1, 1}, x[2] = {1e4f, -1e4f};
  float       out[2], d[4], y[2], dx[2];
  check_ok(nn->ops->swiglu(nn, 1, 2, gate_up, out));
  check_floats(out, (const double[]){1000, 0}, 2);
  check_ok(nn->ops->swiglu_backward(nn, 1, 2, gate_up, ones2, d));
  check_floats(d, (const double[]){1, 0, 1000, 0}, 4);
  check_ok(nn->ops->gelu(nn, 2, x, y));
  check_floats(y, (const double[]){1e4, 0}, 2);
  check_ok(nn->ops->gelu_backward(nn, 2, x, ones2, dx));
  check_floats(dx, (const double[]){1, 0}, 2);
}

/* exp(0) : exp(ln 3) = 1 : 3; three columns of which the last is no part of the vocabulary. */
static void test_cross_entropy(void **state)
{
  (void)state;
  const float     z[9] = {0, 1.0986123f, NAN, 1.0986123f, 0, NAN, 5, 5, NAN};
  const int32_t   labels[3] = {1, 1, INGOT_NN_IGNORE};
  ingot_nn_logits shape = {z, 3, 2, 3};
  float           nll[3], d[9], alone[3];
  int32_t         top1[3];
  check_ok(nn->ops->cross_entropy(nn, &shape, labels, 2, nll, top1, d));
  check_floats(nll, (const double[]){0.2876821, 1.3862944, 0}, 3);
  check_floats(d, (const double[]){0.5, -0.5, 0, 1.5, -1.5, 0, 0, 0, 0}, 9);
  assert_true(d[2] == 0 && d[5] == 0 && d[6] == 0 && d[7] == 0 && d[8] == 0);
  assert_int_equal(top1[0], 1);
  assert_int_equal(top1[1], 0);
  assert_int_equal(top1[2], 0); /* equal ones: the smaller index */
  check_ok(nn->ops->cross_entropy(nn, &shape, labels, 1, alone, NULL, NULL));
  assert_memory_equal(nll, alone, sizeof nll);
}

/* Large logits, and ones that are minus infinity. */
static void test_far_logits(void **state)
{
  (void)state;
  const float     z[3] = {20000, 19999, -INFINITY};
  const int32_t   label = 1;
  ingot_nn_logits shape = {z, 1, 3, 3};
  float           nll, d[3], logp[3];
  int32_t         ids[3];
  check_ok(nn->ops->cross_entropy(nn, &shape, &label, 1, &nll, NULL, d));
  check_floats(&nll, (const double[]){1.3132617}, 1);
  check_floats(d, (const double[]){0.7310586, -0.7310586, 0}, 3);
  check_ok(nn->ops->top_k(nn, &shape, 3, ids, logp));
  check_floats(logp, (const double[]){-0.3132617, -1.3132617}, 2);
  assert_true(ids[0] == 0 && ids[1] == 1 && ids[2] == 2 && logp[2] == -INFINITY);
}

/* Equal ones by ascending id, also where the k-th is one of several. */
static void test_top_k_ties(void **state)
{
  (void)state;
  const float     z[6] = {1, 3, 3, 0, 3, 1};
  ingot_nn_logits shape = {z, 1, 6, 6};
  const int32_t   expected[5] = {1, 2, 4, 0, 5};
  int32_t         ids[5];
  float           logp[5];
  for (int k = 1; k <= 5; k++) {
    check_ok(nn->ops->top_k(nn, &shape, k, ids, logp));
    assert_memory_equal(ids, expected, (size_t)k * sizeof *ids);
  }
}

/* One possible outcome is drawn whatever the number; and of 4000 draws at 3 : 1, a quarter is the rarer one. */
static void test_sample(void **state)
{
  (void)state;
  enum { DRAWS = 4000 };
  static float    z[DRAWS * 4];
  static int32_t  labels[DRAWS];
  ingot_nn_logits shape = {z, DRAWS, 4, 4};
  for (int i = 0; i < DRAWS; i++) {
    z[4 * i] = z[4 * i + 3] = -INFINITY;
    z[4 * i + 1] = 7;
    z[4 * i + 2] = i % 2 ? 7 - 1.0986123f : -INFINITY;
    labels[i] = i % 8 == 4 ? INGOT_NN_IGNORE : 0;
  }
  check_ok(nn->ops->sample_labels(nn, &shape, 1, UINT64_C(1) << 40, labels));
  int rare = 0;
  for (int i = 0; i < DRAWS; i++) {
    if (i % 2 == 0) assert_int_equal(labels[i], i % 8 == 4 ? INGOT_NN_IGNORE : 1);
    else assert_in_range(labels[i], 1, 2);
    rare += labels[i] == 2;
  }
  assert_in_range(rare, 500 - 100, 500 + 100); /* of 2000: five deviations of 19.4 */
}

/* Of p = (.1, 0, .2, .3, .4), and of their squares, (1, 0, 4, 9, 16) / 30; rows without a distribution. */
static void test_draw(void **state)
{
  (void)state;
  enum { N = 9, V = 5 };
  static const double  u[N] = {0.0, 0.099, 0.101, 0.299, 0.301, 0.599, 0.601, 0.9999999, 0x1.fffffffffffffp-1};
  static const int32_t plain[N] = {0, 0, 2, 2, 3, 3, 4, 4, 4}, squared[N] = {0, 2, 2, 3, 3, 4, 4, 4, 4};
  float                z[N * 6];
  int32_t              ids[N];
  ingot_nn_logits      shape = {z, N, V, 6};
  for (int i = 0; i < N * 6; i++) {
    static const float p[6] = {0.1f, 0, 0.2f, 0.3f, 0.4f, 1e30f}; /* the last is behind the vocabulary */
    z[i] = logf(p[i % 6]) + (float)(i / 6);
  }
  check_ok(nn->ops->draw(nn, &shape, 1, u, ids));
  assert_memory_equal(ids, plain, sizeof ids);
  check_ok(nn->ops->draw(nn, &shape, 2, u, ids));
  assert_memory_equal(ids, squared, sizeof ids);
  z[2] = NAN;
  z[6 + 1] = INFINITY;
  for (int i = 0; i < V; i++) z[12 + i] = -INFINITY;
  check_ok(nn->ops->draw(nn, &shape, 1, u, ids));
  for (int i = 0; i < N; i++) assert_int_equal(ids[i], i < 3 ? -1 : plain[i]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_rms),           cmocka_unit_test(test_layer_norm), cmocka_unit_test(test_rope),
      cmocka_unit_test(test_attention),     cmocka_unit_test(test_swiglu),     cmocka_unit_test(test_far_activations),
      cmocka_unit_test(test_cross_entropy), cmocka_unit_test(test_far_logits), cmocka_unit_test(test_top_k_ties),
      cmocka_unit_test(test_sample),        cmocka_unit_test(test_draw),
  };
  return cmocka_run_group_tests(tests, open_nn, close_nn);
}
