/*
 * The cache of keys and values on the GPU against the CPU: storing, copying between slots, attention of new tokens;
 * heads that share keys in every number, head sizes that are no power of two, windows, sequences of odd and different
 * lengths, several tokens of one sequence, keys shared out to several blocks.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "tests/gpu/nn_pair.h"

enum { MOST_LENGTH = 5 };

typedef struct cache_case {
  int64_t n_row;
  int     n_head, n_kv_head, head_dim, window;
  int     length[MOST_LENGTH]; /* keys of rows in turn; 0: no more of them */
  bool    one_slot;            /* rows are tokens of one sequence */
  bool    brief;               /* under a checking tool as well */
} cache_case;

static const cache_case cases[] = {
    {1, 8, 2, 64, 0, {1000}, false, true},
    {3, 6, 2, 40, 0, {1, 37, 129}, false, true},
    {2, 32, 4, 128, 0, {777, 1}, false, true},
    {2, 16, 1, 80, 50, {300, 20}, false, true},
    {4, 8, 1, 64, 300, {515, 514, 513, 290}, true, true},
    {3, 10, 2, 136, 7, {5, 7, 90}, false, false},
    {2, 14, 2, 72, 260, {640, 259}, false, false},
    {2, 9, 9, 24, 0, {385, 130}, false, false},
    {3, 18, 1, 64, 0, {260, 33, 5}, false, false},
    {1, 4, 4, 256, 0, {600}, false, false},
    {1, 8, 1, 256, 0, {9001}, false, false},
    {6, 4, 4, 8, 0, {200, 3, 128}, false, false},
    {70, 32, 8, 128, 0, {257, 30, 1, 511, 64}, false, false}, /* sequences alone fill the GPU */
    {33, 32, 8, 64, 100, {333, 90, 2}, false, false},
};

typedef struct setting {
  ingot_dtype dtype;
  bool        brief;
} setting;

static int64_t padded(int64_t n)
{
  return (n + 7) / 8 * 8 + 8;
}

static int length_of(const cache_case *c, int64_t row)
{
  int n = 0;
  while (n < MOST_LENGTH && c->length[n] > 0) n++;
  return c->length[row % n];
}

static ingot_nn_cache cache_of(const cache_case *c, int64_t n_layer, void *keys, void *values)
{
  ingot_nn_cache cache = {.keys = keys,
                          .values = values,
                          .n_layer = n_layer,
                          .n_slot = c->n_row + 1,
                          .width = (int64_t)c->n_kv_head * c->head_dim};
  for (int64_t r = 0; r < c->n_row; r++) cache.n_time = length_of(c, r) > cache.n_time ? length_of(c, r) : cache.n_time;
  cache.n_time += 3;
  return cache;
}

enum { N_LAYER = 2 };

static ingot_status call_attention(ingot_nn *nn, void **p, const void *context)
{
  const cache_case *c = context;
  ingot_nn_cache    cache = cache_of(c, N_LAYER, p[2], p[3]);
  int64_t           q = (int64_t)c->n_head * c->head_dim;
  ingot_nn_cached   shape = {.n_row = c->n_row,
                             .layer = 1,
                             .n_head = c->n_head,
                             .n_kv_head = c->n_kv_head,
                             .head_dim = c->head_dim,
                             .scale = 1.0f / sqrtf((float)c->head_dim),
                             .window = c->window,
                             .slot = p[4],
                             .n_key = p[5],
                             .most_key = cache.n_time - 3,
                             .ld_q = padded(q),
                             .ld_o = padded(q)};
  return nn->ops->attention_cached(nn, &shape, &cache, p[1], p[0]);
}

