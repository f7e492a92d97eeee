/*
 * Task vectors from bfloat16 to bfloat16 (kernels/bf16_pairs.h), of a few models: one loop, and every value in a
 * register from its load to the rounding of the result. What more models, other dtypes and rare blocks need is in
 * delta.c.
 *
 * A random mask is laid over the elements as they are stored: a dropped one becomes the base's, and its task vector 0.
 */
#include <string.h>

#include "kernels/bf16_pairs.h"
#include "kernels/block_sum.h"
#include "kernels/families/delta_bf16.h"
#include "kernels/random_mask.h"

enum {
  FEW = INGOT_DELTA_FEW,
  PIECE = 1024
};                   /* elements whose masks are made together, so that they stay in the nearest cache */
enum { ROUND = 32 }; /* elements: loops take multiples, which spares them the code for remainders */
enum { PLAIN = INGOT_FEW_PLAIN, CUT = INGOT_FEW_CUT, RANDOM = INGOT_FEW_RANDOM };

typedef unsigned char byte;

typedef ingot_delta_few few_args;

INGOT_INLINE uint32_t mask_bits(int condition)
{
  return 0u - (uint32_t)condition;
}

/* One element of one model, already masked if masks are random. Inputs are finite, so keys are those of numbers. */
INGOT_INLINE float value(float x, float base, int kind, int32_t above, float weight, float scale)
{
  uint32_t tau = ingot_bits_of_f32(x - base);
  if (kind == CUT) tau &= mask_bits((int32_t)(tau & 0x7fffffffu) > above);
  return weight * (scale * ingot_f32_of_bits(tau));
}

/*
 * What the elected sign leaves of `count` values. The sums of both signs mirror each other, so values are turned to
 * make the elected sign +; the sum is turned back, and adding 0 makes +0 of a -0, which is what no value at all sums
 * to.
 */
INGOT_INLINE float elected(const float *y, const float *weight, int count, int divide, int zero_plus)
{
  float total = y[0], sum = 0, agreeing = 0;
  for (int g = 1; g < count; g++) total = total + y[g];
  int      plus = (total > 0.0f) | ((total == 0.0f) & zero_plus);
  uint32_t turn = ~mask_bits(plus) & 0x80000000u;
  for (int g = 0; g < count; g++) {
    float v = ingot_f32_of_bits(ingot_bits_of_f32(y[g]) ^ turn);
    sum = sum + (v > 0.0f ? v : 0.0f);
    if (divide) agreeing = agreeing + ingot_f32_of_bits(ingot_bits_of_f32(weight[g]) & mask_bits(v > 0.0f));
  }
  sum = ingot_f32_of_bits(ingot_bits_of_f32(sum) ^ turn) + 0.0f;
  return divide ? sum / (agreeing == 0.0f ? 1.0f : agreeing) : sum;
}

INGOT_INLINE float combined(const float *y, const few_args *a, int count, int vote, int divide)
{
  if (vote) return elected(y, a->weight, count, divide, a->zero_plus);
  float sum = 0;
  for (int g = 0; g < count; g++) sum = sum + y[g];
  return divide ? sum / a->divisor : sum;
}

/*
 * n elements, a multiple of ROUND. All but it and the pointers are constants in every use. Returns what is to be looked
 * at for NaN and infinities.
 */
INGOT_INLINE uint32_t few_pairs(const few_args *args, int count, int kind, int vote, int divide, int64_t n,
                                byte *restrict out)
{
  const int64_t  n_pair = (int64_t)((uint64_t)n / ROUND * (ROUND / 2));
  const few_args a = *args; /* out may be anywhere in memory, as far as the compiler knows, but not here */
  uint32_t       seen = 0;
  for (int64_t i = 0; i < n_pair; i++) {
    uint32_t   word = ingot_pair_load(a.base, i);
    ingot_pair base = ingot_pair_widen(word), acc;
    float      low[FEW], high[FEW];
    seen |= ingot_pair_nonfinite_bits(word);
    for (int g = 0; g < count; g++) {
      uint32_t own = ingot_pair_load(a.x[g], i);
      seen |= ingot_pair_nonfinite_bits(own);
      if (kind == RANDOM) own = word ^ ((own ^ word) & ingot_pair_load(a.keep[g], i));
      ingot_pair x = ingot_pair_widen(own);
      low[g] = value(x.low, base.low, kind, a.above[g], a.weight[g], a.scale[g]);
      high[g] = value(x.high, base.high, kind, a.above[g], a.weight[g], a.scale[g]);
    }
    acc.low = base.low + a.lambda * combined(low, &a, count, vote, divide);
    acc.high = base.high + a.lambda * combined(high, &a, count, vote, divide);
    ingot_pair_store(out, i, acc);
  }
  return seen;
}

