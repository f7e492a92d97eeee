/*
 * The CUDA back end: the cases that every back end must pass, against float64 reference values; larger shapes against
 * the CPU back end; the same bits from run to run; memory.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/device.h"
#include "kernels/nccl.h"
#include "kernels/nn/cuda_open.h"
#include "tests/gpu/nn_pair.h"
#include "tests/kernels/nn/nn_cases.h"

typedef struct setting {
  ingot_dtype dtype;
  bool        brief; /* under a checking tool: fewer and smaller shapes */
} setting;

/* ---- the shared cases ---- */

static void check_case(const nn_case *c, ingot_nn *nn, double limit)
{
  nn_outputs  got, again, expected;
  const char *worst;
  if (!nn_case_reference(c, &expected)) fail_msg("%s: not in reference.bin", c->name);
  nn_case_run(c, nn, &got);
  nn_case_run(c, nn, &again);
  double difference = nn_outputs_difference(&got, &expected, &worst);
  if (!(difference <= limit))
    fail_msg("%s/%s: off by %.3g of its largest value (limit %.3g)", c->name, worst, difference, limit);
  for (int o = 0; o < got.count; o++) {
    if (memcmp(got.item[o].values, again.item[o].values, (size_t)got.item[o].n * sizeof(float)) != 0)
      fail_msg("%s/%s: other bits the second time", c->name, got.item[o].name);
  }
  nn_outputs_release(&got);
  nn_outputs_release(&again);
  nn_outputs_release(&expected);
}

static void test_cases(void **state)
{
  const setting   *s = *state;
  ingot_nn        *nn;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype};
  /* float32: sums of 300 products; bfloat16: some roundings of 2^-9 on the way */
  double limit = s->dtype == INGOT_DTYPE_BF16 ? 0.02 : 5e-6;
  check_ok(ingot_nn_open(&options, &nn));
  for (int i = 0; i < nn_case_count; i++) {
    if (!nn_cases[i].any_stride) check_case(&nn_cases[i], nn, limit);
  }
  ingot_nn_close(&nn);
}

/* ---- larger shapes ---- */

typedef struct product {
  int64_t     m, n, k;
  bool        turn_a, turn_b, bias;
  float       alpha, beta;
  ingot_dtype c_dtype; /* BF16 stands for nn->dtype */
} product;

static int64_t padded(int64_t n)
{
  return (n + 7) / 8 * 8 + 8;
}

static ingot_status call_matmul(ingot_nn *nn, void **p, const void *context)
{
  const product  *c = context;
  ingot_nn_matrix a = {p[1], padded(c->turn_a ? c->m : c->k), c->turn_a};
  ingot_nn_matrix b = {p[2], padded(c->turn_b ? c->k : c->n), c->turn_b};
  ingot_dtype     c_dtype = c->c_dtype == INGOT_DTYPE_F32 ? INGOT_DTYPE_F32 : nn->dtype;
  return nn->ops->matmul(nn, c->m, c->n, c->k, c->alpha, a, b, c->beta, p[0], padded(c->n), c_dtype,
                         c->bias ? p[3] : NULL);
}

static void test_matmul(void **state)
{
  static const product cases[] = {
      {64, 96, 128, false, true, false, 1.0f, 0.0f, INGOT_DTYPE_BF16},
      {300, 200, 500, false, true, true, 1.0f, 0.0f, INGOT_DTYPE_BF16},
      {33, 1001, 257, false, false, true, 0.5f, 1.0f, INGOT_DTYPE_BF16},
      {1000, 520, 777, true, false, false, 1.0f, 1.0f, INGOT_DTYPE_F32},
      {64, 2048, 4096, true, true, false, 2.0f, 0.0f, INGOT_DTYPE_F32},
      {129, 65, 31, false, true, true, 1.0f, 1.0f, INGOT_DTYPE_F32},
  };
  const setting *s = *state;
  nn_pair        pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 3); i++) {
    const product *c = &cases[i];
    bool           exact = c->c_dtype == INGOT_DTYPE_F32;
    char           what[64];
    snprintf(what, sizeof what, "matmul %zu", i);
    nn_array array[] = {
        nn_random(exact ? NN_F32 : NN_ACT, c->m * padded(c->n), 1.0, exact ? pair.exact : pair.rounded),
        nn_random(NN_ACT, (c->turn_a ? c->k : c->m) * padded(c->turn_a ? c->m : c->k), 1.0, 0),
        nn_random(NN_ACT, (c->turn_b ? c->n : c->k) * padded(c->turn_b ? c->k : c->n), 1.0, 0),
        nn_random(NN_ACT, c->n, 1.0, 0),
    };
    nn_pair_run(&pair, what, 4, array, call_matmul, c, NULL);
  }
  nn_pair_close(&pair);
}

