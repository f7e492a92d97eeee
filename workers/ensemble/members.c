/* Members of an ensemble: those of this rank in the memory of its back end. */
#include "workers/ensemble/members.h"

#include <stdlib.h>
#include <string.h>

static ingot_pass_options pass_options(const ingot_members_options *o)
{
  return (ingot_pass_options){.n_batch = o->n_batch, .n_time = o->n_time, .hidden = true, .head_rows = o->head_rows};
}

void ingot_placement_spread(const uint64_t *bytes, int n, int n_rank, int *home)
{
  for (int i = 0; i < n; i++) home[i] = -1;
  for (int placed = 0; placed < n; placed++) {
    int      largest = -1, best = 0;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < n; i++)
      if (home[i] < 0 && (largest < 0 || bytes[i] > bytes[largest])) largest = i;
    for (int r = 0; r < n_rank; r++) {
      uint64_t held = 0;
      for (int i = 0; i < n; i++) held += home[i] == r ? bytes[i] : 0;
      if (held < least) least = held, best = r;
    }
    home[largest] = best;
  }
}

ingot_status ingot_spread_homes(const ingot_model_spec *specs, int n, ingot_dtype dtype, const ingot_pass_options *pass,
                                int n_rank, int *home)
{
  ingot_status st = INGOT_OK;
  uint64_t    *bytes = calloc((size_t)n + 1, sizeof *bytes);
  INGOT_CHECK(bytes, INGOT_ERR_NOMEM, "no memory for %d models", n);
  for (int i = 0; i < n; i++) bytes[i] = ingot_model_bytes(&specs[i], dtype) + ingot_pass_bytes(&specs[i], dtype, pass);
  ingot_placement_spread(bytes, n, n_rank, home);
done:
  free(bytes);
  return st;
}

uint64_t ingot_members_bytes(const ingot_model_spec *specs, int n, ingot_dtype dtype,
                             const ingot_members_options *options, int n_rank)
{
  ingot_pass_options pass = pass_options(options);
  int64_t            n_token = options->n_batch * options->n_time, ld = n > 0 ? (specs[0].n_vocab + 7) / 8 * 8 : 0;
  int               *home = n_rank > 1 ? calloc((size_t)n + 1, sizeof *home) : NULL;
  uint64_t           most = 0;
  if (home && ingot_spread_homes(specs, n, dtype, &pass, n_rank, home) != INGOT_OK) {
    ingot_error_clear();
    free(home);
    home = NULL;
  }
  for (int r = 0; r < (home ? n_rank : 1); r++) { /* no memory to spread them: as much as all take on one rank */
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
      bool here = !home || home[i] == r;
      if (!here) bytes += (uint64_t)(ingot_pass_choose_rows(&specs[i], dtype, &pass) * ld) * sizeof(float);
      else bytes += ingot_model_bytes(&specs[i], dtype) + ingot_pass_bytes(&specs[i], dtype, &pass);
      if (here && n_rank > 1)
        bytes += (uint64_t)n_rank * (uint64_t)(n_token * specs[i].hidden) * ingot_dtype_size(dtype);
    }
    most = bytes > most ? bytes : most;
  }
  free(home);
  return most;
}

/* What every rank must know of every member. */
static ingot_status read_specs(ingot_members *m, const ingot_gather_model *models, const ingot_pass_options *pass)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < m->n; i++) {
    INGOT_TRY(ingot_source_open(models[i].path, &m->sources[i]));
    INGOT_TRY(ingot_model_spec_read(m->sources[i], &m->specs[i]));
    INGOT_CHECK(m->specs[i].n_vocab == m->specs[0].n_vocab, INGOT_ERR_MISMATCH,
                "%s has a vocabulary of %lld tokens, and %s one of %lld", models[i].path,
                (long long)m->specs[i].n_vocab, models[0].path, (long long)m->specs[0].n_vocab);
    m->rows = ingot_pass_choose_rows(&m->specs[i], m->nn->dtype, pass);
  }
  m->n_vocab = m->specs[0].n_vocab;
  m->ld = (m->n_vocab + 7) / 8 * 8;
done:
  return st;
}

