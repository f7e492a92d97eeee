/**
 * Eight neighbouring elements in a thread's registers: loads and stores in storage dtypes, widening, rounding, and the
 * treatment of NaN and infinities. CUDA sources only.
 *
 * Arrays start 256-byte aligned, so a vector of eight is aligned to its own size. The last vector may be short: `count`
 * elements are real, the others read as 0 and are not stored.
 */
#ifndef INGOT_KERNELS_VECTOR_CUH
#define INGOT_KERNELS_VECTOR_CUH

#include "kernels/convert_scalar.h"
#include "kernels/method.h"

enum { INGOT_VECTOR = 8 };

/** What a kernel does about NaN and infinities. */
struct ingot_finite_rule {
  unsigned long long *count; /* [n_input], or NULL */
  bool                zero;  /* replace them */
};

static __device__ __forceinline__ float ingot_widen_one(const void *p, ingot_dtype dtype, int64_t i)
{
  switch (dtype) {
  case INGOT_DTYPE_F64: return ingot_f32_from_f64(static_cast<const uint64_t *>(p)[i]);
  case INGOT_DTYPE_F32: return ingot_f32_from_f32(static_cast<const uint32_t *>(p)[i]);
  case INGOT_DTYPE_F16: return ingot_f32_from_f16(static_cast<const uint16_t *>(p)[i]);
  case INGOT_DTYPE_BF16: return ingot_f32_from_bf16(static_cast<const uint16_t *>(p)[i]);
  case INGOT_DTYPE_F8_E4M3: return ingot_f32_from_f8_e4m3(static_cast<const uint8_t *>(p)[i]);
  case INGOT_DTYPE_F8_E5M2: return ingot_f32_from_f8_e5m2(static_cast<const uint8_t *>(p)[i]);
  default: return 0.0f; /* integers are copied, never merged */
  }
}

static __device__ __forceinline__ void ingot_narrow_one(void *p, ingot_dtype dtype, int64_t i, float v)
{
  switch (dtype) {
  case INGOT_DTYPE_F64: static_cast<uint64_t *>(p)[i] = ingot_f64_from_f32(v); break;
  case INGOT_DTYPE_F32: static_cast<uint32_t *>(p)[i] = ingot_f32_canonical_bits(v); break;
  case INGOT_DTYPE_F16: static_cast<uint16_t *>(p)[i] = ingot_f16_from_f32(v); break;
  case INGOT_DTYPE_BF16: static_cast<uint16_t *>(p)[i] = ingot_bf16_from_f32(v); break;
  case INGOT_DTYPE_F8_E4M3: static_cast<uint8_t *>(p)[i] = ingot_f8_e4m3_from_f32(v); break;
  case INGOT_DTYPE_F8_E5M2: static_cast<uint8_t *>(p)[i] = ingot_f8_e5m2_from_f32(v); break;
  default: break;
  }
}

/** Eight bfloat16 elements as they lie in memory; i is the index of the first, a multiple of 8. */
static __device__ __forceinline__ uint4 ingot_load_bf16(const void *p, int64_t i, int count)
{
  const uint16_t *element = static_cast<const uint16_t *>(p) + i;
  if (count == INGOT_VECTOR) return __ldcs(reinterpret_cast<const uint4 *>(element));
  uint32_t word[4] = {0, 0, 0, 0};
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    if (k < count) word[k / 2] |= static_cast<uint32_t>(element[k]) << (k % 2 * 16);
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

static __device__ __forceinline__ void ingot_widen_bf16(uint4 raw, float v[INGOT_VECTOR])
{
  const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int k = 0; k < 4; k++) {
    v[2 * k] = ingot_f32_of_bits(word[k] << 16);
    v[2 * k + 1] = ingot_f32_of_bits(word[k] & 0xffff0000u);
  }
}

/** True when one of the eight is NaN or infinite: adding one to a full exponent carries into the (cleared) sign. */
static __device__ __forceinline__ bool ingot_any_nonfinite_bf16(uint4 raw)
{
  uint32_t carry = ((raw.x & 0x7fff7fffu) + 0x00800080u) | ((raw.y & 0x7fff7fffu) + 0x00800080u) |
                   ((raw.z & 0x7fff7fffu) + 0x00800080u) | ((raw.w & 0x7fff7fffu) + 0x00800080u);
  return (carry & 0x80008000u) != 0;
}