typedef struct gram_shape {
  int64_t n_row, width;
  bool    valid;
} gram_shape;

/** The upper triangle; what is below is made equal on both sides. */
static ingot_status call_gram(ingot_nn *nn, void **p, const void *context)
{
  const gram_shape *c = context;
  ingot_status      st = nn->ops->gram(nn, c->n_row, c->width, p[1], padded(c->width), c->valid ? p[2] : NULL, p[0]);
  size_t            bytes = (size_t)(c->width * c->width) * sizeof(double);
  double           *sum = malloc(bytes);
  if (st != INGOT_OK || sum == NULL) return st;
  st = nn->ops->copy_out(nn, sum, p[0], bytes);
  for (int64_t i = 0; i < c->width; i++) {
    for (int64_t j = 0; j < i; j++) sum[i * c->width + j] = 0;
  }
  if (st == INGOT_OK) st = nn->ops->copy_in(nn, p[0], sum, bytes);
  free(sum);
  return st;
}

static void test_gram(void **state)
{
  static const gram_shape cases[] = {{100, 40, true}, {513, 700, false}, {9001, 72, true}, {17000, 1100, false}};
  const setting          *s = *state;
  nn_pair                 pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 2); i++) {
    const gram_shape *c = &cases[i];
    char              what[64];
    snprintf(what, sizeof what, "gram %zu", i);
    nn_array array[] = {
        nn_random(NN_F64, c->width * c->width, 100.0, s->dtype == INGOT_DTYPE_BF16 ? 1e-4 : pair.exact),
        nn_random(NN_ACT, c->n_row * padded(c->width), 1.0, 0),
        nn_random_index(c->n_row, 2),
    };
    nn_pair_run(&pair, what, 3, array, call_gram, c, NULL);
  }
  nn_pair_close(&pair);
}

typedef struct norm_case {
  ingot_nn_norm shape;
  bool          delta, bias, residual;
} norm_case;

static ingot_status call_norm(ingot_nn *nn, void **p, const void *context)
{
  const norm_case *c = context;
  return nn->ops->norm(nn, &c->shape, p[3], c->delta ? p[4] : NULL, c->delta ? p[2] : NULL, p[5], c->bias ? p[6] : NULL,
                       p[0], p[1]);
}

static ingot_status call_norm_backward(ingot_nn *nn, void **p, const void *context)
{
  const norm_case *c = context;
  ingot_status     st = nn->ops->norm(nn, &c->shape, p[3], NULL, NULL, p[5], NULL, p[7], p[8]);
  if (st != INGOT_OK) return st;
  return nn->ops->norm_backward(nn, &c->shape, p[3], p[5], p[8], p[4], c->residual ? p[6] : NULL, p[0], p[1],
                                c->bias ? p[2] : NULL);
}

