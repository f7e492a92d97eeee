#include "kernels/families/gram.h"

#include "kernels/families/sum.h"

static int n_weight_input(const ingot_method_tensor *t)
{
  return t->n_model + (t->has_base ? 1 : 0);
}

size_t ingot_gram_mean_state_bytes(const ingot_method_tensor *t)
{
  return ingot_sum_state_bytes(n_weight_input(t));
}

void ingot_gram_mean_begin(const ingot_method_tensor *t, int step, void *state)
{
  ingot_sum_state *s = state;
  double           total = 0;
  int              base = t->has_base ? 1 : 0;
  *s = (ingot_sum_state){.n_input = n_weight_input(t), .divide = 1};
  if (base) ingot_sum_coef(s)[0] = 0;
  for (int i = 0; i < t->n_model; i++) {
    double weight = t->n_model == 1 ? 1 : t->per_model[i * step]; /* one model alone is itself */
    ingot_sum_coef(s)[base + i] = (float)weight;
    total += weight;
  }
  s->divisor = (float)total;
}

double ingot_gram_weight(const ingot_gram_job *j, int model)
{
  return j->t->per_model[model * j->step];
}

ingot_status ingot_gram_load(const ingot_gram_job *j, int k, ingot_linalg_array *to)
{
  return j->feed->gram(j->feed->context, k, j->alpha, j->l, to);
}

ingot_status ingot_gram_load_weight(const ingot_gram_job *j, int input, ingot_linalg_array *w)
{
  return j->feed->weight(j->feed->context, input, j->l, w);
}

ingot_status ingot_gram_give(const ingot_gram_job *j, const ingot_linalg_array *x)
{
  ingot_linalg_form form = j->t->transposed ? INGOT_LINALG_COLUMNS : INGOT_LINALG_ROWS;
  return j->l->ops->give(j->l, j->m, j->n, x, form, j->feed->result, j->feed->context);
}

ingot_status ingot_gram_sums(const ingot_gram_job *j, ingot_linalg_array *g, ingot_linalg_array *w,
                             ingot_linalg_array *s, ingot_linalg_array *r)
{
  ingot_status st = INGOT_OK;
  int          base = j->t->has_base ? 1 : 0;
  for (int i = 0; i < j->t->n_model; i++) {
    double weight = ingot_gram_weight(j, i);
    if (weight == 0) continue;
    INGOT_TRY(ingot_gram_load(j, i, g));
    INGOT_TRY(j->l->ops->axpby(j->l, j->n * j->n, weight, g, 1, s));
    INGOT_TRY(ingot_gram_load_weight(j, base + i, w));
    INGOT_TRY(j->l->ops->multiply(j->l, j->m, j->n, j->n, weight, w, g, 1, r));
  }
done:
  return st;
}

ingot_status ingot_gram_mean(const ingot_gram_job *j, ingot_linalg_array *w, ingot_linalg_array *mean)
{
  ingot_status st = INGOT_OK;
  double       total = 0;
  int          base = j->t->has_base ? 1 : 0;
  for (int i = 0; i < j->t->n_model; i++) total += ingot_gram_weight(j, i);
  for (int i = 0; i < j->t->n_model; i++) {
    INGOT_TRY(ingot_gram_load_weight(j, base + i, w));
    INGOT_TRY(j->l->ops->axpby(j->l, j->m * j->n, ingot_gram_weight(j, i) / total, w, i > 0 ? 1 : 0, mean));
  }
done:
  return st;
}
