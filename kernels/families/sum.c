#include "kernels/families/sum.h"

#include <math.h>
#include <string.h>

#include "kernels/bf16_pairs.h"
#include "kernels/clones.h"

size_t ingot_sum_state_bytes(int n_input)
{
  size_t bytes = sizeof(ingot_sum_state) + (size_t)n_input * sizeof(float);
  return (bytes + 15) / 16 * 16;
}

/* Inputs are taken four at a time: each is read once, and the running sum stays in a register meanwhile. */
enum { GROUP = 4 };

/* `count` and `first` are constants in every use, so that the branches are gone from the loops. */
INGOT_INLINE void sum_group(const float *const *in, const float *coef, int count, int first, int64_t n,
                            float *restrict out)
{
  const float *x0 = in[0], *x1 = count > 1 ? in[1] : x0, *x2 = count > 2 ? in[2] : x0, *x3 = count > 3 ? in[3] : x0;
  float        c0 = coef[0], c1 = count > 1 ? coef[1] : 0, c2 = count > 2 ? coef[2] : 0, c3 = count > 3 ? coef[3] : 0;
  for (int64_t i = 0; i < n; i++) {
    float acc = first ? c0 * x0[i] : out[i] + c0 * x0[i];
    if (count > 1) acc = acc + c1 * x1[i];
    if (count > 2) acc = acc + c2 * x2[i];
    if (count > 3) acc = acc + c3 * x3[i];
    out[i] = acc;
  }
}

static INGOT_CLONES void sum_first(const float *const *in, const float *coef, int count, int64_t n, float *out)
{
  switch (count) {
  case 1: sum_group(in, coef, 1, 1, n, out); return;
  case 2: sum_group(in, coef, 2, 1, n, out); return;
  case 3: sum_group(in, coef, 3, 1, n, out); return;
  default: sum_group(in, coef, 4, 1, n, out); return;
  }
}

static INGOT_CLONES void sum_next(const float *const *in, const float *coef, int count, int64_t n, float *out)
{
  switch (count) {
  case 1: sum_group(in, coef, 1, 0, n, out); return;
  case 2: sum_group(in, coef, 2, 0, n, out); return;
  case 3: sum_group(in, coef, 3, 0, n, out); return;
  default: sum_group(in, coef, 4, 0, n, out); return;
  }
}

/*
 * Dividing by a power of two and multiplying by its inverse round the same number: same bits, and faster. Gives that
 * inverse, or 0 when there is none.
 */
static float exact_inverse(float divisor)
{
  int   exponent;
  float inverse = 1.0f / divisor;
  return fabsf(frexpf(divisor, &exponent)) == 0.5f && isnormal(inverse) ? inverse : 0.0f;
}

static INGOT_CLONES void divide(float *restrict out, float divisor, int64_t n)
{
  float inverse = exact_inverse(divisor);
  if (inverse != 0) {
    for (int64_t i = 0; i < n; i++) out[i] = out[i] * inverse;
  } else {
    for (int64_t i = 0; i < n; i++) out[i] = out[i] / divisor;
  }
}

void ingot_sum_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out)
{
  (void)t;
  const ingot_sum_state *s = state;
  const float           *coef = ingot_sum_coef_const(s);
  for (int i = 0; i < s->n_input; i += GROUP) {
    int count = s->n_input - i < GROUP ? s->n_input - i : GROUP;
    if (i == 0) sum_first(c->in, coef, count, c->n, out);
    else sum_next(c->in + i, coef + i, count, c->n, out);
  }
  if (s->divide && s->divisor != 1.0f) divide(out, s->divisor, c->n);
}

/*
 * From bfloat16 to bfloat16 (kernels/bf16_pairs.h): up to four inputs in one loop.
 *
 * `last` is the divisor, or what to multiply by in its place when `divides` is 0; multiplying by 1 changes nothing, so
 * that not dividing needs no loop of its own. `count` and `divides` are constants in every use.
 */