static void check_norm(const nn_pair *pair, const norm_case *c, const char *what)
{
  int64_t  n = c->shape.n_token * c->shape.ld_x, n_y = c->shape.n_token * c->shape.ld_y, width = c->shape.width;
  int64_t  n_stats = c->shape.n_token * c->shape.n_group * 2;
  nn_array forward[] = {
      nn_random(NN_ACT, n_y, 0, pair->rounded),
      nn_random(NN_F32, n_stats, 0, pair->rounded),
      nn_random(NN_ACT, n, 0, pair->rounded),
      nn_random(NN_ACT, n, 2.0, 0),
      nn_random(NN_ACT, n, 1.0, 0),
      nn_random(NN_ACT, width, 1.0, 0),
      nn_random(NN_ACT, width, 1.0, 0),
  };
  nn_array backward[] = {
      nn_random(NN_ACT, n, 0, pair->rounded),
      nn_random(NN_F32, width, 1.0, 2 * pair->exact),
      nn_random(NN_F32, width, 1.0, pair->exact),
      nn_random(NN_ACT, n, 2.0, 0),
      nn_random(NN_ACT, n_y, 1.0, 0),
      nn_random(NN_ACT, width, 1.0, 0),
      nn_random(NN_ACT, n, 1.0, 0),
      nn_random(NN_ACT, n_y, 0, 0),
      nn_random(NN_F32, n_stats, 0, 0),
  };
  nn_pair_run(pair, what, 7, forward, call_norm, c, NULL);
  nn_pair_run(pair, what, 9, backward, call_norm_backward, c, NULL);
}

static void test_norm(void **state)
{
  static const int64_t widths[] = {8, 33, 64, 72, 128, 200, 256, 264, 1000, 2048, 2056, 4096, 6000, 8192, 9000};
  const setting       *s = *state;
  nn_pair              pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
    for (int kind = 0; kind < 4 && !(s->brief && i > 8); kind++) {
      int64_t   n_token = widths[i] > 1000 || s->brief ? 37 : 701;
      int       n_group = kind == 3 ? 5 : 1;
      norm_case c = {{kind % 2 == 1, 1e-5f, n_token, n_group, widths[i], padded(widths[i] * n_group),
                      padded(widths[i] * n_group) + 8},
                     kind == 1 || kind == 2,
                     kind == 1,
                     kind != 0};
      char      what[64];
      snprintf(what, sizeof what, "norm %lld, kind %d", (long long)widths[i], kind);
      check_norm(&pair, &c, what);
    }
  }
  nn_pair_close(&pair);
}

typedef struct plane {
  int64_t n_row, width;
} plane;

static ingot_status call_swiglu(ingot_nn *nn, void **p, const void *context)
{
  const plane *c = context;
  ingot_status st = nn->ops->swiglu(nn, c->n_row, c->width, p[1], p[0]);
  return st == INGOT_OK ? nn->ops->swiglu_backward(nn, c->n_row, c->width, p[1], p[2], p[1]) : st;
}

static ingot_status call_gelu(ingot_nn *nn, void **p, const void *context)
{
  const plane *c = context;
  ingot_status st = nn->ops->gelu(nn, c->n_row * c->width, p[1], p[0]);
  return st == INGOT_OK ? nn->ops->gelu_backward(nn, c->n_row * c->width, p[1], p[2], p[1]) : st;
}

static ingot_status call_sums(ingot_nn *nn, void **p, const void *context)
{
  const plane *c = context;
  int64_t      n = c->n_row * c->width;
  ingot_status st = nn->ops->column_sum(nn, c->n_row, c->width, p[1], padded(c->width), p[0]);
  if (st == INGOT_OK) st = nn->ops->add(nn, n, p[1], p[2]);
  return st == INGOT_OK ? nn->ops->add_squares(nn, n, 0.25f, p[4], p[3]) : st;
}

