#include "kernels/bf16_pairs.h"

static INGOT_CLONES uint32_t nonfinite_bits(const unsigned char *x, int64_t n_pair)
{
  uint32_t seen = 0;
  for (int64_t i = 0; i < n_pair; i++) seen |= ingot_pair_nonfinite_bits(ingot_pair_load(x, i));
  return seen;
}

bool ingot_pairs_finite(const void *x, int64_t n)
{
  uint32_t seen = nonfinite_bits(x, n / 2);
  if (n % 2) {
    uint16_t last;
    memcpy(&last, (const unsigned char *)x + (n - 1) * (int64_t)sizeof last, sizeof last);
    seen |= ingot_pair_nonfinite_bits(last);
  }
  return (seen & ingot_pair_nonfinite_mask) == 0;
}
