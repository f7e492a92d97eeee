/*
 * Operators that combine models, distill and train, on the CUDA back end: larger shapes against the CPU back end, and
 * the same bits from run to run. The cases of every back end are test_nn_cuda's.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "tests/gpu/nn_pair.h"

typedef struct setting {
  ingot_dtype dtype;
  bool        brief; /* under a checking tool: fewer and smaller shapes */
} setting;

typedef struct row_shape {
  int64_t n_row, n_vocab;
  int     n_member, k;
} row_shape;

static const row_shape shapes[] = {{5, 13, 2, 13},     {70, 1000, 5, 4},   {9, 4099, 16, 64},
                                   {33, 32000, 3, 50}, {9, 50257, 4, 100}, {4, 151936, 2, 600}};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0], N_BRIEF = 2 };

static int64_t padded(int64_t n)
{
  return (n + 7) / 8 * 8 + 8;
}

static ingot_nn_logits logits_of(const row_shape *c, const void *data)
{
  ingot_nn_logits z = {data, c->n_row, c->n_vocab, padded(c->n_vocab)};
  return z;
}

/* Labels, of which every fourth is none. */
static nn_array labels_of(const row_shape *c)
{
  nn_array a = nn_random_index(c->n_row, c->n_vocab);
  for (int64_t i = 0; i < c->n_row; i += 4) a.value[i] = INGOT_NN_IGNORE;
  return a;
}

typedef struct mix_case {
  row_shape    shape;
  ingot_nn_mix kind;
} mix_case;

/* What lies behind the vocabulary is nothing to compare. */
static ingot_status clear_behind(ingot_nn *nn, const row_shape *c, float *rows)
{
  ingot_status st = INGOT_OK;
  const size_t bytes = (size_t)(padded(c->n_vocab) - c->n_vocab) * sizeof *rows;
  for (int64_t i = 0; i < c->n_row && st == INGOT_OK; i++)
    st = nn->ops->zero(nn, rows + i * padded(c->n_vocab) + c->n_vocab, bytes);
  return st;
}

static ingot_status call_mix(ingot_nn *nn, void **p, const void *context)
{
  const mix_case *c = context;
  ingot_nn_logits a = logits_of(&c->shape, p[1]), b = logits_of(&c->shape, p[2]), mixed = logits_of(&c->shape, p[0]);
  ingot_status    st = INGOT_OK;
  INGOT_TRY(nn->ops->mix(nn, c->kind, &a, p[3], -7, true, p[0]));
  INGOT_TRY(nn->ops->mix(nn, c->kind, &b, p[4], -7, false, p[0]));
  INGOT_TRY(nn->ops->log_softmax(nn, &mixed, p[5]));
  INGOT_TRY(clear_behind(nn, &c->shape, p[0]));
  INGOT_TRY(clear_behind(nn, &c->shape, p[5]));
done:
  return st;
}

static void test_mix(void **state)
{
  const setting *s = *state;
  nn_pair        pair;
  nn_pair_open(&pair, s->dtype);
  for (int i = 0; i < (s->brief ? N_BRIEF : N_SHAPE); i++)
    for (ingot_nn_mix kind = INGOT_NN_MIX_LINEAR; kind <= INGOT_NN_MIX_MAX; kind++) {
      const mix_case c = {shapes[i], kind};
      const int64_t  n = c.shape.n_row * padded(c.shape.n_vocab);
      char           what[64];
      snprintf(what, sizeof what, "mix %d, %lld", (int)kind, (long long)c.shape.n_vocab);
      nn_array array[] = {nn_random(NN_F32, n, 0, pair.exact),
                          nn_random(NN_F32, n, 9.0, 0),
                          nn_random(NN_F32, n, 9.0, 0),
                          nn_random(NN_F32, c.shape.n_row, 1.0, 0),
                          nn_random(NN_F32, c.shape.n_row, 1.0, 0),
                          nn_random(NN_F32, n, 0, pair.exact)};
      array[4].value[0] = kind == INGOT_NN_MIX_LOG_LINEAR ? 0 : -INFINITY;
      nn_pair_run(&pair, what, 6, array, call_mix, &c, NULL);
    }
  nn_pair_close(&pair);
}

/* -inf cannot be compared: a power of -1 makes the floor of it. */
static ingot_status call_rule_out(ingot_nn *nn, void **p, const void *context)
{
  const row_shape *c = context;
  ingot_nn_logits  z = logits_of(c, p[1]), mixed = logits_of(c, p[2]);
  ingot_status     st = INGOT_OK;
  INGOT_TRY(nn->ops->rule_out(nn, &z, -0.7f, p[2]));
  INGOT_TRY(nn->ops->mix(nn, INGOT_NN_MIX_LOG_LINEAR, &mixed, p[3], -30, true, p[0]));
  INGOT_TRY(clear_behind(nn, c, p[0]));
done:
  return st;
}