static void test_elementwise(void **state)
{
  static const plane cases[] = {{1, 8}, {19, 37}, {300, 200}, {2000, 1024}, {5000, 130}};
  const setting     *s = *state;
  nn_pair            pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 3); i++) {
    const plane *c = &cases[i];
    int64_t      n = c->n_row * c->width;
    nn_array     gated[] = {nn_random(NN_ACT, n, 0, pair.rounded), nn_random(NN_ACT, 2 * n, 4.0, pair.rounded),
                            nn_random(NN_ACT, n, 1.0, 0)};
    nn_array     plain[] = {nn_random(NN_ACT, n, 0, pair.rounded), nn_random(NN_ACT, n, 4.0, pair.rounded),
                            nn_random(NN_ACT, n, 1.0, 0)};
    nn_array     sums[] = {nn_random(NN_F32, c->width, 1.0, pair.exact),
                           nn_random(NN_ACT, c->n_row * padded(c->width), 1.0, 0), nn_random(NN_ACT, n, 1.0, pair.rounded),
                           nn_random(NN_F32, n, 1.0, pair.exact), nn_random(NN_F32, n, 1.0, 0)};
    nn_pair_run(&pair, "swiglu", 3, gated, call_swiglu, c, NULL);
    nn_pair_run(&pair, "gelu", 3, plain, call_gelu, c, NULL);
    nn_pair_run(&pair, "sums", 5, sums, call_sums, c, NULL);
  }
  nn_pair_close(&pair);
}

typedef struct turn {
  int64_t n_token;
  int     n_head, head_dim, rotary_dim;
} turn;

static ingot_status call_rope(ingot_nn *nn, void **p, const void *context)
{
  const turn   *c = context;
  ingot_nn_rope shape = {c->n_token, c->n_head, c->head_dim, c->rotary_dim, padded(c->n_head * c->head_dim),
                         p[1],       p[2],      p[3]};
  ingot_status  st = nn->ops->rope(nn, &shape, p[0], false);
  return st == INGOT_OK ? nn->ops->rope(nn, &shape, p[4], true) : st;
}

static void test_rope(void **state)
{
  static const turn cases[] = {{50, 4, 64, 64}, {9, 3, 20, 12}, {7, 2, 128, 32}, {700, 8, 128, 128}, {33, 5, 80, 80}};
  const setting    *s = *state;
  nn_pair           pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 3); i++) {
    const turn *c = &cases[i];
    int64_t     n = c->n_token * padded(c->n_head * c->head_dim), n_angle = 90 * c->rotary_dim / 2;
    nn_array    array[] = {nn_random(NN_ACT, n, 2.0, pair.rounded), nn_random(NN_F32, n_angle, 1.0, 0),
                           nn_random(NN_F32, n_angle, 1.0, 0), nn_random_index(c->n_token, 90),
                           nn_random(NN_ACT, n, 2.0, pair.rounded)};
    nn_pair_run(&pair, "rope", 5, array, call_rope, c, NULL);
  }
  nn_pair_close(&pair);
}

typedef struct table {
  int64_t n_token, width, n_index;
  bool    positions;
} table;

static ingot_status call_embedding(ingot_nn *nn, void **p, const void *context)
{
  const table *c = context;
  ingot_status st = nn->ops->embedding(nn, c->n_token, c->width, p[2], p[3], c->positions ? p[4] : NULL,
                                       c->positions ? p[5] : NULL, p[0]);
  return st == INGOT_OK ? nn->ops->embedding_backward(nn, c->n_token, c->width, c->n_index, p[2], p[6], p[1]) : st;
}

static void test_embedding(void **state)
{
  static const table cases[] = {{23, 40, 9, false}, {500, 33, 2, true}, {3000, 256, 700, true}, {4096, 2056, 1, false}};
  const setting     *s = *state;
  nn_pair            pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 2); i++) {
    const table *c = &cases[i];
    nn_array     array[] = {nn_random(NN_ACT, c->n_token * c->width, 0, pair.rounded),
                            nn_random(NN_F32, c->n_index * c->width, 1.0, pair.exact),
                            nn_random_index(c->n_token, c->n_index),
                            nn_random(NN_ACT, c->n_index * c->width, 1.0, 0),
                            nn_random_index(c->n_token, 60),
                            nn_random(NN_ACT, 60 * c->width, 1.0, 0),
                            nn_random(NN_ACT, c->n_token * c->width, 1.0, 0)};
    nn_pair_run(&pair, "embedding", 7, array, call_embedding, c, NULL);
  }
  nn_pair_close(&pair);
}

/* ---- logits ---- */

