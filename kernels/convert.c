#include "kernels/convert.h"

#include <stdbool.h>
#include <string.h>

#include "base/status.h"
#include "kernels/clones.h"
#include "kernels/convert_scalar.h"

/* One pair of loops a dtype. Elements go through memcpy because storage need not be aligned; it costs nothing. */
#define LOOPS(name, storage, widen, narrow)                                                        \
  static INGOT_CLONES void widen_##name(const void *restrict src, float *restrict dst, int64_t n)  \
  {                                                                                                \
    const unsigned char *from = src;                                                               \
    for (int64_t i = 0; i < n; i++) {                                                              \
      storage bits;                                                                                \
      memcpy(&bits, from + i * (int64_t)sizeof bits, sizeof bits);                                 \
      dst[i] = widen(bits);                                                                        \
    }                                                                                              \
  }                                                                                                \
  static INGOT_CLONES void narrow_##name(const float *restrict src, void *restrict dst, int64_t n) \
  {                                                                                                \
    unsigned char *to = dst;                                                                       \
    for (int64_t i = 0; i < n; i++) {                                                              \
      storage bits = narrow(src[i]);                                                               \
      memcpy(to + i * (int64_t)sizeof bits, &bits, sizeof bits);                                   \
    }                                                                                              \
  }

LOOPS(f64, uint64_t, ingot_f32_from_f64, ingot_f64_from_f32)
LOOPS(f32, uint32_t, ingot_f32_from_f32, ingot_f32_canonical_bits)
LOOPS(f16, uint16_t, ingot_f32_from_f16, ingot_f16_from_f32)
LOOPS(bf16, uint16_t, ingot_f32_from_bf16, ingot_bf16_from_f32)
LOOPS(f8_e4m3, uint8_t, ingot_f32_from_f8_e4m3, ingot_f8_e4m3_from_f32)
LOOPS(f8_e5m2, uint8_t, ingot_f32_from_f8_e5m2, ingot_f8_e5m2_from_f32)
#undef LOOPS

void ingot_widen(ingot_dtype d, const void *src, float *dst, int64_t n)
{
  switch (d) {
  case INGOT_DTYPE_F64: widen_f64(src, dst, n); return;
  case INGOT_DTYPE_F32: widen_f32(src, dst, n); return;
  case INGOT_DTYPE_F16: widen_f16(src, dst, n); return;
  case INGOT_DTYPE_BF16: widen_bf16(src, dst, n); return;
  case INGOT_DTYPE_F8_E4M3: widen_f8_e4m3(src, dst, n); return;
  case INGOT_DTYPE_F8_E5M2: widen_f8_e5m2(src, dst, n); return;
  default: INGOT_ASSERT(false && "a floating-point dtype");
  }
}

void ingot_narrow(ingot_dtype d, const float *src, void *dst, int64_t n)
{
  switch (d) {
  case INGOT_DTYPE_F64: narrow_f64(src, dst, n); return;
  case INGOT_DTYPE_F32: narrow_f32(src, dst, n); return;
  case INGOT_DTYPE_F16: narrow_f16(src, dst, n); return;
  case INGOT_DTYPE_BF16: narrow_bf16(src, dst, n); return;
  case INGOT_DTYPE_F8_E4M3: narrow_f8_e4m3(src, dst, n); return;
  case INGOT_DTYPE_F8_E5M2: narrow_f8_e5m2(src, dst, n); return;
  default: INGOT_ASSERT(false && "a floating-point dtype");
  }
}

static INGOT_CLONES uint32_t count_nonfinite(const float *restrict v, int64_t n)
{
  uint32_t count = 0;
  for (int64_t i = 0; i < n; i++) count += ingot_f32_nonfinite(v[i]);
  return count;
}

/* F64 values beyond float32's range become infinite here: they are counted, since no method could use them. */
int64_t ingot_widen_counting(ingot_dtype d, const void *src, float *dst, int64_t n)
{
  enum { PIECE = 1 << 12 }; /* counted while still in the nearest cache, and far from overflowing 32 bits */
  int64_t count = 0;
  size_t  size = ingot_dtype_size(d);
  for (int64_t i = 0; i < n; i += PIECE) {
    int64_t m = n - i < PIECE ? n - i : PIECE;
    ingot_widen(d, (const unsigned char *)src + (size_t)i * size, dst + i, m);
    count += count_nonfinite(dst + i, m);
  }
  return count;
}

INGOT_CLONES void ingot_replace_nonfinite(float *v, const float *fill, int64_t n)
{
  if (fill) {
    for (int64_t i = 0; i < n; i++) v[i] = ingot_f32_nonfinite(v[i]) ? fill[i] : v[i];
  } else {
    for (int64_t i = 0; i < n; i++) v[i] = ingot_f32_nonfinite(v[i]) ? 0.0f : v[i];
  }
}

int64_t ingot_first_nonfinite(ingot_dtype d, const void *src, int64_t n, bool *is_nan)
{
  enum { PIECE = 256 };
  float  v[PIECE];
  size_t size = ingot_dtype_size(d);
  for (int64_t i = 0; i < n; i += PIECE) {
    int64_t m = n - i < PIECE ? n - i : PIECE;
    if (ingot_widen_counting(d, (const unsigned char *)src + (size_t)i * size, v, m) == 0) continue;
    for (int64_t j = 0; j < m; j++) {
      if (!ingot_f32_nonfinite(v[j])) continue;
      *is_nan = v[j] != v[j];
      return i + j;
    }
  }
  return -1;
}

static INGOT_CLONES uint32_t count_negative(const float *restrict v, int64_t n)
{
  uint32_t count = 0;
  for (int64_t i = 0; i < n; i++) count += v[i] < 0;
  return count;
}

int64_t ingot_count_negative(const float *v, int64_t n)
{
  enum { PIECE = 1 << 30 }; /* far from overflowing 32 bits */
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += PIECE) count += count_negative(v + i, n - i < PIECE ? n - i : PIECE);
  return count;
}

int64_t ingot_first_negative(ingot_dtype d, const void *src, int64_t n)
{
  enum { PIECE = 256 };
  float  v[PIECE];
  size_t size = ingot_dtype_size(d);
  for (int64_t i = 0; i < n; i += PIECE) {
    int64_t m = n - i < PIECE ? n - i : PIECE;
    ingot_widen(d, (const unsigned char *)src + (size_t)i * size, v, m);
    for (int64_t j = 0; j < m; j++)
      if (v[j] < 0) return i + j;
  }
  return -1;
}
