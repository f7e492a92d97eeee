#include "workers/generate/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "workers/crew.h"
#include "workers/ensemble/combine.h"
#include "workers/generate/similarity.h"

int64_t ingot_lane_rows(const ingot_generate_plan *plan)
{
  return plan->batch * (plan->search == INGOT_SEARCH_BEAM ? plan->beams : 1);
}

enum { BEST_MAX = 256 }; /* more than that are looked for on the host */

ingot_lane_taken ingot_lane_takes(const ingot_generate_plan *plan, int64_t n_vocab)
{
  bool    samples = plan->search == INGOT_SEARCH_SAMPLE;
  int64_t n = plan->search == INGOT_SEARCH_GREEDY ? 1 : samples ? plan->choice.top_k : 2 * (int64_t)plan->beams;
  if (n > n_vocab) n = n_vocab;
  if (samples && plan->choice.top_k == 0 && plan->choice.top_p >= 1.0) return (ingot_lane_taken){INGOT_TAKE_DRAWN, 1};
  if (n > 0 && n <= BEST_MAX) return (ingot_lane_taken){INGOT_TAKE_BEST, n};
  return (ingot_lane_taken){INGOT_TAKE_LOGITS, (n_vocab + 7) / 8 * 8};
}

/* ---- open and close ---- */

static ingot_status open_host(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  size_t       batch = (size_t)l->plan->batch, rows = (size_t)l->n_row, length = (size_t)l->plan->length,
         prompt = (size_t)l->plan->prompt;
  l->z = malloc(rows * (size_t)l->taken.width * sizeof *l->z);
  l->host_ids = malloc(rows * (size_t)l->taken.width * sizeof *l->host_ids);
  l->host_uniform = malloc(rows * sizeof *l->host_uniform);
  l->room = malloc((size_t)l->n_thread * 2 * (size_t)l->n_vocab * sizeof *l->room);
  l->prompt = calloc(batch * prompt, sizeof *l->prompt);
  l->n_prompt = calloc(batch, sizeof *l->n_prompt);
  l->gold = calloc(batch * length, sizeof *l->gold);
  l->n_gold = calloc(batch, sizeof *l->n_gold);
  l->from = calloc(rows, sizeof *l->from);
  l->token = calloc(rows, sizeof *l->token);
  l->of_row = calloc(rows, sizeof *l->of_row);
  l->chosen = calloc(rows, sizeof *l->chosen);
  l->chosen_token = calloc(rows, sizeof *l->chosen_token);
  l->live = calloc(batch, sizeof *l->live);
  l->live_row = calloc(batch, sizeof *l->live_row);
  l->written = calloc(batch * (prompt + length), sizeof *l->written);
  l->sequences = calloc(batch, sizeof *l->sequences);
  l->beams = calloc(batch, sizeof *l->beams);
  INGOT_CHECK(l->z && l->host_ids && l->host_uniform && l->room && l->prompt && l->n_prompt && l->gold && l->n_gold &&
                  l->from && l->token && l->of_row && l->chosen && l->chosen_token && l->live && l->live_row &&
                  l->written && l->sequences && l->beams,
              INGOT_ERR_NOMEM, "no memory for %zu sequences at a time", batch);
  for (size_t i = 0; i < batch; i++) l->sequences[i].tokens = l->written + i * (prompt + length);
  ingot_beam_spec spec = {.width = l->plan->beams,
                          .max_length = l->plan->length,
                          .end = l->plan->end,
                          .penalty = l->plan->penalty};
  for (size_t i = 0; i < batch && l->plan->search == INGOT_SEARCH_BEAM; i++)
    INGOT_TRY(ingot_beam_init(&l->beams[i], &spec));
done:
  return st;
}

static ingot_status open_device(ingot_lane *l, int n_model)
{
  ingot_status        st = INGOT_OK;
  const ingot_nn_ops *ops = l->nn->ops;
  size_t              n = (size_t)(l->n_row * l->taken.width);
  INGOT_TRY(ops->alloc(l->nn, (size_t)(l->n_row * l->ld) * sizeof(float), (void **)&l->mixed));
  INGOT_TRY(ops->alloc(l->nn, (size_t)(l->n_row * n_model) * sizeof(float), (void **)&l->weight));
  if (l->taken.what == INGOT_TAKE_LOGITS) goto done;
  INGOT_TRY(ops->alloc(l->nn, n * sizeof *l->ids, (void **)&l->ids));
  if (l->taken.what == INGOT_TAKE_BEST) INGOT_TRY(ops->alloc(l->nn, n * sizeof *l->logp, (void **)&l->logp));
  else INGOT_TRY(ops->alloc(l->nn, (size_t)l->n_row * sizeof *l->uniform, (void **)&l->uniform));
done:
  return st;
}