typedef unsigned char byte;

INGOT_INLINE ingot_pair load_pair(const byte *from, int64_t i)
{
  return ingot_pair_widen(ingot_pair_load(from, i));
}

/*
 * Whether an input was NaN or infinite is seen on the sum, which then is one of them as well, whatever the
 * coefficients: 0 times infinity is NaN. So may be a sum that was too large: see is_overflow.
 */
INGOT_INLINE uint32_t store_pair(byte *to, int64_t i, ingot_pair acc, int divides, float last)
{
  return ingot_pair_store_seen(to, i,
                               divides ? (ingot_pair){acc.low / last, acc.high / last}
                                       : (ingot_pair){acc.low * last, acc.high * last});
}

INGOT_INLINE ingot_pair add_pair(ingot_pair acc, float coef, ingot_pair x)
{
  return (ingot_pair){acc.low + coef * x.low, acc.high + coef * x.high};
}

/* What is added to this zero stays as it is, even -0. */
static const ingot_pair no_sum = {-0.0f, -0.0f};

INGOT_INLINE uint32_t few_pairs(const void *const *in, const float *coef, int count, int divides, float last, int64_t n,
                                byte *restrict out)
{
  const byte *x0 = in[0], *x1 = count > 1 ? in[1] : x0, *x2 = count > 2 ? in[2] : x0, *x3 = count > 3 ? in[3] : x0;
  float       c0 = coef[0], c1 = count > 1 ? coef[1] : 0, c2 = count > 2 ? coef[2] : 0, c3 = count > 3 ? coef[3] : 0;
  uint32_t    seen = 0;
  for (int64_t i = 0; i < n; i++) {
    ingot_pair acc = add_pair(no_sum, c0, load_pair(x0, i));
    if (count > 1) acc = add_pair(acc, c1, load_pair(x1, i));
    if (count > 2) acc = add_pair(acc, c2, load_pair(x2, i));
    if (count > 3) acc = add_pair(acc, c3, load_pair(x3, i));
    seen |= store_pair(out, i, acc, divides, last);
  }
  return seen;
}

static INGOT_CLONES uint32_t few_pairs_times(const void *const *in, const float *coef, int count, float factor,
                                             int64_t n, byte *out)
{
  switch (count) {
  case 1: return few_pairs(in, coef, 1, 0, factor, n, out);
  case 2: return few_pairs(in, coef, 2, 0, factor, n, out);
  case 3: return few_pairs(in, coef, 3, 0, factor, n, out);
  default: return few_pairs(in, coef, 4, 0, factor, n, out);
  }
}

static INGOT_CLONES uint32_t few_pairs_over(const void *const *in, const float *coef, int count, float divisor,
                                            int64_t n, byte *out)
{
  switch (count) {
  case 1: return few_pairs(in, coef, 1, 1, divisor, n, out);
  case 2: return few_pairs(in, coef, 2, 1, divisor, n, out);
  case 3: return few_pairs(in, coef, 3, 1, divisor, n, out);
  default: return few_pairs(in, coef, 4, 1, divisor, n, out);
  }
}

/* More inputs: the running sums of a piece wait in the nearest cache between one group of four and the next. */
INGOT_INLINE void add_group(const void *const *in, const float *coef, int count, int64_t first, int64_t n,
                            float *restrict low, float *restrict high)
{
  const byte *x0 = in[0], *x1 = count > 1 ? in[1] : x0, *x2 = count > 2 ? in[2] : x0, *x3 = count > 3 ? in[3] : x0;
  float       c0 = coef[0], c1 = count > 1 ? coef[1] : 0, c2 = count > 2 ? coef[2] : 0, c3 = count > 3 ? coef[3] : 0;
  for (int64_t i = 0; i < n; i++) {
    ingot_pair acc = add_pair((ingot_pair){low[i], high[i]}, c0, load_pair(x0, first + i));
    if (count > 1) acc = add_pair(acc, c1, load_pair(x1, first + i));
    if (count > 2) acc = add_pair(acc, c2, load_pair(x2, first + i));
    if (count > 3) acc = add_pair(acc, c3, load_pair(x3, first + i));
    low[i] = acc.low;
    high[i] = acc.high;
  }
}

