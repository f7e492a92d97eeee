#include "kernels/families/sum.h"

#include <math.h>

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

static INGOT_CLONES void divide(float *restrict out, float divisor, int64_t n)
{
  /* Dividing by a power of two and multiplying by its inverse round the same number: same bits, and faster. */
  int   exponent;
  float inverse = 1.0f / divisor;
  if (fabsf(frexpf(divisor, &exponent)) == 0.5f && isnormal(inverse)) {
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
