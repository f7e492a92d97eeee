/*
 * The loop of delta_bf16.c for AVX-512. Mask registers say which elements are kept and which models agree, so nothing
 * is multiplied, selected or added in vain; random masks stay bits. Every float goes through the operations of
 * families/delta.h in their order: adding +0 is left out, and multiplying by a scale of 1, neither of which changes a
 * bit.
 */
#include "kernels/bf16_pairs.h"
#include "kernels/families/delta_bf16.h"

#if INGOT_HAVE_AVX512
enum { FEW = INGOT_DELTA_FEW, ROUND = 32 };

typedef unsigned char byte;

/* Settings in all lanes. */
typedef struct lanes {
  __m512  weight[FEW], scale[FEW];
  __m512i above[FEW];
  __m512  least; /* totals above it elect + */
  __m512  divisor, lambda;
} lanes;

INGOT_AVX512_INLINE lanes spread(const ingot_delta_few *a, int count)
{
  lanes s;
  for (int g = 0; g < count; g++) {
    s.weight[g] = _mm512_set1_ps(a->weight[g]);
    s.scale[g] = _mm512_set1_ps(a->scale[g]);
    s.above[g] = _mm512_set1_epi32(a->above[g]);
  }
  s.least = _mm512_set1_ps(a->zero_plus ? -0x1p-149f : 0.0f);
  s.divisor = _mm512_set1_ps(a->divisor);
  s.lambda = _mm512_set1_ps(a->lambda);
  return s;
}

/* One value of one model for 16 elements: weight * (scale * tau), 0 where it is dropped. */
INGOT_AVX512_INLINE __m512 value(__m512 tau, const lanes *s, int g, int drop, int scaled)
{
  __m512 y = scaled ? _mm512_mul_ps(s->scale[g], tau) : tau;
  if (drop != INGOT_FEW_CUT) return _mm512_mul_ps(s->weight[g], y);
  __m512i   key = _mm512_and_si512(_mm512_castps_si512(tau), _mm512_set1_epi32(0x7fffffff));
  __mmask16 kept = _mm512_cmpgt_epi32_mask(key, s->above[g]);
  return _mm512_maskz_mul_ps(kept, s->weight[g], y);
}

/* As in delta_bf16.c: values are turned to make the elected sign +, and what they sum to is turned back. */
INGOT_AVX512_INLINE __m512 elected(const __m512 *y, const lanes *s, __m512 total, int count, int divide)
{
  const __m512 zero = _mm512_setzero_ps(), sign = _mm512_set1_ps(-0.0f);
  __mmask16    minus = _mm512_cmp_ps_mask(total, s->least, _CMP_NGT_UQ);
  __m512       turn = _mm512_maskz_mov_ps(minus, sign), sum = zero, agreeing = zero;
  for (int g = 0; g < count; g++) {
    __m512    v = _mm512_xor_ps(y[g], turn);
    __mmask16 agrees = _mm512_cmp_ps_mask(v, zero, _CMP_GT_OQ);
    sum = g == 0 ? _mm512_maskz_mov_ps(agrees, v) : _mm512_mask_add_ps(sum, agrees, sum, v);
    if (divide)
      agreeing = g == 0 ? _mm512_maskz_mov_ps(agrees, s->weight[0])
                        : _mm512_mask_add_ps(agreeing, agrees, agreeing, s->weight[g]);
  }
  sum = _mm512_mask_sub_ps(sum, minus, zero, sum); /* not by its sign: +0 stays +0 */
  if (!divide) return sum;
  return _mm512_mask_div_ps(sum, _mm512_cmp_ps_mask(agreeing, zero, _CMP_NEQ_UQ), sum, agreeing);
}

/* Half of 32 elements: the lower or the higher ones of their pairs. *seen becomes NaN in a lane where something is not
 * finite. */
INGOT_AVX512_INLINE __m512 merged(const __m512i *own, __m512i word, const lanes *s, int count, ingot_delta_kind kind,
                                  int scaled, int high, __m512 *seen)
{
  const __m512 zero = _mm512_setzero_ps();
  __m512       y[FEW], base = ingot_pairs_widen(word, high), total = zero, sum;
  for (int g = 0; g < count; g++) {
    y[g] = value(_mm512_sub_ps(ingot_pairs_widen(own[g], high), base), s, g, kind.drop, scaled);
    total = g == 0 && kind.vote ? y[0] : _mm512_add_ps(total, y[g]);
  }
  *seen = _mm512_fmadd_ps(total, zero, *seen);
  if (kind.vote) sum = elected(y, s, total, count, kind.divide);
  else sum = kind.divide ? _mm512_div_ps(total, s->divisor) : total;
  __m512 out = _mm512_add_ps(base, _mm512_mul_ps(s->lambda, sum));
  *seen = _mm512_fmadd_ps(out, zero, *seen);
  return out;
}

/* Add what rounds the upper half of a finite float32 to nearest even. */
INGOT_AVX512_INLINE __m512i rounded(__m512 v)
{
  __m512i   bits = _mm512_castps_si512(v);
  __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  bits = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_add_epi32(bits, odd, bits, _mm512_set1_epi32(1));
}

INGOT_AVX512_INLINE __mmask32 kept_at(const byte *bits, int64_t i)
{
  __mmask32 kept;
  __builtin_memcpy(&kept, bits + i / 8, sizeof kept);
  return kept;
}

INGOT_AVX512_INLINE __m512i load(const byte *from, int whole, __mmask32 valid)
{
  return whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(valid, from);
}

