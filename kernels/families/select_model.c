#include "kernels/families/select_model.h"

enum { LOW_BITS = 15, N_HIGH = 1 << 16, N_LOW = 1 << LOW_BITS };

typedef struct rank_search {
  int64_t keep;  /* 0: none */
  int64_t above; /* keys whose upper bits are larger than `high` */
  int64_t high;  /* upper bits of the threshold */
} rank_search;

static rank_search *searches(ingot_select_model_state *s)
{
  return (rank_search *)(ingot_select_model_models(s) + s->n_model);
}

static const rank_search *searches_const(const ingot_select_model_state *s)
{
  return (const rank_search *)(ingot_select_model_models_const(s) + s->n_model);
}

size_t ingot_select_model_state_bytes(int n_model)
{
  size_t bytes = sizeof(ingot_select_model_state) + (size_t)n_model * (sizeof(ingot_delta_model) + sizeof(rank_search));
  return (bytes + 15) / 16 * 16;
}

void ingot_select_model_begin(ingot_select_model_state *s, int n_model, bool majority)
{
  s->n_model = n_model;
  s->majority = majority;
  s->zero_sign = 1;
  for (int i = 0; i < n_model; i++)
    ingot_select_model_models(s)[i] = (ingot_delta_model){.weight = 1.0f, .scale = 1.0f, .mask = INGOT_MASK_ALL};
}

void ingot_select_model_want(ingot_select_model_state *s, int model, int64_t keep)
{
  searches(s)[model].keep = keep;
  s->n_select++;
}

/* From the top bucket down to the one that holds the wanted rank. */
static int64_t find_bucket(const int64_t *count, int64_t n, int64_t keep, int64_t *above)
{
  int64_t bucket = n - 1;
  while (bucket > 0 && *above + count[bucket] < keep) *above += count[bucket--];
  return bucket;
}

static void finish_pass(ingot_select_model_state *s, const ingot_scan_result *r)
{
  const int64_t *sums = r->sums;
  if (r->plan->pass == INGOT_SELECT_MODEL_SIGNS) {
    s->zero_sign = sums[0] > 0 ? 1 : -1;
    return;
  }
  for (int i = 0; i < s->n_model; i++) {
    rank_search *search = &searches(s)[i];
    if (search->keep == 0) continue;
    if (r->plan->pass == INGOT_SELECT_MODEL_HIGH) {
      search->high = find_bucket(sums, N_HIGH, search->keep, &search->above);
      sums += N_HIGH;
    } else {
      int64_t            above = search->above, low = find_bucket(sums, N_LOW, search->keep, &above);
      ingot_delta_model *m = &ingot_select_model_models(s)[i];
      m->mask = INGOT_MASK_CUT;
      m->threshold = (uint32_t)(search->high << LOW_BITS | low);
      m->cut = INT64_MAX;
      sums += N_LOW;
    }
  }
}

void ingot_select_model_next(ingot_select_model_state *s, const ingot_scan_result *result, ingot_scan_plan *plan)
{
  int pass = result ? result->plan->pass : 0;
  if (result) finish_pass(s, result);
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  if (pass < INGOT_SELECT_MODEL_HIGH && s->n_select)
    *plan = (ingot_scan_plan){.pass = INGOT_SELECT_MODEL_HIGH, .n_sum = (int64_t)s->n_select * N_HIGH};
  else if (pass == INGOT_SELECT_MODEL_HIGH)
    *plan = (ingot_scan_plan){.pass = INGOT_SELECT_MODEL_LOW, .n_sum = (int64_t)s->n_select * N_LOW};
  else if (pass < INGOT_SELECT_MODEL_SIGNS && s->majority)
    *plan = (ingot_scan_plan){.pass = INGOT_SELECT_MODEL_SIGNS, .n_sum = 1};
}

static int64_t sum_of_signs(const ingot_select_model_state *s, const ingot_chunk *c)
{
  float   y[INGOT_BLOCK], total[INGOT_BLOCK] = {0};
  int64_t sum = 0;
  for (int i = 0; i < s->n_model; i++) {
    ingot_delta_values(&ingot_select_model_models_const(s)[i], c, c->in[1 + i], 0, c->n, y);
    for (int64_t j = 0; j < c->n; j++) total[j] = total[j] + y[j];
  }
  for (int64_t j = 0; j < c->n; j++) sum += (total[j] > 0.0f) - (total[j] < 0.0f);
  return sum;
}

void ingot_select_model_scan(const ingot_select_model_state *s, const ingot_scan_plan *plan, const ingot_chunk *c,
                             int64_t *sums)
{
  if (plan->pass == INGOT_SELECT_MODEL_SIGNS) {
    sums[0] += sum_of_signs(s, c);
    return;
  }
  for (int i = 0; i < s->n_model; i++) {
    const rank_search *search = &searches_const(s)[i];
    const float       *x = c->in[1 + i], *base = c->in[0];
    if (search->keep == 0) continue;
    if (plan->pass == INGOT_SELECT_MODEL_HIGH) {
      for (int64_t j = 0; j < c->n; j++) sums[ingot_delta_key(x[j] - base[j]) >> LOW_BITS]++;
      sums += N_HIGH;
    } else {
      for (int64_t j = 0; j < c->n; j++) {
        uint32_t key = ingot_delta_key(x[j] - base[j]);
        if (key >> LOW_BITS == (uint32_t)search->high) sums[key & (N_LOW - 1)]++;
      }
      sums += N_LOW;
    }
  }
}
