#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/families/select_state.h"

enum {
  SMALL_ELEMENTS = 1 << 14, /* tensors up to this size are collected whole, without a sample */
  LEAST_SAMPLE = 1 << 12,   /* elements of a sample; one run in MIN_STEP to MAX_STEP is read, as the tensor grows: */
  GOOD_SAMPLE = 1 << 17,    /* USUAL_STEP until the sample would be larger than good */
  MIN_STEP = 17,
  USUAL_STEP = 61,
  MAX_STEP = 251,           /* primes, so that runs do not keep to some columns */
  MAX_PAIR_BYTES = 1 << 26, /* room for pairs of one tensor, all tiles and models together */
  MAX_SAMPLE_BYTES = 1 << 25,
};

size_t ingot_select_state_bytes(int n_model)
{
  size_t bytes = sizeof(ingot_select_state) + (size_t)n_model * sizeof(select_model);
  return (bytes + 15) / 16 * 16;
}

void ingot_select_begin(ingot_select_state *s, int n_model, int64_t n_elem)
{
  s->n_model = n_model;
  s->n_elem = n_elem;
}

void ingot_select_want(ingot_select_state *s, int model, int64_t keep)
{
  select_model *m = &models_of(s)[model];
  m->keep = keep;
  m->inside = s->n_elem;
  m->high = m->hi = INGOT_DELTA_KEY_MAX;
  m->phase = s->n_elem <= SMALL_ELEMENTS ? PHASE_NARROW : PHASE_SAMPLE;
}

int64_t ingot_select_wanted(const ingot_select_state *s, int model)
{
  return models_of_const(s)[model].keep;
}

/* Ranks among the same keys: their upper 11 bits are counted once, and lower bits are looked at in one bucket alone. */
typedef struct ranking {
  const uint32_t *keys;
  int64_t         n;
  uint32_t       *room;     /* [n] */
  int64_t         n_inside; /* keys of `bucket`, which are in room */
  int             bucket;   /* -1: none */
  int64_t         count[N_BUCKET];
} ranking;

enum { TOP_SHIFT = 20, LOW_BITS = 10 };

static void ranking_begin(ranking *r, const uint32_t *keys, int64_t n, uint32_t *room)
{
  enum { AT_ONCE = 4 }; /* neighbours often fall into the same bucket, and would wait for each other's count */
  int64_t count[AT_ONCE][N_BUCKET] = {{0}}, i = 0;
  *r = (ranking){.keys = keys, .n = n, .room = room, .bucket = -1};
  for (; i + AT_ONCE <= n; i += AT_ONCE)
    for (int k = 0; k < AT_ONCE; k++) count[k][keys[i + k] >> TOP_SHIFT]++;
  for (; i < n; i++) count[0][keys[i] >> TOP_SHIFT]++;
  for (int k = 0; k < AT_ONCE; k++)
    for (int bucket = 0; bucket < N_BUCKET; bucket++) r->count[bucket] += count[k][bucket];
}

/* The bucket, from the largest down, in which `rank` lies; *above grows by what lies in larger ones. */
static int bucket_of(const int64_t *count, int n_bucket, int64_t rank, int64_t *above)
{
  int bucket = n_bucket - 1;
  while (bucket > 0 && *above + count[bucket] < rank) *above += count[bucket--];
  return bucket;
}

static uint32_t ranking_find(ranking *r, int64_t rank, int64_t *n_above)
{
  int64_t above = 0;
  int     bucket = bucket_of(r->count, N_BUCKET, rank, &above);
  if (bucket != r->bucket) {
    int64_t n = 0;
    for (int64_t i = 0; i < r->n; i++) {
      r->room[n] = r->keys[i];
      n += r->keys[i] >> TOP_SHIFT == (uint32_t)bucket;
    }
    r->bucket = bucket;
    r->n_inside = n;
  }
  uint32_t prefix = (uint32_t)bucket, mask = (1u << LOW_BITS) - 1;
  for (int shift = TOP_SHIFT - LOW_BITS; shift >= 0; shift -= LOW_BITS) {
    int64_t count[1 << LOW_BITS] = {0};
    for (int64_t i = 0; i < r->n_inside; i++)
      if (r->room[i] >> (shift + LOW_BITS) == prefix) count[r->room[i] >> shift & mask]++;
    prefix = prefix << LOW_BITS | (uint32_t)bucket_of(count, 1 << LOW_BITS, rank, &above);
  }
  *n_above = above;
  return prefix;
}

