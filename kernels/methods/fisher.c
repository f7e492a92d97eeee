/** fisher: the average of models, each element weighted by the model's diagonal Fisher information there. */
#include "kernels/families/fisher.h"

#include <math.h>

#include "kernels/block_sum.h"
#include "kernels/families/device_ops.h"

enum { GLOBAL_FLOOR, GLOBAL_FLOOR_RULE, GLOBAL_NORMALIZE };
enum { NORMALIZE_NONE, NORMALIZE_L2, NORMALIZE_MERGELM };
enum { PASS_NORMS };

static const char *const rules[] = {"max_all", "max_first", "add", NULL};
static const char *const normalizations[] = {"none", "l2", "mergelm", NULL};

static const ingot_param_spec params[] = {
    {.name = "floor",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = 0,
     .min = 0,
     .max = INFINITY,
     .help = "least Fisher information of an element, as floor_rule says"},
    {.name = "floor_rule",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = INGOT_FISHER_MAX_ALL,
     .choices = rules,
     .help = "raise every model's to the floor, the first model's alone, or add the floor to all"},
    {.name = "normalize",
     .type = INGOT_PARAM_CHOICE,
     .scope = INGOT_PARAM_GLOBAL,
     .default_value = NORMALIZE_NONE,
     .choices = normalizations,
     .help =
         "weights as given, divided by the norm of the model's whole Fisher information, or that as MergeLM has it"},
    {.name = "weight",
     .type = INGOT_PARAM_REAL,
     .scope = INGOT_PARAM_PER_MODEL,
     .default_value = 1,
     .min = 0,
     .max = INFINITY,
     .help = "factor of the model's Fisher information"},
};

static ingot_grain grain(const ingot_method_tensor *t)
{
  return t->n_statistic > 0 && t->global[GLOBAL_NORMALIZE] != NORMALIZE_NONE ? INGOT_GRAIN_MODEL : INGOT_GRAIN_ELEMENT;
}

static double cost(const ingot_method_tensor *t)
{
  return 3.0 * t->n_model + 1;
}

static ingot_status check(const ingot_method_tensor *t)
{
  return ingot_fisher_check(t, 1);
}

static unsigned wants(const ingot_method_tensor *t)
{
  (void)t;
  return INGOT_NEED_FISHER;
}

static size_t state_bytes(const ingot_method_tensor *t)
{
  return ingot_fisher_state_bytes(t->n_model);
}

/* The whole model's squared norms, then what the weights become. */
static size_t model_state_bytes(const ingot_method_tensor *any)
{
  return (size_t)any->n_model * sizeof(double);
}

static ingot_status model_next(const ingot_method_tensor *t, void *state, const ingot_scan_result *result,
                               ingot_scan_plan *plan)
{
  double *norm = state;
  int     n = t->n_model;
  *plan = (ingot_scan_plan){.pass = PASS_NORMS, .slot_bytes = (size_t)n * sizeof(double)};
  if (!result) return INGOT_OK;
  plan->pass = INGOT_SCAN_DONE;
  const double *slots = result->slots;
  for (int k = 0; k < n; k++) {
    norm[k] = 0;
    for (int64_t i = 0; i < result->n_slot; i++) norm[k] += slots[i * n + k];
    norm[k] = sqrt(norm[k]);
  }
  return INGOT_OK;
}

static void model_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                       const ingot_chunk *c, void *slot, int64_t *sums)
{
  (void)state, (void)plan, (void)sums;
  double *sum = slot;
  if (t->n_statistic == 0) return;
  for (int k = 0; k < t->n_model; k++) {
    const float *f = c->in[t->n_model + k];
    sum[k] += ingot_block_dot(f, f, c->n);
  }
}

static ingot_status begin(const ingot_method_tensor *t, void *state)
{
  ingot_fisher_state *s = state;
  const double       *norm = t->model_state;
  ingot_fisher_begin(t, 1, t->global[GLOBAL_FLOOR], (int)t->global[GLOBAL_FLOOR_RULE], s);
  if (grain(t) != INGOT_GRAIN_MODEL || !norm) return INGOT_OK;
  double total = 0;
  for (int k = 0; k < t->n_model; k++) total += 1 / (norm[k] + 1e-6);
  for (int k = 0; k < t->n_model; k++) {
    double *scale = &ingot_fisher_models(s)[k].scale;
    if (t->global[GLOBAL_NORMALIZE] == NORMALIZE_MERGELM) *scale *= 1 / (norm[k] + 1e-6) / total;
    else *scale = norm[k] > 0 ? *scale / norm[k] : 0; /* all of it is 0: no say */
  }
  return INGOT_OK;
}

const ingot_method ingot_method_fisher = {
    .name = "fisher",
    .summary = "average of the models, weighted by their diagonal Fisher information",
    .source = "Matena and Raffel 2021, arXiv 2111.09832; MergeLM",
    .params = params,
    .n_param = sizeof params / sizeof *params,
    .base = INGOT_BASE_UNUSED,
    .min_models = 1,
    .needs = INGOT_NEED_FISHER,
    .wants = wants,
    .grain = grain,
    .cost = cost,
    .check = check,
    .state_bytes = state_bytes,
    .begin = begin,
    .model_state_bytes = model_state_bytes,
    .model = {.next = model_next, .scan = model_scan},
    .apply = ingot_fisher_apply,
    .device = INGOT_DEVICE_OPS(fisher),
};
