/** One block of bfloat16 elements, merged by a fused loop and by the general path: for the tests of
 * kernels/families. */
#ifndef INGOT_TESTS_KERNELS_FAMILIES_BLOCK_CASE_H
#define INGOT_TESTS_KERNELS_FAMILIES_BLOCK_CASE_H

#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/convert.h"
#include "kernels/method.h"
#include "tests/check.h"

enum { MAX_INPUT = 10, MAX_N = INGOT_BLOCK, OUT_BYTES = (MAX_N + 2) * sizeof(uint16_t) };

/** Stored elements begin `shift` bytes into their arrays, which have room for MAX_N of them and any shift. */
typedef struct block_case {
  void          *state; /* of the family */
  unsigned char *stored[MAX_INPUT], *fused, *general;
  float         *wide[MAX_INPUT], *merged;
  size_t         shift;
} block_case;

static inline void *block_allocate(size_t bytes)
{
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  assert_non_null(memory);
  return memory;
}

static inline block_case *block_begin(size_t state_bytes)
{
  block_case *c = block_allocate(sizeof *c);
  c->state = block_allocate(state_bytes);
  for (int k = 0; k < MAX_INPUT; k++) {
    c->stored[k] = block_allocate(OUT_BYTES);
    c->wide[k] = block_allocate(MAX_N * sizeof(float));
  }
  c->fused = block_allocate(OUT_BYTES);
  c->general = block_allocate(OUT_BYTES);
  c->merged = block_allocate(MAX_N * sizeof(float));
  c->shift = 0;
  return c;
}

static inline int block_end(void **state)
{
  block_case *c = *state;
  for (int k = 0; k < MAX_INPUT; k++) free(c->stored[k]), free(c->wide[k]);
  free(c->fused), free(c->general), free(c->merged), free(c->state), free(c);
  return 0;
}

static inline void put(block_case *c, int input, int64_t i, uint16_t bits)
{
  memcpy(c->stored[input] + c->shift + (size_t)i * sizeof bits, &bits, sizeof bits);
}

/** Zeros, the smallest and the largest subnormals, the largest numbers, of both signs: one in `one_in` of the
 * elements. */
static inline uint16_t block_random_bits(const uint32_t word[4], uint32_t one_in)
{
  static const uint16_t special[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x007f, 0x0080, 0x7f7f, 0xff7f};
  return word[1] % one_in == 0 ? special[word[2] % 8] : (uint16_t)word[0];
}

/** No infinity and no NaN. */
static inline uint16_t block_finite(uint16_t bits)
{
  return (bits & 0x7f80) == 0x7f80 ? (uint16_t)(bits ^ 0x0100) : bits;
}

/** The inputs of a fused loop; its output is filled with a pattern. */
static inline void block_before_fused(block_case *c, const void *in[MAX_INPUT])
{
  for (int k = 0; k < MAX_INPUT; k++) in[k] = c->stored[k] + c->shift;
  memset(c->fused, 0x5a, OUT_BYTES);
}

/** The inputs of the general path, widened. */
static inline void block_before_general(block_case *c, int n_input, int64_t n)
{
  for (int k = 0; k < n_input; k++) ingot_widen(INGOT_DTYPE_BF16, c->stored[k] + c->shift, c->wide[k], n);
  memset(c->general, 0x5a, OUT_BYTES);
}

static inline void block_after_general(block_case *c, int64_t n)
{
  ingot_narrow(INGOT_DTYPE_BF16, c->merged, c->general + c->shift, n);
}

/** Element 0 of the fused loop's output. */
static inline uint16_t fused_bits(const block_case *c)
{
  uint16_t bits;
  memcpy(&bits, c->fused + c->shift, sizeof bits);
  return bits;
}

#endif
