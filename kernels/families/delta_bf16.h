/** Inside of delta_bf16.c: its loop's arguments, and the AVX-512 version of it (delta_avx512.c). */
#ifndef INGOT_KERNELS_FAMILIES_DELTA_BF16_H
#define INGOT_KERNELS_FAMILIES_DELTA_BF16_H

#include "kernels/families/delta.h"
#include "kernels/x86.h"

enum { INGOT_DELTA_FEW = 8 }; /* models */

/** How elements are dropped. */
enum { INGOT_FEW_PLAIN, INGOT_FEW_CUT, INGOT_FEW_RANDOM };

typedef struct ingot_delta_few {
  const unsigned char *base, *x[INGOT_DELTA_FEW];
  const unsigned char *keep[INGOT_DELTA_FEW];  /* RANDOM: masks, of 16 bits an element; with AVX-512 of one */
  int32_t              above[INGOT_DELTA_FEW]; /* CUT: keys above this are kept */
  float                weight[INGOT_DELTA_FEW], scale[INGOT_DELTA_FEW];
  int                  zero_plus;
  float                divisor, lambda;
} ingot_delta_few;

/** What a loop does; `divide` has the meaning of ingot_delta_state. */
typedef struct ingot_delta_kind {
  int drop; /* INGOT_FEW_ */
  int vote, divide;
} ingot_delta_kind;

#if INGOT_HAVE_AVX512
/**
 * Merge n elements, any number. False, and out undefined, when an input is NaN or infinite, but also when only a sum
 * is, or a cut might drop what is: the portable loop then finds out.
 */
bool ingot_delta_few_avx512(const ingot_delta_few *a, int n_model, ingot_delta_kind kind, int64_t n,
                            unsigned char *out);
#endif

#endif