typedef struct loss_shape {
  int64_t n_row, n_vocab;
  int     k;
} loss_shape;

static ingot_nn_logits logits_of(const loss_shape *c, const void *data)
{
  ingot_nn_logits z = {data, c->n_row, c->n_vocab, padded(c->n_vocab)};
  return z;
}

static ingot_status call_loss(ingot_nn *nn, void **p, const void *context)
{
  const loss_shape *c = context;
  ingot_nn_logits   z = logits_of(c, p[4]);
  ingot_status      st = nn->ops->cross_entropy(nn, &z, p[5], 0.5f, p[0], p[1], p[2]);
  return st == INGOT_OK ? nn->ops->top_k(nn, &z, c->k, p[3], p[6]) : st;
}

static void test_loss(void **state)
{
  static const loss_shape cases[] = {{5, 13, 13}, {70, 1000, 4}, {33, 32000, 10}, {9, 50257, 3}, {4, 151936, 2}};
  const setting          *s = *state;
  nn_pair                 pair;
  nn_pair_open(&pair, s->dtype);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0] && (!s->brief || i < 2); i++) {
    const loss_shape *c = &cases[i];
    int64_t           n = c->n_row * padded(c->n_vocab);
    nn_array          array[] = {nn_random(NN_F32, c->n_row, 0, pair.exact),
                                 nn_random(NN_I32, c->n_row, 0, 1),
                                 nn_random(NN_ACT, n, 0, pair.rounded),
                                 nn_random(NN_I32, c->n_row * c->k, 0, 1),
                                 nn_random(NN_F32, n, 9.0, 0),
                                 nn_random_index(c->n_row, c->n_vocab),
                                 nn_random(NN_F32, c->n_row * c->k, 0, pair.exact)};
    for (int64_t j = 0; j < c->n_row; j += 4) array[5].value[j] = INGOT_NN_IGNORE;
    for (int64_t j = 0; j < n; j += 3) array[4].value[j] = round(array[4].value[j] * 4) / 4; /* equal ones */
    nn_pair_run(&pair, "loss", 7, array, call_loss, c, NULL);
  }
  nn_pair_close(&pair);
}

/** A label against the definition in float64: cumulative probability below u before it, above u with it. */
static void check_drawn(int64_t row, const float *z, int64_t n_vocab, double inverse, double u, int32_t label)
{
  double before = 0, total = 0;
  assert_in_range(label, 0, n_vocab - 1);
  for (int64_t v = 0; v < n_vocab; v++) {
    if (v < label) before += exp((double)z[v] * inverse);
    total += exp((double)z[v] * inverse);
  }
  double with = before + exp((double)z[label] * inverse);
  if (before / total > u + 1e-6 || with / total < u - 1e-6)
    fail_msg("row %lld: label %d covers %.9g .. %.9g, u is %.9g", (long long)row, label, before / total, with / total,
             u);
}

