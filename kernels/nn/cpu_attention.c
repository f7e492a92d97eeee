#include "kernels/nn/cpu_attention.h"

#include <math.h>
#include <string.h>

#include "kernels/nn/cpu_math.h"

enum { QUERY_ROWS = INGOT_CPU_QUERY_ROWS, KEYS = INGOT_CPU_KEYS };

int64_t ingot_cpu_block_queries(const ingot_nn_attention *shape)
{
  int64_t queries = QUERY_ROWS / (shape->n_head / shape->n_kv_head);
  return queries < INGOT_CPU_MIN_QUERIES ? INGOT_CPU_MIN_QUERIES : queries;
}

ingot_cpu_block ingot_cpu_block_of(const ingot_nn_attention *shape, int64_t batch, int kv_head, int64_t query)
{
  int64_t most = ingot_cpu_block_queries(shape), n = shape->n_time - query < most ? shape->n_time - query : most;
  int     group = shape->n_head / shape->n_kv_head;
  return (ingot_cpu_block){shape, batch * shape->n_time, kv_head, group, query, n, group * n};
}

int64_t ingot_cpu_first_key(const ingot_cpu_block *b, int64_t time)
{
  int64_t first = b->shape->first_key ? b->shape->first_key[b->first_token + time] : 0;
  int64_t seen = b->shape->window ? time + 1 - b->shape->window : 0;
  return seen > first ? seen : first;
}

int64_t ingot_cpu_block_first_key(const ingot_cpu_block *b)
{
  int64_t first = ingot_cpu_first_key(b, b->query);
  for (int64_t i = 1; i < b->n_query; i++) {
    int64_t next = ingot_cpu_first_key(b, b->query + i);
    first = next < first ? next : first;
  }
  return first;
}

int64_t ingot_cpu_row_offset(const ingot_cpu_block *b, int64_t row, int64_t ld)
{
  int64_t token = b->first_token + b->query + row % b->n_query;
  return token * ld + (b->kv_head * b->group + row / b->n_query) * b->shape->head_dim;
}

static INGOT_CLONES void scaled_copy(int64_t n, float scale, const float *restrict x, float *restrict y)
{
  for (int64_t i = 0; i < n; i++) y[i] = scale * x[i];
}

void ingot_cpu_gather(const ingot_cpu_block *b, const float *x, int64_t ld, float scale, float *rows)
{
  int d = b->shape->head_dim;
  for (int64_t row = 0; row < b->n_row; row++)
    scaled_copy(d, scale, x + ingot_cpu_row_offset(b, row, ld), rows + row * d);
}

void ingot_cpu_scatter(const ingot_cpu_block *b, const float *rows, float scale, int64_t ld, float *x)
{
  int d = b->shape->head_dim;
  for (int64_t row = 0; row < b->n_row; row++)
    scaled_copy(d, scale, rows + row * d, x + ingot_cpu_row_offset(b, row, ld));
}

/* ---- forward ---- */

typedef struct forward {
  const ingot_blas *blas;
  const float      *q, *k, *v;
  float            *o, *lse;
} forward;

/* One thread's memory. */
typedef struct forward_scratch {
  float *q, *o;           /* [n_row][head_dim] */
  float *scores;          /* [n_row][KEYS] */
  float *largest, *total; /* [n_row]: of the scores so far, and the sum of exp(score - largest) */
} forward_scratch;

static int64_t forward_floats(const ingot_nn_attention *shape)
{
  int64_t rows = ingot_cpu_block_queries(shape) * (shape->n_head / shape->n_kv_head);
  return 2 * ingot_cpu_padded(rows * shape->head_dim) + rows * KEYS + 2 * ingot_cpu_padded(rows);
}

static forward_scratch forward_carve(const ingot_nn_attention *shape, float *memory)
{
  int64_t         rows = ingot_cpu_block_queries(shape) * (shape->n_head / shape->n_kv_head);
  int64_t         matrix = ingot_cpu_padded(rows * shape->head_dim);
  forward_scratch s;
  s.q = memory;
  s.o = s.q + matrix;
  s.scores = s.o + matrix;
  s.largest = s.scores + rows * KEYS;
  s.total = s.largest + ingot_cpu_padded(rows);
  return s;
}

/* Scores first .. last of a row become exp(score - largest), the others of the row's n_key 0; returns the factor for
 * what was summed before. */
static INGOT_CLONES float softmax_row(int64_t n_key, int64_t first, int64_t last, float *s, float *largest,
                                      float *total)
{
  float top = *largest, sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t i = first; i < last; i++) top = s[i] > top ? s[i] : top;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = first; i < last; i++) {
    float p = ingot_cpu_exp(s[i] - top);
    s[i] = p;
    sum += p;
  }
  for (int64_t i = 0; i < first; i++) s[i] = 0;
  for (int64_t i = last; i < n_key; i++) s[i] = 0;
  float factor = *largest == -INFINITY ? 0.0f : ingot_cpu_exp(*largest - top);
  *largest = top;
  *total = *total * factor + sum;
  return factor;
}

