/* All members of an ensemble in the memory of one back end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "workers/ensemble/combine.h"

static const char *const kind_names[] = {"linear", "log_linear", "max", "vote", "posterior"};

const char *ingot_ensemble_kind_name(ingot_ensemble_kind kind)
{
  return kind_names[kind];
}

int ingot_ensemble_kind_find(const char *name)
{
  for (int i = 0; i < INGOT_ENSEMBLE_KIND_COUNT; i++)
    if (strcmp(kind_names[i], name) == 0) return i;
  return -1;
}

ingot_nn_mix ingot_ensemble_mix_of(ingot_ensemble_kind kind)
{
  return kind == INGOT_ENSEMBLE_LOG_LINEAR ? INGOT_NN_MIX_LOG_LINEAR
         : kind == INGOT_ENSEMBLE_MAX      ? INGOT_NN_MIX_MAX
                                           : INGOT_NN_MIX_LINEAR;
}

float ingot_ensemble_mix_weight(ingot_ensemble_kind kind, double weight)
{
  if (kind == INGOT_ENSEMBLE_LOG_LINEAR) return (float)weight;
  return weight > 0.0 ? (float)log(weight) : -INFINITY;
}

ingot_status ingot_members_open(ingot_members *m, ingot_nn *nn, const ingot_gather_model *models, int n, int64_t n_batch,
                                int64_t n_time)
{
  ingot_status       st = INGOT_OK;
  ingot_pass_options options = {.n_batch = n_batch, .n_time = n_time, .hidden = true};
  *m = (ingot_members){.nn = nn, .n = n};
  m->sources = calloc((size_t)n, sizeof(ingot_source *));
  m->models = calloc((size_t)n, sizeof(ingot_model *));
  m->passes = calloc((size_t)n, sizeof(ingot_pass *));
  INGOT_CHECK(m->sources && m->models && m->passes, INGOT_ERR_NOMEM, "no memory for %d models", n);
  for (int i = 0; i < n; i++) {
    INGOT_TRY(ingot_source_open(models[i].path, &m->sources[i]));
    INGOT_TRY(ingot_model_load(nn, m->sources[i], &m->models[i]));
    INGOT_CHECK(m->models[i]->spec.n_vocab == m->models[0]->spec.n_vocab, INGOT_ERR_MISMATCH,
                "%s has a vocabulary of %lld tokens, and %s one of %lld", models[i].path,
                (long long)m->models[i]->spec.n_vocab, models[0].path, (long long)m->models[0]->spec.n_vocab);
    INGOT_TRY(ingot_pass_open(m->models[i], &options, &m->passes[i]));
    int64_t rows = ingot_pass_head_rows(m->passes[i]);
    m->rows = i == 0 || rows < m->rows ? rows : m->rows;
  }
  m->n_vocab = m->models[0]->spec.n_vocab;
  m->ld = (m->n_vocab + 7) / 8 * 8;
done:
  return st;
}

void ingot_members_close(ingot_members *m)
{
  for (int i = 0; i < m->n; i++) {
    if (m->passes) ingot_pass_close(&m->passes[i]);
    if (m->models) ingot_model_close(&m->models[i]);
    if (m->sources && m->sources[i]) ingot_source_close(&m->sources[i]);
  }
  free(m->sources);
  free(m->models);
  free(m->passes);
  *m = (ingot_members){0};
}

ingot_status ingot_members_run(ingot_members *m, const ingot_batch *batch)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < m->n && st == INGOT_OK; i++) st = ingot_pass_run(m->passes[i], batch, NULL, NULL, NULL);
  return st;
}

ingot_status ingot_members_logits(ingot_members *m, int member, int64_t first_row, int64_t n_row, ingot_nn_logits *z)
{
  return ingot_pass_logits(m->passes[member], first_row, n_row, z);
}
