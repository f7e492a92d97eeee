/**
 * INGOT_CLONES in front of a function compiles it for several generations of x86-64 (AVX-512, AVX2, SSE2); the loader
 * picks one for the machine. The arithmetic is the same in all, so are the bits: products and sums are never fused
 * (-ffp-contract=off), and loops over floats are not reordered.
 *
 * Elsewhere the macro is empty: other processors and compilers, C libraries without indirect functions, and
 * AddressSanitizer, whose runtime is not up when indirect functions are resolved.
 */
#ifndef INGOT_KERNELS_CLONES_H
#define INGOT_KERNELS_CLONES_H

#include <stdint.h> /* defines __GLIBC__ where there is one */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(INGOT_NO_CLONES)
#define INGOT_HAVE_CLONES 1
#define INGOT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define INGOT_HAVE_CLONES 0
#define INGOT_CLONES
#endif

/** For the pieces of a cloned function: they must be compiled with it, for its processor. */
#if defined(__GNUC__)
#define INGOT_INLINE static inline __attribute__((always_inline))
#else
#define INGOT_INLINE static inline
#endif

#endif
