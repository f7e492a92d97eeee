#include "workers/generate/lane.h"

#include <stdlib.h>
#include <string.h>

#include "workers/ensemble/combine.h"
#include "workers/generate/similarity.h"

int64_t ingot_lane_rows(const ingot_generate_plan *plan)
{
  return plan->batch * (plan->search == INGOT_SEARCH_BEAM ? plan->beams : 1);
}

/* ---- open and close ---- */

static ingot_status open_host(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  size_t       batch = (size_t)l->plan->batch, rows = (size_t)l->n_row, length = (size_t)l->plan->length, prompt = (size_t)l->plan->prompt;
  l->z = malloc(rows * (size_t)l->ld * sizeof *l->z);
  l->room = malloc(2 * (size_t)l->n_vocab * sizeof *l->room);
  l->prompt = calloc(batch * prompt, sizeof *l->prompt);
  l->n_prompt = calloc(batch, sizeof *l->n_prompt);
  l->gold = calloc(batch * length, sizeof *l->gold);
  l->n_gold = calloc(batch, sizeof *l->n_gold);
  l->from = calloc(rows, sizeof *l->from);
  l->token = calloc(rows, sizeof *l->token);
  l->of_row = calloc(rows, sizeof *l->of_row);
  l->next_of = calloc(rows, sizeof *l->next_of);
  l->written = calloc(batch * (prompt + length), sizeof *l->written);
  l->sequences = calloc(batch, sizeof *l->sequences);
  l->beams = calloc(batch, sizeof *l->beams);
  INGOT_CHECK(l->z && l->room && l->prompt && l->n_prompt && l->gold && l->n_gold && l->from && l->token && l->of_row && l->next_of &&
                  l->written && l->sequences && l->beams,
              INGOT_ERR_NOMEM, "no memory for %zu sequences at a time", batch);
  for (size_t i = 0; i < batch; i++) l->sequences[i].tokens = l->written + i * (prompt + length);
  ingot_beam_spec spec = {.width = l->plan->beams, .max_length = l->plan->length, .end = l->plan->end, .penalty = l->plan->penalty};
  for (size_t i = 0; i < batch && l->plan->search == INGOT_SEARCH_BEAM; i++) INGOT_TRY(ingot_beam_init(&l->beams[i], &spec));
done:
  return st;
}

ingot_status ingot_lane_open(ingot_lane *l, ingot_model *const *models, bool on_device)
{
  ingot_status          st = INGOT_OK;
  int                   n = l->plan->ensemble.gather.n_model;
  ingot_nn_options      options = {.kind = INGOT_NN_CPU, .n_thread = 1, .dtype = INGOT_DTYPE_F32};
  ingot_decoder_options decoder = {.n_row = ingot_lane_rows(l->plan), .n_prompt = l->plan->prompt,
                                   .n_time = l->plan->prompt + l->plan->length};
  if (on_device) l->nn = models[0]->nn;
  else INGOT_TRY(ingot_nn_open(&options, &l->nn));
  l->owns_nn = !on_device;
  l->n_row = decoder.n_row;
  l->n_vocab = models[0]->spec.n_vocab;
  l->ld = (l->n_vocab + 7) / 8 * 8;
  l->models = calloc((size_t)n, sizeof *l->models);
  l->decoders = calloc((size_t)n, sizeof(ingot_decoder *));
  INGOT_CHECK(l->models && l->decoders, INGOT_ERR_NOMEM, "no memory for %d decoders", n);
  for (int m = 0; m < n; m++) {
    l->models[m] = *models[m];
    l->models[m].nn = l->nn;
    INGOT_TRY(ingot_decoder_open(&l->models[m], &decoder, &l->decoders[m]));
  }
  INGOT_TRY(l->nn->ops->alloc(l->nn, (size_t)(l->n_row * l->ld) * sizeof(float), (void **)&l->mixed));
  INGOT_TRY(l->nn->ops->alloc(l->nn, (size_t)(l->n_row * n) * sizeof(float), (void **)&l->weight));
  INGOT_TRY(open_host(l));
done:
  return st;
}

