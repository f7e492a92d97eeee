/* Mixtures over windows: members all at once, or one after the other with the mixed rows in host memory. */
#include "workers/ensemble/combine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

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

ingot_status ingot_ensemble_mix(ingot_nn *nn, const ingot_ensemble_plan *plan, int member, const ingot_nn_logits *z,
                                const float *weight, bool first, float *mixed)
{
  ingot_status st = nn->ops->mix(nn, ingot_ensemble_mix_of(plan->kind), z, weight, (float)plan->floor, first, mixed);
  if (st != INGOT_OK || plan->plausibility <= 0.0 || member != plan->reference) return st;
  return nn->ops->rule_out(nn, z, (float)log(plan->plausibility), mixed);
}

static int64_t batch_rows(const ingot_gather_plan *plan)
{
  return plan->batch * plan->window.length;
}

/* Whether rows are mixed at all: a vote needs the members' likeliest tokens alone. */
static bool mixes(const ingot_combine *c, const ingot_combine_user *user)
{
  return user->mix && c->plan->kind != INGOT_ENSEMBLE_VOTE;
}

/* Rows of a chunk when no pass says so. */
static int64_t chunk_rows(int64_t ld, int64_t rows)
{
  int64_t n = (64 << 20) / (ld * (int64_t)sizeof(float)) / 128 * 128;
  if (n == 0) n = 128;
  return n < rows ? n : rows;
}

ingot_members_options ingot_combine_members(const ingot_ensemble_plan *plan, ingot_comm *comm)
{
  return (ingot_members_options){.n_batch = plan->gather.batch,
                                 .n_time = plan->gather.window.length,
                                 .spread = plan->placement == INGOT_PLACEMENT_SPREAD ? comm : NULL};
}

/* The member that takes most, alone. */
static uint64_t largest_member(const ingot_gather_plan *g, ingot_dtype dtype, const ingot_model_spec *specs)
{
  ingot_pass_options pass = {.n_batch = g->batch, .n_time = g->window.length};
  uint64_t           largest = 0;
  for (int i = 0; i < g->n_model; i++) {
    uint64_t bytes = ingot_model_bytes(&specs[i], dtype) + ingot_pass_bytes(&specs[i], dtype, &pass);
    largest = bytes > largest ? bytes : largest;
  }
  return largest;
}

ingot_ensemble_memory ingot_combine_bytes(const ingot_ensemble_plan *plan, const ingot_model_spec *specs, int n_rank)
{
  const ingot_gather_plan *g = &plan->gather;
  ingot_dtype              dtype = ingot_compute_dtype(g->compute);
  ingot_members_options    members = ingot_combine_members(plan, NULL);
  ingot_pass_options       pass = {.n_batch = g->batch, .n_time = g->window.length};
  ingot_ensemble_memory    memory = {0};
  uint64_t                 n = (uint64_t)g->n_model, rows = (uint64_t)batch_rows(g);
  int64_t                  ld = (specs[0].n_vocab + 7) / 8 * 8;
  bool                     spread = plan->placement == INGOT_PLACEMENT_SPREAD;
  if (plan->one_by_one) memory.device_bytes = largest_member(g, dtype, specs);
  else memory.device_bytes = ingot_members_bytes(specs, g->n_model, dtype, &members, spread ? n_rank : 1);
  uint64_t chunk =
      (uint64_t)(plan->one_by_one ? chunk_rows(ld, (int64_t)rows) : ingot_pass_choose_rows(&specs[0], dtype, &pass));
  memory.device_bytes += chunk * (uint64_t)ld * sizeof(float) + rows * (n * 12 + 4);
  if (plan->learn && plan->kind == INGOT_ENSEMBLE_LOG_LINEAR)
    memory.device_bytes += n * chunk * (uint64_t)ld * sizeof(float) + chunk * (n * n + 2 * n) * sizeof(float);
  uint64_t host_rows = plan->one_by_one ? (uint64_t)plan->group * (uint64_t)g->window.length : rows;
  memory.host_bytes = host_rows * (n * 12 + 4) + rows * 20;
  if (plan->one_by_one) memory.host_bytes += host_rows * (uint64_t)ld * sizeof(float);
  if (spread) memory.host_bytes += (uint64_t)n_rank * rows * 16; /* everybody's tokens */
  return memory;
}