/* A function for each combination that occurs: CUT with a vote, PLAIN without, RANDOM with both. */
#define COUNTS(kind, vote, divide)                             \
  switch (count) {                                             \
  case 1: return few_pairs(a, 1, kind, vote, divide, n, out);  \
  case 2: return few_pairs(a, 2, kind, vote, divide, n, out);  \
  case 3: return few_pairs(a, 3, kind, vote, divide, n, out);  \
  case 4: return few_pairs(a, 4, kind, vote, divide, n, out);  \
  case 5: return few_pairs(a, 5, kind, vote, divide, n, out);  \
  case 6: return few_pairs(a, 6, kind, vote, divide, n, out);  \
  case 7: return few_pairs(a, 7, kind, vote, divide, n, out);  \
  default: return few_pairs(a, 8, kind, vote, divide, n, out); \
  }
#define LOOP(name, kind, vote, divide)                                                  \
  static INGOT_CLONES uint32_t name(const few_args *a, int count, int64_t n, byte *out) \
  {                                                                                     \
    COUNTS(kind, vote, divide)                                                          \
  }
LOOP(sum_plain, PLAIN, 0, 0)
LOOP(mean_plain, PLAIN, 0, 1)
LOOP(sum_random, RANDOM, 0, 0)
LOOP(mean_random, RANDOM, 0, 1)
LOOP(vote_cut, CUT, 1, 0)
LOOP(vote_mean_cut, CUT, 1, 1)
LOOP(vote_random, RANDOM, 1, 0)
LOOP(vote_mean_random, RANDOM, 1, 1)

typedef uint32_t few_loop(const few_args *a, int count, int64_t n, byte *out);

static few_loop *loop_for(ingot_delta_kind kind)
{
  bool random = kind.drop == RANDOM, divide = kind.divide;
  if (kind.vote) return random ? (divide ? vote_mean_random : vote_random) : (divide ? vote_mean_cut : vote_cut);
  return random ? (divide ? mean_random : sum_random) : (divide ? mean_plain : sum_plain);
}

/* The last elements, fewer than ROUND, filled up with zeros. */
static uint32_t last_elements(const few_args *a, few_loop *loop, int count, int64_t at, int64_t n, byte *out)
{
  few_args padded = *a;
  uint16_t stored[FEW + 1][ROUND] = {{0}}, kept[FEW][ROUND] = {{0}}, merged[ROUND];
  size_t   bytes = (size_t)n * sizeof merged[0];
  memcpy(stored[FEW], a->base + at * 2, bytes);
  padded.base = (const byte *)stored[FEW];
  for (int g = 0; g < count; g++) {
    memcpy(stored[g], a->x[g] + at * 2, bytes);
    padded.x[g] = (const byte *)stored[g];
    if (a->keep[g]) memcpy(kept[g], a->keep[g] + at * 2, bytes);
    padded.keep[g] = (const byte *)kept[g];
  }
  uint32_t seen = loop(&padded, count, ROUND, (byte *)merged);
  memcpy(out + at * 2, merged, bytes);
  return seen;
}

/* Settings of the models for a block; false when a cut falls inside of it. */
static bool set_models(const ingot_delta_state *s, int64_t first, int64_t n, few_args *a, bool *random)
{
  *random = false;
  for (int g = 0; g < s->n_model; g++) {
    const ingot_delta_model *m = &ingot_delta_models_const(s)[g];
    a->weight[g] = m->weight;
    a->scale[g] = m->scale;
    a->above[g] = -1;
    a->keep[g] = NULL;
    if (m->mask == INGOT_MASK_RANDOM) *random = true;
    if (m->mask != INGOT_MASK_CUT) continue;
    bool before = first + n <= m->cut;
    if (!before && (first < m->cut || (m->nth > 0 && first == m->cut))) return false;
    a->above[g] = (int32_t)m->threshold - before;
  }
  return true;
}

/* Where the masks of a block from `first` are that the L1 pass has left, or NULL. */
static const byte *kept_masks(const ingot_delta_state *s, int64_t first)
{
  if (!s->masks) return NULL;
  return s->masks + first / INGOT_TILE * (int64_t)s->mask_tile_bytes + first % INGOT_TILE / 8;
}

/* `a` without masks and inputs. */
static bool apply_portable(const ingot_delta_state *s, few_args *a, ingot_delta_kind kind, int64_t first, int64_t n,
                           const void *const *in, byte *out)
{
  uint16_t    keep[FEW][PIECE];
  uint32_t    seen = 0;
  const byte *masks = kept_masks(s, first);
  few_loop   *loop = loop_for(kind);
  for (int64_t at = 0; at < n; at += PIECE) {
    int64_t count = n - at < PIECE ? n - at : PIECE;
    a->base = (const byte *)in[0] + at * 2;
    for (int g = 0; g < s->n_model; g++) {
      const ingot_delta_model *m = &ingot_delta_models_const(s)[g];
      a->x[g] = (const byte *)in[1 + g] + at * 2;
      if (kind.drop != RANDOM) continue;
      a->keep[g] = (const byte *)keep[g];
      if (m->mask == INGOT_MASK_RANDOM && masks)
        ingot_mask_unpack(masks + g * (int64_t)s->mask_model_bytes + at / 8, count, keep[g]);
      else if (m->mask == INGOT_MASK_RANDOM) ingot_random_mask(m->stream, m->keep_below, first + at, count, keep[g]);
      else if (at == 0) memset(keep[g], 0xff, sizeof keep[g]);
    }
    int64_t whole = count - count % ROUND;
    if (whole) seen |= loop(a, s->n_model, whole, out + at * 2);
    if (count > whole) seen |= last_elements(a, loop, s->n_model, whole, count - whole, out + at * 2);
  }
  return (seen & ingot_pair_nonfinite_mask) == 0;
}