static INGOT_CLONES void scale_row(int64_t n, float factor, float *x)
{
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
  return x < low ? low : x > high ? high : x;
}

static void softmax_block(const ingot_cpu_block *b, int64_t key, int64_t n_key, forward_scratch *s)
{
  int d = b->shape->head_dim;
  for (int64_t row = 0; row < b->n_row; row++) {
    int64_t time = b->query + row % b->n_query;
    int64_t first = clamp(ingot_cpu_first_key(b, time) - key, 0, n_key);
    int64_t last = clamp(time + 1 - key, first, n_key);
    if (first == last) {
      memset(s->scores + row * KEYS, 0, (size_t)n_key * sizeof(float));
      continue;
    }
    float factor = softmax_row(n_key, first, last, s->scores + row * KEYS, &s->largest[row], &s->total[row]);
    if (factor != 1.0f) scale_row(d, factor, s->o + row * d);
  }
}

static void forward_finish(const ingot_cpu_block *b, const forward *f, const forward_scratch *s)
{
  int d = b->shape->head_dim;
  for (int64_t row = 0; row < b->n_row; row++) {
    bool any = s->total[row] > 0 || s->total[row] != s->total[row]; /* a NaN stays one */
    scaled_copy(d, any ? 1.0f / s->total[row] : 0.0f, s->o + row * d,
                f->o + ingot_cpu_row_offset(b, row, b->shape->ld_o));
    if (!f->lse) continue;
    int64_t head = b->kv_head * b->group + row / b->n_query, batch = b->first_token / b->shape->n_time;
    f->lse[(batch * b->shape->n_head + head) * b->shape->n_time + b->query + row % b->n_query] =
        any ? s->largest[row] + logf(s->total[row]) : -INFINITY;
  }
}

static void forward_block(const ingot_cpu_block *b, const forward *f, forward_scratch s)
{
  const ingot_nn_attention *shape = b->shape;
  int                       d = shape->head_dim;
  ingot_cpu_gather(b, f->q, shape->ld_q, shape->scale, s.q);
  memset(s.o, 0, (size_t)(b->n_row * d) * sizeof(float));
  for (int64_t row = 0; row < b->n_row; row++) {
    s.largest[row] = -INFINITY;
    s.total[row] = 0;
  }
  int64_t end = b->query + b->n_query;
  for (int64_t key = ingot_cpu_block_first_key(b); key < end; key += KEYS) {
    int64_t      n_key = end - key < KEYS ? end - key : KEYS;
    const float *k = f->k + (b->first_token + key) * shape->ld_k + b->kv_head * d;
    const float *v = f->v + (b->first_token + key) * shape->ld_v + b->kv_head * d;
    f->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)b->n_row, (blasint)n_key, d, 1, s.q, d, k,
                   (blasint)shape->ld_k, 0, s.scores, KEYS);
    softmax_block(b, key, n_key, &s);
    f->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)b->n_row, d, (blasint)n_key, 1, s.scores, KEYS,
                   v, (blasint)shape->ld_v, 1, s.o, d);
  }
  forward_finish(b, f, &s);
}

ingot_status ingot_cpu_attention(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                 const void *v, void *o, float *lse)
{
  forward      f = {ingot_cpu_blas(nn), q, k, v, o, lse};
  int64_t      floats = forward_floats(shape), queries = ingot_cpu_block_queries(shape);
  int64_t      n_group = shape->n_batch * shape->n_kv_head, n_block = ingot_cpu_ceil_div(shape->n_time, queries);
  float       *memory;
  ingot_status st = ingot_cpu_scratch(nn, (size_t)(floats * nn->n_thread) * sizeof(float), &memory);
  if (st != INGOT_OK) return st;
    /* Late queries see many keys: they come first, so that no thread is left with a long one at the end. */
#pragma omp parallel for num_threads( \
    ingot_cpu_threads(nn, n_group * shape->n_time * shape->n_time / 32 * shape->head_dim)) schedule(dynamic, 1)
  for (int64_t i = 0; i < n_group * n_block; i++) {
    int64_t         group = i % n_group, block = n_block - 1 - i / n_group;
    ingot_cpu_block b =
        ingot_cpu_block_of(shape, group / shape->n_kv_head, (int)(group % shape->n_kv_head), block * queries);
    forward_block(&b, &f, forward_carve(shape, memory + ingot_cpu_thread() * floats));
  }
  return INGOT_OK;
}