/** Labels by counters, and tokens by given numbers at another temperature; rows without a distribution. */
static void test_sample_labels(void **state)
{
  const setting   *s = *state;
  loss_shape       c = {s->brief ? 20 : 400, s->brief ? 300 : 5003, 0};
  ingot_nn        *nn;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype};
  nn_array         values = nn_random(NN_F32, c.n_row * padded(c.n_vocab), 6.0, 0);
  float           *z = malloc((size_t)values.n * sizeof *z);
  double          *u = malloc((size_t)c.n_row * sizeof *u);
  int32_t         *labels = calloc((size_t)c.n_row, sizeof *labels), *ids = calloc((size_t)c.n_row, sizeof *ids);
  void            *on_gpu, *labels_gpu, *u_gpu;
  assert_true(z != NULL && labels != NULL && u != NULL && ids != NULL);
  for (int64_t i = 0; i < values.n; i++) z[i] = (float)values.value[i];
  for (int64_t r = 0; r < c.n_row; r++) u[r] = ((double)r + 0.5) / (double)c.n_row;
  ingot_nn_logits logits = logits_of(&c, NULL);
  z[5 * logits.ld + 1] = NAN;
  z[6 * logits.ld + 2] = INFINITY;
  for (int64_t v = 0; v < c.n_vocab; v++) z[7 * logits.ld + v] = -INFINITY;
  for (int64_t v = 0; v < c.n_vocab; v += 2) z[8 * logits.ld + v] = -INFINITY;
  labels[3] = labels[5] = labels[6] = labels[7] = INGOT_NN_IGNORE;
  check_ok(ingot_nn_open(&options, &nn));
  check_ok(nn->ops->alloc(nn, (size_t)values.n * sizeof *z, &on_gpu));
  check_ok(nn->ops->alloc(nn, (size_t)c.n_row * sizeof *labels, &labels_gpu));
  check_ok(nn->ops->alloc(nn, (size_t)c.n_row * sizeof *u, &u_gpu));
  check_ok(nn->ops->copy_in(nn, on_gpu, z, (size_t)values.n * sizeof *z));
  check_ok(nn->ops->copy_in(nn, labels_gpu, labels, (size_t)c.n_row * sizeof *labels));
  check_ok(nn->ops->copy_in(nn, u_gpu, u, (size_t)c.n_row * sizeof *u));
  logits = logits_of(&c, on_gpu);
  check_ok(nn->ops->sample_labels(nn, &logits, 77, 1000, labels_gpu));
  check_ok(nn->ops->copy_out(nn, labels, labels_gpu, (size_t)c.n_row * sizeof *labels));
  check_ok(nn->ops->draw(nn, &logits, 1.25f, u_gpu, labels_gpu));
  check_ok(nn->ops->copy_out(nn, ids, labels_gpu, (size_t)c.n_row * sizeof *ids));
  assert_int_equal(labels[3], INGOT_NN_IGNORE);
  for (int64_t r = 0; r < c.n_row; r++) {
    const float *row = z + r * logits.ld;
    uint32_t     word[4];
    ingot_philox4x32(77, 1000 + (uint64_t)r, word);
    if (r >= 5 && r <= 7) assert_int_equal(ids[r], -1);
    else check_drawn(r, row, c.n_vocab, 1.25, u[r], ids[r]);
    if (labels[r] != INGOT_NN_IGNORE)
      check_drawn(r, row, c.n_vocab, 1.0, ((double)word[0] + 0.5) / 4294967296.0, labels[r]);
    if (r == 8) assert_true(ids[r] % 2 == 1 && labels[r] % 2 == 1);
  }
  nn->ops->free(nn, on_gpu);
  nn->ops->free(nn, labels_gpu);
  nn->ops->free(nn, u_gpu);
  ingot_nn_close(&nn);
  free(values.value);
  free(z);
  free(u);
  free(labels);
  free(ids);
}

/* ---- memory ---- */

static void test_copies(void **state)
{
  static const size_t sizes[] = {0, 1, 4096, (4u << 20) - 1, 4u << 20, (4u << 20) + 1, 77u << 20};
  const setting      *s = *state;
  ingot_nn           *nn;
  ingot_nn_options    options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype};
  check_ok(ingot_nn_open(&options, &nn));
  assert_non_null(ingot_nn_cuda_stream(nn));
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0] && (!s->brief || i < 6); i++) {
    size_t         bytes = sizes[i];
    unsigned char *in = malloc(bytes + 1), *out = malloc(bytes + 1);
    void          *first, *second;
    assert_true(in != NULL && out != NULL);
    for (size_t j = 0; j < bytes; j++) in[j] = (unsigned char)(j * 2654435761u >> 13);
    memset(out, 0, bytes + 1);
    check_ok(nn->ops->alloc(nn, bytes, &first));
    check_ok(nn->ops->alloc(nn, bytes, &second));
    assert_int_equal((uintptr_t)first % 256, 0);
    check_ok(nn->ops->zero(nn, second, bytes));
    check_ok(nn->ops->copy_in(nn, first, in, bytes));
    memset(in, 1, bytes); /* host memory is free on return */
    check_ok(nn->ops->copy(nn, second, first, bytes));
    check_ok(nn->ops->copy_out(nn, out, second, bytes));
    check_ok(nn->ops->wait(nn));
    for (size_t j = 0; j < bytes; j++) {
      if (out[j] != (unsigned char)(j * 2654435761u >> 13)) fail_msg("%zu bytes: byte %zu", bytes, j);
    }
    nn->ops->free(nn, first);
    nn->ops->free(nn, second);
    free(in);
    free(out);
  }
  nn->ops->free(nn, NULL);
  ingot_nn_close(&nn);
}