static ingot_status open_host(ingot_combine *c)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)c->host_rows, m = (size_t)c->plan->gather.n_model;
  c->host_weight = calloc(n * m, sizeof *c->host_weight);
  c->host_nll = calloc(n * m, sizeof *c->host_nll);
  c->host_top1 = calloc(n * m, sizeof *c->host_top1);
  c->host_labels = calloc(n, sizeof *c->host_labels);
  if (c->plan->one_by_one) c->host_mixed = malloc(n * (size_t)c->ld * sizeof *c->host_mixed);
  INGOT_CHECK(c->host_weight && c->host_nll && c->host_top1 && c->host_labels &&
                  (c->host_mixed || !c->plan->one_by_one),
              INGOT_ERR_NOMEM, "no memory for the distributions of %zu tokens", n);
done:
  return st;
}

static ingot_status open_members(ingot_combine *c)
{
  ingot_status             st = INGOT_OK;
  ingot_gather            *g = c->g;
  const ingot_gather_plan *plan = &c->plan->gather;
  ingot_members_options    options = ingot_combine_members(c->plan, g->comm);
  double                   start_s = ingot_clock_s();
  INGOT_TRY(ingot_members_open(&c->members, g->nn, plan->models, plan->n_model, &options));
  for (int i = 0; i < c->members.n; i++)
    for (int t = 0; c->members.sources[i] && t < ingot_source_count(c->members.sources[i]); t++)
      g->timing->bytes_read += ingot_source_tensor(c->members.sources[i], t)->bytes;
  g->n_vocab = c->n_vocab = c->members.n_vocab;
  c->ld = c->members.ld;
  c->rows = c->members.rows;
  g->timing->read_s += ingot_clock_s() - start_s;
done:
  return st;
}

static ingot_status open_own(ingot_combine *c)
{
  ingot_status        st = INGOT_OK;
  ingot_gather       *g = c->g;
  const ingot_nn_ops *ops = g->nn->ops;
  size_t              n = (size_t)batch_rows(&c->plan->gather), m = (size_t)c->plan->gather.n_model;
  if (c->plan->one_by_one) {
    INGOT_TRY(ingot_gather_load(g, 0, false)); /* for the vocabulary's size */
    c->n_vocab = g->n_vocab;
    c->ld = (c->n_vocab + 7) / 8 * 8;
    c->rows = chunk_rows(c->ld, (int64_t)n);
    c->host_rows = c->plan->group * c->plan->gather.window.length;
  } else {
    INGOT_TRY(open_members(c));
  }
  INGOT_TRY(ops->alloc(g->nn, (size_t)c->rows * (size_t)c->ld * sizeof(float), (void **)&c->mixed));
  INGOT_TRY(ops->alloc(g->nn, n * m * sizeof(float), (void **)&c->weight));
  INGOT_TRY(ops->alloc(g->nn, n * sizeof(int32_t), (void **)&c->labels));
  INGOT_TRY(ops->alloc(g->nn, n * m * sizeof(float), (void **)&c->nll));
  INGOT_TRY(ops->alloc(g->nn, n * m * sizeof(int32_t), (void **)&c->top1));
  INGOT_TRY(open_host(c));
done:
  return st;
}

ingot_status ingot_combine_open(ingot_combine *c, ingot_gather *g, const ingot_ensemble_plan *plan)
{
  *c = (ingot_combine){.g = g, .plan = plan, .host_rows = batch_rows(&plan->gather)};
  ingot_status st = ingot_comm_agree(g->comm, open_own(c));
  return st == INGOT_OK ? ingot_members_join(&c->members, g) : st;
}

void ingot_combine_close(ingot_combine *c)
{
  if (c->g && c->g->nn) {
    void *memory[] = {c->mixed, c->weight, c->labels, c->nll, c->top1};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++) c->g->nn->ops->free(c->g->nn, memory[i]);
  }
  ingot_members_close(&c->members);
  free(c->host_weight);
  free(c->host_nll);
  free(c->host_top1);
  free(c->host_labels);
  free(c->host_mixed);
  *c = (ingot_combine){0};
}

/* What the two ways of running share. */
typedef struct run {
  ingot_combine            *c;
  const ingot_combine_user *user;
  const double             *weights;    /* [n_model] */
  int64_t                   part_begin; /* one by one: window that row 0 of the host's arrays belongs to */
  int                       member;     /* one by one: that is running */
  bool                      mixing;     /* one by one: in this round */
  const ingot_batch        *batch;
  int64_t                   first;
} run;

