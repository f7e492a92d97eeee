#include "base/hash.h"

#include <string.h>

#define XXH_INLINE_ALL /* the compiler's own vector width, whatever the packaged library was built for */
#include <xxhash.h>

#include "base/hash_avx2.h"

uint64_t ingot_hash(const void *bytes, size_t size)
{
#if INGOT_HAVE_HASH_AVX2
  if (__builtin_cpu_supports("avx2")) return ingot_hash_avx2(bytes, size);
#endif
  return XXH3_64bits(bytes, size);
}

uint64_t ingot_hash_string(const char *s)
{
  return XXH3_64bits(s, strlen(s));
}

uint64_t ingot_hash_seeded(const void *bytes, size_t size, uint64_t seed)
{
  return XXH3_64bits_withSeed(bytes, size, seed);
}