ingot_status ingot_lane_open(ingot_lane *l, ingot_model *const *models, bool on_device, int n_thread)
{
  ingot_status          st = INGOT_OK;
  int                   n = l->plan->ensemble.gather.n_model;
  ingot_nn_options      options = {.kind = INGOT_NN_CPU, .n_thread = 1, .dtype = INGOT_DTYPE_F32};
  ingot_decoder_options decoder = {.n_row = ingot_lane_rows(l->plan),
                                   .n_prompt = l->plan->prompt,
                                   .n_time = l->plan->prompt + l->plan->length};
  if (on_device) l->nn = models[0]->nn;
  else INGOT_TRY(ingot_nn_open(&options, &l->nn));
  l->owns_nn = !on_device;
  l->n_thread = on_device ? n_thread : 1;
  l->n_row = decoder.n_row;
  l->n_vocab = models[0]->spec.n_vocab;
  l->ld = (l->n_vocab + 7) / 8 * 8;
  l->taken = ingot_lane_takes(l->plan, l->n_vocab);
  l->models = calloc((size_t)n, sizeof *l->models);
  l->decoders = calloc((size_t)n, sizeof(ingot_decoder *));
  INGOT_CHECK(l->models && l->decoders, INGOT_ERR_NOMEM, "no memory for %d decoders", n);
  for (int m = 0; m < n; m++) {
    l->models[m] = *models[m];
    l->models[m].nn = l->nn;
    INGOT_TRY(ingot_decoder_open(&l->models[m], &decoder, &l->decoders[m]));
  }
  INGOT_TRY(open_device(l, n));
  INGOT_TRY(open_host(l));
done:
  return st;
}

void ingot_lane_close(ingot_lane *l)
{
  for (int m = 0; l->decoders && m < l->plan->ensemble.gather.n_model; m++) ingot_decoder_close(&l->decoders[m]);
  void *device[] = {l->mixed, l->weight, l->ids, l->logp, l->uniform};
  for (size_t i = 0; l->nn && i < sizeof device / sizeof device[0]; i++) l->nn->ops->free(l->nn, device[i]);
  if (l->owns_nn) ingot_nn_close(&l->nn);
  for (int64_t i = 0; l->beams && i < l->plan->batch; i++) ingot_beam_release(&l->beams[i]);
  void *memory[] = {l->models,       l->decoders, l->z,        l->host_ids, l->host_uniform, l->room,   l->prompt,
                    l->n_prompt,     l->gold,     l->n_gold,   l->from,     l->token,        l->of_row, l->chosen,
                    l->chosen_token, l->live,     l->live_row, l->written,  l->sequences,    l->beams};
  for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) free(memory[i]);
  *l = (ingot_lane){0};
}

/* ---- logits ---- */

