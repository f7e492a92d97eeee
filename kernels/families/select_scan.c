/* The scans of families/select.h: what is gathered from a chunk. */
#include <string.h>

#include "kernels/bf16_pairs.h"
#include "kernels/families/select_state.h"

_Static_assert(INGOT_TILE <= 1 << PLACE_BITS, "a place in a tile fits its bits");
_Static_assert(INGOT_BLOCK <= UINT16_MAX, "counts of a block fit");

static INGOT_CLONES void keys_of(const float *restrict x, const float *restrict base, int64_t n, uint32_t *restrict key)
{
  for (int64_t i = 0; i < n; i++) key[i] = ingot_delta_key(x[i] - base[i]);
}

static void sample_scan(const ingot_select_state *s, const ingot_chunk *c, unsigned char *slot)
{
  for (int i = 0; i < s->n_model; i++) {
    const select_model *m = &models_of_const(s)[i];
    if (m->phase != PHASE_SAMPLE) continue;
    int64_t  *count = (int64_t *)(void *)(slot + (size_t)m->order * sample_slot_bytes(s));
    uint32_t *key = (uint32_t *)(void *)(count + 1);
    int64_t   n = s->capacity - *count < c->n ? s->capacity - *count : c->n;
    keys_of(c->in[1 + i], c->in[0], n, key + *count);
    *count += n;
  }
}

/* Keys fit in 31 bits: signed compares, which every vector unit has. */
static INGOT_CLONES void narrow_block(const float *restrict x, const float *restrict base, int64_t n, int32_t lo,
                                      int32_t hi, uint32_t *restrict key, uint8_t *restrict between,
                                      narrow_counts *restrict counts)
{
  uint32_t above = 0, at_hi = 0, at_lo = 0;
  for (int64_t i = 0; i < n; i++) {
    int32_t k = (int32_t)ingot_delta_key(x[i] - base[i]);
    key[i] = (uint32_t)k;
    above += (uint32_t)(k > hi);
    at_hi += (uint32_t)(k == hi);
    at_lo += (uint32_t)(k == lo);
  }
  for (int64_t i = 0; i < n; i++) between[i] = (uint8_t)(((int32_t)key[i] > lo) & ((int32_t)key[i] < hi));
  counts->above = above, counts->at_hi = at_hi, counts->at_lo = at_lo;
}

static void count_block(const select_model *m, const narrow_counts *counts, uint64_t place, narrow_slot *slot)
{
  slot->above += counts->above;
  slot->at_hi[place / INGOT_BLOCK] = (uint16_t)counts->at_hi;
  slot->at_lo[place / INGOT_BLOCK] = (uint16_t)(m->lo == m->hi ? 0 : counts->at_lo);
}

static void narrow_scan(const ingot_select_state *s, const select_model *m, const float *x, const ingot_chunk *c,
                        narrow_slot *slot)
{
  uint32_t      key[INGOT_BLOCK];
  uint8_t       between[INGOT_BLOCK + 8];
  narrow_counts counts;
  uint64_t     *pair = (uint64_t *)(slot + 1);
  uint64_t      place = (uint64_t)(c->first % INGOT_TILE);
  int64_t       used = slot->between;

  narrow_block(x, c->in[0], c->n, (int32_t)m->lo, (int32_t)m->hi, key, between, &counts);
  count_block(m, &counts, place, slot);
  memset(between + c->n, 0, 8);
  for (int64_t i = 0; i < c->n; i += 8) { /* few lie between: look at eight flags at once */
    uint64_t flags;
    memcpy(&flags, between + i, sizeof flags);
    if (flags == 0) continue;
    for (int64_t j = i; j < i + 8; j++) {
      if (!between[j]) continue;
      if (used < s->capacity) pair[used] = (uint64_t)key[j] << PLACE_BITS | (place + (uint64_t)j);
      used++;
    }
  }
  slot->between = used;
}

static void histogram_scan(const select_model *m, const float *x, const ingot_chunk *c, int64_t *sums)
{
  uint32_t key[INGOT_BLOCK];
  keys_of(x, c->in[0], c->n, key);
  for (int64_t i = 0; i < c->n; i++)
    if (key[i] >= m->low && key[i] <= m->high) sums[(key[i] - m->low) >> m->shift]++;
}

void ingot_select_scan(const ingot_select_state *s, const ingot_delta_model *models, const ingot_scan_plan *plan,
                       const ingot_chunk *c, void *slot, int64_t *sums)
{
  (void)models;
  unsigned char *bytes = slot;
  if (plan->pass == INGOT_SELECT_SAMPLE) {
    sample_scan(s, c, bytes);
    return;
  }
  for (int i = 0; i < s->n_model; i++) {
    const select_model *m = &models_of_const(s)[i];
    const float        *x = c->in[1 + i];
    if (m->phase == PHASE_NARROW) {
      narrow_scan(s, m, x, c, (narrow_slot *)(void *)(bytes + (size_t)m->order * narrow_slot_bytes(s)));
    } else if (m->phase == PHASE_HISTOGRAM) {
      histogram_scan(m, x, c, sums + (int64_t)m->order * N_BUCKET);
    }
  }
}

/* The same from pairs of bfloat16 elements. Inputs are finite, so keys are those of numbers. */

INGOT_INLINE int32_t key_of(float x, float base)
{
  return (int32_t)(ingot_bits_of_f32(x - base) & 0x7fffffffu);
}