static void test_rule_out(void **state)
{
  const setting *s = *state;
  nn_pair        pair;
  nn_pair_open(&pair, s->dtype);
  for (int i = 0; i < (s->brief ? N_BRIEF : N_SHAPE); i++) {
    const int64_t n = shapes[i].n_row * padded(shapes[i].n_vocab);
    nn_array array[] = {nn_random(NN_F32, n, 0, pair.exact), nn_random(NN_F32, n, 2.0, 0), nn_random(NN_F32, n, 2.0, 0),
                        nn_random(NN_F32, shapes[i].n_row, 1.0, 0)};
    for (int64_t r = 0; r < shapes[i].n_row; r++) array[3].value[r] = -1.0;
    nn_pair_run(&pair, "rule out", 4, array, call_rule_out, &shapes[i], NULL);
  }
  nn_pair_close(&pair);
}

static ingot_status call_moments(ingot_nn *nn, void **p, const void *context)
{
  const row_shape *c = context;
  const float     *members[16];
  ingot_nn_logits  mixed = logits_of(c, p[3]);
  for (int m = 0; m < c->n_member; m++) members[m] = (const float *)p[4] + m * c->n_row * padded(c->n_vocab);
  return nn->ops->moments(nn, &mixed, c->n_member, members, p[5], p[0], p[1], p[2]);
}

static void test_moments(void **state)
{
  const setting *s = *state;
  nn_pair        pair;
  nn_pair_open(&pair, s->dtype);
  for (int i = 0; i < (s->brief ? N_BRIEF : N_SHAPE); i++) {
    const row_shape *c = &shapes[i];
    const int64_t    n = c->n_row * padded(c->n_vocab), m = c->n_member;
    char             what[64];
    snprintf(what, sizeof what, "moments, %lld", (long long)c->n_vocab);
    nn_array array[] = {nn_random(NN_F32, c->n_row * m, 0, pair.exact),
                        nn_random(NN_F32, c->n_row * m * m, 0, pair.exact),
                        nn_random(NN_F32, c->n_row * m, 0, pair.exact),
                        nn_random(NN_F32, n, 9.0, 0),
                        nn_random(NN_F32, n * m, 9.0, 0),
                        labels_of(c)};
    nn_pair_run(&pair, what, 6, array, call_moments, c, NULL);
  }
  nn_pair_close(&pair);
}

typedef struct distill_case {
  row_shape        shape;
  ingot_nn_distill loss;
  ingot_nn_tail    tail;
} distill_case;

static ingot_status call_distill(ingot_nn *nn, void **p, const void *context)
{
  const distill_case *c = context;
  ingot_nn_logits     z = logits_of(&c->shape, p[3]);
  ingot_status        st = nn->ops->distill(nn, &c->loss, &z, p[4], p[5], p[0], p[1], p[2]);
  return st == INGOT_OK ? nn->ops->distill(nn, &c->loss, &z, p[4], p[5], p[6], NULL, NULL) : st;
}

static ingot_status call_top_k(ingot_nn *nn, void **p, const void *context)
{
  const distill_case  *c = context;
  ingot_nn_logits      z = logits_of(&c->shape, p[3]), t = logits_of(&c->shape, p[4]);
  const ingot_nn_top_k teacher = {c->shape.k, p[7], p[8], c->tail};
  ingot_status         st = INGOT_OK;
  INGOT_TRY(nn->ops->top_k(nn, &t, c->shape.k, p[7], p[8]));
  INGOT_TRY(nn->ops->distill_top_k(nn, &c->loss, &z, &teacher, p[5], p[0], p[1], p[2]));
  INGOT_TRY(nn->ops->distill_top_k(nn, &c->loss, &z, &teacher, p[5], p[6], NULL, NULL));
done:
  return st;
}

static void check_distill(const nn_pair *pair, const distill_case *c, bool stored)
{
  const int64_t n_row = c->shape.n_row, n = n_row * padded(c->shape.n_vocab), n_stored = n_row * c->shape.k;
  char          what[96];
  snprintf(what, sizeof what, "distill%s %d, tail %d, T %g, alpha %g, %lld", stored ? " top-k" : "",
           (int)c->loss.divergence, (int)c->tail, (double)c->loss.temperature, (double)c->loss.alpha,
           (long long)c->shape.n_vocab);
  nn_array array[] = {
      nn_random(NN_F32, n_row, 0, pair->exact),
      nn_random(NN_F32, n_row, 0, pair->exact),
      nn_random(NN_ACT, n, 0, pair->rounded),
      nn_random(NN_F32, n, 9.0, 0),
      nn_random(NN_F32, n, 9.0, 0),
      labels_of(&c->shape),
      nn_random(NN_F32, n_row, 0, pair->exact),
      nn_random(NN_I32, n_stored, 0, 1),
      nn_random(NN_F32, n_stored, 0, pair->exact),
  };
  nn_pair_run(pair, what, 9, array, stored ? call_top_k : call_distill, c, NULL);
}

