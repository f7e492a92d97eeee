/**
 * Loops that are written out for x86-64, where compilers do not find the instructions by themselves: mask registers,
 * table look-ups, wide products. Every such loop has a portable twin with the same bits, and ingot_has_avx512 chooses
 * between them.
 *
 * INGOT_NO_AVX512 leaves the AVX-512 versions out of a source file, so that tests reach the twins on any machine.
 */
#ifndef INGOT_KERNELS_X86_H
#define INGOT_KERNELS_X86_H

#include <stdbool.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__CUDACC__)
#define INGOT_HAVE_X86 1
#include <immintrin.h>
#else
#define INGOT_HAVE_X86 0
#endif

#if INGOT_HAVE_X86 && !defined(INGOT_NO_AVX512)
#define INGOT_HAVE_AVX512 1
/** In front of functions that use AVX-512; in front of their pieces, which are compiled into them, the second. */
#define INGOT_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi2")))
#define INGOT_AVX512_INLINE \
  static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi2")))
static inline bool ingot_has_avx512(void)
{
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("popcnt") &&
         __builtin_cpu_supports("bmi2");
}
#else
#define INGOT_HAVE_AVX512 0
static inline bool ingot_has_avx512(void)
{
  return false;
}
#endif

#endif
