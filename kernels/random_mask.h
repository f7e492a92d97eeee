/** Philox words (base/philox.h) for a run of elements, as fast as the processor can make them. */
#ifndef INGOT_KERNELS_PHILOX_BLOCK_H
#define INGOT_KERNELS_PHILOX_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Words of elements first .. first + n of a stream: word[i] is word number ((first + i) % 4) of
 * ingot_philox4x32(key, (first + i) / 4).
 *
 * @param first  A multiple of 4; of 64 for speed.
 * @param n      Any; word must hold n rounded up to a multiple of 64.
 */
void ingot_philox_block(uint64_t key, int64_t first, int64_t n, uint32_t *word);

typedef enum ingot_philox_version { INGOT_PHILOX_PLAIN, INGOT_PHILOX_AVX2, INGOT_PHILOX_AVX512 } ingot_philox_version;

/**
 * The same by one version of the code, for tests and benchmarks; false when this machine cannot run it or it
 * wants `first` to be a multiple of 64.
 */
bool ingot_philox_block_version(ingot_philox_version version, uint64_t key, int64_t first, int64_t n, uint32_t *word);

#ifdef __cplusplus
}
#endif
#endif
