/**
 * Conversion of one element between a storage dtype and float32, on the CPU and in CUDA kernels: the same integer
 * arithmetic, so the same bits. Storage is the raw bits of the element in an unsigned integer of its size.
 *
 * Widening is exact, but for float64, which is rounded to nearest even. Narrowing rounds to nearest even once, from
 * float32; overflow gives infinity, or NaN for F8_E4M3, which has none. Subnormals are kept on both sides.
 *
 * Narrowing turns every NaN into the one positive quiet NaN of the dtype. Which NaN an operation gives differs between
 * processors, and with the order in which a compiler puts its operands; outputs must not.
 *
 * No branches: conditions become selects, so that loops over these functions vectorise.
 */
#ifndef INGOT_KERNELS_CONVERT_SCALAR_H
#define INGOT_KERNELS_CONVERT_SCALAR_H

#include <stdint.h>
#include <string.h>

#include "base/philox.h" /* INGOT_HOST_DEVICE */

static inline INGOT_HOST_DEVICE uint32_t ingot_bits_of_f32(float f)
{
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static inline INGOT_HOST_DEVICE float ingot_f32_of_bits(uint32_t u)
{
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

/** 1 for NaN and infinities, else 0. */
static inline INGOT_HOST_DEVICE uint32_t ingot_f32_nonfinite(float f)
{
  return (ingot_bits_of_f32(f) & 0x7fffffffu) >= 0x7f800000u ? 1u : 0u;
}

/* Widening. */

static inline INGOT_HOST_DEVICE float ingot_f32_from_f64(uint64_t bits)
{
  double d;
  memcpy(&d, &bits, sizeof d);
  return (float)d;
}

static inline INGOT_HOST_DEVICE float ingot_f32_from_f32(uint32_t bits)
{
  return ingot_f32_of_bits(bits);
}

static inline INGOT_HOST_DEVICE float ingot_f32_from_bf16(uint16_t bits)
{
  return ingot_f32_of_bits((uint32_t)bits << 16);
}

static inline INGOT_HOST_DEVICE float ingot_f32_from_f16(uint16_t bits)
{
  uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, mag = bits & 0x7fffu;
  uint32_t normal = (mag << 13) + (112u << 23);
  /* Subnormal: (1 + mag / 2^10) 2^-14 - 2^-14, exact, without a subnormal operand. */
  uint32_t small = ingot_bits_of_f32(ingot_f32_of_bits((mag << 13) | (113u << 23)) - 0x1p-14f);
  uint32_t special = (mag << 13) | 0x7f800000u | (uint32_t)(mag > 0x7c00u) << 22;
  /* By masks: written as a condition, the subtraction becomes a branch in which gcc finds nothing to vectorise. */
  uint32_t is_small = 0u - (uint32_t)(mag < 0x0400u);
  uint32_t u = (small & is_small) | (normal & ~is_small);
  u = mag >= 0x7c00u ? special : u;
  return ingot_f32_of_bits(u | sign);
}

static inline INGOT_HOST_DEVICE float ingot_f32_from_f8_e4m3(uint8_t bits)
{
  uint32_t sign = (uint32_t)(bits & 0x80u) << 24, mag = bits & 0x7fu;
  uint32_t normal = (mag << 20) + (120u << 23);
  uint32_t small = ingot_bits_of_f32(ingot_f32_of_bits((mag << 20) | (121u << 23)) - 0x1p-6f);
  uint32_t u = mag < 0x08u ? small : normal;
  u = mag == 0x7fu ? 0x7fc00000u : u;
  return ingot_f32_of_bits(u | sign);
}

static inline INGOT_HOST_DEVICE float ingot_f32_from_f8_e5m2(uint8_t bits)
{
  return ingot_f32_from_f16((uint16_t)((uint32_t)bits << 8)); /* the upper half of a float16 */
}

/* Narrowing. */

static inline INGOT_HOST_DEVICE uint64_t ingot_f64_from_f32(float f)
{
  double   d = (double)f;
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  return f != f ? 0x7ff8000000000000u : bits;
}

static inline INGOT_HOST_DEVICE uint32_t ingot_f32_canonical_bits(float f)
{
  uint32_t u = ingot_bits_of_f32(f);
  return (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u;
}

static inline INGOT_HOST_DEVICE uint16_t ingot_bf16_from_f32(float f)
{
  uint32_t u = ingot_bits_of_f32(f);
  uint32_t r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : r);
}

static inline INGOT_HOST_DEVICE uint16_t ingot_f16_from_f32(float f)
{
  uint32_t bits = ingot_bits_of_f32(f), sign = (bits >> 16) & 0x8000u, u = bits & 0x7fffffffu;
  uint32_t shifted = u - (112u << 23);
  uint32_t normal = (shifted + 0x0fffu + ((shifted >> 13) & 1u)) >> 13;
  /* Subnormal: next to 0.5 one unit in the last place is 2^-24, so the addition does the rounding. */
  uint32_t small = ingot_bits_of_f32(ingot_f32_of_bits(u < 0x38800000u ? u : 0u) + 0.5f) - 0x3f000000u;
  uint32_t r = u < 0x38800000u ? small : normal;
  r = u >= 0x47800000u ? 0x7c00u : r;
  return (uint16_t)(u > 0x7f800000u ? 0x7e00u : r | sign);
}

static inline INGOT_HOST_DEVICE uint8_t ingot_f8_e4m3_from_f32(float f)
{
  uint32_t bits = ingot_bits_of_f32(f), sign = (bits >> 24) & 0x80u, u = bits & 0x7fffffffu;
  uint32_t shifted = u - (120u << 23);
  uint32_t normal = (shifted + 0x7ffffu + ((shifted >> 20) & 1u)) >> 20;
  uint32_t small = ingot_bits_of_f32(ingot_f32_of_bits(u < 0x3c800000u ? u : 0u) + 0x1p14f) - 0x46800000u;
  uint32_t r = u < 0x3c800000u ? small : normal;
  r = u >= 0x43e80001u ? 0x7fu : r; /* above 464, half way from 448 to the 480 that does not exist */
  return (uint8_t)(u > 0x7f800000u ? 0x7fu : r | sign);
}

static inline INGOT_HOST_DEVICE uint8_t ingot_f8_e5m2_from_f32(float f)
{
  uint32_t bits = ingot_bits_of_f32(f), sign = (bits >> 24) & 0x80u, u = bits & 0x7fffffffu;
  uint32_t shifted = u - (112u << 23);
  uint32_t normal = (shifted + 0xfffffu + ((shifted >> 21) & 1u)) >> 21;
  uint32_t small = ingot_bits_of_f32(ingot_f32_of_bits(u < 0x38800000u ? u : 0u) + 128.0f) - 0x43000000u;
  uint32_t r = u < 0x38800000u ? small : normal;
  r = u >= 0x47600000u + 0x00100000u ? 0x7cu : r; /* from 61440, half way from 57344 to 65536 */
  return (uint8_t)(u > 0x7f800000u ? 0x7fu : r | sign);
}

#endif
