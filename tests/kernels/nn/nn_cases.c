#include "tests/kernels/nn/nn_case_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nn_run_must(ingot_status st)
{
  if (st == INGOT_OK) return;
  fprintf(stderr, "nn case: %s: %s\n", ingot_status_name(st), ingot_error_message());
  abort();
}

void *nn_run_host_room(size_t bytes)
{
  void *p = malloc(bytes ? bytes : 1);
  if (!p) abort();
  return p;
}

/* ---- inputs and outputs ---- */

float nn_case_value(uint32_t seed, int64_t i)
{
  uint32_t h = (uint32_t)i * 2654435761u + seed * 40503u + 12345u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  h *= 3266489917u;
  h ^= h >> 16;
  return (float)((int)(h >> 24) - 128) / 128.0f;
}

static uint16_t bf16_of(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (uint16_t)(bits >> 16); /* exact for our inputs and NaN */
}

static float bf16_to(uint16_t x)
{
  uint32_t bits = (uint32_t)x << 16;
  float    out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

static void *room_bytes(nn_run *r, size_t bytes)
{
  if (r->n_memory == MAX_MEMORY) abort();
  void **slot = &r->memory[r->n_memory++];
  nn_run_must(r->nn->ops->alloc(r->nn, bytes, slot));
  return *slot;
}

void *nn_run_put(nn_run *r, const void *host, size_t bytes)
{
  void *p = room_bytes(r, bytes);
  nn_run_must(r->nn->ops->copy_in(r->nn, p, host, bytes));
  return p;
}

static void *put_floats(nn_run *r, const float *x, int64_t n, ingot_dtype dtype)
{
  if (dtype == INGOT_DTYPE_F32) return nn_run_put(r, x, (size_t)n * sizeof *x);
  uint16_t *half = nn_run_host_room((size_t)n * sizeof *half);
  for (int64_t i = 0; i < n; i++) half[i] = bf16_of(x[i]);
  void *p = nn_run_put(r, half, (size_t)n * sizeof *half);
  free(half);
  return p;
}

static void *stream(nn_run *r, uint32_t seed, int64_t n, float scale, ingot_dtype dtype)
{
  float *x = nn_run_host_room((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = scale * nn_case_value(seed, i);
  void *p = put_floats(r, x, n, dtype);
  free(x);
  return p;
}

/* Elements of the back end's dtype. */
void *nn_run_input(nn_run *r, uint32_t seed, int64_t n, float scale)
{
  return stream(r, seed, n, scale, r->nn->dtype);
}

float *nn_run_input_f32(nn_run *r, uint32_t seed, int64_t n, float scale)
{
  return stream(r, seed, n, scale, INGOT_DTYPE_F32);
}

/* 0 .. below - 1 */
int32_t *nn_run_input_index(nn_run *r, uint32_t seed, int64_t n, int below)
{
  int32_t *x = nn_run_host_room((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = (int32_t)((int)(nn_case_value(seed, i) * 128 + 128) % below);
  int32_t *p = nn_run_put(r, x, (size_t)n * sizeof *x);
  free(x);
  return p;
}

static void *room_of(nn_run *r, int64_t n, ingot_dtype dtype)
{
  float *x = nn_run_host_room((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++) x[i] = NAN;
  void *p = put_floats(r, x, n, dtype);
  free(x);
  return p;
}

void *nn_run_room(nn_run *r, int64_t n)
{
  return room_of(r, n, r->nn->dtype);
}

float *nn_run_room_f32(nn_run *r, int64_t n)
{
  return room_of(r, n, INGOT_DTYPE_F32);
}

nn_output *nn_run_new_output(nn_run *r, const char *name, int64_t n)
{
  if (r->out->count == NN_CASE_OUTPUTS) abort();
  nn_output *o = &r->out->item[r->out->count++];
  snprintf(o->name, sizeof o->name, "%s", name);
  o->n = n;
  o->values = nn_run_host_room((size_t)n * sizeof *o->values);
  return o;
}

void nn_run_take_f32(nn_run *r, const char *name, const float *p, int64_t n)
{
  nn_run_must(r->nn->ops->copy_out(r->nn, nn_run_new_output(r, name, n)->values, p, (size_t)n * sizeof *p));
}

void nn_run_take(nn_run *r, const char *name, const void *p, int64_t n)
{
  if (r->nn->dtype == INGOT_DTYPE_F32) {
    nn_run_take_f32(r, name, p, n);
    return;
  }
  uint16_t *half = nn_run_host_room((size_t)n * sizeof *half);
  nn_run_must(r->nn->ops->copy_out(r->nn, half, p, (size_t)n * sizeof *half));
  nn_output *o = nn_run_new_output(r, name, n);
  for (int64_t i = 0; i < n; i++) o->values[i] = bf16_to(half[i]);
  free(half);
}

void nn_run_take_index(nn_run *r, const char *name, const int32_t *p, int64_t n)
{
  int32_t *x = nn_run_host_room((size_t)n * sizeof *x);
  nn_run_must(r->nn->ops->copy_out(r->nn, x, p, (size_t)n * sizeof *x));
  nn_output *o = nn_run_new_output(r, name, n);
  for (int64_t i = 0; i < n; i++) o->values[i] = (float)x[i];
  free(x);
}

int64_t nn_run_padded(int64_t width)
{
  return (width + 7) / 8 * 8 + 8;
}

/* ---- one function an operator; `shape` is the row's numbers ---- */

/* m n k, a transposed, b transposed, bias, halves of beta, output in float32 */
static void run_matmul(nn_run *r, const int64_t *s)
{
  int64_t         m = s[0], n = s[1], k = s[2], ldc = nn_run_padded(n);
  ingot_nn_matrix a = {NULL, nn_run_padded(s[3] ? m : k), s[3] != 0},
                  b = {NULL, nn_run_padded(s[4] ? k : n), s[4] != 0};
  ingot_dtype c_dtype = s[7] ? INGOT_DTYPE_F32 : r->nn->dtype;
  a.data = nn_run_input(r, 1, (s[3] ? k : m) * a.ld, 1);
  b.data = nn_run_input(r, 2, (s[4] ? n : k) * b.ld, 1);
  void *c = stream(r, 3, m * ldc, 1, c_dtype);
  void *bias = s[5] ? nn_run_input(r, 4, n, 1) : NULL;
  nn_run_must(r->nn->ops->matmul(r->nn, m, n, k, 0.5f, a, b, 0.5f * (float)s[6], c, ldc, c_dtype, bias));
  if (s[7]) nn_run_take_f32(r, "c", c, m * ldc);
  else nn_run_take(r, "c", c, m * ldc);
}

/* rows, width, some rows not valid; the sum goes on from what it was */
static void run_gram(nn_run *r, const int64_t *s)
{
  int64_t  n_row = s[0], width = s[1], ld = nn_run_padded(width), n = width * width;
  void    *x = nn_run_input(r, 1, n_row * ld, 1);
  int32_t *valid = s[2] ? nn_run_input_index(r, 2, n_row, 3) : NULL;
  double  *host = nn_run_host_room((size_t)n * sizeof *host);
  for (int64_t i = 0; i < n; i++) host[i] = (double)nn_case_value(3, i);
  double *sum = nn_run_put(r, host, (size_t)n * sizeof *host);
  nn_run_must(r->nn->ops->gram(r->nn, n_row, width, x, ld, valid, sum));
  nn_run_must(r->nn->ops->copy_out(r->nn, host, sum, (size_t)n * sizeof *host));
  nn_output *o = nn_run_new_output(r, "sum", width * (width + 1) / 2);
  int64_t    at = 0;
  for (int64_t i = 0; i < width; i++)
    for (int64_t j = i; j < width; j++) o->values[at++] = (float)host[i * width + j];
  free(host);
}

/* tokens, groups, width, centred, delta, bias, residual */
static void run_norm(nn_run *r, const int64_t *s)
{
  int64_t       all = s[1] * s[2], n_row = s[0] * s[1];
  ingot_nn_norm shape = {.centred = s[3] != 0,
                         .eps = 0.015625f,
                         .n_token = s[0],
                         .n_group = (int)s[1],
                         .width = s[2],
                         .ld_x = nn_run_padded(all),
                         .ld_y = nn_run_padded(all) + 8};
  int64_t       n_x = s[0] * shape.ld_x, n_y = s[0] * shape.ld_y, n_stat = n_row * (s[3] ? 2 : 1);
  void         *x = nn_run_input(r, 1, n_x, 2), *delta = s[4] ? nn_run_input(r, 2, n_x, 1) : NULL,
       *weight = nn_run_input(r, 3, s[2], 1);
  void *bias = s[5] ? nn_run_input(r, 4, s[2], 1) : NULL, *sum = s[4] ? nn_run_room(r, n_x) : NULL,
       *y = nn_run_room(r, n_y);
  float *stats = nn_run_room_f32(r, n_stat);
  nn_run_must(r->nn->ops->norm(r->nn, &shape, x, delta, sum, weight, bias, y, stats));
  if (sum) nn_run_take(r, "sum", sum, n_x);
  nn_run_take(r, "y", y, n_y);
  nn_run_take_f32(r, "stats", stats, n_stat);

  void  *dy = nn_run_input(r, 5, n_y, 1), *residual = s[6] ? nn_run_input(r, 6, n_x, 1) : NULL;
  void  *dx = residual ? residual : nn_run_room(r, n_x); /* in place, as the model does it */
  float *dweight = nn_run_input_f32(r, 7, s[2], 1), *dbias = s[5] ? nn_run_input_f32(r, 8, s[2], 1) : NULL;
  nn_run_must(r->nn->ops->norm_backward(r->nn, &shape, sum ? sum : x, weight, stats, dy, residual, dx, dweight, dbias));
  nn_run_take(r, "dx", dx, n_x);
  nn_run_take_f32(r, "dweight", dweight, s[2]);
  if (dbias) nn_run_take_f32(r, "dbias", dbias, s[2]);
}

/* tokens, heads, head_dim, rotary_dim, inverse */
static void run_rope(nn_run *r, const int64_t *s)
{
  enum { POSITIONS = 40 };
  int64_t       half = s[3] / 2;
  ingot_nn_rope shape = {.n_token = s[0],
                         .n_head = (int)s[1],
                         .head_dim = (int)s[2],
                         .rotary_dim = (int)s[3],
                         .ld = nn_run_padded(s[1] * s[2]),
                         .cos = nn_run_input_f32(r, 1, POSITIONS * half, 1),
                         .sin = nn_run_input_f32(r, 2, POSITIONS * half, 1),
                         .positions = nn_run_input_index(r, 3, s[0], POSITIONS)};
  void         *x = nn_run_input(r, 4, s[0] * shape.ld, 1);
  nn_run_must(r->nn->ops->rope(r->nn, &shape, x, s[4] != 0));
  nn_run_take(r, "x", x, s[0] * shape.ld);
}

/* The first key of each query: documents end after `length` tokens in window 0, a third later in each next one. */
static const int32_t *documents(nn_run *r, int64_t n_batch, int64_t n_time, int64_t length)
{
  int32_t *x = nn_run_host_room((size_t)(n_batch * n_time) * sizeof *x);
  for (int64_t b = 0; b < n_batch; b++)
    for (int64_t t = 0; t < n_time; t++) {
      int64_t long_ = length + b * length / 3;
      x[b * n_time + t] = (int32_t)(t / long_ * long_);
    }
  const int32_t *p = nn_run_put(r, x, (size_t)(n_batch * n_time) * sizeof *x);
  free(x);
  return p;
}

/* windows, time, heads, key heads, head_dim, window, length of documents (0: none), scale of scores times 16 */
static void run_attention(nn_run *r, const int64_t *s)
{
  int64_t            n_token = s[0] * s[1], n_lse = n_token * s[2];
  ingot_nn_attention shape = {.n_batch = s[0],
                              .n_time = s[1],
                              .n_head = (int)s[2],
                              .n_kv_head = (int)s[3],
                              .head_dim = (int)s[4],
                              .scale = (float)s[7] / 16,
                              .window = (int)s[5],
                              .first_key = s[6] ? documents(r, s[0], s[1], s[6]) : NULL,
                              .ld_q = nn_run_padded(s[2] * s[4]),
                              .ld_k = nn_run_padded(s[3] * s[4]),
                              .ld_v = nn_run_padded(s[3] * s[4]) + 8,
                              .ld_o = nn_run_padded(s[2] * s[4]) + 16};
  int64_t            n_q = n_token * shape.ld_q, n_k = n_token * shape.ld_k, n_v = n_token * shape.ld_v;
  int64_t            n_o = n_token * shape.ld_o;
  void              *q = nn_run_input(r, 1, n_q, 2), *k = nn_run_input(r, 2, n_k, 2), *v = nn_run_input(r, 3, n_v, 1),
       *o = nn_run_room(r, n_o);
  float *lse = nn_run_room_f32(r, n_lse);
  nn_run_must(r->nn->ops->attention(r->nn, &shape, q, k, v, o, lse));
  nn_run_take(r, "o", o, n_o);
  nn_run_take_f32(r, "lse", lse, n_lse);

  void *d_o = nn_run_input(r, 4, n_o, 1), *dq = nn_run_room(r, n_q), *dk = nn_run_room(r, n_k),
       *dv = nn_run_room(r, n_v);
  nn_run_must(r->nn->ops->attention_backward(r->nn, &shape, q, k, v, o, lse, d_o, dq, dk, dv));
  nn_run_take(r, "dq", dq, n_q);
  nn_run_take(r, "dk", dk, n_k);
  nn_run_take(r, "dv", dv, n_v);
}

/* rows, width */
static void run_swiglu(nn_run *r, const int64_t *s)
{
  int64_t n = s[0] * s[1];
  void   *gate_up = nn_run_input(r, 1, 2 * n, 8), *out = nn_run_room(r, n), *d_out = nn_run_input(r, 2, n, 1);
  nn_run_must(r->nn->ops->swiglu(r->nn, s[0], s[1], gate_up, out));
  nn_run_take(r, "out", out, n);
  nn_run_must(r->nn->ops->swiglu_backward(r->nn, s[0], s[1], gate_up, d_out, gate_up));
  nn_run_take(r, "d_gate_up", gate_up, 2 * n);
}

/* elements */
static void run_gelu(nn_run *r, const int64_t *s)
{
  void *x = nn_run_input(r, 1, s[0], 8), *dy = nn_run_input(r, 2, s[0], 1), *dx = nn_run_room(r, s[0]);
  nn_run_must(r->nn->ops->gelu_backward(r->nn, s[0], x, dy, dx));
  nn_run_must(r->nn->ops->gelu(r->nn, s[0], x, x));
  nn_run_take(r, "y", x, s[0]);
  nn_run_take(r, "dx", dx, s[0]);
}

/* tokens, width, vocabulary, with positions */
static void run_embedding(nn_run *r, const int64_t *s)
{
  enum { POSITIONS = 11 };
  int64_t        n = s[0] * s[1];
  const int32_t *tokens = nn_run_input_index(r, 1, s[0], (int)s[2]);
  void *table = nn_run_input(r, 2, s[2] * s[1], 1), *out = nn_run_room(r, n), *d_out = nn_run_input(r, 5, n, 1);
  const int32_t *positions = s[3] ? nn_run_input_index(r, 3, s[0], POSITIONS) : NULL;
  void          *position_table = s[3] ? nn_run_input(r, 4, POSITIONS * s[1], 1) : NULL;
  float         *d_table = nn_run_input_f32(r, 6, s[2] * s[1], 1);
  nn_run_must(r->nn->ops->embedding(r->nn, s[0], s[1], tokens, table, positions, position_table, out));
  nn_run_take(r, "out", out, n);
  nn_run_must(r->nn->ops->embedding_backward(r->nn, s[0], s[1], s[2], tokens, d_out, d_table));
  nn_run_take_f32(r, "d_table", d_table, s[2] * s[1]);
}

/* rows, width */
static void run_sums(nn_run *r, const int64_t *s)
{
  int64_t ld = nn_run_padded(s[1]), n = s[0] * ld;
  void   *x = nn_run_input(r, 1, n, 1), *y = nn_run_input(r, 2, n, 1);
  float  *sum = nn_run_input_f32(r, 3, s[1], 1), *g = nn_run_input_f32(r, 4, n, 1), *f = nn_run_input_f32(r, 5, n, 1);
  nn_run_must(r->nn->ops->column_sum(r->nn, s[0], s[1], x, ld, sum));
  nn_run_take_f32(r, "sum", sum, s[1]);
  nn_run_must(r->nn->ops->add(r->nn, n, x, y));
  nn_run_take(r, "y", y, n);
  nn_run_must(r->nn->ops->add_squares(r->nn, n, 0.75f, g, f));
  nn_run_take_f32(r, "f", f, n);
}

/* Logits with NaN behind the vocabulary: nobody may read it. */
ingot_nn_logits nn_run_logits(nn_run *r, uint32_t seed, int64_t n_row, int64_t n_vocab)
{
  int64_t ld = nn_run_padded(n_vocab);
  float  *x = nn_run_host_room((size_t)(n_row * ld) * sizeof *x);
  for (int64_t i = 0; i < n_row * ld; i++) x[i] = i % ld < n_vocab ? 8 * nn_case_value(seed, i) : NAN;
  ingot_nn_logits z = {nn_run_put(r, x, (size_t)(n_row * ld) * sizeof *x), n_row, n_vocab, ld};
  free(x);
  return z;
}

/* Every fifth row has none. */
int32_t *nn_run_labels(nn_run *r, int64_t n_row, int64_t n_vocab)
{
  int32_t *x = nn_run_host_room((size_t)n_row * sizeof *x);
  for (int64_t i = 0; i < n_row; i++)
    x[i] = i % 5 == 3 ? INGOT_NN_IGNORE : (int32_t)((int64_t)(nn_case_value(2, i) * 128 + 128) * 97 % n_vocab);
  int32_t *p = nn_run_put(r, x, (size_t)n_row * sizeof *x);
  free(x);
  return p;
}

/* rows, vocabulary, k of top_k */
static void run_loss(nn_run *r, const int64_t *s)
{
  ingot_nn_logits z = nn_run_logits(r, 1, s[0], s[1]);
  int32_t        *label = nn_run_labels(r, s[0], s[1]), *top1 = nn_run_input_index(r, 3, s[0], 5);
  float          *nll = nn_run_room_f32(r, s[0]), *logp = nn_run_room_f32(r, s[0] * s[2]);
  void           *d = nn_run_room(r, s[0] * z.ld);
  int32_t        *ids = nn_run_input_index(r, 4, s[0] * s[2], 5);
  nn_run_must(r->nn->ops->cross_entropy(r->nn, &z, label, 0.25f, nll, top1, d));
  nn_run_take_f32(r, "nll", nll, s[0]);
  nn_run_take_index(r, "top1", top1, s[0]);
  nn_run_take(r, "d_logits", d, s[0] * z.ld);
  nn_run_must(r->nn->ops->top_k(r->nn, &z, (int)s[2], ids, logp));
  nn_run_take_index(r, "ids", ids, s[0] * s[2]);
  nn_run_take_f32(r, "logp", logp, s[0] * s[2]);
  nn_run_must(r->nn->ops->sample_labels(r->nn, &z, 0x123456789abcdefull, 77, label));
  nn_run_take_index(r, "labels", label, s[0]);
}

/* The last column: row distances that are no multiples of 8, for the CPU alone. */
const nn_case nn_cases[] = {
    {"matmul_nt_bias", run_matmul, {37, 29, 19, 0, 1, 1, 0, 0}, false},
    {"matmul_tn_beta", run_matmul, {64, 48, 40, 1, 0, 0, 1, 1}, false},
    {"matmul_nn_both", run_matmul, {5, 130, 70, 0, 0, 1, 1, 0}, false},
    {"matmul_tt", run_matmul, {33, 65, 128, 1, 1, 0, 0, 1}, false},
    {"matmul_row", run_matmul, {1, 7, 300, 0, 1, 0, 2, 0}, false},
    {"gram", run_gram, {70, 24, 0}, false},
    {"gram_valid", run_gram, {45, 40, 1}, false},
    {"norm_rms", run_norm, {9, 1, 40, 0, 0, 0, 0}, false},
    {"norm_rms_delta", run_norm, {21, 1, 96, 0, 1, 0, 1}, false},
    {"norm_heads", run_norm, {6, 3, 16, 0, 0, 0, 0}, false},
    {"norm_layer", run_norm, {7, 1, 48, 1, 0, 1, 1}, false},
    {"norm_layer_delta", run_norm, {40, 1, 24, 1, 1, 1, 0}, false},
    {"rope", run_rope, {11, 3, 16, 16, 0}, false},
    {"rope_part_inverse", run_rope, {5, 2, 24, 8, 1}, false},
    {"attention", run_attention, {2, 19, 2, 2, 16, 0, 0, 4}, false},
    {"attention_group", run_attention, {1, 37, 6, 2, 8, 0, 0, 6}, false},
    {"attention_window", run_attention, {2, 17, 4, 1, 16, 5, 0, 4}, false},
    {"attention_documents", run_attention, {2, 23, 2, 1, 32, 0, 7, 3}, false},
    {"attention_window_documents", run_attention, {1, 50, 2, 2, 16, 12, 17, 4}, false},
    {"attention_one", run_attention, {3, 1, 2, 1, 64, 0, 0, 2}, false},
    {"swiglu", run_swiglu, {13, 24}, false},
    {"swiglu_odd", run_swiglu, {3, 37}, true},
    {"gelu", run_gelu, {403}, true},
    {"embedding", run_embedding, {23, 16, 7, 0}, false},
    {"embedding_positions", run_embedding, {15, 40, 30, 1}, false},
    {"sums", run_sums, {19, 27}, false},
    {"loss", run_loss, {14, 61, 5}, false},
    {"loss_large", run_loss, {6, 1500, 3}, false},
    {"mix_linear", nn_run_mix, {9, 61, INGOT_NN_MIX_LINEAR, 3}, false},
    {"mix_log_linear", nn_run_mix, {9, 61, INGOT_NN_MIX_LOG_LINEAR, 3}, false},
    {"mix_max", nn_run_mix, {9, 61, INGOT_NN_MIX_MAX, 3}, false},
    {"mix_large", nn_run_mix, {2, 5003, INGOT_NN_MIX_LINEAR, 2}, false},
    {"moments", nn_run_moments, {9, 61, 3}, false},
    {"moments_one", nn_run_moments, {4, 700, 1}, false},
    {"moments_many", nn_run_moments, {6, 1500, 13}, false},
    {"distill_forward", nn_run_distill, {11, 61, INGOT_NN_FORWARD_KL, 8, 4, 4}, false},
    {"distill_forward_large", nn_run_distill, {2, 5003, INGOT_NN_FORWARD_KL, 4, 8, 4}, false},
    {"distill_reverse", nn_run_distill, {11, 61, INGOT_NN_REVERSE_KL, 6, 5, 4}, false},
    {"distill_reverse_large", nn_run_distill, {2, 5003, INGOT_NN_REVERSE_KL, 12, 8, 4}, false},
    {"distill_jsd", nn_run_distill, {11, 61, INGOT_NN_JSD, 8, 6, 2}, false},
    {"distill_jsd_large", nn_run_distill, {2, 5003, INGOT_NN_JSD, 4, 8, 5}, false},
    {"distill_hard", nn_run_distill, {6, 500, INGOT_NN_JSD, 4, 0, 5}, false},
    {"top_k_none", nn_run_distill_top_k, {11, 61, 7, INGOT_NN_TAIL_NONE, 8, 4}, false},
    {"top_k_bucket", nn_run_distill_top_k, {11, 61, 7, INGOT_NN_TAIL_BUCKET, 4, 8}, false},
    {"top_k_bucket_soft", nn_run_distill_top_k, {11, 61, 7, INGOT_NN_TAIL_BUCKET, 6, 5}, false},
    {"top_k_uniform", nn_run_distill_top_k, {11, 61, 7, INGOT_NN_TAIL_UNIFORM, 8, 6}, false},
    {"top_k_uniform_large", nn_run_distill_top_k, {2, 5003, 64, INGOT_NN_TAIL_UNIFORM, 4, 8}, false},
    {"top_k_bucket_large", nn_run_distill_top_k, {2, 5003, 700, INGOT_NN_TAIL_BUCKET, 4, 7}, false},
    {"adamw_first", nn_run_adamw, {1003, 1}, false},
    {"adamw_later", nn_run_adamw, {2100, 17}, false},
};
const int nn_case_count = (int)(sizeof nn_cases / sizeof nn_cases[0]);

void nn_case_run(const nn_case *c, ingot_nn *nn, nn_outputs *out)
{
  nn_run r = {.nn = nn, .out = out};
  memset(out, 0, sizeof *out);
  c->run(&r, c->shape);
  while (r.n_memory) nn->ops->free(nn, r.memory[--r.n_memory]);
}

void nn_outputs_release(nn_outputs *out)
{
  while (out->count) free(out->item[--out->count].values);
}

/* ---- reference.bin: records of name[48] "case/output", int64 count, float32 values; little-endian ---- */

bool nn_case_reference(const nn_case *c, nn_outputs *out)
{
  memset(out, 0, sizeof *out);
  FILE *f = fopen(INGOT_TEST_DIR "/kernels/nn/reference.bin", "rb");
  if (!f) abort();
  char    name[48];
  int64_t n;
  size_t  length = strlen(c->name);
  while (fread(name, sizeof name, 1, f) == 1) {
    if (fread(&n, sizeof n, 1, f) != 1) abort();
    if (strncmp(name, c->name, length) != 0 || name[length] != '/') {
      if (fseek(f, (long)n * (long)sizeof(float), SEEK_CUR) != 0) abort();
      continue;
    }
    nn_run r = {.out = out};
    if (fread(nn_run_new_output(&r, name + length + 1, n)->values, sizeof(float), (size_t)n, f) != (size_t)n) abort();
  }
  fclose(f);
  return out->count > 0;
}

static double output_difference(const nn_output *got, const nn_output *expected)
{
  double largest = 0, difference = 0;
  for (int64_t i = 0; i < expected->n; i++) {
    float g = got->values[i], e = expected->values[i];
    if (!isfinite(g) || !isfinite(e)) {
      if (isnan(g) != isnan(e) || (!isnan(g) && g != e)) return INFINITY;
      continue;
    }
    largest = fmax(largest, fabs((double)e));
    difference = fmax(difference, fabs((double)g - (double)e));
  }
  return difference > 0 ? difference / fmax(largest, 1e-30) : 0;
}

double nn_outputs_difference(const nn_outputs *got, const nn_outputs *expected, const char **worst)
{
  double largest = -1;
  if (worst) *worst = "outputs";
  if (got->count != expected->count) return INFINITY;
  for (int i = 0; i < expected->count; i++) {
    bool   same = strcmp(got->item[i].name, expected->item[i].name) == 0 && got->item[i].n == expected->item[i].n;
    double d = same ? output_difference(&got->item[i], &expected->item[i]) : INFINITY;
    if (d <= largest) continue;
    largest = d;
    if (worst) *worst = expected->item[i].name;
  }
  return largest;
}
