#include "kernels/families/fisher.h"

#include "kernels/clones.h"

size_t ingot_fisher_state_bytes(int n_model)
{
  return sizeof(ingot_fisher_state) + (size_t)n_model * sizeof(ingot_fisher_model);
}

void ingot_fisher_begin(const ingot_method_tensor *t, int step, double floor, int rule, ingot_fisher_state *s)
{
  *s = (ingot_fisher_state){.n_model = t->n_model,
                            .add = rule == INGOT_FISHER_ADD,
                            .first = t->has_base ? 1 : 0,
                            .has_fisher = t->n_statistic > 0};
  for (int i = 0; i < t->n_model; i++) {
    double weight = t->per_model[i * step];
    ingot_fisher_models(s)[i] = (ingot_fisher_model){.plain = weight,
                                                     .scale = weight,
                                                     .floor = rule == INGOT_FISHER_MAX_FIRST && i > 0 ? 0 : floor};
    s->plain_total += weight;
  }
}

ingot_status ingot_fisher_check(const ingot_method_tensor *t, int step)
{
  for (int i = 0; i < t->n_model; i++)
    if (t->per_model[i * step] > 0) return INGOT_OK;
  return ingot_fail(INGOT_ERR_JOB, "%s: the weights of its %d models are all 0", t->name, t->n_model);
}

enum { PIECE = 256 };

static INGOT_CLONES void add_plain(double weight, const float *x, int64_t n, double *restrict sum)
{
  for (int64_t i = 0; i < n; i++) sum[i] = sum[i] + weight * (double)x[i];
}

static INGOT_CLONES void add_weighted(const ingot_fisher_model *m, int add, const float *x, const float *fisher,
                                      int64_t n, double *restrict total, double *restrict sum)
{
  double scale = m->scale, floor = m->floor;
  for (int64_t i = 0; i < n; i++) {
    double f = (double)fisher[i];
    double raised = add ? f + floor : (f < floor ? floor : f); /* NaN stays */
    double w = scale * raised;
    total[i] = total[i] + w;
    sum[i] = sum[i] + w * (double)x[i];
  }
}

static void plain_mean(const ingot_fisher_state *s, const ingot_chunk *c, int64_t at, int64_t n, double *sum)
{
  const ingot_fisher_model *models = ingot_fisher_models_const(s);
  for (int64_t i = 0; i < n; i++) sum[i] = 0;
  for (int k = 0; k < s->n_model; k++) add_plain(models[k].plain, c->in[s->first + k] + at, n, sum);
  for (int64_t i = 0; i < n; i++) sum[i] = sum[i] / s->plain_total;
}

void ingot_fisher_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *c, float *out)
{
  (void)t;
  const ingot_fisher_state *s = state;
  const ingot_fisher_model *models = ingot_fisher_models_const(s);
  double                    total[PIECE], sum[PIECE], plain[PIECE];
  for (int64_t at = 0; at < c->n; at += PIECE) {
    int64_t n = c->n - at < PIECE ? c->n - at : PIECE;
    bool    vanishes = false;
    if (!s->has_fisher) {
      plain_mean(s, c, at, n, plain);
      for (int64_t i = 0; i < n; i++) out[at + i] = (float)plain[i];
      continue;
    }
    for (int64_t i = 0; i < n; i++) total[i] = sum[i] = 0;
    for (int k = 0; k < s->n_model; k++)
      add_weighted(&models[k], s->add, c->in[s->first + k] + at, c->in[s->first + s->n_model + k] + at, n, total, sum);
    for (int64_t i = 0; i < n; i++) {
      out[at + i] = (float)(sum[i] / total[i]);
      vanishes |= total[i] == 0;
    }
    if (!vanishes) continue;
    plain_mean(s, c, at, n, plain);
    for (int64_t i = 0; i < n; i++)
      if (total[i] == 0) out[at + i] = (float)plain[i];
  }
}
