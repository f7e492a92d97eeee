#include "kernels/families/dare.h"

#include <math.h>

#include "kernels/random_mask.h"

static const char *const rescale_choices[] = {"none", "l1", "inv_density", NULL};

const ingot_param_spec ingot_dare_params[INGOT_DARE_N_PARAM] = {
    {.name = "normalize",
     .type = INGOT_PARAM_BOOL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 0,
     .help = "divide by the sum of the weights"},
    {.name = "lambda",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the combined task vector"},
    {.name = "rescale",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = INGOT_RESCALE_L1,
     .choices = rescale_choices,
     .help = "what makes up for the dropped elements: equal L1 norm, 1/density, nothing"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .required = true,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the model's task vector"},
    {.name = "density",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = 0,
     .max = 1,
     .min_open = true,
     .help = "probability that an element of the task vector is kept"},
};

static double density_of(const ingot_method_tensor *t, int model)
{
  return t->per_model[model * INGOT_DARE_N_PER_MODEL + INGOT_DARE_DENSITY];
}

static int count_random(const ingot_method_tensor *t)
{
  int n = 0;
  for (int i = 0; i < t->n_model; i++) n += density_of(t, i) < 1;
  return n;
}

ingot_grain ingot_dare_grain(const ingot_method_tensor *t)
{
  bool summary = (int)t->global[INGOT_DARE_RESCALE] == INGOT_RESCALE_L1 && count_random(t) > 0;
  return summary ? INGOT_GRAIN_TENSOR : INGOT_GRAIN_ELEMENT;
}

double ingot_dare_cost(const ingot_method_tensor *t)
{
  double passes = ingot_dare_grain(t) == INGOT_GRAIN_TENSOR ? 2 : 1;
  return 6.0 * t->n_model + passes * 8.0 * count_random(t);
}

ingot_status ingot_dare_check(const ingot_method_tensor *t)
{
  return ingot_delta_check_weights(t, INGOT_DARE_N_PER_MODEL, t->global[INGOT_DARE_NORMALIZE] != 0, 1e-8);
}

size_t ingot_dare_state_bytes(const ingot_method_tensor *t)
{
  return ingot_delta_state_bytes(t->n_model);
}

static void dare_begin(const ingot_method_tensor *t, bool vote, ingot_delta_state *s)
{
  ingot_delta_begin(t, INGOT_DARE_N_PER_MODEL, vote, t->global[INGOT_DARE_NORMALIZE] != 0, t->global[INGOT_DARE_LAMBDA],
                    s);
  s->rescale = (int32_t)t->global[INGOT_DARE_RESCALE];
  for (int i = 0; i < t->n_model; i++) {
    ingot_delta_model *m = &ingot_delta_models(s)[i];
    double             density = density_of(t, i);
    if (density >= 1) continue;
    m->mask = INGOT_MASK_RANDOM;
    m->keep_below = ingot_philox_threshold(density);
    m->stream = ingot_philox_key(t->seed, t->key, (uint32_t)i);
    if (s->rescale == INGOT_RESCALE_INV_DENSITY) m->scale = (float)(1 / density);
  }
}

ingot_status ingot_dare_begin_sum(const ingot_method_tensor *t, void *state)
{
  dare_begin(t, false, state);
  return INGOT_OK;
}

ingot_status ingot_dare_begin_vote(const ingot_method_tensor *t, void *state)
{
  dare_begin(t, true, state);
  return INGOT_OK;
}

enum { MASKED_MODELS_MAX = 8 }; /* more take the general path, which draws again */

/* Room in a slot for the masks of a tile; set once, before the pass. */
static void reserve_masks(const ingot_method_tensor *t, ingot_delta_state *s, ingot_scan_plan *plan)
{
  int64_t tile = t->n_elem < INGOT_TILE ? t->n_elem : INGOT_TILE;
  int64_t model_bytes = (tile + INGOT_MASK_ROUND - 1) / INGOT_MASK_ROUND * (INGOT_MASK_ROUND / 8);
  int64_t bytes = model_bytes * t->n_model;
  if (t->n_model > MASKED_MODELS_MAX || bytes * ingot_tile_count(t->n_elem) > INGOT_DARE_MASK_BYTES) return;
  s->mask_model_bytes = (uint32_t)model_bytes;
  plan->slot_bytes += (size_t)bytes; /* a multiple of 16: what follows stays aligned */
  plan->keep_slots = true;
}

ingot_status ingot_dare_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                             ingot_scan_plan *plan)
{
  ingot_delta_state *s = state;
  ingot_status       st = ingot_delta_l1_next(t, state, result, plan);
  if (st != INGOT_OK) return st;
  if (!result && plan->pass == INGOT_PASS_L1) reserve_masks(t, s, plan);
  if (result && result->plan->keep_slots) {
    s->masks = (const unsigned char *)result->slots + ingot_delta_l1_slot_bytes(s->n_model);
    s->mask_tile_bytes = (uint32_t)result->plan->slot_bytes;
  }
  return INGOT_OK;
}

/*
 * Blocks that are left to the general path, because of bad values, leave no masks. Merging them takes the general path,
 * too, and what it looked up before it found that out is thrown away.
 */
bool ingot_dare_scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan, int64_t first,
                          int64_t n, const void *const *in, void *slot, int64_t *sums)
{
  (void)t, (void)sums;
  const ingot_delta_state *s = state;
  unsigned char           *bits = NULL;
  if (plan->keep_slots) bits = (unsigned char *)slot + ingot_delta_l1_slot_bytes(s->n_model) + first % INGOT_TILE / 8;
  return ingot_delta_l1_scan_masks(s, first, n, in, slot, bits);
}
