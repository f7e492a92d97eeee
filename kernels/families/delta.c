#include "kernels/families/delta.h"

#include <math.h>
#include <string.h>

#include "kernels/block_sum.h"
#include "kernels/clones.h"
#include "kernels/random_mask.h"

enum { PIECE = 512, GROUP = 4 }; /* elements worked on together (their sums stay in the nearest cache), and models */

size_t ingot_delta_state_bytes(int n_model)
{
  return sizeof(ingot_delta_state) + (size_t)n_model * sizeof(ingot_delta_model);
}

/* Values of one model. */

static INGOT_CLONES void values_all(const float *restrict x, const float *restrict base, int64_t n, float weight,
                                    float scale, float *restrict y)
{
  for (int64_t i = 0; i < n; i++) y[i] = weight * (scale * (x[i] - base[i]));
}

/* Keys fit in 31 bits, so that the compare may be signed, which every vector unit has. */
static INGOT_CLONES void values_from_key(const float *restrict x, const float *restrict base, int64_t n, float weight,
                                         float scale, int32_t smallest, float *restrict y)
{
  for (int64_t i = 0; i < n; i++) {
    float tau = x[i] - base[i];
    y[i] = weight * (scale * ((int32_t)ingot_delta_key(tau) >= smallest ? tau : 0.0f));
  }
}

static INGOT_CLONES void values_random(const float *restrict x, const float *restrict base,
                                       const uint16_t *restrict keep, int64_t n, float weight, float scale,
                                       float *restrict y)
{
  for (int64_t i = 0; i < n; i++) {
    uint32_t mask = (uint32_t)(int32_t)(int16_t)keep[i];
    y[i] = weight * (scale * ingot_f32_of_bits(ingot_bits_of_f32(x[i] - base[i]) & mask));
  }
}

/* Flat index below which elements that equal the threshold are kept, for use in this chunk. */
static int64_t cut_in_chunk(const ingot_delta_model *m, const ingot_chunk *c, const float *x)
{
  int64_t seen = 0, i = 0;
  if (m->nth == 0 || m->cut != c->first) return m->cut;
  while (i < c->n && seen < m->nth) { /* once in a tensor and model */
    seen += ingot_delta_key(x[i] - c->in[0][i]) == m->threshold;
    i++;
  }
  return c->first + i;
}

void ingot_delta_values(const ingot_delta_model *m, const ingot_chunk *c, const float *x, int64_t at, int64_t n,
                        float *y)
{
  const float *base = c->in[0] + at;
  switch (m->mask) {
  case INGOT_MASK_RANDOM: {
    uint16_t keep[PIECE];
    for (int64_t i = 0; i < n; i += PIECE) {
      int64_t count = n - i < PIECE ? n - i : PIECE;
      ingot_random_mask(m->stream, m->keep_below, c->first + at + i, count, keep);
      values_random(x + at + i, base + i, keep, count, m->weight, m->scale, y + i);
    }
    return;
  }
  case INGOT_MASK_CUT: {
    int64_t ties = cut_in_chunk(m, c, x) - (c->first + at); /* of these, elements at the threshold are kept */
    ties = ties < 0 ? 0 : ties < n ? ties : n;
    values_from_key(x + at, base, ties, m->weight, m->scale, (int32_t)m->threshold, y);
    values_from_key(x + at + ties, base + ties, n - ties, m->weight, m->scale, (int32_t)m->threshold + 1, y + ties);
    return;
  }
  default: values_all(x + at, base, n, m->weight, m->scale, y); return;
  }
}

/* Combinations over models. `count` is a constant in every use. */

INGOT_INLINE void add_group(float y[GROUP][PIECE], int count, int64_t n, float *restrict acc)
{
  for (int64_t i = 0; i < n; i++) {
    float a = acc[i];
    for (int g = 0; g < count; g++) a = a + y[g][i];
    acc[i] = a;
  }
}

static INGOT_CLONES void add_models(float y[GROUP][PIECE], int count, int64_t n, float *acc)
{
  switch (count) {
  case 1: add_group(y, 1, n, acc); return;
  case 2: add_group(y, 2, n, acc); return;
  case 3: add_group(y, 3, n, acc); return;
  default: add_group(y, 4, n, acc); return;
  }
}

/*
 * The elected sign is known only after the last model. Sums are kept for both signs and one is taken at the end: each
 * adds the same numbers in the same order as if the sign had been known, and no y_i needs to be kept.
 */
typedef struct vote_sums {
  float total[PIECE];
  float plus[PIECE], minus[PIECE];               /* of y_i above and below 0 */
  float weight_plus[PIECE], weight_minus[PIECE]; /* of their weights; only when they divide */
} vote_sums;

