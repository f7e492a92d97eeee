/** XXH3 64-bit hashes: checksums of tiles and tensors, identities of inputs, keys of random streams. */
#ifndef INGOT_BASE_HASH_H
#define INGOT_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint64_t ingot_hash(const void *bytes, size_t size);
uint64_t ingot_hash_string(const char *s);
/** Hash of `size` bytes with a 64-bit seed, so that hashes can be chained: h = ingot_hash_seeded(p, n, h). */
uint64_t ingot_hash_seeded(const void *bytes, size_t size, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
