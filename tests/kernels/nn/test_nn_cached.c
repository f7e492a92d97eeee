/* Attention of new tokens to cached keys against plain float64 loops written here: slots in any order, sequences of different lengths, heads
 * that share keys, a sliding window. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/nn/nn.h"
#include "tests/kernels/nn/nn_cases.h"

enum { N_ROW = 4, N_SLOT = 5, N_TIME = 37, N_HEAD = 6, N_KV = 2, DIM = 8, Q = N_HEAD * DIM, KV = N_KV * DIM, LD_Q = Q + 2 * KV, LD_O = Q + 3 };

static const int32_t slot[N_ROW] = {3, 0, 4, 1}, n_key[N_ROW] = {37, 1, 12, 20};

static float *values(uint32_t seed, int64_t n)
{
  float *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) x[i] = 2.0F * nn_case_value(seed, i);
  return x;
}

static void expect(int window, int row, int head, const float *q, const float *keys, const float *values_of, double *out)
{
  int    first = window && n_key[row] > window ? n_key[row] - window : 0, kv = head / (N_HEAD / N_KV);
  double p[N_TIME], total = 0.0;
  for (int t = first; t < n_key[row]; t++) {
    const float *k = keys + (slot[row] * N_TIME + t) * KV + kv * DIM;
    double       score = 0.0;
    for (int i = 0; i < DIM; i++) score += (double)q[row * LD_Q + head * DIM + i] * (double)k[i];
    p[t] = exp(score * 0.5);
    total += p[t];
  }
  for (int i = 0; i < DIM; i++) {
    out[i] = 0.0;
    for (int t = first; t < n_key[row]; t++) out[i] += p[t] / total * (double)values_of[(slot[row] * N_TIME + t) * KV + kv * DIM + i];
  }
}

static void test_cached(void **state)
{
  (void)state;
  static const int windows[] = {0, 5, 12, 100};
  float           *q = values(1, N_ROW * LD_Q), *k = values(2, N_SLOT * N_TIME * KV), *v = values(3, N_SLOT * N_TIME * KV), *o = values(4, N_ROW * LD_O);
  for (int n_thread = 1; n_thread <= 3; n_thread += 2) {
    ingot_nn        *nn = NULL;
    ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = n_thread, .dtype = INGOT_DTYPE_F32};
    check_ok(ingot_nn_open(&options, &nn));
    for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
      ingot_nn_cached shape = {.n_row = N_ROW, .n_head = N_HEAD, .n_kv_head = N_KV, .head_dim = DIM, .scale = 0.5F, .window = windows[w], .slot = slot,
                               .n_key = n_key, .slot_stride = N_TIME * KV, .ld_cache = KV, .ld_q = LD_Q, .ld_o = LD_O};
      check_ok(nn->ops->attention_cached(nn, &shape, q, k, v, o));
      for (int row = 0; row < N_ROW; row++)
        for (int head = 0; head < N_HEAD; head++) {
          double expected[DIM];
          expect(windows[w], row, head, q, k, v, expected);
          for (int i = 0; i < DIM; i++)
            if (!(fabs((double)o[row * LD_O + head * DIM + i] - expected[i]) < 2e-6)) fail_msg("window %d, row %d, head %d", windows[w], row, head);
        }
    }
    ingot_nn_close(&nn);
  }
  free(q);
  free(k);
  free(v);
  free(o);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_cached)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