INGOT_INLINE void vote_group(float y[GROUP][PIECE], const float *weight, int count, int first, int divide, int64_t n,
                             vote_sums *restrict s)
{
  for (int64_t i = 0; i < n; i++) {
    float total = first ? 0 : s->total[i], plus = first ? 0 : s->plus[i], minus = first ? 0 : s->minus[i];
    for (int g = 0; g < count; g++) {
      float v = y[g][i];
      total = total + v;
      plus = plus + (v > 0.0f ? v : 0.0f);
      minus = minus + (v < 0.0f ? v : 0.0f);
    }
    s->total[i] = total, s->plus[i] = plus, s->minus[i] = minus;
  }
  if (!divide) return;
  uint32_t weight_bits[GROUP];
  for (int g = 0; g < count; g++) weight_bits[g] = ingot_bits_of_f32(weight[g]);
  for (int64_t i = 0; i < n; i++) {
    float weight_plus = first ? 0 : s->weight_plus[i], weight_minus = first ? 0 : s->weight_minus[i];
    for (int g = 0; g < count; g++) {
      /* "agrees ? weight : 0" by bits: a choice that compilers turn into a branch otherwise, which ends
       * vectorisation */
      uint32_t agrees_plus = -(uint32_t)(y[g][i] > 0.0f), agrees_minus = -(uint32_t)(y[g][i] < 0.0f);
      weight_plus = weight_plus + ingot_f32_of_bits(weight_bits[g] & agrees_plus);
      weight_minus = weight_minus + ingot_f32_of_bits(weight_bits[g] & agrees_minus);
    }
    s->weight_plus[i] = weight_plus, s->weight_minus[i] = weight_minus;
  }
}

/* The first group of models starts the sums from 0; there is nothing to clear before. */
static INGOT_CLONES void vote_first(float y[GROUP][PIECE], const float *weight, int count, int divide, int64_t n,
                                    vote_sums *s)
{
  switch (count) {
  case 1: vote_group(y, weight, 1, 1, divide, n, s); return;
  case 2: vote_group(y, weight, 2, 1, divide, n, s); return;
  case 3: vote_group(y, weight, 3, 1, divide, n, s); return;
  default: vote_group(y, weight, 4, 1, divide, n, s); return;
  }
}

static INGOT_CLONES void vote_next(float y[GROUP][PIECE], const float *weight, int count, int divide, int64_t n,
                                   vote_sums *s)
{
  switch (count) {
  case 1: vote_group(y, weight, 1, 0, divide, n, s); return;
  case 2: vote_group(y, weight, 2, 0, divide, n, s); return;
  case 3: vote_group(y, weight, 3, 0, divide, n, s); return;
  default: vote_group(y, weight, 4, 0, divide, n, s); return;
  }
}

static INGOT_CLONES void vote_finish(const vote_sums *restrict s, int divide, int zero_plus, int64_t n,
                                     float *restrict acc)
{
  for (int64_t i = 0; i < n; i++) {
    int plus = (s->total[i] > 0.0f) | ((s->total[i] == 0.0f) & zero_plus);
    acc[i] = plus ? s->plus[i] : s->minus[i];
  }
  if (!divide) return;
  for (int64_t i = 0; i < n; i++) {
    int   plus = (s->total[i] > 0.0f) | ((s->total[i] == 0.0f) & zero_plus);
    float weight = plus ? s->weight_plus[i] : s->weight_minus[i];
    acc[i] = acc[i] / (weight == 0.0f ? 1.0f : weight);
  }
}

static INGOT_CLONES void add_to_base(const float *restrict base, const float *restrict acc, int divide, float divisor,
                                     float lambda, int64_t n, float *restrict out)
{
  if (divide) {
    for (int64_t i = 0; i < n; i++) out[i] = base[i] + lambda * (acc[i] / divisor);
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = base[i] + lambda * acc[i];
  }
}

void ingot_delta_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out)
{
  (void)t;
  const ingot_delta_state *s = state;
  const ingot_delta_model *model = ingot_delta_models_const(s);
  float                    y[GROUP][PIECE], acc[PIECE];
  vote_sums                sums;

  for (int64_t at = 0; at < c->n; at += PIECE) {
    int64_t n = c->n - at < PIECE ? c->n - at : PIECE;
    if (!s->vote) memset(acc, 0, sizeof acc);
    for (int i = 0; i < s->n_model; i += GROUP) {
      int   count = s->n_model - i < GROUP ? s->n_model - i : GROUP;
      float weight[GROUP];
      for (int g = 0; g < count; g++) {
        weight[g] = model[i + g].weight;
        ingot_delta_values(&model[i + g], c, c->in[1 + i + g], at, n, y[g]);
      }
      if (!s->vote) add_models(y, count, n, acc);
      else if (i == 0) vote_first(y, weight, count, s->divide, n, &sums);
      else vote_next(y, weight, count, s->divide, n, &sums);
    }
    if (s->vote) vote_finish(&sums, s->divide, s->zero_sign > 0, n, acc);
    add_to_base(c->in[0] + at, acc, s->divide && !s->vote && s->divisor != 1.0f, s->divisor, s->lambda, n, out + at);
  }
}