static void test_failures(void **state)
{
  const setting   *s = *state;
  ingot_nn        *nn = NULL;
  void            *memory = &nn;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype, .device = 9999};
  check_fails(ingot_nn_open(&options, &nn), INGOT_ERR_DEVICE, "GPU 9999 was asked for");
  assert_null(nn);
  options.device = 0;
  check_ok(ingot_nn_open(&options, &nn));
  check_fails(nn->ops->alloc(nn, (size_t)1 << 46, &memory), INGOT_ERR_NOMEM, "(70368744177664 bytes)");
  assert_null(memory);
  check_ok(nn->ops->alloc(nn, 4096, &memory)); /* still in order */
  nn->ops->free(nn, memory);
  ingot_nn_close(&nn);
}

/* One rank alone: the library is found, and sums over one rank change nothing. */
static void test_nccl(void **state)
{
  const setting   *s = *state;
  unsigned char    id[INGOT_NCCL_ID_BYTES] = {0};
  double           values[3] = {1.5, -2.0, 1e300}, back[3] = {0};
  ingot_nccl      *nccl = NULL;
  ingot_nn        *nn;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = s->dtype};
  void            *memory;
  if (!ingot_nccl_built()) {
    check_fails(ingot_nccl_id_make(id), INGOT_ERR_DEVICE, "built without NCCL");
    skip();
  }
  check_ok(ingot_nn_open(&options, &nn));
  check_ok(nn->ops->alloc(nn, sizeof values, &memory));
  check_ok(nn->ops->copy_in(nn, memory, values, sizeof values));
  check_ok(ingot_nccl_id_make(id));
  check_ok(ingot_nccl_open(0, 0, 1, id, &nccl));
  check_ok(ingot_nccl_sum(nccl, INGOT_DTYPE_F64, 3, memory, ingot_nn_cuda_stream(nn)));
  check_ok(ingot_nccl_sum(nccl, INGOT_DTYPE_F32, 6, memory, ingot_nn_cuda_stream(nn)));
  check_ok(nn->ops->copy_out(nn, back, memory, sizeof values));
  assert_memory_equal(back, values, sizeof values);
  ingot_nccl_close(&nccl);
  assert_null(nccl);
  ingot_nccl_close(&nccl);
  nn->ops->free(nn, memory);
  ingot_nn_close(&nn);
}

/* test_nn_cuda [--brief] */
int main(int argc, char **argv)
{
  bool    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
  setting f32 = {INGOT_DTYPE_F32, brief}, bf16 = {INGOT_DTYPE_BF16, brief};
#define BOTH(test) cmocka_unit_test_prestate(test, &f32), cmocka_unit_test_prestate(test, &bf16)
  const struct CMUnitTest tests[] = {
      BOTH(test_cases),         BOTH(test_matmul), BOTH(test_gram),      BOTH(test_norm),
      BOTH(test_elementwise),   BOTH(test_rope),   BOTH(test_embedding), BOTH(test_loss),
      BOTH(test_sample_labels), BOTH(test_copies), BOTH(test_failures),  cmocka_unit_test_prestate(test_nccl, &f32),
  };
#undef BOTH
  if (ingot_device_count() == 0 || ingot_device_use(0) != INGOT_OK) {
    fprintf(stderr, "no usable GPU: %s\n", ingot_device_built() ? "none found" : "built without CUDA");
    return 77; /* skipped */
  }
  return cmocka_run_group_tests_name("CUDA back end", tests, NULL, NULL);
}