static INGOT_CLONES uint32_t many_pairs(const void *const *in, const float *coef, int n_input, int divides, float last,
                                        int64_t n, byte *out)
{
  enum { PIECE = 512 };
  float    low[PIECE], high[PIECE];
  uint32_t seen = 0;
  for (int64_t at = 0; at < n; at += PIECE) {
    int64_t m = n - at < PIECE ? n - at : PIECE;
    int     k = 0;
    for (int64_t i = 0; i < m; i++) low[i] = no_sum.low, high[i] = no_sum.high;
    for (; k + GROUP <= n_input; k += GROUP) add_group(in + k, coef + k, GROUP, at, m, low, high);
    for (; k < n_input; k++) add_group(in + k, coef + k, 1, at, m, low, high);
    if (divides) {
      for (int64_t i = 0; i < m; i++) seen |= store_pair(out, at + i, (ingot_pair){low[i], high[i]}, 1, last);
    } else {
      for (int64_t i = 0; i < m; i++) seen |= store_pair(out, at + i, (ingot_pair){low[i], high[i]}, 0, last);
    }
  }
  return seen;
}

/* Element i alone, the last of an odd number. */
static uint32_t lone_element(const void *const *in, const float *coef, int n_input, int divides, float last, int64_t i,
                             byte *out)
{
  float    acc = no_sum.low;
  uint32_t seen = 0;
  for (int k = 0; k < n_input; k++) {
    uint16_t bits;
    memcpy(&bits, (const byte *)in[k] + i * (int64_t)sizeof bits, sizeof bits);
    seen |= (bits & 0x7f80u) + 0x0080u;
    acc = acc + coef[k] * ingot_f32_from_bf16(bits);
  }
  uint16_t bits = ingot_bf16_from_f32(divides ? acc / last : acc * last);
  memcpy(out + i * (int64_t)sizeof bits, &bits, sizeof bits);
  return seen;
}

/* Sums were NaN or infinite: of finite inputs? Then their NaN, which were rounded as numbers, become the one that is
 * written. */
static bool is_overflow(const void *const *in, int n_input, int64_t n, byte *out)
{
  for (int k = 0; k < n_input; k++)
    if (!ingot_pairs_finite(in[k], n)) return false;
  for (int64_t i = 0; i < n; i++) {
    uint16_t bits;
    memcpy(&bits, out + i * (int64_t)sizeof bits, sizeof bits);
    if ((bits & 0x7fffu) > 0x7f80u) bits = 0x7fc0;
    memcpy(out + i * (int64_t)sizeof bits, &bits, sizeof bits);
  }
  return true;
}

bool ingot_sum_apply_bf16(const ingot_method_tensor *t, const void *state, int64_t first, int64_t n,
                          const void *const *in, void *out)
{
  (void)t, (void)first;
  const ingot_sum_state *s = state;
  const float           *coef = ingot_sum_coef_const(s);
  float                  factor = s->divide ? exact_inverse(s->divisor) : 1.0f;
  int                    divides = factor == 0;
  float                  last = divides ? s->divisor : factor;
  uint32_t               seen;
  if (s->n_input > GROUP) seen = many_pairs(in, coef, s->n_input, divides, last, n / 2, out);
  else if (divides) seen = few_pairs_over(in, coef, s->n_input, last, n / 2, out);
  else seen = few_pairs_times(in, coef, s->n_input, last, n / 2, out);
  if (n % 2) seen |= lone_element(in, coef, s->n_input, divides, last, n - 1, out);
  return (seen & ingot_pair_nonfinite_mask) == 0 || is_overflow(in, s->n_input, n, out);
}