/* The L1 summary. */

size_t ingot_delta_l1_slot_bytes(int n_model)
{
  return (size_t)n_model * 2 * sizeof(double);
}

bool ingot_delta_l1_needed(const ingot_delta_state *s)
{
  if (s->rescale != INGOT_RESCALE_L1) return false;
  for (int i = 0; i < s->n_model; i++)
    if (ingot_delta_models_const(s)[i].mask != INGOT_MASK_ALL) return true;
  return false;
}

void ingot_delta_l1_scan(const ingot_delta_state *s, const ingot_chunk *c, void *slot)
{
  double *sum = slot;
  float   tau[INGOT_BLOCK], kept[INGOT_BLOCK];
  for (int i = 0; i < s->n_model; i++) {
    ingot_delta_model m = ingot_delta_models_const(s)[i];
    if (m.mask == INGOT_MASK_ALL) continue;
    if (m.mask == INGOT_MASK_RANDOM) {
      uint16_t keep[INGOT_BLOCK];
      double   whole, part;
      ingot_random_mask(m.stream, m.keep_below, c->first, c->n, keep);
      ingot_block_sum_masked(c->in[1 + i], c->in[0], keep, c->n, &whole, &part);
      sum[2 * i] += whole;
      sum[2 * i + 1] += part;
      continue;
    }
    m.weight = m.scale = 1.0f;
    values_all(c->in[1 + i], c->in[0], c->n, 1.0f, 1.0f, tau);
    ingot_delta_values(&m, c, c->in[1 + i], 0, c->n, kept);
    sum[2 * i] += ingot_block_sum_abs(tau, c->n);
    sum[2 * i + 1] += ingot_block_sum_abs(kept, c->n);
  }
}

void ingot_delta_l1_finish(ingot_delta_state *s, const ingot_scan_result *result)
{
  const unsigned char *slots = result->slots;
  for (int i = 0; i < s->n_model; i++) {
    ingot_delta_model *m = &ingot_delta_models(s)[i];
    double             all = 0, kept = 0;
    if (m->mask == INGOT_MASK_ALL) continue;
    for (int64_t tile = 0; tile < result->n_slot; tile++) {
      const double *sum = (const double *)(const void *)(slots + (size_t)tile * result->plan->slot_bytes);
      all += sum[2 * i];
      kept += sum[2 * i + 1];
    }
    m->scale = all >= 1e-7 && kept >= 1e-7 ? (float)(all / kept) : 1.0f;
  }
}

ingot_status ingot_delta_l1_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                 ingot_scan_plan *plan)
{
  (void)t;
  ingot_delta_state *s = state;
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  if (result) ingot_delta_l1_finish(s, result);
  else if (ingot_delta_l1_needed(s))
    *plan = (ingot_scan_plan){.pass = INGOT_PASS_L1, .slot_bytes = ingot_delta_l1_slot_bytes(s->n_model)};
  return INGOT_OK;
}

void ingot_delta_l1_method_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                const ingot_chunk *c, void *slot, int64_t *sums)
{
  (void)t, (void)plan, (void)sums;
  ingot_delta_l1_scan(state, c, slot);
}

/* Parameters. */

static double sum_of_weights(const ingot_method_tensor *t, int weight_step)
{
  double sum = 0;
  for (int i = 0; i < t->n_model; i++) sum += t->per_model[i * weight_step];
  return sum;
}

ingot_status ingot_delta_check_weights(const ingot_method_tensor *t, int weight_step, bool normalize, double smallest)
{
  double sum = sum_of_weights(t, weight_step);
  if (!normalize || fabs(sum) >= smallest) return INGOT_OK;
  return ingot_fail(INGOT_ERR_JOB,
                    "%s: the weights of its %d models sum to %g, and normalize = true divides by that sum; change the "
                    "weights or set normalize = false",
                    t->name, t->n_model, sum);
}

void ingot_delta_begin(const ingot_method_tensor *t, int weight_step, bool vote, bool normalize, double lambda,
                       ingot_delta_state *s)
{
  *s = (ingot_delta_state){.n_model = t->n_model,
                           .vote = vote,
                           .zero_sign = 1,
                           .divide = normalize,
                           .divisor = 1.0f,
                           .lambda = (float)lambda};
  if (normalize && !vote) s->divisor = (float)sum_of_weights(t, weight_step);
  for (int i = 0; i < t->n_model; i++)
    ingot_delta_models(s)[i] =
        (ingot_delta_model){.weight = (float)t->per_model[i * weight_step], .scale = 1.0f, .mask = INGOT_MASK_ALL};
}