#if INGOT_HAVE_AVX512
static bool apply_avx512(const ingot_delta_state *s, few_args *a, ingot_delta_kind kind, int64_t first, int64_t n,
                         const void *const *in, byte *out)
{
  byte        bits[FEW][INGOT_BLOCK / 8];
  const byte *masks = kept_masks(s, first);
  a->base = in[0];
  for (int g = 0; g < s->n_model; g++) {
    const ingot_delta_model *m = &ingot_delta_models_const(s)[g];
    a->x[g] = in[1 + g];
    if (kind.drop != RANDOM) continue;
    a->keep[g] = bits[g];
    if (m->mask == INGOT_MASK_RANDOM && masks) a->keep[g] = masks + g * (int64_t)s->mask_model_bytes;
    else if (m->mask == INGOT_MASK_RANDOM) ingot_random_mask_bits(m->stream, m->keep_below, first, n, bits[g]);
    else memset(bits[g], 0xff, sizeof bits[g]);
  }
  return ingot_delta_few_avx512(a, s->n_model, kind, n, out);
}
#endif

bool ingot_delta_apply_bf16(const ingot_method_tensor *t, const void *state, int64_t first, int64_t n,
                            const void *const *in, void *out)
{
  (void)t;
  const ingot_delta_state *s = state;
  few_args                 a;
  bool                     random;

  if (s->n_model > FEW || !set_models(s, first, n, &a, &random)) return false;
  ingot_delta_kind kind = {.drop = random    ? RANDOM
                                   : s->vote ? CUT
                                             : PLAIN,
                           .vote = s->vote,
                           .divide = s->divide && (s->vote || s->divisor != 1.0f)};
  a.zero_plus = s->zero_sign > 0, a.divisor = s->divisor, a.lambda = s->lambda;
#if INGOT_HAVE_AVX512
  if (ingot_has_avx512() && apply_avx512(s, &a, kind, first, n, in, out)) return true;
#endif
  return apply_portable(s, &a, kind, first, n, in, out);
}

bool ingot_delta_l1_scan_bf16(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, void *slot)
{
  return ingot_delta_l1_scan_masks(s, first, n, in, slot, NULL);
}

/* Adds the sums of models with random masks. */
static bool scan_portable(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, double *sum,
                          byte *mask_bits)
{
  uint16_t keep[INGOT_BLOCK];
  for (int i = 0; i <= s->n_model; i++)
    if (!ingot_pairs_finite(in[i], n)) return false;
  for (int i = 0; i < s->n_model; i++) {
    const ingot_delta_model *m = &ingot_delta_models_const(s)[i];
    double                   whole, kept;
    if (m->mask != INGOT_MASK_RANDOM) continue;
    ingot_random_mask(m->stream, m->keep_below, first, n, keep);
    if (mask_bits) ingot_mask_pack(keep, n, mask_bits + i * (int64_t)s->mask_model_bytes);
    ingot_block_sum_masked_bf16(in[1 + i], in[0], keep, n, &whole, &kept);
    sum[2 * i] += whole;
    sum[2 * i + 1] += kept;
  }
  return true;
}

#if INGOT_HAVE_AVX512
static bool scan_avx512(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, double *sum,
                        byte *mask_bits)
{
  double block[FEW][2];
  for (int i = 0; i < s->n_model; i++) {
    const ingot_delta_model *m = &ingot_delta_models_const(s)[i];
    byte                    *bits = mask_bits ? mask_bits + i * (int64_t)s->mask_model_bytes : NULL;
    block[i][0] = block[i][1] = 0;
    if (m->mask != INGOT_MASK_RANDOM) continue;
    if (!ingot_block_sum_drawn_avx512(in[1 + i], in[0], m->stream, m->keep_below, first, n, bits, &block[i][0],
                                      &block[i][1]))
      return false;
  }
  for (int i = 0; i < s->n_model; i++)
    for (int k = 0; k < 2; k++) sum[2 * i + k] += block[i][k];
  return true;
}
#endif

bool ingot_delta_l1_scan_masks(const ingot_delta_state *s, int64_t first, int64_t n, const void *const *in, void *slot,
                               unsigned char *mask_bits)
{
  for (int i = 0; i < s->n_model; i++)
    if (ingot_delta_models_const(s)[i].mask == INGOT_MASK_CUT) return false;
#if INGOT_HAVE_AVX512
  if (s->n_model <= FEW && ingot_has_avx512()) return scan_avx512(s, first, n, in, slot, mask_bits);
#endif
  return scan_portable(s, first, n, in, slot, mask_bits);
}

bool ingot_delta_l1_method_scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                                     int64_t first, int64_t n, const void *const *in, void *slot, int64_t *sums)
{
  (void)t, (void)plan, (void)sums;
  return ingot_delta_l1_scan_bf16(state, first, n, in, slot);
}