/* The loss of every member is finite where something is predicted. */
static ingot_status check_members(const run *r, const ingot_batch *batch, int64_t first, int member_begin,
                                  int member_end, const float *nll, int64_t stride)
{
  ingot_status st = INGOT_OK;
  ingot_text   place = {0};
  for (int m = member_begin; m < member_end; m++) {
    for (int64_t i = 0; i < batch->n_batch * batch->n_time; i++) {
      if (batch->labels[i] == INGOT_NN_IGNORE || isfinite(nll[m * stride + i])) continue;
      INGOT_TRY(ingot_gather_place(r->c->g, first + i / batch->n_time, &place));
      st = ingot_fail(INGOT_ERR_NUMERIC, "%s: the loss is not finite for model \"%s\" (%s)", ingot_text_string(&place),
                      r->c->plan->gather.models[m].id, r->c->plan->gather.models[m].path);
      goto done;
    }
  }
done:
  ingot_text_release(&place);
  return st;
}

/* The same weight for all rows. */
static void constant_weights(const run *r, int64_t n, int64_t stride)
{
  for (int m = 0; m < r->c->plan->gather.n_model; m++) {
    float w = ingot_ensemble_mix_weight(r->c->plan->kind, r->weights[m]);
    for (int64_t i = 0; i < n; i++) r->c->host_weight[m * stride + i] = w;
  }
}

/* Weights of each row by the likelihood of the tokens before it in its window, or in its document. */
static void posterior_weights(const run *r, const int32_t *labels, int64_t n_window, int64_t n_time, int64_t at,
                              int64_t stride)
{
  enum { MANY = 4096 };
  const ingot_combine *c = r->c;
  int                  n = c->plan->gather.n_model;
  double               sum[MANY];
  INGOT_ASSERT(n <= MANY);
  for (int64_t i = 0; i < n_window * n_time; i++) {
    bool   begins = i % n_time == 0 || (c->plan->gather.window.separate && labels[i - 1] == INGOT_NN_IGNORE);
    double most = -INFINITY, total = 0.0;
    for (int m = 0; m < n; m++) {
      if (begins) sum[m] = r->weights[m] > 0 ? log(r->weights[m]) : -INFINITY;
      else if (labels[i - 1] != INGOT_NN_IGNORE) sum[m] -= (double)c->host_nll[m * stride + at + i - 1];
      most = fmax(most, sum[m]);
    }
    for (int m = 0; m < n; m++) total += exp(sum[m] - most);
    for (int m = 0; m < n; m++) c->host_weight[m * stride + at + i] = (float)(sum[m] - most - log(total));
  }
}

/* Rows of a batch from host to back end: weights of one member, or of all. */
static ingot_status put_weights(const run *r, int64_t n, int64_t at, int64_t stride, int member_begin, int member_end)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = r->c->g->nn;
  for (int m = member_begin; m < member_end && st == INGOT_OK; m++)
    st = nn->ops->copy_in(nn, r->c->weight + m * batch_rows(&r->c->plan->gather), r->c->host_weight + m * stride + at,
                          (size_t)n * sizeof(float));
  return st;
}

/* ---- all at once ---- */

/* The rows of a batch, chunk by chunk: members' scores, the mixture, or both. */
static ingot_status live_rows(const run *r, bool score, bool mix)
{
  ingot_status   st = INGOT_OK;
  ingot_combine *c = r->c;
  ingot_nn      *nn = c->g->nn;
  int64_t        n = r->batch->n_batch * r->batch->n_time, stride = batch_rows(&c->plan->gather);
  for (int64_t at = 0; at < n; at += c->rows) {
    int64_t         rows = n - at < c->rows ? n - at : c->rows;
    ingot_nn_logits z;
    INGOT_TRY(ingot_members_rows(&c->members, at, rows, NULL));
    for (int m = 0; m < c->members.n; m++) {
      INGOT_TRY(ingot_members_logits(&c->members, m, at, rows, &z));
      if (score)
        INGOT_TRY(nn->ops->cross_entropy(nn, &z, c->labels + at, 0.0f, c->nll + m * stride + at,
                                         c->top1 + m * stride + at, NULL));
      if (mix) INGOT_TRY(ingot_ensemble_mix(nn, c->plan, m, &z, c->weight + m * stride + at, m == 0, c->mixed));
    }
    if (!mix) continue;
    z.data = c->mixed;
    INGOT_TRY(r->user->rows(r->user->context, r->batch, r->first, at, &z, c->labels + at));
  }
done:
  return st;
}