uint32_t ingot_select_rank(const uint32_t *keys, int64_t n, uint32_t *room, int64_t rank, int64_t *n_above)
{
  ranking r;
  ranking_begin(&r, keys, n, room);
  return ranking_find(&r, rank, n_above);
}

/* What a pass has shown. */

static const narrow_slot *narrow_slot_at(const ingot_select_state *s, const ingot_scan_result *r, int64_t tile,
                                         const select_model *m)
{
  const unsigned char *slot = (const unsigned char *)r->slots + (size_t)tile * r->plan->slot_bytes;
  return (const narrow_slot *)(const void *)(slot + (size_t)m->order * narrow_slot_bytes(s));
}

/* Spread of the number of sampled keys above `pivot`, in keys, from how much the runs differ among themselves. */
static double sample_spread(const uint32_t *keys, int64_t n, uint32_t pivot)
{
  double  sum = 0, sum_squares = 0;
  int64_t n_run = n / INGOT_SAMPLE_RUN;
  for (int64_t run = 0; run < n_run; run++) {
    int count = 0;
    for (int i = 0; i < INGOT_SAMPLE_RUN; i++) count += keys[run * INGOT_SAMPLE_RUN + i] > pivot;
    sum += count;
    sum_squares += (double)count * count;
  }
  if (n_run < 2) return (double)n;
  double variance = (sum_squares - sum * sum / (double)n_run) / (double)(n_run - 1);
  return sqrt(fmax(variance, 0) * (double)n_run);
}

/* Bracket of one model from the sampled keys, room [n]; returns the expected part of the elements strictly inside. */
static double choose_bracket(const ingot_select_state *s, select_model *m, const uint32_t *keys, int64_t n,
                             uint32_t *room, double largest_part)
{
  ranking r;
  double  part = (double)m->keep / (double)s->n_elem;
  int64_t rank = (int64_t)ceil(part * (double)n), unused;
  rank = rank < 1 ? 1 : rank > n ? n : rank;
  ranking_begin(&r, keys, n, room);
  uint32_t pivot = ranking_find(&r, rank, &unused);
  double   spread = fmax(sample_spread(keys, n, pivot), sqrt(part * (1 - part) * (double)n));
  int64_t  margin = (int64_t)ceil(fmin(4.5 * spread + 8, largest_part * (double)n / 2));
  m->hi = rank - margin >= 1 ? ranking_find(&r, rank - margin, &unused) : m->high;
  m->lo = rank + margin <= n ? ranking_find(&r, rank + margin, &unused) : m->low;
  return 2.0 * (double)margin / (double)n;
}

static ingot_status finish_sample(ingot_select_state *s, const ingot_scan_result *r)
{
  ingot_status st = INGOT_OK;
  uint32_t    *keys = NULL;
  double       largest = 0;
  int          n_narrow = 0;
  for (int i = 0; i < s->n_model; i++) n_narrow += models_of(s)[i].phase == PHASE_SAMPLE;

  int64_t most = r->n_slot * s->capacity;
  size_t  keys_bytes = 2 * (size_t)most * sizeof *keys; /* and room to find ranks in */
  keys = ingot_pages_take_any(keys_bytes);
  INGOT_CHECK(keys || most == 0, INGOT_ERR_NOMEM, "out of memory for a sample of %lld keys", (long long)most);
  double largest_part = (double)MAX_PAIR_BYTES / 8 / 2 / n_narrow / (double)s->n_elem;
  for (int i = 0; i < s->n_model; i++) {
    select_model *m = &models_of(s)[i];
    int64_t       n = 0;
    if (m->phase != PHASE_SAMPLE) continue;
    for (int64_t tile = 0; tile < r->n_slot; tile++) {
      const unsigned char *slot = (const unsigned char *)r->slots + (size_t)tile * r->plan->slot_bytes;
      const int64_t       *count = (const int64_t *)(const void *)(slot + (size_t)m->order * sample_slot_bytes(s));
      memcpy(keys + n, count + 1, (size_t)*count * sizeof *keys);
      n += *count;
    }
    m->phase = PHASE_NARROW;
    if (n == 0) continue;
    largest = fmax(largest, choose_bracket(s, m, keys, n, keys + most, largest_part));
  }
  s->capacity = (int64_t)(2 * largest * (double)INGOT_TILE) + 256;
done:
  ingot_pages_give_back(keys, keys_bytes);
  return st;
}