/** Eight elements of any floating-point dtype, widened. */
static __device__ __forceinline__ void ingot_load_any(const void *p, ingot_dtype dtype, int64_t i, int count,
                                                      float v[INGOT_VECTOR])
{
  if (count < INGOT_VECTOR) {
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) v[k] = k < count ? ingot_widen_one(p, dtype, i + k) : 0.0f;
    return;
  }
  switch (dtype) {
  case INGOT_DTYPE_BF16: ingot_widen_bf16(ingot_load_bf16(p, i, count), v); break;
  case INGOT_DTYPE_F16: {
    uint4          raw = __ldcs(reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(p) + i));
    const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++)
      v[k] = ingot_f32_from_f16(static_cast<uint16_t>(word[k / 2] >> (k % 2 * 16)));
    break;
  }
  case INGOT_DTYPE_F32: {
    const float4 *q = reinterpret_cast<const float4 *>(static_cast<const float *>(p) + i);
    float4        a = __ldcs(q), b = __ldcs(q + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    break;
  }
  case INGOT_DTYPE_F8_E4M3:
  case INGOT_DTYPE_F8_E5M2: {
    uint2          raw = __ldcs(reinterpret_cast<const uint2 *>(static_cast<const uint8_t *>(p) + i));
    const uint32_t word[2] = {raw.x, raw.y};
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) {
      uint8_t byte = static_cast<uint8_t>(word[k / 4] >> (k % 4 * 8));
      v[k] = dtype == INGOT_DTYPE_F8_E4M3 ? ingot_f32_from_f8_e4m3(byte) : ingot_f32_from_f8_e5m2(byte);
    }
    break;
  }
  default:
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) v[k] = ingot_widen_one(p, dtype, i + k);
  }
}

/** Two elements rounded to bfloat16 by the processor: as ingot_bf16_from_f32 does, but for the bits of a NaN. */
static __device__ __forceinline__ uint32_t ingot_round_pair_bf16(float low, float high)
{
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

/** Eight elements as bfloat16. A sum that is no NaN has no NaN among its terms; then the processor's rounding will
 * do. */
static __device__ __forceinline__ uint4 ingot_round_bf16(const float v[INGOT_VECTOR])
{
  float    sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  uint32_t word[4];
#pragma unroll
  for (int k = 0; k < 4; k++) word[k] = ingot_round_pair_bf16(v[2 * k], v[2 * k + 1]);
  if (sum != sum) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
      word[k] = ingot_bf16_from_f32(v[2 * k]) | static_cast<uint32_t>(ingot_bf16_from_f32(v[2 * k + 1])) << 16;
    }
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

/** Round eight elements and store them; i is the index of the first. */
static __device__ __forceinline__ void ingot_store_any(void *p, ingot_dtype dtype, int64_t i, int count,
                                                       const float v[INGOT_VECTOR])
{
  if (count < INGOT_VECTOR) {
    for (int k = 0; k < INGOT_VECTOR; k++) {
      if (k < count) ingot_narrow_one(p, dtype, i + k, v[k]);
    }
    return;
  }
  if (dtype == INGOT_DTYPE_BF16) {
    __stcs(reinterpret_cast<uint4 *>(static_cast<uint16_t *>(p) + i), ingot_round_bf16(v));
  } else if (dtype == INGOT_DTYPE_F32) {
    uint32_t word[INGOT_VECTOR];
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) word[k] = ingot_f32_canonical_bits(v[k]);
    uint4 *q = reinterpret_cast<uint4 *>(static_cast<uint32_t *>(p) + i);
    __stcs(q, make_uint4(word[0], word[1], word[2], word[3]));
    __stcs(q + 1, make_uint4(word[4], word[5], word[6], word[7]));
  } else if (dtype == INGOT_DTYPE_F16) {
    uint32_t word[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      word[k] = ingot_f16_from_f32(v[2 * k]) | static_cast<uint32_t>(ingot_f16_from_f32(v[2 * k + 1])) << 16;
    }
    __stcs(reinterpret_cast<uint4 *>(static_cast<uint16_t *>(p) + i), make_uint4(word[0], word[1], word[2], word[3]));
  } else {
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) ingot_narrow_one(p, dtype, i + k, v[k]);
  }
}

