/** ties: keep each task vector's largest elements, elect a sign for every element, average those that agree. */
#include <math.h>

#include "kernels/families/device_ops.h"
#include "kernels/families/select.h"
#include "kernels/families/select_model.h"
#include "kernels/families/select_radix.h"

enum { GLOBAL_NORMALIZE, GLOBAL_LAMBDA, GLOBAL_RESCALE, GLOBAL_SCOPE, GLOBAL_ZERO, GLOBAL_KEEP };
enum { MODEL_WEIGHT, MODEL_DENSITY, N_PER_MODEL };
enum { SCOPE_TENSOR, SCOPE_MODEL };
enum { ZERO_AUTO, ZERO_PLUS, ZERO_MAJORITY };
enum { KEEP_AUTO, KEEP_FLOOR, KEEP_FLOOR_PLUS_ONE };

static const char *const rescale_choices[] = {"none", "l1", NULL}; /* INGOT_RESCALE_ */
static const char *const scope_choices[] = {"tensor", "model", NULL};
static const char *const zero_choices[] = {"auto", "plus", "majority", NULL};
static const char *const keep_choices[] = {"auto", "floor", "floor_plus_one", NULL};

static const ingot_param_spec params[] = {
    {.name = "normalize",
     .type = INGOT_PARAM_BOOL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 1,
     .help = "divide every element by the weights of the models that agree"},
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
     .default_value = INGOT_RESCALE_NONE,
     .choices = rescale_choices,
     .help = "l1: scale what is kept to the L1 norm of the whole task vector"},
    {.name = "scope",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = SCOPE_TENSOR,
     .choices = scope_choices,
     .help = "what the largest elements are taken of: each tensor, or the whole model"},
    {.name = "zero",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = ZERO_AUTO,
     .choices = zero_choices,
     .help = "sign elected by a zero sum; auto: plus for scope tensor, majority for scope model"},
    {.name = "keep",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = KEEP_AUTO,
     .choices = keep_choices,
     .help =
         "rank of the last kept element, from density times n; auto: floor for scope tensor, floor_plus_one for model"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .required = true,
     .min = -INFINITY,
     .max = INFINITY,
     .help = "factor of the model's task vector, in the vote as well"},
    {.name = "density",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = 0,
     .max = 1,
     .min_open = true,
     .help = "part of the task vector's elements that is kept"},
};

static bool of_model(const ingot_method_tensor *t)
{
  return (int)t->global[GLOBAL_SCOPE] == SCOPE_MODEL;
}

static bool by_majority(const ingot_method_tensor *t)
{
  return of_model(t) && (int)t->global[GLOBAL_ZERO] != ZERO_PLUS;
}

static double density_of(const ingot_method_tensor *t, int model)
{
  return t->per_model[model * N_PER_MODEL + MODEL_DENSITY];
}

static int count_trimmed(const ingot_method_tensor *t)
{
  int n = 0;
  for (int i = 0; i < t->n_model; i++) n += density_of(t, i) < 1;
  return n;
}

/* How many of n elements are kept; n or more: all. */
static int64_t count_kept(const ingot_method_tensor *t, int model, int64_t n)
{
  int     rule = (int)t->global[GLOBAL_KEEP];
  double  density = density_of(t, model);
  int64_t k = (int64_t)floor(density * (double)n);
  if (density >= 1) return n;
  if (rule == KEEP_FLOOR_PLUS_ONE || (rule == KEEP_AUTO && of_model(t))) return k + 1;
  return k < 1 ? 1 : k;
}

static ingot_grain grain(const ingot_method_tensor *t)
{
  bool trimmed = count_trimmed(t) > 0;
  if (of_model(t)) return trimmed || by_majority(t) ? INGOT_GRAIN_MODEL : INGOT_GRAIN_ELEMENT;
  return trimmed ? INGOT_GRAIN_TENSOR : INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return 6.0 * t->n_model + 4.0 * count_trimmed(t);
}

static ingot_status check(const ingot_method_tensor *t)
{
  if (!of_model(t) && (int)t->global[GLOBAL_ZERO] == ZERO_MAJORITY)
    return ingot_fail(INGOT_ERR_JOB,
                      "%s: zero = \"majority\" needs scope = \"model\": the majority is that of the whole "
                      "model's signs",
                      t->name);
  return ingot_delta_check_weights(t, N_PER_MODEL, t->global[GLOBAL_NORMALIZE] != 0, 1e-8);
}

static ingot_select_state *selection_of(const ingot_method_tensor *t, void *state)
{
  return (ingot_select_state *)(void *)((unsigned char *)state + ingot_delta_state_bytes(t->n_model));
}

static const ingot_select_state *selection_of_const(const ingot_method_tensor *t, const void *state)
{
  return (const ingot_select_state *)(const void *)((const unsigned char *)state + ingot_delta_state_bytes(t->n_model));
}