/* The threshold is known, and so are the elements equal to it that are kept. */
static void set_cut(select_model *m, ingot_delta_model *out, uint32_t threshold, int64_t cut, int64_t nth)
{
  out->mask = INGOT_MASK_CUT;
  out->threshold = threshold;
  out->cut = cut;
  out->nth = nth;
  m->phase = PHASE_NONE;
}

/* Threshold at an end of the bracket: find the block in which the last kept one of its equals lies. */
static void finish_at_end(const ingot_select_state *s, const ingot_scan_result *r, select_model *m,
                          ingot_delta_model *out, bool at_hi, int64_t wanted, int64_t there)
{
  uint32_t threshold = at_hi ? m->hi : m->lo;
  if (wanted == there) {
    set_cut(m, out, threshold, s->n_elem, 0);
    return;
  }
  for (int64_t tile = 0; tile < r->n_slot; tile++) {
    const narrow_slot *slot = narrow_slot_at(s, r, tile, m);
    for (int64_t block = 0; block < INGOT_TILE / INGOT_BLOCK; block++) {
      int64_t count = at_hi ? slot->at_hi[block] : slot->at_lo[block];
      if (wanted <= count) {
        set_cut(m, out, threshold, tile * INGOT_TILE + block * INGOT_BLOCK, wanted);
        return;
      }
      wanted -= count;
    }
  }
}

/* Threshold among the collected pairs. */
static ingot_status finish_between(const ingot_select_state *s, const ingot_scan_result *r, select_model *m,
                                   ingot_delta_model *out, int64_t between, int64_t wanted)
{
  ingot_status st = INGOT_OK;
  int64_t      n = 0, above;
  size_t       keys_bytes = 2 * (size_t)between * sizeof(uint32_t);
  uint32_t    *keys = ingot_pages_take_any(keys_bytes);
  INGOT_CHECK(keys, INGOT_ERR_NOMEM, "out of memory for %lld collected keys", (long long)between);
  for (int64_t tile = 0; tile < r->n_slot; tile++) {
    const narrow_slot *slot = narrow_slot_at(s, r, tile, m);
    const uint64_t    *pair = (const uint64_t *)(slot + 1);
    for (int64_t i = 0; i < slot->between; i++) keys[n++] = (uint32_t)(pair[i] >> PLACE_BITS);
  }
  uint32_t threshold = ingot_select_rank(keys, n, keys + n, wanted, &above);
  wanted -= above;
  int64_t cut = s->n_elem, last = 0, there = 0;
  for (int64_t tile = 0; tile < r->n_slot; tile++) {
    const narrow_slot *slot = narrow_slot_at(s, r, tile, m);
    const uint64_t    *pair = (const uint64_t *)(slot + 1);
    for (int64_t i = 0; i < slot->between; i++) {
      if ((uint32_t)(pair[i] >> PLACE_BITS) != threshold) continue;
      if (++there == wanted) last = tile * INGOT_TILE + (int64_t)(pair[i] & ((1u << PLACE_BITS) - 1)) + 1;
    }
  }
  if (there > wanted) cut = last;
  set_cut(m, out, threshold, cut, 0);
done:
  ingot_pages_give_back(keys, keys_bytes);
  return st;
}

/* Keys low .. high are still possible: bracket them if there is surely room for them, else count them. */
static void go_on(select_model *m, uint32_t low, uint32_t high, int64_t above, int64_t inside)
{
  m->low = m->lo = low;
  m->high = m->hi = high;
  m->above = above;
  m->inside = inside;
  m->phase = low == high || inside <= SMALL_ELEMENTS ? PHASE_NARROW : PHASE_HISTOGRAM;
}