static __device__ __noinline__ void ingot_handle_nonfinite(ingot_finite_rule rule, int input, const void *base,
                                                           ingot_dtype base_dtype, int64_t i, float *v)
{
  int count = 0;
  for (int k = 0; k < INGOT_VECTOR; k++) {
    if (!ingot_f32_nonfinite(v[k])) continue;
    count++;
    if (!rule.zero) continue;
    float fill = base != nullptr ? ingot_widen_one(base, base_dtype, i + k) : 0.0f;
    v[k] = ingot_f32_nonfinite(fill) ? 0.0f : fill;
  }
  if (rule.count != nullptr) atomicAdd(&rule.count[input], static_cast<unsigned long long>(count));
}

/**
 * Count the bad values among eight of one input and, when asked, put base's elements (0 when NULL) in their place. For
 * the rare vector that has one: the copy keeps v itself in registers.
 */
static __device__ __forceinline__ void ingot_fix_nonfinite(ingot_finite_rule rule, int input, const void *base,
                                                           ingot_dtype base_dtype, int64_t i, float v[INGOT_VECTOR])
{
  float copy[INGOT_VECTOR];
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) copy[k] = v[k];
  ingot_handle_nonfinite(rule, input, base, base_dtype, i, copy);
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) v[k] = copy[k];
}

/** The same for widened values. */
static __device__ __forceinline__ bool ingot_any_nonfinite(const float v[INGOT_VECTOR])
{
  uint32_t bad = 0;
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) bad |= ingot_f32_nonfinite(v[k]);
  return bad != 0;
}

/**
 * ingot_fix_nonfinite for bfloat16 as it lies in memory: what stands in for a bad value is bfloat16 too. By value, so
 * that the callers' vectors stay in registers.
 */
static __device__ __noinline__ uint4 ingot_fix_nonfinite_bf16(ingot_finite_rule rule, int input, const void *base,
                                                              int64_t i, uint4 raw)
{
  uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
  int      count = 0;
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) {
    int      shift = k % 2 * 16;
    uint32_t bits = word[k / 2] >> shift & 0xffffu, fill = 0;
    if ((bits & 0x7f80u) != 0x7f80u) continue;
    count++;
    if (!rule.zero) continue;
    if (base != nullptr) fill = static_cast<const uint16_t *>(base)[i + k];
    if ((fill & 0x7f80u) == 0x7f80u) fill = 0;
    word[k / 2] = (word[k / 2] & ~(0xffffu << shift)) | fill << shift;
  }
  if (rule.count != nullptr) atomicAdd(&rule.count[input], static_cast<unsigned long long>(count));
  return make_uint4(word[0], word[1], word[2], word[3]);
}

/** Eight elements between their load and their use: bfloat16 as it lies in memory, others widened. */
template <bool BF16> struct ingot_raw_vector;

template <> struct ingot_raw_vector<true> {
  uint4                           raw;
  __device__ __forceinline__ void load(const void *p, ingot_dtype, int64_t i, int count)
  {
    raw = ingot_load_bf16(p, i, count);
  }
  __device__ __forceinline__ bool any_nonfinite() const
  {
    return ingot_any_nonfinite_bf16(raw);
  }
  __device__ __forceinline__ void widen(float v[INGOT_VECTOR]) const
  {
    ingot_widen_bf16(raw, v);
  }
};

template <> struct ingot_raw_vector<false> {
  float                           value[INGOT_VECTOR];
  __device__ __forceinline__ void load(const void *p, ingot_dtype dtype, int64_t i, int count)
  {
    ingot_load_any(p, dtype, i, count, value);
  }
  __device__ __forceinline__ bool any_nonfinite() const
  {
    return ingot_any_nonfinite(value);
  }
  __device__ __forceinline__ void widen(float v[INGOT_VECTOR]) const
  {
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) v[k] = value[k];
  }
};

#endif