static ingot_status live_windows(run *r, ingot_batch *batch, int64_t first)
{
  ingot_status   st = INGOT_OK;
  ingot_combine *c = r->c;
  ingot_nn      *nn = c->g->nn;
  int64_t        n = batch->n_batch * batch->n_time, stride = batch_rows(&c->plan->gather);
  size_t         all = (size_t)(c->members.n * stride);
  bool           mix = mixes(c, r->user), posterior = c->plan->kind == INGOT_ENSEMBLE_POSTERIOR;
  r->batch = batch;
  r->first = first;
  INGOT_TRY(nn->ops->copy_in(nn, c->labels, batch->labels, (size_t)n * sizeof(int32_t)));
  INGOT_TRY(ingot_members_run(&c->members, batch));
  INGOT_TRY(live_rows(r, true, mix && !posterior));
  INGOT_TRY(nn->ops->copy_out(nn, c->host_nll, c->nll, all * sizeof(float)));
  INGOT_TRY(nn->ops->copy_out(nn, c->host_top1, c->top1, all * sizeof(int32_t)));
  INGOT_TRY(check_members(r, batch, first, 0, c->members.n, c->host_nll, stride));
  if (mix && posterior) {
    posterior_weights(r, batch->labels, batch->n_batch, batch->n_time, 0, stride);
    INGOT_TRY(put_weights(r, n, 0, stride, 0, c->members.n));
    INGOT_TRY(live_rows(r, false, true));
  }
  INGOT_TRY(r->user->end(r->user->context, batch, first, c->host_nll, c->host_top1, stride));
done:
  return st;
}

/* A batch, or none: then the others' are served. */
static ingot_status live_batch(void *context, ingot_batch *batch, int64_t first)
{
  ingot_status st = INGOT_OK;
  run         *r = context;
  bool         skip = batch->n_batch == 0 || (r->user->skip && r->user->skip(r->user->context, first, batch->n_batch));
  if (!skip) st = live_windows(r, batch, first);
  return ingot_members_end(&r->c->members, st);
}

/* ---- one by one ---- */

static ingot_status one_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                              const int32_t *labels, void *d_logits)
{
  ingot_status   st = INGOT_OK;
  run           *r = context;
  ingot_combine *c = r->c;
  int64_t        stride = batch_rows(&c->plan->gather), length = c->plan->gather.window.length;
  (void)d_logits;
  INGOT_TRY(nn->ops->cross_entropy(nn, z, labels, 0.0f, c->nll + first_row, c->top1 + first_row, NULL));
  for (int64_t done = 0; r->mixing && done < z->n_row;) {
    int64_t         n = z->n_row - done < c->rows ? z->n_row - done : c->rows;
    int64_t         at = (r->first - r->part_begin) * length + first_row + done;
    size_t          bytes = (size_t)(n * c->ld) * sizeof(float);
    ingot_nn_logits part = {z->data + done * z->ld, n, z->n_vocab, z->ld};
    if (r->member > 0) INGOT_TRY(nn->ops->copy_in(nn, c->mixed, c->host_mixed + at * c->ld, bytes));
    INGOT_TRY(ingot_ensemble_mix(nn, c->plan, r->member, &part, c->weight + r->member * stride + first_row + done,
                                 r->member == 0, c->mixed));
    INGOT_TRY(nn->ops->copy_out(nn, c->host_mixed + at * c->ld, c->mixed, bytes));
    done += n;
  }
done:
  return st;
}

/* One member on one batch of a group. */
static ingot_status one_batch(void *context, ingot_batch *batch, int64_t first)
{
  ingot_status   st = INGOT_OK;
  run           *r = context;
  ingot_combine *c = r->c;
  ingot_nn      *nn = c->g->nn;
  int64_t        n = batch->n_batch * batch->n_time, at = (first - r->part_begin) * batch->n_time;
  int64_t        slot = r->member * c->host_rows + at;
  ingot_head     head = {r, one_chunk};
  if (r->user->skip && r->user->skip(r->user->context, first, batch->n_batch)) return INGOT_OK;
  r->first = first;
  if (r->mixing) INGOT_TRY(put_weights(r, n, at, c->host_rows, r->member, r->member + 1));
  memcpy(c->host_labels + at, batch->labels, (size_t)n * sizeof(int32_t));
  INGOT_TRY(ingot_pass_run(c->g->pass, batch, &head, NULL, NULL));
  INGOT_TRY(nn->ops->copy_out(nn, c->host_nll + slot, c->nll, (size_t)n * sizeof(float)));
  INGOT_TRY(nn->ops->copy_out(nn, c->host_top1 + slot, c->top1, (size_t)n * sizeof(int32_t)));
  INGOT_TRY(check_members(r, batch, first, r->member, r->member + 1, c->host_nll + at, c->host_rows));
done:
  return st;
}

