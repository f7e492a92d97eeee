/**
 * Selection as families/select.h defines it, by histograms of the keys' digits: what a GPU does, where a pass over a
 * tensor is cheap and a histogram needs no room. The cuts are the same.
 *
 * Passes over the tensor, for the models that want a selection:
 *   DIGIT_1 .. 3  sums [n_model][INGOT_RADIX_BUCKETS]: a histogram of the key's next digit (11, 10 and 10 bits from
 * above) over the keys whose upper digits are those of the threshold COUNT         slot of a tile: int64_t [n_model],
 * how many keys equal the threshold; only when some equals are dropped LOCATE        the tiles where a cut falls; slot:
 * ingot_radix_place [n_model]
 */
#ifndef INGOT_KERNELS_FAMILIES_SELECT_RADIX_H
#define INGOT_KERNELS_FAMILIES_SELECT_RADIX_H

#include "kernels/families/delta.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_RADIX_DIGIT_1 = 1, INGOT_RADIX_DIGIT_2, INGOT_RADIX_DIGIT_3, INGOT_RADIX_COUNT, INGOT_RADIX_LOCATE };
enum { INGOT_RADIX_BUCKETS = 2048 };

/** Where a digit lies in a key, by pass. */
static inline INGOT_HOST_DEVICE int ingot_radix_shift(int pass)
{
  return pass == INGOT_RADIX_DIGIT_1 ? 20 : pass == INGOT_RADIX_DIGIT_2 ? 10 : 0;
}
static inline INGOT_HOST_DEVICE int ingot_radix_bits(int pass)
{
  return pass == INGOT_RADIX_DIGIT_1 ? 11 : 10;
}

typedef struct ingot_radix_model {
  int64_t  keep;   /* elements to keep; 0: this model wants no selection */
  int64_t  above;  /* keys known to be larger than the threshold */
  int64_t  wanted; /* LOCATE: this many of the tile's equal keys are kept, at least 1 */
  int64_t  tile;   /* LOCATE: where the cut falls; -1: there is none to be found */
  uint32_t prefix; /* the threshold's digits so far */
  int32_t  open;   /* this model takes part in the present pass */
} ingot_radix_model;

/** Plain memory: this header, then ingot_radix_model [n_model], then int64_t tiles[n_model]. */
typedef struct ingot_radix_state {
  int64_t n_elem;
  int32_t n_model;
  int32_t reserved;
} ingot_radix_state;

/** LOCATE's slot: equal keys seen in the tile so far, and one more than the flat index of the last one kept (0: not
 * yet). */
typedef struct ingot_radix_place {
  int64_t seen, cut;
} ingot_radix_place;

static inline ingot_radix_model *ingot_radix_models(ingot_radix_state *s)
{
  return (ingot_radix_model *)(s + 1);
}

static inline const ingot_radix_model *ingot_radix_models_const(const ingot_radix_state *s)
{
  return (const ingot_radix_model *)(s + 1);
}

size_t ingot_radix_state_bytes(int n_model);
/** Start; then set `keep` of the models that want a selection, 1 .. n_elem - 1. */
void ingot_radix_begin(ingot_radix_state *s, int n_model, int64_t n_elem);
/** The next pass; INGOT_SCAN_DONE when all cuts are in `models` (mask, threshold, cut). Result NULL at the start. */
void ingot_radix_next(ingot_radix_state *s, ingot_delta_model *models, const ingot_scan_result *result,
                      ingot_scan_plan *plan);

/**
 * Where ties keeps it: state is an ingot_delta_state with its models, then the CPU's selection (families/select.h),
 * which knows what was asked for, then this.
 */
ingot_radix_state *ingot_radix_of_ties(const ingot_method_tensor *t, void *state);
/** ingot_device_ops.next of ties: the passes above, then the L1 summary where it is wanted. */
ingot_status ingot_radix_ties_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                   ingot_scan_plan *plan);

#ifdef __cplusplus
}
#endif
#endif
