#include "kernels/families/select_radix.h"

#include <string.h>

#include "kernels/families/select.h"

static int64_t *tiles_of(ingot_radix_state *s)
{
  return (int64_t *)(void *)(ingot_radix_models(s) + s->n_model);
}

size_t ingot_radix_state_bytes(int n_model)
{
  size_t bytes = sizeof(ingot_radix_state) + (size_t)n_model * (sizeof(ingot_radix_model) + sizeof(int64_t));
  return (bytes + 15) / 16 * 16;
}

void ingot_radix_begin(ingot_radix_state *s, int n_model, int64_t n_elem)
{
  memset(s, 0, ingot_radix_state_bytes(n_model));
  s->n_model = n_model;
  s->n_elem = n_elem;
}

static void set_cut(const ingot_radix_model *m, int64_t cut, ingot_delta_model *out)
{
  out->mask = INGOT_MASK_CUT;
  out->threshold = m->prefix;
  out->cut = cut;
}

static ingot_scan_plan digit_plan(const ingot_radix_state *s, int pass)
{
  return (ingot_scan_plan){.pass = pass, .n_sum = (int64_t)s->n_model * INGOT_RADIX_BUCKETS};
}

static ingot_scan_plan first_plan(ingot_radix_state *s)
{
  bool any = false;
  for (int i = 0; i < s->n_model; i++) {
    ingot_radix_model *m = &ingot_radix_models(s)[i];
    m->open = m->keep > 0;
    m->above = 0;
    m->prefix = 0;
    m->tile = -1;
    any = any || m->open;
  }
  return any ? digit_plan(s, INGOT_RADIX_DIGIT_1) : (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
}

/* Go down from the largest digit to the one in which the wanted rank lies; returns how many keys have that digit. */
static int64_t take_digit(ingot_radix_model *m, int pass, const int64_t *count)
{
  int bits = ingot_radix_bits(pass), bucket = (1 << bits) - 1;
  while (bucket > 0 && m->above + count[bucket] < m->keep) m->above += count[bucket--];
  m->prefix = m->prefix << bits | (uint32_t)bucket;
  return count[bucket];
}

static ingot_scan_plan after_digit(ingot_radix_state *s, ingot_delta_model *models, const ingot_scan_result *result)
{
  int  pass = result->plan->pass;
  bool open = false;
  for (int i = 0; i < s->n_model; i++) {
    ingot_radix_model *m = &ingot_radix_models(s)[i];
    if (!m->open) continue;
    int64_t equal = take_digit(m, pass, result->sums + (int64_t)i * INGOT_RADIX_BUCKETS);
    if (pass != INGOT_RADIX_DIGIT_3) continue;
    m->open = m->keep - m->above < equal;
    if (m->open) open = true;
    else set_cut(m, s->n_elem, &models[i]);
  }
  if (pass != INGOT_RADIX_DIGIT_3) return digit_plan(s, pass + 1);
  if (!open) return (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  return (ingot_scan_plan){.pass = INGOT_RADIX_COUNT, .slot_bytes = (size_t)s->n_model * sizeof(int64_t)};
}

/* Put a tile into the ascending list, once. */
static int64_t add_tile(int64_t *tiles, int64_t n, int64_t tile)
{
  int64_t at = n;
  while (at > 0 && tiles[at - 1] > tile) at--;
  if (at > 0 && tiles[at - 1] == tile) return n;
  memmove(tiles + at + 1, tiles + at, (size_t)(n - at) * sizeof *tiles);
  tiles[at] = tile;
  return n + 1;
}

static ingot_scan_plan after_count(ingot_radix_state *s, const ingot_scan_result *result)
{
  const int64_t *equal = result->slots; /* [n_slot][n_model] */
  int64_t        n_tiles = 0;
  for (int i = 0; i < s->n_model; i++) {
    ingot_radix_model *m = &ingot_radix_models(s)[i];
    if (!m->open) continue;
    int64_t wanted = m->keep - m->above, tile = 0;
    while (tile + 1 < result->n_slot && equal[tile * s->n_model + i] < wanted) wanted -= equal[tile++ * s->n_model + i];
    m->tile = tile;
    m->wanted = wanted;
    n_tiles = add_tile(tiles_of(s), n_tiles, tile);
  }
  return (ingot_scan_plan){.pass = INGOT_RADIX_LOCATE,
                           .slot_bytes = (size_t)s->n_model * sizeof(ingot_radix_place),
                           .tiles = tiles_of(s),
                           .n_tiles = n_tiles};
}

static ingot_scan_plan after_locate(ingot_radix_state *s, ingot_delta_model *models, const ingot_scan_result *result)
{
  const ingot_radix_place *place = result->slots; /* [n_slot][n_model] */
  for (int64_t k = 0; k < result->n_slot; k++) {
    for (int i = 0; i < s->n_model; i++) {
      ingot_radix_model *m = &ingot_radix_models(s)[i];
      if (m->open && m->tile == result->plan->tiles[k]) set_cut(m, place[k * s->n_model + i].cut, &models[i]);
    }
  }
  return (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
}

void ingot_radix_next(ingot_radix_state *s, ingot_delta_model *models, const ingot_scan_result *result,
                      ingot_scan_plan *plan)
{
  if (result == NULL) *plan = first_plan(s);
  else if (result->plan->pass <= INGOT_RADIX_DIGIT_3) *plan = after_digit(s, models, result);
  else if (result->plan->pass == INGOT_RADIX_COUNT) *plan = after_count(s, result);
  else *plan = after_locate(s, models, result);
}

static ingot_select_state *wishes_of(const ingot_method_tensor *t, void *state)
{
  return (ingot_select_state *)(void *)((unsigned char *)state + ingot_delta_state_bytes(t->n_model));
}

ingot_radix_state *ingot_radix_of_ties(const ingot_method_tensor *t, void *state)
{
  size_t before = ingot_delta_state_bytes(t->n_model) + ingot_select_state_bytes(t->n_model);
  return (ingot_radix_state *)(void *)((unsigned char *)state + before);
}

ingot_status ingot_radix_ties_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                   ingot_scan_plan *plan)
{
  ingot_radix_state *radix = ingot_radix_of_ties(t, state);
  if (result != NULL && result->plan->pass == INGOT_PASS_L1) return ingot_delta_l1_next(t, state, result, plan);
  if (result == NULL) {
    ingot_radix_begin(radix, t->n_model, t->n_elem);
    for (int i = 0; i < t->n_model; i++)
      ingot_radix_models(radix)[i].keep = ingot_select_wanted(wishes_of(t, state), i);
  }
  ingot_radix_next(radix, ingot_delta_models(state), result, plan);
  if (plan->pass != INGOT_SCAN_DONE) return INGOT_OK;
  return ingot_delta_l1_next(t, state, NULL, plan);
}