void ingot_lane_close(ingot_lane *l)
{
  for (int m = 0; l->decoders && m < l->plan->ensemble.gather.n_model; m++) ingot_decoder_close(&l->decoders[m]);
  if (l->nn) {
    l->nn->ops->free(l->nn, l->mixed);
    l->nn->ops->free(l->nn, l->weight);
  }
  if (l->owns_nn) ingot_nn_close(&l->nn);
  for (int64_t i = 0; l->beams && i < l->plan->batch; i++) ingot_beam_release(&l->beams[i]);
  void *memory[] = {l->models, l->decoders, l->z, l->room, l->prompt, l->n_prompt, l->gold, l->n_gold, l->from, l->token, l->of_row,
                    l->next_of, l->written, l->sequences, l->beams};
  for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) free(memory[i]);
  *l = (ingot_lane){0};
}

/* ---- logits ---- */

static ingot_status put_weights(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  int          n = l->plan->ensemble.gather.n_model;
  float       *rows = l->z; /* free between steps, and large enough: ld >= 1 */
  for (int m = 0; m < n; m++) {
    for (int64_t r = 0; r < l->n_row; r++) rows[r] = ingot_ensemble_mix_weight(l->plan->ensemble.kind, l->weights[m]);
    INGOT_TRY(l->nn->ops->copy_in(l->nn, l->weight + m * l->n_row, rows, (size_t)l->n_row * sizeof *rows));
  }
done:
  return st;
}

/* Logits of one member: of the prompts, or of rows that go on. */
static ingot_status member_logits(ingot_lane *l, int m, int64_t n_row, bool start, ingot_nn_logits *z)
{
  if (start) return ingot_decoder_start(l->decoders[m], n_row, l->prompt, l->plan->prompt, l->n_prompt, z);
  return ingot_decoder_next(l->decoders[m], n_row, l->from, l->token, z);
}

/* The mixture's rows to the host. One member alone needs no mixing: its weight changes nothing, or it is a power. */
static ingot_status logits(ingot_lane *l, int64_t n_row, bool start)
{
  ingot_status                st = INGOT_OK;
  const ingot_ensemble_plan  *e = &l->plan->ensemble;
  int                         n_used = 0, last = 0;
  bool                        first = true;
  ingot_nn_logits             z;
  const float                *rows = l->mixed;
  for (int m = 0; m < e->gather.n_model; m++) {
    if (l->weights[m] == 0.0) continue;
    n_used++;
    last = m;
  }
  bool plain = n_used == 1 && (e->kind != INGOT_ENSEMBLE_LOG_LINEAR || (l->weights[last] == 1.0 && e->plausibility <= 0.0));
  for (int m = 0; m < e->gather.n_model; m++) {
    if (l->weights[m] == 0.0) continue;
    INGOT_TRY(member_logits(l, m, n_row, start, &z));
    if (plain) rows = z.data;
    else INGOT_TRY(ingot_ensemble_mix(l->nn, e, m, &z, l->weight + m * l->n_row, first, l->mixed));
    first = false;
  }
  INGOT_TRY(l->nn->ops->copy_out(l->nn, l->z, rows, (size_t)(n_row * l->ld) * sizeof *l->z));
  l->n_step += n_row;
done:
  return st;
}

static ingot_status not_finite(const ingot_lane *l, int64_t i)
{
  return ingot_fail(INGOT_ERR_NUMERIC, "sequence %lld of %lld, token %d: the logits are not finite", (long long)(l->first + i + 1),
                    (long long)l->records->n_sequence, l->sequences[i].n_token + 1);
}

/* ---- one token after the other ---- */

static int32_t choose(const ingot_lane *l, int64_t row)
{
  const float          *z = l->z + row * l->ld;
  int64_t               i = l->of_row[row];
  const ingot_sequence *s = &l->sequences[i];
  if (l->plan->search == INGOT_SEARCH_GREEDY) return ingot_choose_largest(l->n_vocab, z);
  double u = ingot_choose_uniform(l->plan->seed, l->first + i, s->n_token - s->n_prompt);
  return ingot_choose_sample(&l->plan->choice, l->n_vocab, z, u, l->room);
}

static ingot_status run_steps(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  int64_t      n_row = l->n;
  bool         start = true;
  for (int64_t r = 0; r < n_row; r++) l->of_row[r] = (int32_t)r;
  for (; n_row > 0 && !atomic_load(l->cancelled); start = false) {
    int64_t n_next = 0;
    INGOT_TRY(logits(l, n_row, start));
    for (int64_t r = 0; r < n_row; r++) {
      ingot_sequence *s = &l->sequences[l->of_row[r]];
      int32_t         id = choose(l, r);
      if (id < 0) return not_finite(l, l->of_row[r]);
      s->tokens[s->n_token++] = id;
      s->ended = id == l->plan->end;
      if (s->ended || s->n_token - s->n_prompt == l->plan->length) continue;
      l->from[n_next] = (int32_t)r;
      l->token[n_next] = id;
      l->of_row[n_next++] = l->of_row[r]; /* n_next <= r */
    }
    n_row = n_next;
  }
done:
  return st;
}

