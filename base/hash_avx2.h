/** For base/hash.c: a version of its hash for processors that have AVX2. */
#ifndef INGOT_BASE_HASH_AVX2_H
#define INGOT_BASE_HASH_AVX2_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Compiled for a processor of its own by a pragma that GCC alone has; other compilers keep to the common version. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define INGOT_HAVE_HASH_AVX2 1
#else
#define INGOT_HAVE_HASH_AVX2 0
#endif

/** As ingot_hash. Only where INGOT_HAVE_HASH_AVX2, and the processor has AVX2. */
uint64_t ingot_hash_avx2(const void *bytes, size_t size);

#ifdef __cplusplus
}
#endif
#endif
