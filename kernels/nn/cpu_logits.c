#include "kernels/nn/cpu.h"

#include <math.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/nn/cpu_math.h"
#include "kernels/nn/cpu_rows.h"

enum { PIECE = INGOT_CPU_ROW_PIECE };

static int64_t index_of(int64_t n, const float *z, float value)
{
  for (int64_t i = 0; i < n; i++)
    if (z[i] == value) return i;
  return 0; /* not a number */
}

ingot_status ingot_cpu_cross_entropy(ingot_nn *nn, const ingot_nn_logits *z, const int32_t *labels, float scale,
                                     float *nll, int32_t *top1, void *d_logits)
{
  int64_t n = z->n_vocab;
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    const float *at = z->data + row * z->ld;
    float       *d = d_logits ? (float *)d_logits + row * z->ld : NULL;
    int32_t      label = labels ? labels[row] : INGOT_NN_IGNORE;
    float        top = ingot_cpu_row_top(n, at);
    if (top1) top1[row] = (int32_t)index_of(n, at, top);
    if (label == INGOT_NN_IGNORE) {
      if (nll) nll[row] = 0;
      if (d) memset(d, 0, (size_t)z->ld * sizeof *d);
      continue;
    }
    if (!nll && !d) continue;
    double sum = ingot_cpu_row_sum(n, at, top, 1.0f);
    if (nll) nll[row] = (float)(log(sum) + ((double)top - (double)at[label]));
    if (!d) continue;
    ingot_cpu_row_gradient(z, row, label, scale, top, sum, d);
  }
  return INGOT_OK;
}

/* The smallest index whose cumulative sum of exp(factor (z - top)) is above `target`; the last that adds anything when
 * none
 * is. */
static int64_t draw(int64_t n, const float *z, float top, float factor, double target)
{
  double  before = 0;
  int64_t last = 0;
  for (int64_t first = 0; first < n; first += PIECE) {
    int64_t count = n - first < PIECE ? n - first : PIECE;
    double  piece = ingot_cpu_row_sum(count, z + first, top, factor), sum = before;
    bool    here = before + piece > target;
    for (int64_t i = first; here && i < first + count; i++) {
      float e = ingot_cpu_exp((z[i] - top) * factor);
      sum += (double)e;
      if (e > 0) last = i;
      if (sum > target) return i;
    }
    if (here) return last; /* the piece's own sum was rounded upwards */
    before += piece;
  }
  return index_of(n, z, top);
}

ingot_status ingot_cpu_sample_labels(ingot_nn *nn, const ingot_nn_logits *z, uint64_t key, uint64_t first_counter,
                                     int32_t *labels)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    if (labels[row] == INGOT_NN_IGNORE) continue;
    const float *at = z->data + row * z->ld;
    float        top = ingot_cpu_row_top(z->n_vocab, at);
    uint32_t     word[4];
    ingot_philox4x32(key, first_counter + (uint64_t)row, word);
    labels[row] = (int32_t)draw(z->n_vocab, at, top, 1.0f,
                                ((double)word[0] + 0.5) * 0x1p-32 * ingot_cpu_row_sum(z->n_vocab, at, top, 1.0f));
  }
  return INGOT_OK;
}

ingot_status ingot_cpu_draw(ingot_nn *nn, const ingot_nn_logits *z, float inverse, const double *u, int32_t *ids)
{
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    const float *at = z->data + row * z->ld;
    float        top = ingot_cpu_row_top(z->n_vocab, at);
    double       sum = isfinite(top) ? ingot_cpu_row_sum(z->n_vocab, at, top, inverse) : NAN;
    ids[row] = isfinite(sum) ? (int32_t)draw(z->n_vocab, at, top, inverse, u[row] * sum) : -1;
  }
  return INGOT_OK;
}

/* Any of the n above the bound? */
static INGOT_CLONES int any_above(int64_t n, const float *z, float bound)
{
  int any = 0;
  for (int64_t i = 0; i < n; i++) any |= z[i] > bound;
  return any;
}

/* ids and values hold the `have` largest so far, in order: put (id, z) in its place, after all that are not smaller. */
static void insert(int k, int *have, int32_t id, float z, int32_t *ids, float *values)
{
  int at = *have < k ? (*have)++ : k - 1;
  for (; at > 0 && values[at - 1] < z; at--) {
    values[at] = values[at - 1];
    ids[at] = ids[at - 1];
  }
  values[at] = z;
  ids[at] = id;
}

static void top_row(int64_t n, const float *z, int k, int32_t *ids, float *values)
{
  enum { STEP = 64 };
  int have = 0;
  for (int64_t first = 0; first < n; first += STEP) {
    int64_t count = n - first < STEP ? n - first : STEP;
    if (have == k && !any_above(count, z + first, values[k - 1])) continue;
    for (int64_t i = first; i < first + count; i++)
      if (have < k || z[i] > values[k - 1]) insert(k, &have, (int32_t)i, z[i], ids, values);
  }
}

ingot_status ingot_cpu_top_k(ingot_nn *nn, const ingot_nn_logits *z, int k, int32_t *ids, float *logp)
{
  INGOT_ASSERT(k >= 1 && k <= z->n_vocab);
#pragma omp parallel for num_threads(ingot_cpu_threads(nn, z->n_row * z->n_vocab)) schedule(static)
  for (int64_t row = 0; row < z->n_row; row++) {
    const float *at = z->data + row * z->ld;
    float       *values = logp + row * k;
    top_row(z->n_vocab, at, k, ids + row * k, values);
    float  top = values[0];
    double log_sum = log(ingot_cpu_row_sum(z->n_vocab, at, top, 1.0f));
    for (int i = 0; i < k; i++) values[i] = (float)((double)values[i] - (double)top - log_sum);
  }
  return INGOT_OK;
}
