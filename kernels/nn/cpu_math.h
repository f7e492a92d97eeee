/**
 * exp and the logistic function for loops that compilers turn into vector code: no calls, no branches, no tables.
 *
 * ingot_cpu_exp: relative error below 1.5e-7 (with or without fused products) for -87.3 <= x <= 88; 0 below, exp(88) =
 * 1.65e38 above; NaN for NaN.
 * ingot_cpu_log1p: log(1 + x) for 0 <= x <= 1, relative error below 2e-7; NaN for NaN.
 */
#ifndef INGOT_KERNELS_NN_CPU_MATH_H
#define INGOT_KERNELS_NN_CPU_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/clones.h"

/*
 * exp(x) = 2^n exp(r), n the integer next to x / ln 2, |r| <= 0.347: ln 2 is taken in two parts, the first of which has
 * so few bits that n times it is exact. exp(r) = 1 + r + r^2 p(r), p the minimax polynomial for the relative error of
 * exp. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
 */
INGOT_INLINE float ingot_cpu_exp(float x)
{
  const float magic = 12582912.0f;
  float       clamped = x > 88.0f ? 88.0f : x;
  clamped = clamped < -87.3f ? -87.3f : clamped;
  float shifted = clamped * 1.44269504f + magic;
  float n = shifted - magic;
  float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float   e = p * (r * r) + r + 1.0f;
  int32_t bits;
  memcpy(&bits, &shifted, sizeof bits);
  /* Modulo 2^32, the bits of `magic` are shifted out, and those of n become an exponent. */
  uint32_t scale_bits = ((uint32_t)bits << 23) + 0x3f800000u;
  float    scale;
  memcpy(&scale, &scale_bits, sizeof scale);
  e *= scale;
  return x < -87.3f ? 0.0f : e;
}

/* log(1 + x) = 2 atanh(s), s = x / (2 + x) at most 1/3: the series in s^2 to its eighth power leaves 3e-10. */
INGOT_INLINE float ingot_cpu_log1p(float x)
{
  float s = x / (2.0f + x), t = s * s;
  float p = 1.0f / 17;
  p = p * t + 1.0f / 15;
  p = p * t + 1.0f / 13;
  p = p * t + 1.0f / 11;
  p = p * t + 1.0f / 9;
  p = p * t + 1.0f / 7;
  p = p * t + 1.0f / 5;
  p = p * t + 1.0f / 3;
  return 2.0f * s + 2.0f * s * (p * t);
}

/** log(exp(a) + exp(b)); either may be -inf. */
INGOT_INLINE float ingot_cpu_log_add(float a, float b)
{
  float high = a > b ? a : b, low = a > b ? b : a;
  float sum = high + ingot_cpu_log1p(ingot_cpu_exp(low - high));
  return low == -INFINITY ? high : sum;
}

/** log(1 + exp(x)), and at *other log(1 + exp(-x)), to a relative error of 4e-7; 0 for -inf. */
INGOT_INLINE float ingot_cpu_softplus(float x, float *other)
{
  float rest = ingot_cpu_log1p(ingot_cpu_exp(x > 0 ? -x : x));
  *other = (x > 0 ? 0 : -x) + rest;
  return (x > 0 ? x : 0) + rest;
}

/** 1 / (1 + exp(-x)), and at *complement 1 minus that, without cancellation. */
INGOT_INLINE float ingot_cpu_logistic(float x, float *complement)
{
  float e = ingot_cpu_exp(-x);
  float s = 1.0f / (1.0f + e);
  *complement = e * s;
  return s;
}

#endif