static ingot_status put_weights(ingot_lane *l)
{
  ingot_status st = INGOT_OK;
  int          n = l->plan->ensemble.gather.n_model;
  float       *rows = l->z; /* free between steps, and large enough: width >= 1 */
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

/* What is wanted of the mixture's rows to the host. */
static ingot_status take_rows(ingot_lane *l, int64_t n_row, const float *rows)
{
  ingot_status        st = INGOT_OK;
  const ingot_nn_ops *ops = l->nn->ops;
  ingot_nn_logits     z = {rows, n_row, l->n_vocab, l->ld};
  size_t              n = (size_t)(n_row * l->taken.width);
  if (l->taken.what == INGOT_TAKE_LOGITS) return ops->copy_out(l->nn, l->z, rows, n * sizeof *l->z);
  if (l->taken.what == INGOT_TAKE_BEST) {
    INGOT_TRY(ops->top_k(l->nn, &z, (int)l->taken.width, l->ids, l->logp));
    INGOT_TRY(ops->copy_out(l->nn, l->z, l->logp, n * sizeof *l->z));
  } else {
    for (int64_t r = 0; r < n_row; r++) {
      const ingot_sequence *s = &l->sequences[l->of_row[r]];
      l->host_uniform[r] = ingot_choose_uniform(l->plan->seed, l->first + l->of_row[r], s->n_token - s->n_prompt);
    }
    INGOT_TRY(ops->copy_in(l->nn, l->uniform, l->host_uniform, (size_t)n_row * sizeof *l->uniform));
    INGOT_TRY(ops->draw(l->nn, &z, (float)(1.0 / l->plan->choice.temperature), l->uniform, l->ids));
  }
  INGOT_TRY(ops->copy_out(l->nn, l->host_ids, l->ids, n * sizeof *l->ids));
done:
  return st;
}

/* The mixture's rows, and what is taken of them. One member alone needs no mixing: its weight changes nothing, or it is
 * a power. */
static ingot_status logits(ingot_lane *l, int64_t n_row, bool start)
{
  ingot_status               st = INGOT_OK;
  const ingot_ensemble_plan *e = &l->plan->ensemble;
  int                        n_used = 0, last = 0;
  bool                       first = true;
  ingot_nn_logits            z;
  const float               *rows = l->mixed;
  for (int m = 0; m < e->gather.n_model; m++) {
    if (l->weights[m] == 0.0) continue;
    n_used++;
    last = m;
  }
  bool plain =
      n_used == 1 && (e->kind != INGOT_ENSEMBLE_LOG_LINEAR || (l->weights[last] == 1.0 && e->plausibility <= 0.0));
  for (int m = 0; m < e->gather.n_model; m++) {
    if (l->weights[m] == 0.0) continue;
    INGOT_TRY(member_logits(l, m, n_row, start, &z));
    if (plain) rows = z.data;
    else INGOT_TRY(ingot_ensemble_mix(l->nn, e, m, &z, l->weight + m * l->n_row, first, l->mixed));
    first = false;
  }
  INGOT_TRY(take_rows(l, n_row, rows));
  l->n_step += n_row;
done:
  return st;
}

static ingot_status not_finite(const ingot_lane *l, int64_t i)
{
  return ingot_fail(INGOT_ERR_NUMERIC, "sequence %lld of %lld, token %d: the logits are not finite",
                    (long long)(l->first + i + 1), (long long)l->records->n_sequence, l->sequences[i].n_token + 1);
}

/* ---- one token after the other ---- */

static int32_t *room_of(const ingot_lane *l, int thread)
{
  return l->room + (int64_t)thread * 2 * l->n_vocab;
}

/* Of all logits, or of the likeliest. */
static ingot_status choose(void *context, int64_t row, int thread)
{
  ingot_lane           *l = context;
  bool                  best = l->taken.what == INGOT_TAKE_BEST;
  int64_t               i = l->of_row[row];
  const ingot_sequence *s = &l->sequences[i];
  const float          *z = l->z + row * l->taken.width;
  double                u = ingot_choose_uniform(l->plan->seed, l->first + i, s->n_token - s->n_prompt);
  int32_t at = ingot_choose_sample(&l->plan->choice, best ? l->taken.width : l->n_vocab, z, u, room_of(l, thread));
  l->chosen[row] = best && at >= 0 ? l->host_ids[row * l->taken.width + at] : at;
  return INGOT_OK;
}

static ingot_status choose_all(ingot_lane *l, int64_t n_row)
{
  if (l->taken.what != INGOT_TAKE_DRAWN && l->plan->search != INGOT_SEARCH_GREEDY)
    return ingot_crew_run(l->taken.what == INGOT_TAKE_LOGITS ? l->n_thread : 1, n_row, choose, l);
  for (int64_t r = 0; r < n_row; r++) /* the likeliest, whose probability is a number, or the one that was drawn */
    l->chosen[r] = l->taken.what == INGOT_TAKE_DRAWN || isfinite(l->z[r]) ? l->host_ids[r] : -1;
  return INGOT_OK;
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
    INGOT_TRY(choose_all(l, n_row));
    for (int64_t r = 0; r < n_row; r++) {
      ingot_sequence *s = &l->sequences[l->of_row[r]];
      int32_t         id = l->chosen[r];
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

static ingot_status step_beam(void *context, int64_t k, int thread)
{
  ingot_lane  *l = context;
  bool         best = l->taken.what == INGOT_TAKE_BEST;
  int64_t      i = l->live[k], at = i * l->plan->beams, width = l->taken.width, first = l->live_row[k] * width;
  ingot_status st =
      ingot_beam_step(&l->beams[i], best ? width : l->n_vocab, l->z + first, best ? l->host_ids + first : NULL, width,
                      room_of(l, thread), l->chosen + at, l->chosen_token + at);
  return st == INGOT_ERR_NUMERIC ? not_finite(l, i) : st;
}

/* The rows of the next pass, sequence after sequence; returns how many. */
static int64_t put_beams_together(ingot_lane *l, int64_t n_live)
{
  int64_t n_next = 0;
  for (int64_t k = 0; k < n_live; k++) {
    int64_t i = l->live[k], at = i * l->plan->beams;
    for (int h = 0; !l->beams[i].over && h < l->beams[i].n_run; h++) {
      l->from[n_next] = l->live_row[k] + l->chosen[at + h];
      l->token[n_next] = l->chosen_token[at + h];
      l->of_row[n_next++] = (int32_t)i;
    }
  }
  return n_next;
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
    int64_t n_live = 0;
    INGOT_TRY(logits(l, n_row, start));
    for (int64_t r = 0; r < n_row; r++) {
      if (r > 0 && l->of_row[r] == l->of_row[r - 1]) continue;
      l->live[n_live] = l->of_row[r];
      l->live_row[n_live++] = (int32_t)r;
    }
    INGOT_TRY(ingot_crew_run(l->taken.what == INGOT_TAKE_LOGITS ? l->n_thread : 1, n_live, step_beam, l));
    n_row = put_beams_together(l, n_live);
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
    INGOT_TRY(ingot_prompts_read(l->plan, l->prompts, l->tokens_of, (l->first + i) / l->plan->samples, l->n_vocab,
                                 prompt, &l->n_prompt[i], l->gold + i * l->plan->length, &l->n_gold[i]));
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
