#include "kernels/nn/cpu_attention.h"

#include <math.h>
#include <string.h>

#include "kernels/nn/cpu_math.h"

/*
 * One part of the work is a key head of a window: it goes over the blocks of queries in order and adds to the gradients
 * of its own keys and values, so nothing is shared between threads. Probabilities are computed again from lse.
 */
enum { KEYS = INGOT_CPU_KEYS };

typedef struct backward {
  const ingot_blas *blas;
  const float      *q, *k, *v, *o, *lse, *d_o;
  float            *dq, *dk, *dv;
} backward;

typedef struct scratch {
  float *q, *d_o, *dq; /* [n_row][head_dim]; q times scale */
  float *p, *ds;       /* [n_row][KEYS]: probabilities, gradients of scores */
  float *lse, *dot;    /* [n_row]; dot: <d_o, o> */
} scratch;

static int64_t most_rows(const ingot_nn_attention *shape)
{
  return ingot_cpu_block_queries(shape) * (shape->n_head / shape->n_kv_head);
}

static int64_t scratch_floats(const ingot_nn_attention *shape)
{
  int64_t rows = most_rows(shape);
  return 3 * ingot_cpu_padded(rows * shape->head_dim) + 2 * rows * KEYS + 2 * ingot_cpu_padded(rows);
}

static scratch carve(const ingot_nn_attention *shape, float *memory)
{
  int64_t rows = most_rows(shape), matrix = ingot_cpu_padded(rows * shape->head_dim);
  scratch s;
  s.q = memory;
  s.d_o = s.q + matrix;
  s.dq = s.d_o + matrix;
  s.p = s.dq + matrix;
  s.ds = s.p + rows * KEYS;
  s.lse = s.ds + rows * KEYS;
  s.dot = s.lse + ingot_cpu_padded(rows);
  return s;
}

static INGOT_CLONES float dot(int64_t n, const float *x, const float *y)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

/* From scores in p and d_o v^T in ds to probabilities and gradients of scores; 0 outside of first .. last. */
static INGOT_CLONES void scores_backward(int64_t n_key, int64_t first, int64_t last, float lse, float dot_o, float *p,
                                         float *ds)
{
#pragma omp simd
  for (int64_t i = first; i < last; i++) {
    float e = ingot_cpu_exp(p[i] - lse);
    p[i] = e;
    ds[i] = e * (ds[i] - dot_o);
  }
  for (int64_t i = 0; i < first; i++) p[i] = ds[i] = 0;
  for (int64_t i = last; i < n_key; i++) p[i] = ds[i] = 0;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
  return x < low ? low : x > high ? high : x;
}

static void block_rows(const ingot_cpu_block *b, const backward *w, scratch *s)
{
  const ingot_nn_attention *shape = b->shape;
  int64_t                   batch = b->first_token / shape->n_time;
  ingot_cpu_gather(b, w->q, shape->ld_q, shape->scale, s->q);
  ingot_cpu_gather(b, w->d_o, shape->ld_o, 1, s->d_o);
  memset(s->dq, 0, (size_t)(b->n_row * shape->head_dim) * sizeof(float));
  for (int64_t row = 0; row < b->n_row; row++) {
    int64_t head = b->kv_head * b->group + row / b->n_query;
    s->dot[row] =
        dot(shape->head_dim, s->d_o + row * shape->head_dim, w->o + ingot_cpu_row_offset(b, row, shape->ld_o));
    s->lse[row] = w->lse[(batch * shape->n_head + head) * shape->n_time + b->query + row % b->n_query];
  }
}

static void backward_keys(const ingot_cpu_block *b, const backward *w, int64_t key, int64_t n_key_, const scratch *s)
{
  const ingot_nn_attention *shape = b->shape;
  const int                 d = shape->head_dim;
  const blasint             n_key = (blasint)n_key_, n_row = (blasint)b->n_row;
  const blasint             ld_k = (blasint)shape->ld_k, ld_v = (blasint)shape->ld_v;
  const int64_t             at_k = (b->first_token + key) * shape->ld_k + b->kv_head * d;
  const int64_t             at_v = (b->first_token + key) * shape->ld_v + b->kv_head * d;

  w->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_row, n_key, d, 1, s->q, d, w->k + at_k, ld_k, 0, s->p,
                 KEYS);
  w->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n_row, n_key, d, 1, s->d_o, d, w->v + at_v, ld_v, 0, s->ds,
                 KEYS);
  for (int64_t row = 0; row < b->n_row; row++) {
    int64_t time = b->query + row % b->n_query;
    int64_t first = clamp(ingot_cpu_first_key(b, time) - key, 0, n_key);
    int64_t last = clamp(time + 1 - key, first, n_key);
    scores_backward(n_key, first, last, s->lse[row], s->dot[row], s->p + row * KEYS, s->ds + row * KEYS);
  }
  w->blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n_key, d, n_row, 1, s->p, KEYS, s->d_o, d, 1, w->dv + at_v,
                 ld_v);
  w->blas->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n_row, d, n_key, 1, s->ds, KEYS, w->k + at_k, ld_k, 1,
                 s->dq, d);
  w->blas->sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n_key, d, n_row, 1, s->ds, KEYS, s->q, d, 1, w->dk + at_k,
                 ld_k);
}

static void backward_head(const ingot_nn_attention *shape, int64_t batch, int kv_head, const backward *w, scratch s)
{
  size_t head_bytes = (size_t)shape->head_dim * sizeof(float);
  for (int64_t t = batch * shape->n_time; t < (batch + 1) * shape->n_time; t++) {
    memset(w->dk + t * shape->ld_k + (int64_t)kv_head * shape->head_dim, 0, head_bytes);
    memset(w->dv + t * shape->ld_v + (int64_t)kv_head * shape->head_dim, 0, head_bytes);
  }
  for (int64_t query = 0; query < shape->n_time; query += ingot_cpu_block_queries(shape)) {
    ingot_cpu_block b = ingot_cpu_block_of(shape, batch, kv_head, query);
    int64_t         end = b.query + b.n_query;
    block_rows(&b, w, &s);
    for (int64_t key = ingot_cpu_block_first_key(&b); key < end; key += KEYS)
      backward_keys(&b, w, key, end - key < KEYS ? end - key : KEYS, &s);
    ingot_cpu_scatter(&b, s.dq, shape->scale, shape->ld_q, w->dq);
  }
}

ingot_status ingot_cpu_attention_backward(ingot_nn *nn, const ingot_nn_attention *shape, const void *q, const void *k,
                                          const void *v, const void *o, const float *lse, const void *d_o, void *dq,
                                          void *dk, void *dv)
{
  backward     w = {ingot_cpu_blas(nn), q, k, v, o, lse, d_o, dq, dk, dv};
  int64_t      floats = scratch_floats(shape), n_group = shape->n_batch * shape->n_kv_head;
  float       *memory;
  ingot_status st = ingot_cpu_scratch(nn, (size_t)(floats * nn->n_thread) * sizeof(float), &memory);
  if (st != INGOT_OK) return st;
#pragma omp parallel for num_threads( \
    ingot_cpu_threads(nn, n_group * shape->n_time * shape->n_time / 32 * shape->head_dim)) schedule(dynamic, 1)
  for (int64_t i = 0; i < n_group; i++)
    backward_head(shape, i / shape->n_kv_head, (int)(i % shape->n_kv_head), &w,
                  carve(shape, memory + ingot_cpu_thread() * floats));
  return INGOT_OK;
}