/* All members have run: hand the mixed rows of this rank's windows on. */
static ingot_status finish_group(run *r, int64_t part_end)
{
  ingot_status   st = INGOT_OK;
  ingot_combine *c = r->c;
  ingot_nn      *nn = c->g->nn;
  int64_t        length = c->plan->gather.window.length, step = c->plan->gather.batch;
  for (int64_t first = r->part_begin; first < part_end; first += step) {
    int64_t     n_batch = part_end - first < step ? part_end - first : step, at = (first - r->part_begin) * length;
    int64_t     n = n_batch * length;
    ingot_batch batch = {.n_batch = n_batch, .n_time = length, .labels = c->host_labels + at};
    if (r->user->skip && r->user->skip(r->user->context, first, n_batch)) continue;
    INGOT_TRY(nn->ops->copy_in(nn, c->labels, batch.labels, (size_t)n * sizeof(int32_t)));
    for (int64_t row = 0; mixes(c, r->user) && row < n; row += c->rows) {
      int64_t         rows = n - row < c->rows ? n - row : c->rows;
      ingot_nn_logits z = {c->mixed, rows, c->n_vocab, c->ld};
      INGOT_TRY(
          nn->ops->copy_in(nn, c->mixed, c->host_mixed + (at + row) * c->ld, (size_t)(rows * c->ld) * sizeof(float)));
      INGOT_TRY(r->user->rows(r->user->context, &batch, first, row, &z, c->labels + row));
    }
    INGOT_TRY(r->user->end(r->user->context, &batch, first, c->host_nll + at, c->host_top1 + at, c->host_rows));
  }
done:
  return st;
}

/* Whether any rank has anything to do in its part; collective. */
static ingot_status group_needed(const run *r, int64_t part_end, bool *needed)
{
  int64_t step = r->c->plan->gather.batch, any = 0;
  for (int64_t first = r->part_begin; first < part_end; first += step) {
    int64_t n = part_end - first < step ? part_end - first : step;
    any = any || !r->user->skip || !r->user->skip(r->user->context, first, n);
  }
  ingot_status st = ingot_comm_max_i64(r->c->g->comm, &any, 1);
  *needed = any != 0;
  return st;
}

static ingot_status run_group(run *r, int64_t first, int64_t end)
{
  ingot_status      st = INGOT_OK;
  ingot_combine    *c = r->c;
  ingot_gather     *g = c->g;
  ingot_gather_work work = {.context = r, .batch = one_batch};
  bool    needed = true, mix = mixes(c, r->user), posterior = mix && c->plan->kind == INGOT_ENSEMBLE_POSTERIOR;
  int64_t part_end;
  ingot_gather_part(g->comm, first, end, &r->part_begin, &part_end);
  INGOT_TRY(group_needed(r, part_end, &needed));
  if (!needed) goto done;
  if (!posterior) constant_weights(r, c->host_rows, c->host_rows);
  for (int round = posterior ? 0 : 1; round < 2; round++) {
    r->mixing = mix && round == 1;
    for (r->member = 0; r->member < c->plan->gather.n_model; r->member++) {
      INGOT_TRY(ingot_comm_agree(g->comm, ingot_gather_load(g, r->member, false)));
      INGOT_TRY(ingot_gather_windows(g, first, end, 0, &work));
    }
    if (round == 0)
      posterior_weights(r, c->host_labels, part_end - r->part_begin, c->plan->gather.window.length, 0, c->host_rows);
  }
  INGOT_TRY(ingot_comm_agree(g->comm, finish_group(r, part_end)));
done:
  return st;
}

ingot_status ingot_combine_windows(ingot_combine *c, int64_t first, int64_t end, const double *weights,
                                   const ingot_combine_user *user)
{
  ingot_status      st = INGOT_OK;
  run               r = {.c = c, .user = user, .weights = weights};
  ingot_gather_work work = {.context = &r,
                            .batch = live_batch,
                            .in_rounds = c->plan->placement == INGOT_PLACEMENT_SPREAD};
  int64_t           stride = batch_rows(&c->plan->gather);
  if (!c->plan->one_by_one) {
    constant_weights(&r, stride, stride);
    st = put_weights(&r, stride, 0, stride, 0, c->plan->gather.n_model);
    INGOT_TRY(ingot_comm_agree(c->g->comm, st));
    return ingot_gather_windows(c->g, first, end, 0, &work);
  }
  int64_t group = c->plan->group * ingot_comm_size(c->g->comm);
  for (int64_t at = first; at < end; at += group) INGOT_TRY(run_group(&r, at, end - at < group ? end : at + group));
done:
  return st;
}
