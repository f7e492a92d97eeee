/* Frequencies of the rotary embedding; each rule as Transformers has it, in float64. */
#include <math.h>

#include "workers/model/spec.h"

static const double two_pi = 6.283185307179586;

static void llama3_frequencies(const ingot_rope_spec *rope, int n, double *inv_freq)
{
  const double original = (double)rope->original_positions;
  for (int j = 0; j < n; j++) {
    const double wavelength = two_pi / inv_freq[j];
    if (wavelength > original / rope->low_freq_factor) {
      inv_freq[j] /= rope->factor;
    } else if (wavelength >= original / rope->high_freq_factor) {
      const double s =
          (original / wavelength - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
      inv_freq[j] = (1 - s) * inv_freq[j] / rope->factor + s * inv_freq[j];
    }
  }
}

static double yarn_scale(double factor, double mscale)
{
  return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

/* The dimension whose frequency turns `turns` times over the original positions. */
static double yarn_dimension(const ingot_rope_spec *rope, int head_dim, double turns)
{
  return head_dim * log((double)rope->original_positions / (turns * two_pi)) / (2 * log(rope->theta));
}

static void yarn_frequencies(const ingot_rope_spec *rope, int head_dim, double *inv_freq, double *factor)
{
  double low = yarn_dimension(rope, head_dim, rope->beta_fast);
  double high = yarn_dimension(rope, head_dim, rope->beta_slow);
  if (rope->truncate) {
    low = floor(low);
    high = ceil(high);
  }
  low = fmax(low, 0);
  high = fmin(high, head_dim - 1);
  if (low == high) high += 0.001;
  for (int j = 0; j < head_dim / 2; j++) {
    const double ramp = fmin(fmax((j - low) / (high - low), 0), 1);
    inv_freq[j] = inv_freq[j] / rope->factor * ramp + inv_freq[j] * (1 - ramp);
  }
  if (rope->attention_factor > 0) *factor = rope->attention_factor;
  else if (rope->mscale != 0 && rope->mscale_all_dim != 0)
    *factor = yarn_scale(rope->factor, rope->mscale) / yarn_scale(rope->factor, rope->mscale_all_dim);
  else *factor = yarn_scale(rope->factor, 1);
}

void ingot_model_rope_frequencies(const ingot_model_spec *spec, int64_t n_time, double *inv_freq, double *factor)
{
  const ingot_rope_spec *rope = &spec->rope;
  const int              dim = spec->head_dim;
  double                 theta = rope->theta;
  *factor = 1;
  if (rope->type == INGOT_ROPE_DYNAMIC && n_time > rope->original_positions && dim > 2) {
    const double stretch = rope->factor * (double)n_time / (double)rope->original_positions - (rope->factor - 1);
    theta *= pow(stretch, (double)dim / (dim - 2));
  }
  for (int j = 0; j < dim / 2; j++) inv_freq[j] = pow(theta, -2.0 * j / dim);
  switch (rope->type) {
  case INGOT_ROPE_DEFAULT:
  case INGOT_ROPE_DYNAMIC: break;
  case INGOT_ROPE_LINEAR:
    for (int j = 0; j < dim / 2; j++) inv_freq[j] /= rope->factor;
    break;
  case INGOT_ROPE_LLAMA3: llama3_frequencies(rope, dim / 2, inv_freq); break;
  case INGOT_ROPE_YARN: yarn_frequencies(rope, dim, inv_freq, factor); break;
  }
}