/* 32 elements from i, or when not `whole` those of them that are `valid`. A dropped one's place is taken by the
 * base's. */
INGOT_AVX512_INLINE __m512 round_of(const ingot_delta_few *a, const lanes *s, int count, ingot_delta_kind kind,
                                    int scaled, int64_t i, int whole, __mmask32 valid, byte *out, __m512 seen)
{
  __m512i   own[FEW], word = load(a->base + 2 * i, whole, valid);
  __mmask32 finite = (__mmask32)-1;
  for (int g = 0; g < count; g++) {
    own[g] = load(a->x[g] + 2 * i, whole, valid);
    if (kind.drop != INGOT_FEW_RANDOM) continue;
    const __m512i exponent = _mm512_set1_epi16(0x7f80); /* dropped ones are not seen later */
    finite &= _mm512_cmpneq_epu16_mask(_mm512_and_si512(own[g], exponent), exponent);
    own[g] = _mm512_mask_mov_epi16(word, kept_at(a->keep[g], i), own[g]);
  }
  __m512i low = rounded(merged(own, word, s, count, kind, scaled, 0, &seen));
  __m512i high = rounded(merged(own, word, s, count, kind, scaled, 1, &seen));
  __m512i both = _mm512_mask_mov_epi16(_mm512_srli_epi32(low, 16), 0xaaaaaaaau, high);
  if (whole) _mm512_storeu_si512(out + 2 * i, both);
  else _mm512_mask_storeu_epi16(out + 2 * i, valid, both);
  return kind.drop == INGOT_FEW_RANDOM && finite != (__mmask32)-1 ? _mm512_set1_ps(__builtin_nanf("")) : seen;
}

INGOT_AVX512_INLINE bool few(const ingot_delta_few *args, int count, ingot_delta_kind kind, int scaled, int64_t n,
                             byte *out)
{
  const ingot_delta_few a = *args; /* out may be anywhere in memory, as far as the compiler knows, but not here */
  const lanes           s = spread(&a, count);
  __m512                seen = _mm512_setzero_ps();
  int64_t               i = 0;
  for (; i + ROUND <= n; i += ROUND) seen = round_of(&a, &s, count, kind, scaled, i, 1, 0, out, seen);
  if (i < n) seen = round_of(&a, &s, count, kind, scaled, i, 0, ((__mmask32)1 << (n - i)) - 1, out, seen);
  return _mm512_cmp_ps_mask(seen, seen, _CMP_UNORD_Q) == 0;
}

/* A function for each combination that occurs, with a case for each number of models. */
#define LOOP(name, drop, vote, divide, scaled)                                             \
  INGOT_AVX512 static bool name(const ingot_delta_few *a, int count, int64_t n, byte *out) \
  {                                                                                        \
    const ingot_delta_kind kind = {drop, vote, divide};                                    \
    switch (count) {                                                                       \
    case 1: return few(a, 1, kind, scaled, n, out);                                        \
    case 2: return few(a, 2, kind, scaled, n, out);                                        \
    case 3: return few(a, 3, kind, scaled, n, out);                                        \
    case 4: return few(a, 4, kind, scaled, n, out);                                        \
    case 5: return few(a, 5, kind, scaled, n, out);                                        \
    case 6: return few(a, 6, kind, scaled, n, out);                                        \
    case 7: return few(a, 7, kind, scaled, n, out);                                        \
    default: return few(a, 8, kind, scaled, n, out);                                       \
    }                                                                                      \
  }
LOOP(sum_plain, INGOT_FEW_PLAIN, 0, 0, 1)
LOOP(mean_plain, INGOT_FEW_PLAIN, 0, 1, 1)
LOOP(sum_random, INGOT_FEW_RANDOM, 0, 0, 1)
LOOP(mean_random, INGOT_FEW_RANDOM, 0, 1, 1)
LOOP(vote_cut, INGOT_FEW_CUT, 1, 0, 0)
LOOP(vote_mean_cut, INGOT_FEW_CUT, 1, 1, 0)
LOOP(vote_scaled_cut, INGOT_FEW_CUT, 1, 0, 1)
LOOP(vote_mean_scaled_cut, INGOT_FEW_CUT, 1, 1, 1)
LOOP(vote_random, INGOT_FEW_RANDOM, 1, 0, 1)
LOOP(vote_mean_random, INGOT_FEW_RANDOM, 1, 1, 1)

bool ingot_delta_few_avx512(const ingot_delta_few *a, int n_model, ingot_delta_kind kind, int64_t n, byte *out)
{
  bool scaled = false, divide = kind.divide;
  for (int g = 0; g < n_model; g++) {
    scaled |= a->scale[g] != 1.0f;
    if (a->above[g] >= 0x7f800000) return false; /* might drop an infinity, which then nobody sees */
  }
  if (kind.drop == INGOT_FEW_CUT && scaled)
    return (divide ? vote_mean_scaled_cut : vote_scaled_cut)(a, n_model, n, out);
  if (kind.drop == INGOT_FEW_CUT) return (divide ? vote_mean_cut : vote_cut)(a, n_model, n, out);
  if (kind.drop == INGOT_FEW_PLAIN) return (divide ? mean_plain : sum_plain)(a, n_model, n, out);
  if (kind.vote) return (divide ? vote_mean_random : vote_random)(a, n_model, n, out);
  return (divide ? mean_random : sum_random)(a, n_model, n, out);
}
#endif