/* n elements, even. between[i]: whether an element of pair i is collected. */
static INGOT_CLONES void narrow_pairs(const unsigned char *restrict x, const unsigned char *restrict base, int64_t n,
                                      int32_t lo, int32_t hi, uint8_t *restrict between, narrow_counts *restrict counts)
{
  uint32_t above = 0, at_hi = 0, at_lo = 0;
  for (int64_t i = 0; i < n / 2; i++) {
    ingot_pair a = ingot_pair_widen(ingot_pair_load(x, i)), b = ingot_pair_widen(ingot_pair_load(base, i));
    int32_t    low = key_of(a.low, b.low), high = key_of(a.high, b.high);
    above += (uint32_t)(low > hi) + (uint32_t)(high > hi);
    at_hi += (uint32_t)(low == hi) + (uint32_t)(high == hi);
    at_lo += (uint32_t)(low == lo) + (uint32_t)(high == lo);
    between[i] = (uint8_t)(((low > lo) & (low < hi)) | ((high > lo) & (high < hi)));
  }
  counts->above = above, counts->at_hi = at_hi, counts->at_lo = at_lo;
}

static uint32_t key_at(const unsigned char *x, const unsigned char *base, int64_t i)
{
  uint16_t a, b;
  memcpy(&a, x + i * (int64_t)sizeof a, sizeof a);
  memcpy(&b, base + i * (int64_t)sizeof b, sizeof b);
  return (uint32_t)key_of(ingot_f32_from_bf16(a), ingot_f32_from_bf16(b));
}

/* first: flat index; n: even. */
static void narrow_scan_bf16(const ingot_select_state *s, const select_model *m, const unsigned char *x,
                             const unsigned char *base, int64_t first, int64_t n, narrow_slot *slot)
{
  uint8_t       between[INGOT_BLOCK / 2 + 8];
  narrow_counts counts;
  uint64_t     *pair = (uint64_t *)(slot + 1);
  uint64_t      place = (uint64_t)(first % INGOT_TILE);
  int64_t       used = slot->between;

  narrow_pairs(x, base, n, (int32_t)m->lo, (int32_t)m->hi, between, &counts);
  count_block(m, &counts, place, slot);
  memset(between + n / 2, 0, 8);
  for (int64_t i = 0; i < n / 2; i += 8) {
    uint64_t flags;
    memcpy(&flags, between + i, sizeof flags);
    if (flags == 0) continue;
    for (int64_t j = 2 * i; j < 2 * i + 16; j++) {
      if (!between[j / 2]) continue;
      uint32_t key = key_at(x, base, j);
      if (key <= m->lo || key >= m->hi) continue;
      if (used < s->capacity) pair[used] = (uint64_t)key << PLACE_BITS | (place + (uint64_t)j);
      used++;
    }
  }
  slot->between = used;
}

static narrow_slot *slot_of(const ingot_select_state *s, const select_model *m, void *slot)
{
  return (narrow_slot *)(void *)((unsigned char *)slot + (size_t)m->order * narrow_slot_bytes(s));
}

static bool scan_portable(const ingot_select_state *s, int64_t first, int64_t n, const void *const *in, void *slot)
{
  if (n % 2) return false;
  for (int i = 0; i <= s->n_model; i++)
    if (!ingot_pairs_finite(in[i], n)) return false;
  for (int i = 0; i < s->n_model; i++) {
    const select_model *m = &models_of_const(s)[i];
    if (m->phase == PHASE_NARROW) narrow_scan_bf16(s, m, in[1 + i], in[0], first, n, slot_of(s, m, slot));
  }
  return true;
}

#if INGOT_HAVE_AVX512
enum { TOGETHER = 8 }; /* models: nothing is gathered before all have been found finite */

static void collect(const ingot_select_state *s, const unsigned char *x, const unsigned char *base, uint64_t place,
                    int64_t n, const uint32_t *between, narrow_slot *slot)
{
  uint64_t *pair = (uint64_t *)(slot + 1);
  int64_t   used = slot->between;
  for (int64_t i = 0; i < n; i += 32) {
    for (uint32_t flags = between[i / 32]; flags; flags &= flags - 1) {
      int64_t j = i + __builtin_ctz(flags);
      if (used < s->capacity) pair[used] = (uint64_t)key_at(x, base, j) << PLACE_BITS | (place + (uint64_t)j);
      used++;
    }
  }
  slot->between = used;
}

static bool scan_avx512(const ingot_select_state *s, int64_t first, int64_t n, const void *const *in, void *slot)
{
  narrow_counts counts[TOGETHER];
  uint32_t      between[TOGETHER][INGOT_BLOCK / 32];
  uint64_t      place = (uint64_t)(first % INGOT_TILE);
  for (int i = 0; i < s->n_model; i++) {
    const select_model *m = &models_of_const(s)[i];
    if (m->phase != PHASE_NARROW) continue;
    if (!ingot_select_narrow_avx512(in[1 + i], in[0], n, m->lo, m->hi, &counts[i], between[i])) return false;
  }
  for (int i = 0; i < s->n_model; i++) {
    const select_model *m = &models_of_const(s)[i];
    if (m->phase != PHASE_NARROW) continue;
    count_block(m, &counts[i], place, slot_of(s, m, slot));
    if (m->lo < m->hi) collect(s, in[1 + i], in[0], place, n, between[i], slot_of(s, m, slot));
  }
  return true;
}
#endif

bool ingot_select_scan_bf16(const ingot_select_state *s, const ingot_scan_plan *plan, int64_t first, int64_t n,
                            const void *const *in, void *slot)
{
  if (plan->pass != INGOT_SELECT_FULL || plan->n_sum > 0) return false;
#if INGOT_HAVE_AVX512
  if (s->n_model <= TOGETHER && ingot_has_avx512()) return scan_avx512(s, first, n, in, slot);
#endif
  return scan_portable(s, first, n, in, slot);
}
