/** The fixed sizes that results, checksums and restarts are defined by. Changing one changes the file format. */
#ifndef INGOT_BASE_TILE_H
#define INGOT_BASE_TILE_H

#include <stdint.h>

#include "base/hash.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
  INGOT_BLOCK = 4096,   /* elements: unit of the kernels and of float64 sums */
  INGOT_TILE = 1 << 20, /* elements: unit of work, of checksums and of restart; a multiple of INGOT_BLOCK */
};

/** Number of tiles of a tensor; the last one may be short, an empty tensor has none. */
static inline int64_t ingot_tile_count(int64_t n_elem)
{
  return (n_elem + INGOT_TILE - 1) / INGOT_TILE;
}

/**
 * The checksum of a tensor: the XXH3-64 hash of its tiles' XXH3-64 hashes, as little-endian 64-bit numbers in tile
 * order. A tile's hash is over its bytes in the tensor's dtype.
 */
static inline uint64_t ingot_tensor_checksum(const uint64_t *tile_hashes, int64_t n_tile)
{
  return ingot_hash(tile_hashes, (size_t)n_tile * sizeof *tile_hashes);
}

#ifdef __cplusplus
}
#endif
#endif