static void test_distill(void **state)
{
  static const float temperatures[] = {1, 2, 3}, alphas[] = {1, 0.5f, 0, 0.25f};
  const setting     *s = *state;
  nn_pair            pair;
  nn_pair_open(&pair, s->dtype);
  for (int i = 0; i < (s->brief ? N_BRIEF : N_SHAPE); i++)
    for (int kind = 0; kind < 3; kind++)
      for (int stored = 0; stored < 2; stored++) {
        const distill_case c = {shapes[i],
                                {stored ? INGOT_NN_FORWARD_KL : (ingot_nn_divergence)kind, 0.25f,
                                 temperatures[(i + kind) % 3], alphas[(i + 2 * kind + stored) % 4], 0.5f},
                                (ingot_nn_tail)kind};
        check_distill(&pair, &c, stored);
      }
  nn_pair_close(&pair);
}

static ingot_status call_adamw(ingot_nn *nn, void **p, const void *context)
{
  const int64_t *n = context;
  ingot_status   st = INGOT_OK;
  double         sum;
  INGOT_TRY(nn->ops->sum_squares(nn, *n, p[4], &sum));
  for (int step = 1; step <= 3; step++) {
    const ingot_nn_adamw how = {0.01f, 0.9f, 0.95f, 1e-3f, 0.1f, (float)(1 / sqrt(sum)), step};
    INGOT_TRY(nn->ops->adamw(nn, &how, *n, p[4], p[0], p[1], p[2], p[3]));
  }
  INGOT_TRY(nn->ops->widen(nn, *n, p[3], p[5]));
  INGOT_TRY(nn->ops->round_to(nn, *n, p[4], p[6]));
  INGOT_TRY(nn->ops->copy_in(nn, p[7], &sum, sizeof sum));
done:
  return st;
}

static void test_adamw(void **state)
{
  static const int64_t sizes[] = {1, 7, 1000, 100003, 5000000};
  const setting       *s = *state;
  nn_pair              pair;
  nn_pair_open(&pair, s->dtype);
  for (int i = 0; i < (s->brief ? 4 : 5); i++) {
    const int64_t n = sizes[i];
    nn_array      array[] = {nn_random(NN_F32, n, 1.0, pair.exact), nn_random(NN_F32, n, 1.0, pair.exact),
                             nn_random(NN_F32, n, 1.0, pair.exact), nn_random(NN_ACT, n, 0, pair.rounded),
                             nn_random(NN_F32, n, 1.0, 0),          nn_random(NN_F32, n, 0, pair.rounded),
                             nn_random(NN_ACT, n, 0, pair.rounded), nn_random(NN_F64, 1, 0, 1e-12)};
    for (int64_t j = 0; j < n; j++) array[2].value[j] = fabs(array[2].value[j]);
    nn_pair_run(&pair, "adamw", 8, array, call_adamw, &n, NULL);
  }
  nn_pair_close(&pair);
}

/* A slice that begins anywhere gives the bits that the whole gives. */
static void test_slices(void **state)
{
  enum { N = 4099, FIRST = 1235 };
  const setting       *s = *state;
  const ingot_nn_adamw how = {0.01f, 0.9f, 0.95f, 1e-8f, 0.1f, 1, 2};
  ingot_nn            *nn;
  ingot_nn_options     options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype};
  float                x[N], whole[3 * N], parts[3 * N];
  void                *memory[2];
  for (int i = 0; i < N; i++) x[i] = 0.25f + (float)(i * 37 % 101) / 64;
  check_ok(ingot_nn_open(&options, &nn));
  for (int k = 0; k < 2; k++) {
    check_ok(nn->ops->alloc(nn, 4 * sizeof x, &memory[k]));
    for (int i = 0; i < 4; i++) check_ok(nn->ops->copy_in(nn, (float *)memory[k] + i * N, x, sizeof x));
    float *at = memory[k];
    int    cut = k ? FIRST : N;
    check_ok(nn->ops->adamw(nn, &how, cut, at + 3 * N, at, at + N, at + 2 * N, NULL));
    if (k) at += cut;
    if (k) check_ok(nn->ops->adamw(nn, &how, N - cut, at + 3 * N, at, at + N, at + 2 * N, NULL));
    check_ok(nn->ops->copy_out(nn, k ? parts : whole, memory[k], sizeof whole));
    nn->ops->free(nn, memory[k]);
  }
  assert_memory_equal(whole, parts, sizeof whole);
  ingot_nn_close(&nn);
}

/* test_nn_training_cuda [--brief] */
int main(int argc, char **argv)
{
  bool    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
  setting f32 = {INGOT_DTYPE_F32, brief}, bf16 = {INGOT_DTYPE_BF16, brief};
#define BOTH(test) cmocka_unit_test_prestate(test, &f32), cmocka_unit_test_prestate(test, &bf16)
  const struct CMUnitTest tests[] = {
      BOTH(test_mix), BOTH(test_rule_out), BOTH(test_moments), BOTH(test_distill), BOTH(test_adamw), BOTH(test_slices),
  };
#undef BOTH
  if (ingot_device_count() == 0 || ingot_device_use(0) != INGOT_OK) {
    fprintf(stderr, "no usable GPU: %s\n", ingot_device_built() ? "none found" : "built without CUDA");
    return 77; /* skipped */
  }
  return cmocka_run_group_tests_name("training on the CUDA back end", tests, NULL, NULL);
}
