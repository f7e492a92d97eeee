/** Random masks (ingot_philox_keep in base/philox.h) for a run of elements, as fast as the processor can make them. */
#ifndef INGOT_KERNELS_RANDOM_MASK_H
#define INGOT_KERNELS_RANDOM_MASK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_MASK_ROUND = 128 }; /* masks are made in groups of so many elements */

/**
 * The mask of elements first .. first + n: keep[i] is 0xffff where element first + i is kept, else 0.
 *
 * @param first  A multiple of 8; of INGOT_MASK_ROUND for speed.
 * @param n      Any; keep must hold n rounded up to a multiple of INGOT_MASK_ROUND.
 */
void ingot_random_mask(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, uint16_t *keep);

/** The same mask as bits: element i in bit i % 8 of byte i / 8; room for n rounded up to a multiple of
 * INGOT_MASK_ROUND. */
void ingot_random_mask_bits(uint64_t stream, uint64_t threshold, int64_t first, int64_t n, unsigned char *bits);

/**
 * Masks to bits, and back.
 *
 * @param n  Any; both arrays must hold n rounded up to a multiple of INGOT_MASK_ROUND, all of which may be touched.
 */
void ingot_mask_pack(const uint16_t *keep, int64_t n, unsigned char *bits);
void ingot_mask_unpack(const unsigned char *bits, int64_t n, uint16_t *keep);

typedef enum ingot_mask_version { INGOT_MASK_PLAIN, INGOT_MASK_AVX2, INGOT_MASK_AVX512 } ingot_mask_version;

/**
 * The same by one version of the code, for tests and benchmarks; false when this machine cannot run it or it
 * wants `first` to be a multiple of INGOT_MASK_ROUND.
 */
bool ingot_random_mask_version(ingot_mask_version version, uint64_t stream, uint64_t threshold, int64_t first,
                               int64_t n, uint16_t *keep);

#ifdef __cplusplus
}
#endif
#endif
