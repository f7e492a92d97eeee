/** Inside of the selection (families/select.h): its state, slots and scans, shared by select.c and select_scan.c
 * alone. */
#ifndef INGOT_KERNELS_FAMILIES_SELECT_STATE_H
#define INGOT_KERNELS_FAMILIES_SELECT_STATE_H

#include "kernels/families/select.h"
#include "kernels/x86.h"

enum {
  PHASE_NONE, /* not asked for, or done */
  PHASE_SAMPLE,
  PHASE_NARROW,
  PHASE_HISTOGRAM,
};

enum {
  N_BUCKET = 2048,
  PLACE_BITS = 20, /* a collected pair is key << PLACE_BITS | place in the tile */
};

/*
 * Known of a model at any time: its threshold lies in low .. high, and exactly `above` keys are larger than high.
 */
typedef struct select_model {
  int64_t  keep;
  int64_t  above;
  int64_t  inside; /* number of keys in low .. high */
  uint32_t low, high;
  uint32_t lo, hi; /* NARROW: the bracket, within low .. high */
  int32_t  phase;
  int32_t  shift; /* HISTOGRAM: bucket = (key - low) >> shift */
  int32_t  order; /* among the models of its phase: where its part of slot or sums is */
  int32_t  reserved;
} select_model;

struct ingot_select_state {
  int32_t n_model;
  int32_t pass;
  int64_t n_elem;
  int64_t capacity; /* keys or pairs that one model has room for in a tile's slot */
  int64_t stride;
  /* then select_model[n_model] */
};

typedef struct narrow_slot {
  int64_t  above, between;
  uint16_t at_hi[INGOT_TILE / INGOT_BLOCK], at_lo[INGOT_TILE / INGOT_BLOCK]; /* by block */
  /* then uint64_t pair[capacity] */
} narrow_slot;

/** Of one block. */
typedef struct narrow_counts {
  uint32_t above, at_hi, at_lo;
} narrow_counts;

#if INGOT_HAVE_AVX512
/**
 * Counts of n elements stored as bfloat16, at most INGOT_BLOCK, and bit i % 32 of between[i / 32] for elements with
 * keys strictly between lo and hi. False, and the rest undefined, when an element is NaN or infinite, or their
 * difference.
 */
bool ingot_select_narrow_avx512(const void *x, const void *base, int64_t n, uint32_t lo, uint32_t hi,
                                narrow_counts *counts, uint32_t *between);
#endif

static inline select_model *models_of(ingot_select_state *s)
{
  return (select_model *)(s + 1);
}

static inline const select_model *models_of_const(const ingot_select_state *s)
{
  return (const select_model *)(s + 1);
}

static inline size_t narrow_slot_bytes(const ingot_select_state *s)
{
  return sizeof(narrow_slot) + (size_t)s->capacity * sizeof(uint64_t);
}

static inline size_t sample_slot_bytes(const ingot_select_state *s)
{
  return sizeof(int64_t) + (size_t)s->capacity * sizeof(uint32_t);
}

#endif