static void test_attention(void **state)
{
  const setting *s = *state;
  nn_pair        pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const cache_case *c = &cases[i];
    ingot_nn_cache    cache = cache_of(c, N_LAYER, NULL, NULL);
    int64_t           n = N_LAYER * cache.n_slot * cache.n_time * cache.width,
            n_q = c->n_row * padded((int64_t)c->n_head * c->head_dim);
    char what[64];
    if (s->brief && !c->brief) continue;
    snprintf(what, sizeof what, "cached attention %zu", i);
    nn_array array[] = {
        nn_random(NN_ACT, n_q, 1e-3, pair.rounded), /* what is not written is seen, and does not count as the largest */
        nn_random(NN_ACT, n_q, 12.0, 0),            /* scores of several units: some keys matter more than others */
        nn_random(NN_ACT, n, 1.0, 0),
        nn_random(NN_ACT, n, 1.0, 0),
        nn_random_index(c->n_row, 1),
        nn_random_index(c->n_row, 1),
    };
    for (int64_t r = 0; r < c->n_row; r++) {
      array[4].value[r] = c->one_slot ? 1.0 : (double)(c->n_row - r); /* slot 0 is nobody's */
      array[5].value[r] = length_of(c, r);
    }
    nn_pair_run(&pair, what, 6, array, call_attention, c, NULL);
  }
  nn_pair_close(&pair);
}

/* ---- storing and copying ---- */

typedef struct move_case {
  int64_t n_layer, n_slot, n_time, width, n_token, n_copy;
} move_case;

static ingot_status call_moves(ingot_nn *nn, void **p, const void *context)
{
  const move_case *c = context;
  ingot_nn_cache   cache = {p[0], p[1], c->n_layer, c->n_slot, c->n_time, c->width};
  ingot_status     st = nn->ops->cache_store(nn, &cache, c->n_layer - 1, c->n_token, p[2], p[4], padded(c->width), p[5],
                                             padded(c->width) + 8);
  return st == INGOT_OK ? nn->ops->cache_copy(nn, &cache, c->n_copy, p[3], c->n_time) : st;
}

static void test_moves(void **state)
{
  static const move_case shapes[] = {{3, 6, 9, 24, 7, 3},
                                     {1, 4, 3, 8, 0, 2},
                                     {2, 9, 700, 256, 500, 4},
                                     {24, 16, 33, 1024, 16, 8}};
  const setting         *s = *state;
  nn_pair                pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
    const move_case *c = &shapes[i];
    int64_t          n = c->n_layer * c->n_slot * c->n_time * c->width;
    nn_array         array[] = {
                nn_random(NN_ACT, n, 1.0, 1e-30), /* the same numbers */
                nn_random(NN_ACT, n, 1.0, 1e-30),
                nn_random_index(c->n_token, 1),
                nn_random_index(3 * c->n_copy, 1),
                nn_random(NN_ACT, c->n_token * padded(c->width), 2.0, 0),
                nn_random(NN_ACT, c->n_token * (padded(c->width) + 8), 2.0, 0),
    };
    for (int64_t t = 0; t < c->n_token; t++)
      array[2].value[t] = t % 5 == 4 ? -1.0 : (double)(c->n_slot * c->n_time - 1 - 2 * t);
    for (int64_t k = 0; k < c->n_copy;
         k++) { /* from the lower half of the slots to the upper, the first of all lengths whole */
      array[3].value[3 * k] = (double)(k / 2);
      array[3].value[3 * k + 1] = (double)(c->n_slot - 1 - k);
      array[3].value[3 * k + 2] = k == 0 ? (double)c->n_time : (double)(1 + (7 * k) % c->n_time);
    }
    nn_pair_run(&pair, "cache, stored and copied", 6, array, call_moves, c, NULL);
  }
  nn_pair_close(&pair);
}

/* test_nn_cache_cuda [--brief] */
int main(int argc, char **argv)
{
  bool                    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
  setting                 f32 = {INGOT_DTYPE_F32, brief}, bf16 = {INGOT_DTYPE_BF16, brief};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_attention, &f32),
      cmocka_unit_test_prestate(test_attention, &bf16),
      cmocka_unit_test_prestate(test_moves, &f32),
      cmocka_unit_test_prestate(test_moves, &bf16),
  };
  if (ingot_device_count() == 0 || ingot_device_use(0) != INGOT_OK) {
    fprintf(stderr, "no usable GPU: %s\n", ingot_device_built() ? "none found" : "built without CUDA");
    return 77; /* skipped */
  }
  return cmocka_run_group_tests_name("cached attention on CUDA", tests, NULL, NULL);
}
