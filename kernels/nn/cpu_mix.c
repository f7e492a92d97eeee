/* Distributions of several models: mixtures, their moments, log-probabilities. */
#include "kernels/nn/cpu.h"

#include <math.h>

#include "kernels/nn/cpu_math.h"
#include "kernels/nn/cpu_rows.h"

enum { MOST_MEMBERS = 16, COLUMNS = 256 /* of a row, whose products are summed in float32 */ };

/* out = offset + factor * max(log-softmax(z), floor), the log-softmax being z - top - log_sum; out may be z. Nothing is
 * floored at -inf. A factor of 1 and an offset of 0 change no bit. */
static INGOT_CLONES void log_row(int64_t n, const float *z, float top, float log_sum, float floor, float factor,
                                 float offset, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float logp = z[i] - top - log_sum;
    logp = logp < floor ? floor : logp;
    out[i] = offset + factor * logp;
  }
}

static INGOT_CLONES void add_row(int64_t n, const float *x, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] += x[i];
}

static INGOT_CLONES void log_add_row(int64_t n, const float *x, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = ingot_cpu_log_add(out[i], x[i]);
}

static INGOT_CLONES void max_row(int64_t n, const float *x, float *out)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = x[i] > out[i] || x[i] != x[i] ? x[i] : out[i];
}

static void fill_row(int64_t n, float value, float *out)
{
  for (int64_t i = 0; i < n; i++) out[i] = value;
}

/* A member that is left out: the sum or the largest of none is -inf, a product of none 0. */
static bool is_left_out(ingot_nn_mix kind, float weight)
{
  return kind == INGOT_NN_MIX_LOG_LINEAR ? weight == 0 : weight == -INFINITY;
}

static void mix_row(ingot_nn_mix kind, int64_t n, const float *z, float weight, float floor, bool first, float *mixed)
{
  const bool  product = kind == INGOT_NN_MIX_LOG_LINEAR;
  const float factor = product ? weight : 1, offset = product ? 0 : weight;
  const float lowest = product && weight < 0 ? floor : -INFINITY;
  if (is_left_out(kind, weight)) {
    if (first) fill_row(n, product ? 0 : -INFINITY, mixed);
    return;
  }
  const float top = ingot_cpu_row_top(n, z), log_sum = (float)log(ingot_cpu_row_sum(n, z, top, 1));
  if (first) {
    log_row(n, z, top, log_sum, lowest, factor, offset, mixed);
    return;
  }
  for (int64_t i = 0; i < n; i += COLUMNS) {
    const int64_t count = n - i < COLUMNS ? n - i : COLUMNS;
    float         term[COLUMNS];
    log_row(count, z + i, top, log_sum, lowest, factor, offset, term);
    if (kind == INGOT_NN_MIX_LINEAR) log_add_row(count, term, mixed + i);
    else if (kind == INGOT_NN_MIX_MAX) max_row(count, term, mixed + i);
    else add_row(count, term, mixed + i);
  }
}

ingot_status ingot_cpu_mix(ingot_nn *nn, ingot_nn_mix kind, const ingot_nn_logits *z, const float *weight, float floor,
                           bool first, float *mixed)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++)
    mix_row(kind, z->n_vocab, z->data + row * z->ld, weight[row], floor, first, mixed + row * z->ld);
  return INGOT_OK;
}

static INGOT_CLONES void rule_out_row(int64_t n, const float *z, float lowest, float *mixed)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) mixed[i] = z[i] < lowest ? -INFINITY : mixed[i];
}

ingot_status ingot_cpu_rule_out(ingot_nn *nn, const ingot_nn_logits *z, float margin, float *mixed)
{
  INGOT_ASSERT(margin <= 0);
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    const float *at = z->data + row * z->ld;
    rule_out_row(z->n_vocab, at, ingot_cpu_row_top(z->n_vocab, at) + margin, mixed + row * z->ld);
  }
  return INGOT_OK;
}

ingot_status ingot_cpu_log_softmax(ingot_nn *nn, const ingot_nn_logits *z, float *logp)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    const float *at = z->data + row * z->ld;
    const float  top = ingot_cpu_row_top(z->n_vocab, at);
    const float  log_sum = (float)log(ingot_cpu_row_sum(z->n_vocab, at, top, 1));
    log_row(z->n_vocab, at, top, log_sum, -INFINITY, 1, 0, logp + row * z->ld);
  }
  return INGOT_OK;
}

/* ---- moments ---- */

static INGOT_CLONES void weights_of(int64_t n, const float *mixed, float top, float factor, float *q)
{
#pragma omp simd
  for (int64_t i = 0; i < n; i++) q[i] = factor * ingot_cpu_exp(mixed[i] - top);
}

/* x = logp, and weighted = q logp; 0 where q is 0, whatever logp is. */
static INGOT_CLONES float weigh(int64_t n, const float *q, const float *logp, float *x, float *weighted)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) {
    x[i] = q[i] == 0 ? 0 : logp[i];
    weighted[i] = q[i] * x[i];
    sum += weighted[i];
  }
  return sum;
}

static INGOT_CLONES float dot(int64_t n, const float *x, const float *y)
{
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
  return sum;
}

typedef struct moment_sums {
  double mean[MOST_MEMBERS], product[MOST_MEMBERS][MOST_MEMBERS];
} moment_sums;

static void add_moments(int64_t n, const float *q, int n_member, const float *const *members, int64_t offset,
                        moment_sums *sums)
{
  float x[MOST_MEMBERS][COLUMNS], weighted[COLUMNS];
  for (int m = 0; m < n_member; m++) {
    sums->mean[m] += (double)weigh(n, q, members[m] + offset, x[m], weighted);
    for (int j = 0; j <= m; j++) sums->product[m][j] += (double)dot(n, weighted, x[j]);
  }
}

ingot_status ingot_cpu_moments(ingot_nn *nn, const ingot_nn_logits *mixed, int n_member, const float *const *members,
                               const int32_t *labels, float *mean, float *product, float *label)
{
  INGOT_ASSERT(n_member >= 1 && n_member <= MOST_MEMBERS);
  const int64_t n = mixed->n_vocab, width = n_member;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, mixed->n_row *n)) schedule(static)
  for (int64_t row = 0; row < mixed->n_row; row++) {
    moment_sums  sums = {{0}, {{0}}};
    const float *at = mixed->data + row * mixed->ld;
    const bool   wanted = labels[row] != INGOT_NN_IGNORE;
    const float  top = wanted ? ingot_cpu_row_top(n, at) : 0;
    const float  factor = wanted ? (float)(1 / ingot_cpu_row_sum(n, at, top, 1)) : 0;
    for (int64_t i = 0; wanted && i < n; i += COLUMNS) {
      const int64_t count = n - i < COLUMNS ? n - i : COLUMNS;
      float         q[COLUMNS];
      weights_of(count, at + i, top, factor, q);
      add_moments(count, q, n_member, members, row * mixed->ld + i, &sums);
    }
    for (int m = 0; m < n_member; m++) {
      mean[row * width + m] = (float)sums.mean[m];
      label[row * width + m] = wanted ? members[m][row * mixed->ld + labels[row]] : 0;
      for (int j = 0; j < n_member; j++)
        product[(row * width + m) * width + j] = (float)(j <= m ? sums.product[m][j] : sums.product[j][m]);
    }
  }
  return INGOT_OK;
}