static ingot_status finish_narrow(const ingot_select_state *s, const ingot_scan_result *r, select_model *m,
                                  ingot_delta_model *out)
{
  int64_t above = 0, at_hi = 0, at_lo = 0, between = 0;
  bool    overflow = false;
  for (int64_t tile = 0; tile < r->n_slot; tile++) {
    const narrow_slot *slot = narrow_slot_at(s, r, tile, m);
    above += slot->above, between += slot->between;
    for (int block = 0; block < INGOT_TILE / INGOT_BLOCK; block++)
      at_hi += slot->at_hi[block], at_lo += slot->at_lo[block];
    overflow |= slot->between > s->capacity;
  }
  if (above >= m->keep) {
    go_on(m, m->hi + 1, m->high, m->above, above - m->above);
  } else if (above + at_hi >= m->keep) {
    finish_at_end(s, r, m, out, true, m->keep - above, at_hi);
  } else if (above + at_hi + between >= m->keep) {
    if (!overflow) return finish_between(s, r, m, out, between, m->keep - above - at_hi);
    go_on(m, m->lo + 1, m->hi - 1, above + at_hi, between);
    if (m->low != m->high) m->phase = PHASE_HISTOGRAM; /* the tiles' rooms were too small: do not try that again */
  } else if (above + at_hi + between + at_lo >= m->keep) {
    finish_at_end(s, r, m, out, false, m->keep - above - at_hi - between, at_lo);
  } else {
    int64_t larger = above + at_hi + between + at_lo;
    go_on(m, m->low, m->lo - 1, larger, m->above + m->inside - larger);
  }
  return INGOT_OK;
}

static void finish_histogram(const ingot_scan_result *r, select_model *m)
{
  const int64_t *count = r->sums + (int64_t)m->order * N_BUCKET;
  int64_t        above = m->above;
  int            bucket = (int)((m->high - m->low) >> m->shift);
  while (bucket > 0 && above + count[bucket] < m->keep) above += count[bucket--];
  uint32_t low = m->low + ((uint32_t)bucket << m->shift);
  uint32_t last = (uint32_t)((1u << m->shift) - 1), high = m->high - low < last ? m->high : low + last;
  go_on(m, low, high, above, count[bucket]);
}

/* Plans. */

static int64_t next_prime(int64_t n)
{
  for (;; n++) {
    int64_t d = 2;
    while (d * d <= n && n % d) d++;
    if (d * d > n) return n;
  }
}

static int number_phase(ingot_select_state *s, int phase)
{
  int n = 0;
  for (int i = 0; i < s->n_model; i++)
    if (models_of(s)[i].phase == phase) models_of(s)[i].order = n++;
  return n;
}

/* Even one run a tile and model is too much memory for very many models of a very large tensor: count instead. */
static void drop_sample_if_large(ingot_select_state *s)
{
  int64_t n_sample = number_phase(s, PHASE_SAMPLE);
  if (n_sample * ingot_tile_count(s->n_elem) <= 2 * MAX_SAMPLE_BYTES / 4 / INGOT_SAMPLE_RUN) return;
  for (int i = 0; i < s->n_model; i++)
    if (models_of(s)[i].phase == PHASE_SAMPLE) models_of(s)[i].phase = PHASE_HISTOGRAM;
}

static void plan_sample(ingot_select_state *s, int n_sample, ingot_scan_plan *plan)
{
  int64_t step = s->n_elem / LEAST_SAMPLE, least = s->n_elem / (MAX_SAMPLE_BYTES / 4 / n_sample + 1);
  if (step > USUAL_STEP) step = s->n_elem / GOOD_SAMPLE < USUAL_STEP ? USUAL_STEP : s->n_elem / GOOD_SAMPLE;
  step = step < MIN_STEP ? MIN_STEP : step > MAX_STEP ? MAX_STEP : step;
  s->stride = next_prime(step > least ? step : least) * INGOT_SAMPLE_RUN;
  int64_t tile = s->n_elem < INGOT_TILE ? s->n_elem : INGOT_TILE;
  s->capacity = ((tile - 1) / s->stride + 1) * INGOT_SAMPLE_RUN;
  *plan = (ingot_scan_plan){.pass = INGOT_SELECT_SAMPLE,
                            .slot_bytes = (size_t)n_sample * sample_slot_bytes(s),
                            .sample_stride = s->stride};
}