ingot_status ingot_members_open(ingot_members *m, ingot_nn *nn, const ingot_gather_model *models, int n,
                                const ingot_members_options *options)
{
  ingot_status       st = INGOT_OK;
  ingot_pass_options pass = pass_options(options);
  *m = (ingot_members){.nn = nn, .n = n};
  m->specs = calloc((size_t)n + 1, sizeof *m->specs);
  m->sources = calloc((size_t)n + 1, sizeof(ingot_source *));
  m->models = calloc((size_t)n + 1, sizeof(ingot_model *));
  m->passes = calloc((size_t)n + 1, sizeof(ingot_pass *));
  m->parts = calloc((size_t)n + 1, sizeof *m->parts);
  INGOT_CHECK(m->specs && m->sources && m->models && m->passes && m->parts, INGOT_ERR_NOMEM, "no memory for %d models",
              n);
  if (n == 0) goto done;
  INGOT_TRY(read_specs(m, models, &pass));
  if (options->spread && ingot_comm_size(options->spread) > 1) INGOT_TRY(ingot_spread_open(m, options));
  for (int i = 0; i < n; i++) {
    if (!ingot_spread_is_here(m, i)) {
      ingot_source_close(&m->sources[i]);
      continue;
    }
    INGOT_TRY(ingot_model_load(nn, m->sources[i], &m->models[i]));
    INGOT_TRY(ingot_pass_open(m->models[i], &pass, &m->passes[i]));
  }
  if (m->spread) INGOT_TRY(ingot_spread_open_buffers(m));
done:
  return st;
}

void ingot_members_close(ingot_members *m)
{
  ingot_spread_close(m);
  for (int i = 0; i < m->n; i++) {
    if (m->passes) ingot_pass_close(&m->passes[i]);
    if (m->models) ingot_model_close(&m->models[i]);
    if (m->sources && m->sources[i]) ingot_source_close(&m->sources[i]);
    if (m->specs) ingot_model_spec_release(&m->specs[i]);
  }
  free(m->specs);
  free(m->sources);
  free(m->models);
  free(m->passes);
  free(m->parts);
  *m = (ingot_members){0};
}

ingot_status ingot_members_join(ingot_members *m, ingot_gather *g)
{
  return m->spread ? ingot_spread_join(m, g) : INGOT_OK;
}

ingot_status ingot_members_run_one(ingot_members *m, int member, const ingot_batch *batch, ingot_members_part part)
{
  int64_t     at = part.first * batch->n_time;
  ingot_batch own = {.n_batch = part.end - part.first, .n_time = batch->n_time, .tokens = batch->tokens + at};
  if (part.end == part.first) return INGOT_OK;
  if (batch->positions) own.positions = batch->positions + at;
  if (batch->first_key) own.first_key = batch->first_key + at;
  if (batch->valid) own.valid = batch->valid + at;
  return ingot_pass_run(m->passes[member], &own, NULL, NULL, NULL);
}

ingot_status ingot_members_run_parts(ingot_members *m, const ingot_batch *batch, const ingot_members_part *parts)
{
  ingot_status st = INGOT_OK;
  m->n_time = batch->n_time;
  for (int i = 0; i < m->n; i++) m->parts[i] = parts ? parts[i] : (ingot_members_part){0, batch->n_batch};
  if (m->spread) return ingot_spread_run(m, batch);
  for (int i = 0; i < m->n && st == INGOT_OK; i++) st = ingot_members_run_one(m, i, batch, m->parts[i]);
  return st;
}

ingot_status ingot_members_run(ingot_members *m, const ingot_batch *batch)
{
  return ingot_members_run_parts(m, batch, NULL);
}

ingot_status ingot_members_rows(ingot_members *m, int64_t first_row, int64_t n_row, const bool *wanted)
{
  INGOT_ASSERT(n_row > 0 && n_row <= m->rows);
  return m->spread ? ingot_spread_rows(m, first_row, n_row, wanted) : INGOT_OK;
}

ingot_status ingot_members_logits(ingot_members *m, int member, int64_t first_row, int64_t n_row, ingot_nn_logits *z)
{
  if (m->spread) return ingot_spread_logits(m, member, n_row, z);
  return ingot_pass_logits(m->passes[member], first_row - m->parts[member].first * m->n_time, n_row, z);
}

ingot_status ingot_members_end(ingot_members *m, ingot_status mine)
{
  return m->spread ? ingot_spread_end(m, mine) : mine;
}
