/**
 * Selection of the k largest magnitudes of each task vector of one tensor, without sorting and reading little.
 *
 * The result is a cut (families/delta.h): an element is kept when its key is above `threshold`, or equal to it and its
 * flat index is below `cut`, which may be given as a block and a number of equals in it. Exactly k elements are kept:
 * larger key first, then lower index.
 *
 * Passes over the tensor:
 *   SAMPLE  a few runs spread over the tensor give a bracket [lo, hi] of keys around the wanted rank; skipped when the
 *           tensor is small or every model's bracket is known
 *   FULL    all elements. For a model in phase NARROW: counts above hi, at hi and at lo, and collects key and place of
 *           what lies strictly between. When the rank falls there or on an end, threshold and (between) cut are known.
 *           When it falls outside (the sample misled) or too much lay between, the model goes to phase HISTOGRAM: 2048
 *           buckets over the keys that are still possible, and then NARROW again
 * At most 1 + 7 passes for any data: a histogram leaves at most 1/2048 of the 2^31 keys, and a bracket of one key
 * always succeeds. Real data takes one SAMPLE and one FULL.
 */
#ifndef INGOT_KERNELS_FAMILIES_SELECT_H
#define INGOT_KERNELS_FAMILIES_SELECT_H

#include "kernels/families/delta.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Pass numbers, as seen in plans. */
enum { INGOT_SELECT_SAMPLE = 1, INGOT_SELECT_FULL = 2 };

/** Opaque in effect; plain memory inside the method's state. */
typedef struct ingot_select_state ingot_select_state;

size_t ingot_select_state_bytes(int n_model);
/** Start on zeroed memory for a tensor of n_elem elements. */
void ingot_select_begin(ingot_select_state *s, int n_model, int64_t n_elem);
/** Ask for the `keep` largest of a model, 1 .. n_elem - 1. Models never asked for are left alone. */
void ingot_select_want(ingot_select_state *s, int model, int64_t keep);
/** What was asked for a model; 0 when nothing was. */
int64_t ingot_select_wanted(const ingot_select_state *s, int model);
/**
 * The next pass; INGOT_SCAN_DONE when all cuts are in `models` (mask, threshold, cut, nth). Result NULL at the start.
 * INGOT_ERR_NOMEM when working memory is out.
 */
ingot_status ingot_select_next(ingot_select_state *s, ingot_delta_model *models, const ingot_scan_result *result,
                               ingot_scan_plan *plan);
void ingot_select_scan(const ingot_select_state *s, const ingot_delta_model *models, const ingot_scan_plan *plan,
                       const ingot_chunk *c, void *slot, int64_t *sums);
/** The same from bfloat16, as ingot_scan_ops.scan_bf16; false for passes other than a FULL one without histograms. */
bool ingot_select_scan_bf16(const ingot_select_state *s, const ingot_scan_plan *plan, int64_t first, int64_t n,
                            const void *const *in, void *slot);

/**
 * Memory that the selection of n_select models takes at most at a time, with a bracket as wide as the rows of a model
 * usually make it: they differ more among themselves than elements drawn at random would.
 */
uint64_t ingot_select_bytes(int n_select, int64_t n_elem);

/**
 * The key of 1-based descending `rank` among n keys (each at most INGOT_DELTA_KEY_MAX), by radix: time linear in n
 * whatever the keys. *n_above gets the number of larger keys; room [n] is overwritten.
 */
uint32_t ingot_select_rank(const uint32_t *keys, int64_t n, uint32_t *room, int64_t rank, int64_t *n_above);

#ifdef __cplusplus
}
#endif
#endif