static void plan_full(ingot_select_state *s, int n_narrow, int n_histogram, ingot_scan_plan *plan)
{
  int64_t tile = s->n_elem < INGOT_TILE ? s->n_elem : INGOT_TILE, wanted = s->capacity;
  *plan = (ingot_scan_plan){.pass = INGOT_SELECT_FULL, .n_sum = (int64_t)n_histogram * N_BUCKET};
  for (int i = 0; i < s->n_model; i++) {
    select_model *m = &models_of(s)[i];
    if (m->phase == PHASE_NARROW && m->inside <= SMALL_ELEMENTS && wanted < m->inside) wanted = m->inside;
    if (m->phase == PHASE_HISTOGRAM)
      for (m->shift = 0; (m->high - m->low) >> m->shift >= N_BUCKET; m->shift++) {
      }
  }
  if (n_narrow == 0) return;
  int64_t most = MAX_PAIR_BYTES / 8 / n_narrow / ingot_tile_count(s->n_elem);
  s->capacity = wanted < most ? wanted : most;
  if (s->capacity > tile) s->capacity = tile;
  plan->slot_bytes = (size_t)n_narrow * narrow_slot_bytes(s);
}

/* Pages of a slot that are never touched cost nothing, so that of a pass it is the pairs that are expected that
 * count. */
uint64_t ingot_select_bytes(int n_select, int64_t n_elem)
{
  static const double usual_spread = 1.5; /* of what elements at random would have */
  ingot_select_state  s = {.n_elem = n_elem};
  ingot_scan_plan     plan = {0};
  int64_t             n_tile = ingot_tile_count(n_elem);
  double              between = (double)n_elem, sample = 0;
  if (n_elem > SMALL_ELEMENTS) {
    plan_sample(&s, n_select, &plan);
    double keys = (double)n_elem / (double)s.stride * INGOT_SAMPLE_RUN,
           margin = 4.5 * usual_spread * sqrt(0.25 * keys) + 8;
    between = fmin(2 * margin / keys * (double)n_elem, (double)MAX_PAIR_BYTES / 8 / 2 / n_select);
    sample = ((double)n_select + 2) * keys * sizeof(uint32_t);
    if (n_select * n_tile > 2 * MAX_SAMPLE_BYTES / 4 / INGOT_SAMPLE_RUN) sample = 0;
  }
  double full =
      n_select * ((double)n_tile * sizeof(narrow_slot) + between * sizeof(uint64_t)) + 2 * between * sizeof(uint32_t);
  return (uint64_t)fmax(sample, full);
}

static ingot_status finish_pass(ingot_select_state *s, ingot_delta_model *models, const ingot_scan_result *r)
{
  if (r->plan->pass == INGOT_SELECT_SAMPLE) return finish_sample(s, r);
  ingot_status st = INGOT_OK;
  for (int i = 0; st == INGOT_OK && i < s->n_model; i++) {
    select_model *m = &models_of(s)[i];
    if (m->phase == PHASE_NARROW) st = finish_narrow(s, r, m, &models[i]);
    else if (m->phase == PHASE_HISTOGRAM) finish_histogram(r, m);
  }
  return st;
}

ingot_status ingot_select_next(ingot_select_state *s, ingot_delta_model *models, const ingot_scan_result *result,
                               ingot_scan_plan *plan)
{
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  if (result) {
    ingot_status st = finish_pass(s, models, result);
    if (st != INGOT_OK) return st;
  }
  if (!result) drop_sample_if_large(s);
  int n_sample = number_phase(s, PHASE_SAMPLE);
  int n_histogram = number_phase(s, PHASE_HISTOGRAM), n_narrow = number_phase(s, PHASE_NARROW);
  if (n_sample) plan_sample(s, n_sample, plan);
  else if (n_narrow || n_histogram) plan_full(s, n_narrow, n_histogram, plan);
  s->pass = plan->pass;
  return INGOT_OK;
}