/* The family's state, the CPU's selection, and the GPU's: which of the two is used is decided after `begin`. */
static size_t state_bytes(const ingot_method_tensor *t)
{
  return ingot_delta_state_bytes(t->n_model) + ingot_select_state_bytes(t->n_model) +
         ingot_radix_state_bytes(t->n_model);
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_delta_state *s = state;
  ingot_delta_begin(t, N_PER_MODEL, true, t->global[GLOBAL_NORMALIZE] != 0, t->global[GLOBAL_LAMBDA], s);
  s->rescale = (int32_t)t->global[GLOBAL_RESCALE];
  ingot_select_begin(selection_of(t, state), t->n_model, t->n_elem);
  if (of_model(t)) {
    const ingot_select_model_state *whole = t->model_state;
    if (!whole) return INGOT_OK; /* density 1 everywhere and no majority: ELEMENT grain */
    s->zero_sign = whole->zero_sign;
    for (int i = 0; i < t->n_model; i++) {
      const ingot_delta_model *from = &ingot_select_model_models_const(whole)[i];
      ingot_delta_model       *to = &ingot_delta_models(s)[i];
      to->mask = from->mask, to->threshold = from->threshold, to->cut = from->cut;
    }
    return INGOT_OK;
  }
  for (int i = 0; i < t->n_model; i++) {
    int64_t keep = count_kept(t, i, t->n_elem);
    if (keep < t->n_elem) ingot_select_want(selection_of(t, state), i, keep);
  }
  return INGOT_OK;
}

/* First the cuts, then the L1 norms of what they leave. */
static ingot_status tensor_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                                ingot_scan_plan *plan)
{
  if (result && result->plan->pass == INGOT_PASS_L1) return ingot_delta_l1_next(t, state, result, plan);
  ingot_status st = ingot_select_next(selection_of(t, state), ingot_delta_models(state), result, plan);
  if (st != INGOT_OK || plan->pass != INGOT_SCAN_DONE) return st;
  return ingot_delta_l1_next(t, state, NULL, plan);
}

static void tensor_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                        const ingot_chunk *c, void *slot, int64_t *sums)
{
  const ingot_delta_state *s = state;
  if (plan->pass == INGOT_PASS_L1) ingot_delta_l1_scan(s, c, slot);
  else ingot_select_scan(selection_of_const(t, state), ingot_delta_models_const(s), plan, c, slot, sums);
}

static bool tensor_scan_bf16(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                             int64_t first, int64_t n, const void *const *in, void *slot, int64_t *sums)
{
  (void)sums;
  if (plan->pass == INGOT_PASS_L1) return ingot_delta_l1_scan_bf16(state, first, n, in, slot);
  return ingot_select_scan_bf16(selection_of_const(t, state), plan, first, n, in, slot);
}

static uint64_t summary_bytes(const ingot_method_tensor *t)
{
  return ingot_select_bytes(count_trimmed(t), t->n_elem);
}

static size_t model_state_bytes(const ingot_method_tensor *any)
{
  return ingot_select_model_state_bytes(any->n_model);
}

static ingot_status model_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                               ingot_scan_plan *plan)
{
  ingot_select_model_state *s = state;
  int64_t                   n = t->model_offset + t->n_elem;
  if (!result) {
    ingot_select_model_begin(s, t->n_model, by_majority(t));
    for (int i = 0; i < t->n_model; i++) {
      int64_t keep = count_kept(t, i, n);
      ingot_select_model_models(s)[i].weight = (float)t->per_model[i * N_PER_MODEL + MODEL_WEIGHT];
      if (keep < n) ingot_select_model_want(s, i, keep);
    }
  }
  ingot_select_model_next(s, result, plan);
  return INGOT_OK;
}

static void model_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                       const ingot_chunk *c, void *slot, int64_t *sums)
{
  (void)t, (void)slot;
  ingot_select_model_scan(state, plan, c, sums);
}

const ingot_method ingot_method_ties = {
    .name = "ties",
    .summary = "trim task vectors to their largest elements, elect signs, average what agrees",
    .source = "Yadav et al. 2023, arXiv 2306.01708; mergekit",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_TASK_VECTOR,
    .min_models = 1,
    .grain = grain,
    .cost = cost,
    .check = check,
    .state_bytes = state_bytes,
    .begin = begin,
    .model_state_bytes = model_state_bytes,
    .model = {model_next, model_scan, NULL},
    .summary_bytes = summary_bytes,
    .tensor = {tensor_next, tensor_scan, tensor_scan_bf16},
    .apply = ingot_delta_apply,
    .apply_bf16 = ingot_delta_apply_bf16,
    .device = INGOT_DEVICE_OPS(ties),
};
