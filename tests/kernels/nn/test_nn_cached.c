/* Attention of new tokens to cached keys against plain float64 loops written here: slots in any order, sequences of
 * different lengths, tokens of one sequence, heads that share keys, a sliding window. What is stored and copied lies
 * where it should, and nothing else changes. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/nn/nn.h"
#include "tests/kernels/nn/nn_cases.h"

enum {
  N_ROW = 5,
  N_SLOT = 5,
  N_TIME = 37,
  N_LAYER = 2,
  N_HEAD = 6,
  N_KV = 2,
  DIM = 8,
  Q = N_HEAD * DIM,
  KV = N_KV * DIM
};
enum { LD_Q = Q + 2 * KV, LD_O = Q + 3, SLOT = N_TIME * KV, LAYER = N_SLOT * SLOT, CACHE = N_LAYER * LAYER };

static const int32_t slot[N_ROW] = {3, 0, 4, 1, 3}, n_key[N_ROW] = {37, 1, 12, 20, 36};

static float *values(uint32_t seed, int64_t n)
{
  float *x = calloc((size_t)n, sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) x[i] = 2.0F * nn_case_value(seed, i);
  return x;
}

static ingot_nn *open_nn(int n_thread)
{
  ingot_nn        *nn = NULL;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = n_thread, .dtype = INGOT_DTYPE_F32};
  check_ok(ingot_nn_open(&options, &nn));
  return nn;
}

static void expect(int window, int row, int head, const float *q, const float *keys, const float *values_of,
                   double *out)
{
  int    first = window && n_key[row] > window ? n_key[row] - window : 0, kv = head / (N_HEAD / N_KV);
  double p[N_TIME], total = 0.0;
  for (int t = first; t < n_key[row]; t++) {
    const float *k = keys + slot[row] * SLOT + t * KV + kv * DIM;
    double       score = 0.0;
    for (int i = 0; i < DIM; i++) score += (double)q[row * LD_Q + head * DIM + i] * (double)k[i];
    p[t] = exp(score * 0.5);
    total += p[t];
  }
  for (int i = 0; i < DIM; i++) {
    out[i] = 0.0;
    for (int t = first; t < n_key[row]; t++)
      out[i] += p[t] / total * (double)values_of[slot[row] * SLOT + t * KV + kv * DIM + i];
  }
}

static void test_cached(void **state)
{
  (void)state;
  static const int windows[] = {0, 5, 12, 100};
  float *q = values(1, N_ROW * LD_Q), *k = values(2, CACHE), *v = values(3, CACHE), *o = values(4, N_ROW * LD_O);
  ingot_nn_cache cache = {.keys = k, .values = v, .n_layer = N_LAYER, .n_slot = N_SLOT, .n_time = N_TIME, .width = KV};
  for (int n_thread = 1; n_thread <= 3; n_thread += 2) {
    ingot_nn *nn = open_nn(n_thread);
    for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++) {
      ingot_nn_cached shape = {.n_row = N_ROW,
                               .layer = 1,
                               .n_head = N_HEAD,
                               .n_kv_head = N_KV,
                               .head_dim = DIM,
                               .scale = 0.5F,
                               .window = windows[w],
                               .slot = slot,
                               .n_key = n_key,
                               .most_key = 37,
                               .ld_q = LD_Q,
                               .ld_o = LD_O};
      check_ok(nn->ops->attention_cached(nn, &shape, &cache, q, o));
      for (int row = 0; row < N_ROW; row++)
        for (int head = 0; head < N_HEAD; head++) {
          double expected[DIM];
          expect(windows[w], row, head, q, k + LAYER, v + LAYER, expected);
          for (int i = 0; i < DIM; i++)
            if (!(fabs((double)o[row * LD_O + head * DIM + i] - expected[i]) < 2e-6))
              fail_msg("window %d, row %d, head %d", windows[w], row, head);
        }
    }
    ingot_nn_close(&nn);
  }
  free(q);
  free(k);
  free(v);
  free(o);
}

static void test_store(void **state)
{
  (void)state;
  enum { N_TOKEN = 4, LD_K = KV + 8, LD_V = KV + 16 };
  static const int32_t place[N_TOKEN] = {2 * N_TIME + 5, -1, 0, 4 * N_TIME + 36};
  float               *k = values(5, N_TOKEN * LD_K), *v = values(6, N_TOKEN * LD_V), *keys = values(7, CACHE),
        *values_of = values(8, CACHE);
  float         *keys_then = values(7, CACHE), *values_then = values(8, CACHE);
  ingot_nn_cache cache =
      {.keys = keys, .values = values_of, .n_layer = N_LAYER, .n_slot = N_SLOT, .n_time = N_TIME, .width = KV};
  ingot_nn *nn = open_nn(2);
  check_ok(nn->ops->cache_store(nn, &cache, 1, N_TOKEN, place, k, LD_K, v, LD_V));
  for (int t = 0; t < N_TOKEN; t++)
    for (int i = 0; place[t] >= 0 && i < KV; i++) {
      keys_then[LAYER + place[t] * KV + i] = k[t * LD_K + i];
      values_then[LAYER + place[t] * KV + i] = v[t * LD_V + i];
    }
  assert_memory_equal(keys, keys_then, CACHE * sizeof(float));
  assert_memory_equal(values_of, values_then, CACHE * sizeof(float));
  ingot_nn_close(&nn);
  float *memory[] = {k, v, keys, values_of, keys_then, values_then};
  for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) free(memory[i]);
}

static void test_copy(void **state)
{
  (void)state;
  static const int32_t copies[][3] = {{3, 0, 37}, {3, 4, 1}, {1, 2, 20}};
  float               *keys = values(7, CACHE), *values_of = values(8, CACHE), *keys_then = values(7, CACHE),
        *values_then = values(8, CACHE);
  ingot_nn_cache cache =
      {.keys = keys, .values = values_of, .n_layer = N_LAYER, .n_slot = N_SLOT, .n_time = N_TIME, .width = KV};
  ingot_nn *nn = open_nn(2);
  check_ok(nn->ops->cache_copy(nn, &cache, 3, copies[0], 37));
  for (int layer = 0; layer < N_LAYER; layer++)
    for (int c = 0; c < 3; c++)
      for (int i = 0; i < copies[c][2] * KV; i++) {
        const int from = layer * LAYER + copies[c][0] * SLOT + i, to = layer * LAYER + copies[c][1] * SLOT + i;
        keys_then[to] = keys_then[from];
        values_then[to] = values_then[from];
      }
  assert_memory_equal(keys, keys_then, CACHE * sizeof(float));
  assert_memory_equal(values_of, values_then, CACHE * sizeof(float));
  ingot_nn_close(&nn);
  float *memory[] = {keys, values_of, keys_then, values_then};
  for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) free(memory[i]);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cached),
      cmocka_unit_test(test_store),
      cmocka_unit_test(test_copy),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