/* ---- beams ---- */

/* The finished hypothesis that is taken. */
static const ingot_hypothesis *take(const ingot_lane *l, int64_t i)
{
  const ingot_beam *b = &l->beams[i];
  int               best = 0;
  double            most = -1.0;
  for (int h = 0; h < b->n_done && l->plan->select != INGOT_SELECT_BEST; h++) {
    int64_t        n = b->done[h].length - (b->done[h].ended ? 1 : 0);
    const int32_t *gold = l->gold + i * l->plan->length;
    double near = l->plan->select == INGOT_SELECT_BLEU ? ingot_similarity_bleu(b->done[h].tokens, n, gold, l->n_gold[i])
                                                       : ingot_similarity_f1(b->done[h].tokens, n, gold, l->n_gold[i]);
    if (near > most) {
      most = near;
      best = h;
    }
  }
  return &b->done[best];
}

static ingot_status step_beam(ingot_lane *l, int64_t i, int64_t row, int64_t *n_next)
{
  ingot_beam  *b = &l->beams[i];
  int64_t      at = *n_next;
  ingot_status st = ingot_beam_step(b, l->n_vocab, l->z + row * l->ld, l->ld, l->room, l->from + at, l->token + at);
  if (st == INGOT_ERR_NUMERIC) return not_finite(l, i);
  for (int k = 0; st == INGOT_OK && !b->over && k < b->n_run; k++) {
    l->from[*n_next] += (int32_t)row;
    l->next_of[(*n_next)++] = (int32_t)i;
  }
  return st;
}

static ingot_status run_beams(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  int64_t      n_row = l->n;
  bool         start = true;
  for (int64_t r = 0; r < n_row; r++) {
    l->of_row[r] = (int32_t)r;
    ingot_beam_start(&l->beams[r]);
  }
  for (; n_row > 0 && !atomic_load(l->cancelled); start = false) {
    int64_t n_next = 0;
    INGOT_TRY(logits(l, n_row, start));
    for (int64_t r = 0; r < n_row;) {
      int64_t i = l->of_row[r], row = r;
      while (r < n_row && l->of_row[r] == i) r++;
      INGOT_TRY(step_beam(l, i, row, &n_next));
    }
    memcpy(l->of_row, l->next_of, (size_t)n_next * sizeof *l->of_row);
    n_row = n_next;
  }
  for (int64_t i = 0; n_row == 0 && i < l->n; i++) {
    const ingot_hypothesis *h = take(l, i);
    ingot_sequence         *s = &l->sequences[i];
    memcpy(s->tokens + s->n_token, h->tokens, (size_t)h->length * sizeof *h->tokens);
    s->n_token += (int32_t)h->length;
    s->ended = h->ended;
  }
done:
  return st;
}

ingot_status ingot_lane_run(ingot_lane *l, int64_t chunk, bool *whole)
{
  ingot_status         st = INGOT_OK;
  const ingot_records *r = l->records;
  int                  n = l->plan->ensemble.gather.n_model;
  l->first = r->chunk_first[chunk];
  l->n = r->chunk_first[chunk + 1] - l->first;
  l->weights = l->plan->ensemble.weights + (l->plan->ensemble.n_row > 1 ? r->chunk_data[chunk] : 0) * n;
  for (int64_t i = 0; i < l->n; i++) {
    ingot_sequence *s = &l->sequences[i];
    int32_t        *prompt = l->prompt + i * l->plan->prompt;
    INGOT_TRY(ingot_prompts_read(l->plan, l->prompts, l->tokens_of, (l->first + i) / l->plan->samples, l->n_vocab, prompt,
                                 &l->n_prompt[i], l->gold + i * l->plan->length, &l->n_gold[i]));
    s->n_prompt = s->n_token = l->n_prompt[i];
    s->ended = 0;
    memcpy(s->tokens, prompt, (size_t)s->n_prompt * sizeof *prompt);
  }
  INGOT_TRY(put_weights(l));
  INGOT_TRY(l->plan->search == INGOT_SEARCH_BEAM ? run_beams(l) : run_steps(l));
done:
  *whole = st == INGOT_OK && !atomic_load(l->cancelled);
  return st;
}
