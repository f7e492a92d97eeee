#include "tests/gpu/attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"

enum { GAP = 8, POISON = 0xff }; /* all bits set: NaN in both dtypes */

int64_t attention_count(const attention_case *c, attention_array which)
{
  int64_t tokens = (int64_t)c->n_batch * c->n_time;
  switch (which) {
  case ATT_LSE: return tokens * c->n_head;
  case ATT_K:
  case ATT_V:
  case ATT_DK:
  case ATT_DV: return tokens * c->n_kv_head * c->head_dim;
  default: return tokens * c->n_head * c->head_dim;
  }
}

static float rounded(double v, ingot_dtype dtype)
{
  float    f = (float)v;
  uint32_t bits;
  if (dtype != INGOT_DTYPE_BF16) return f;
  memcpy(&bits, &f, sizeof bits);
  bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static double uniform(uint64_t key, uint64_t i, int lane)
{
  uint32_t word[4];
  ingot_philox4x32(key, i, word);
  return ((double)word[lane] + 0.5) / 4294967296.0;
}

/* About normal, deviation 1: scores then differ enough for the softmax to matter. */
static void fill(double *x, int64_t n, ingot_dtype dtype, uint64_t key)
{
  for (int64_t i = 0; i < n; i++) {
    double r = sqrt(-2.0 * log(uniform(key, (uint64_t)i, 0)));
    x[i] = (double)rounded(r * cos(6.283185307179586 * uniform(key, (uint64_t)i, 1)), dtype);
  }
}

static void draw_documents(attention_data *d, uint64_t key)
{
  const attention_case *c = &d->shape;
  for (int b = 0; b < c->n_batch; b++) {
    int first = 0;
    for (int t = 0; t < c->n_time; t++) {
      int64_t at = (int64_t)b * c->n_time + t;
      if (uniform(key, (uint64_t)at, 2) * c->document < 1.0) first = t;
      d->first_key[at] = first;
    }
  }
}

static int lowest(const attention_data *d, int b, int t)
{
  int first = d->first_key ? d->first_key[(int64_t)b * d->shape.n_time + t] : 0;
  int seen = d->shape.window > 0 ? t - d->shape.window + 1 : 0;
  return first > seen ? first : seen;
}

/* One query of one head: its output, and what it adds to the gradients. p and dp have room for n_time numbers. */
static void reference_query(attention_data *d, int b, int h, int t, double *p, double *dp)
{
  const attention_case *c = &d->shape;
  const int             n = c->head_dim;
  const double          scale = 1.0 / sqrt((double)n);
  const int64_t         token = (int64_t)b * c->n_time, row = (((token + t) * c->n_head) + h) * n;
  const int64_t kv_ld = (int64_t)c->n_kv_head * n, kv = token * kv_ld + (int64_t)(h / (c->n_head / c->n_kv_head)) * n;
  const int     low = lowest(d, b, t);
  double        top = -INFINITY, sum = 0, mean = 0;

  for (int j = low; j <= t; j++) {
    p[j] = 0;
    dp[j] = 0;
    for (int i = 0; i < n; i++) {
      p[j] += scale * d->x[ATT_Q][row + i] * d->x[ATT_K][kv + j * kv_ld + i];
      dp[j] += d->x[ATT_DO][row + i] * d->x[ATT_V][kv + j * kv_ld + i];
    }
    if (p[j] > top) top = p[j];
  }
  for (int j = low; j <= t; j++) sum += exp(p[j] - top);
  d->x[ATT_LSE][((int64_t)b * c->n_head + h) * c->n_time + t] = top + log(sum);
  for (int j = low; j <= t; j++) {
    p[j] = exp(p[j] - top) / sum;
    mean += p[j] * dp[j];
  }
  for (int j = low; j <= t; j++) {
    const double ds = p[j] * (dp[j] - mean) * scale;
    for (int i = 0; i < n; i++) {
      const int64_t at = kv + j * kv_ld + i;
      d->x[ATT_O][row + i] += p[j] * d->x[ATT_V][at];
      d->x[ATT_DV][at] += p[j] * d->x[ATT_DO][row + i];
      d->x[ATT_DQ][row + i] += ds * d->x[ATT_K][at];
      d->x[ATT_DK][at] += ds * d->x[ATT_Q][row + i];
    }
  }
}

ingot_status attention_data_make(const attention_case *c, ingot_dtype dtype, uint64_t seed, bool reference,
                                 attention_data *d)
{
  ingot_status st = INGOT_OK;
  double      *work = calloc((size_t)c->n_time * 2, sizeof *work);

  *d = (attention_data){.shape = *c};
  INGOT_CHECK(work, INGOT_ERR_NOMEM, "out of memory");
  for (int i = 0; i < ATT_COUNT; i++) {
    d->x[i] = calloc((size_t)attention_count(c, (attention_array)i), sizeof(double));
    INGOT_CHECK(d->x[i], INGOT_ERR_NOMEM, "out of memory");
  }
  if (c->document > 0) {
    d->first_key = calloc((size_t)c->n_batch * (size_t)c->n_time, sizeof(int32_t));
    INGOT_CHECK(d->first_key, INGOT_ERR_NOMEM, "out of memory");
    draw_documents(d, seed);
  }
  for (int i = ATT_Q; i <= ATT_DO; i++)
    fill(d->x[i], attention_count(c, (attention_array)i), dtype, seed * 16 + (uint64_t)i);
  for (int b = 0; reference && b < c->n_batch; b++) {
    for (int h = 0; h < c->n_head; h++) {
      for (int t = 0; t < c->n_time; t++) reference_query(d, b, h, t, work, work + c->n_time);
    }
  }
done:
  free(work);
  return st;
}

void attention_data_free(attention_data *d)
{
  for (int i = 0; i < ATT_COUNT; i++) free(d->x[i]);
  free(d->first_key);
  *d = (attention_data){0};
}

/* ---- on a back end ---- */

/* Rows of several arrays side by side, on host and device. */
typedef struct joint {
  int64_t n_row, ld;
  size_t  bytes;
  void   *host, *device;
} joint;

static ingot_status joint_open(ingot_nn *nn, int64_t n_row, int64_t ld, ingot_dtype dtype, joint *j)
{
  ingot_status st = INGOT_OK;
  *j = (joint){.n_row = n_row, .ld = ld, .bytes = (size_t)(n_row * ld) * ingot_dtype_size(dtype)};
  j->host = malloc(j->bytes);
  INGOT_CHECK(j->host, INGOT_ERR_NOMEM, "out of memory");
  memset(j->host, POISON, j->bytes);
  INGOT_TRY(nn->ops->alloc(nn, j->bytes, &j->device));
  INGOT_TRY(nn->ops->copy_in(nn, j->device, j->host, j->bytes));
done:
  return st;
}

static void joint_close(ingot_nn *nn, joint *j)
{
  free(j->host);
  nn->ops->free(nn, j->device);
}

static void *joint_column(const joint *j, int64_t column, ingot_dtype dtype)
{
  return (char *)j->device + (size_t)column * ingot_dtype_size(dtype);
}

static void put(const joint *j, int64_t column, const double *x, int64_t width, ingot_dtype dtype)
{
  for (int64_t i = 0; i < j->n_row * width; i++) {
    int64_t at = i / width * j->ld + column + i % width;
    float   f = (float)x[i];
    if (dtype == INGOT_DTYPE_F32) ((float *)j->host)[at] = f;
    else memcpy((uint16_t *)j->host + at, (const char *)&f + 2, 2); /* rounded already; little-endian */
  }
}

static double get_one(const joint *j, int64_t at, ingot_dtype dtype)
{
  float f = 0;
  if (dtype == INGOT_DTYPE_F32) f = ((const float *)j->host)[at];
  else memcpy((char *)&f + 2, (const uint16_t *)j->host + at, 2);
  return (double)f;
}

static void get(const joint *j, int64_t column, double *x, int64_t width, ingot_dtype dtype)
{
  for (int64_t i = 0; i < j->n_row * width; i++) x[i] = get_one(j, i / width * j->ld + column + i % width, dtype);
}

static ingot_status check_gap(const joint *j, ingot_dtype dtype, const char *name)
{
  const size_t row_bytes = (size_t)j->ld * ingot_dtype_size(dtype), gap_bytes = GAP * ingot_dtype_size(dtype);
  for (int64_t r = 0; r < j->n_row; r++) {
    const unsigned char *gap = (const unsigned char *)j->host + (size_t)(r + 1) * row_bytes - gap_bytes;
    for (size_t i = 0; i < gap_bytes; i++) {
      if (gap[i] != POISON) return ingot_fail(INGOT_ERR_FORMAT, "%s: written behind token %lld", name, (long long)r);
    }
  }
  return INGOT_OK;
}

typedef struct run_arrays {
  joint in, o, d_o, d_in; /* q, k, v; o; dO; dq, dk, dv */
  joint lse;
  void *first_key;
} run_arrays;

static ingot_status run_open(ingot_nn *nn, const attention_data *in, run_arrays *a)
{
  ingot_status          st = INGOT_OK;
  const attention_case *c = &in->shape;
  const int64_t         tokens = (int64_t)c->n_batch * c->n_time, q = (int64_t)c->n_head * c->head_dim;
  const int64_t         kv = (int64_t)c->n_kv_head * c->head_dim, ld = q + 2 * kv + GAP;

  *a = (run_arrays){0};
  INGOT_TRY(joint_open(nn, tokens, ld, nn->dtype, &a->in));
  INGOT_TRY(joint_open(nn, tokens, ld, nn->dtype, &a->d_in));
  INGOT_TRY(joint_open(nn, tokens, q + GAP, nn->dtype, &a->o));
  INGOT_TRY(joint_open(nn, tokens, q + GAP, nn->dtype, &a->d_o));
  INGOT_TRY(joint_open(nn, attention_count(c, ATT_LSE), 1, INGOT_DTYPE_F32, &a->lse));
  put(&a->in, 0, in->x[ATT_Q], q, nn->dtype);
  put(&a->in, q, in->x[ATT_K], kv, nn->dtype);
  put(&a->in, q + kv, in->x[ATT_V], kv, nn->dtype);
  put(&a->d_o, 0, in->x[ATT_DO], q, nn->dtype);
  INGOT_TRY(nn->ops->copy_in(nn, a->in.device, a->in.host, a->in.bytes));
  INGOT_TRY(nn->ops->copy_in(nn, a->d_o.device, a->d_o.host, a->d_o.bytes));
  if (in->first_key) {
    INGOT_TRY(nn->ops->alloc(nn, (size_t)tokens * sizeof(int32_t), &a->first_key));
    INGOT_TRY(nn->ops->copy_in(nn, a->first_key, in->first_key, (size_t)tokens * sizeof(int32_t)));
  }
done:
  return st;
}

static void run_close(ingot_nn *nn, run_arrays *a)
{
  joint_close(nn, &a->in);
  joint_close(nn, &a->o);
  joint_close(nn, &a->d_o);
  joint_close(nn, &a->d_in);
  joint_close(nn, &a->lse);
  nn->ops->free(nn, a->first_key);
}

static ingot_status run_take(ingot_nn *nn, run_arrays *a, attention_data *out)
{
  ingot_status  st = INGOT_OK;
  const int64_t q = (int64_t)out->shape.n_head * out->shape.head_dim,
                kv = (int64_t)out->shape.n_kv_head * out->shape.head_dim;

  INGOT_TRY(nn->ops->copy_out(nn, a->o.host, a->o.device, a->o.bytes));
  INGOT_TRY(nn->ops->copy_out(nn, a->d_in.host, a->d_in.device, a->d_in.bytes));
  INGOT_TRY(nn->ops->copy_out(nn, a->lse.host, a->lse.device, a->lse.bytes));
  INGOT_TRY(check_gap(&a->o, nn->dtype, "output"));
  INGOT_TRY(check_gap(&a->d_in, nn->dtype, "gradients"));
  get(&a->o, 0, out->x[ATT_O], q, nn->dtype);
  get(&a->lse, 0, out->x[ATT_LSE], 1, INGOT_DTYPE_F32);
  get(&a->d_in, 0, out->x[ATT_DQ], q, nn->dtype);
  get(&a->d_in, q, out->x[ATT_DK], kv, nn->dtype);
  get(&a->d_in, q + kv, out->x[ATT_DV], kv, nn->dtype);
done:
  return st;
}

ingot_status attention_run(ingot_nn *nn, const attention_data *in, attention_data *out)
{
  ingot_status          st = INGOT_OK;
  const attention_case *c = &in->shape;
  run_arrays            a;

  INGOT_TRY(run_open(nn, in, &a));
  const int64_t      q = (int64_t)c->n_head * c->head_dim, kv = (int64_t)c->n_kv_head * c->head_dim;
  ingot_nn_attention s = {
      .n_batch = c->n_batch,
      .n_time = c->n_time,
      .n_head = c->n_head,
      .n_kv_head = c->n_kv_head,
      .head_dim = c->head_dim,
      .scale = (float)(1.0 / sqrt((double)c->head_dim)),
      .window = c->window,
      .first_key = a.first_key,
      .ld_q = a.in.ld,
      .ld_k = a.in.ld,
      .ld_v = a.in.ld,
      .ld_o = a.o.ld,
  };
  void *x[3] = {joint_column(&a.in, 0, nn->dtype), joint_column(&a.in, q, nn->dtype),
                joint_column(&a.in, q + kv, nn->dtype)};
  void *dx[3] = {joint_column(&a.d_in, 0, nn->dtype), joint_column(&a.d_in, q, nn->dtype),
                 joint_column(&a.d_in, q + kv, nn->dtype)};
  INGOT_TRY(nn->ops->attention(nn, &s, x[0], x[1], x[2], a.o.device, a.lse.device));
  INGOT_TRY(nn->ops->attention_backward(nn, &s, x[0], x[1], x[2], a.o.device, a.lse.device, a.d_o.device, dx[0], dx[1],
                                        dx[2]));
  INGOT_TRY(run_take(nn, &a, out));
done:
  run_close(nn, &a);
  return st;
}
