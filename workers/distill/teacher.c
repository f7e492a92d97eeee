#include "workers/distill/teacher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool uses_models(const ingot_distill_plan *plan)
{
  return !plan->logits && plan->loss.alpha > 0.0f;
}

/* Linear mixtures at a temperature are of distributions that have been tempered one by one. */
static bool tempers(const ingot_distill_plan *plan)
{
  return plan->combine == INGOT_COMBINE_LINEAR && plan->loss.temperature != 1.0f && plan->n_teacher > 1;
}

static int64_t weight_rows(const ingot_distill_plan *plan)
{
  return (int64_t)plan->n_data * plan->n_teacher + 2;
}

static ingot_members_options members_options(const ingot_distill_plan *plan, int64_t head_rows, ingot_comm *comm)
{
  return (ingot_members_options){.n_batch = plan->micro_batch,
                                 .n_time = plan->window.length,
                                 .head_rows = head_rows,
                                 .spread = plan->placement == INGOT_PLACEMENT_SPREAD ? comm : NULL};
}

uint64_t ingot_teachers_bytes(const ingot_distill_plan *plan, ingot_dtype dtype, const ingot_model_spec *specs,
                              int64_t head_rows, int64_t n_vocab, int n_rank)
{
  ingot_members_options members = members_options(plan, head_rows, NULL);
  int64_t               ld = (n_vocab + 7) / 8 * 8, n_token = plan->micro_batch * plan->window.length;
  uint64_t              bytes = (uint64_t)n_token * sizeof(float) * (uint64_t)(2 + plan->n_teacher);
  if (!uses_models(plan)) return bytes;
  bytes += ingot_members_bytes(specs, plan->n_teacher, dtype, &members,
                               plan->placement == INGOT_PLACEMENT_SPREAD ? n_rank : 1);
  bytes += (uint64_t)(head_rows * weight_rows(plan)) * sizeof(float);
  bytes += (uint64_t)(head_rows * ld) * (sizeof(float) * (tempers(plan) ? 2 : 1) +
                                         (plan->combine == INGOT_COMBINE_AVERAGE_LOSS ? ingot_dtype_size(dtype) : 0));
  return bytes;
}

static ingot_status alloc(ingot_teachers *t, int64_t n, size_t width, void **out)
{
  return t->nn->ops->alloc(t->nn, (size_t)(n > 0 ? n : 1) * width, out);
}

static ingot_status alloc_floats(ingot_teachers *t, int64_t n, float **out)
{
  void        *memory = NULL;
  ingot_status st = alloc(t, n, sizeof(float), &memory);
  *out = memory;
  return st;
}

/* Rows of equal weights, as mix wants them. */
static ingot_status make_rows(ingot_teachers *t)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  int64_t                   n = weight_rows(plan);
  float                    *rows = malloc((size_t)(n * t->n_row) * sizeof *rows);
  INGOT_CHECK(rows, INGOT_ERR_NOMEM, "no memory for the weights of %d teachers", plan->n_teacher);
  for (int64_t i = 0; i < n; i++) {
    double w = i == n - 2   ? 1.0 / (double)plan->loss.temperature
               : i == n - 1 ? (double)plan->loss.temperature
                            : plan->weights[i];
    if (i < n - 2 && plan->combine == INGOT_COMBINE_LINEAR) w = log(w);
    for (int64_t r = 0; r < t->n_row; r++) rows[i * t->n_row + r] = (float)w;
  }
  INGOT_TRY(alloc_floats(t, n * t->n_row, &t->rows));
  INGOT_TRY(t->nn->ops->copy_in(t->nn, t->rows, rows, (size_t)(n * t->n_row) * sizeof *rows));
done:
  free(rows);
  return st;
}

static ingot_status init_models(ingot_teachers *t, ingot_comm *comm, int64_t n_vocab)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  ingot_members_options     options = members_options(plan, t->n_row, comm);
  INGOT_TRY(ingot_members_open(&t->members, t->nn, plan->teachers, plan->n_teacher, &options));
  INGOT_CHECK(t->members.n_vocab == n_vocab, INGOT_ERR_MISMATCH, "%s: a vocabulary of %lld, and the student has %lld",
              plan->teachers[0].path, (long long)t->members.n_vocab, (long long)n_vocab);
  INGOT_TRY(make_rows(t));
  INGOT_TRY(alloc_floats(t, t->n_row * t->ld, &t->mixed));
  if (tempers(plan)) INGOT_TRY(alloc_floats(t, t->n_row * t->ld, &t->tempered));
  if (plan->combine == INGOT_COMBINE_AVERAGE_LOSS)
    INGOT_TRY(alloc(t, t->n_row * t->ld, ingot_dtype_size(t->nn->dtype), &t->scratch));
done:
  return st;
}

static ingot_status init_logits(ingot_teachers *t, ingot_tokens *const *tokens, int64_t n_vocab)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  void                     *ids = NULL;
  INGOT_TRY(ingot_logits_open(plan->logits, &t->logits));
  INGOT_TRY(ingot_logits_check_tokenizer(t->logits, n_vocab, 0, "the student"));
  t->k = ingot_logits_about(t->logits)->k;
  t->file_data = calloc((size_t)plan->n_data + 1, sizeof *t->file_data);
  t->host_ids = malloc((size_t)(t->n_token * t->k) * sizeof *t->host_ids);
  t->host_logp = malloc((size_t)(t->n_token * t->k) * sizeof *t->host_logp);
  INGOT_CHECK(t->file_data && t->host_ids && t->host_logp, INGOT_ERR_NOMEM, "no memory for the logits of %lld tokens",
              (long long)t->n_token);
  for (int d = 0; d < plan->n_data; d++)
    INGOT_TRY(ingot_logits_find_data(t->logits, tokens[d], &plan->window, &t->file_data[d]));
  INGOT_TRY(alloc(t, t->n_token * t->k, sizeof *t->ids, &ids));
  t->ids = ids;
  INGOT_TRY(alloc_floats(t, t->n_token * t->k, &t->logp));
done:
  return st;
}

ingot_status ingot_teachers_init(ingot_teachers *t, ingot_nn *nn, ingot_comm *comm, const ingot_distill_plan *plan,
                                 ingot_tokens *const *tokens, int64_t head_rows, int64_t n_vocab)
{
  ingot_status st = INGOT_OK;
  *t = (ingot_teachers){.plan = plan,
                        .nn = nn,
                        .n_row = head_rows,
                        .ld = (n_vocab + 7) / 8 * 8,
                        .n_time = plan->window.length,
                        .n_token = plan->micro_batch * plan->window.length};
  t->parts = calloc((size_t)plan->n_teacher + 1, sizeof *t->parts);
  t->wanted = calloc((size_t)plan->n_teacher + 1, sizeof *t->wanted);
  INGOT_CHECK(t->parts && t->wanted, INGOT_ERR_NOMEM, "no memory for %d teachers", plan->n_teacher);
  INGOT_TRY(alloc_floats(t, t->n_token * (plan->n_teacher > 0 ? plan->n_teacher : 1), &t->soft));
  INGOT_TRY(alloc_floats(t, t->n_token, &t->nll));
  if (plan->loss.alpha <= 0.0f) goto done;
  INGOT_TRY(plan->logits ? init_logits(t, tokens, n_vocab) : init_models(t, comm, n_vocab));
done:
  return st;
}

ingot_status ingot_teachers_join(ingot_teachers *t, ingot_gather *g)
{
  return ingot_members_join(&t->members, g);
}

void ingot_teachers_release(ingot_teachers *t)
{
  ingot_members_close(&t->members);
  void *memory[] = {t->rows, t->mixed, t->tempered, t->scratch, t->soft, t->nll, t->ids, t->logp};
  for (size_t i = 0; t->nn && i < sizeof memory / sizeof memory[0]; i++) t->nn->ops->free(t->nn, memory[i]);
  ingot_logits_close(&t->logits);
  free(t->parts);
  free(t->wanted);
  free(t->file_data);
  free(t->host_ids);
  free(t->host_logp);
  *t = (ingot_teachers){0};
}

/* ---- a batch ---- */

static ingot_status read_top_k(ingot_teachers *t, const ingot_batch *batch, const ingot_draw *draws)
{
  ingot_status st = INGOT_OK;
  int64_t      each = t->n_time * t->k;
  size_t       n = (size_t)(batch->n_batch * each);
  for (int64_t w = 0; w < batch->n_batch; w++)
    INGOT_TRY(ingot_logits_read(t->logits, t->file_data[draws[w].data], draws[w].window, t->host_ids + w * each,
                                t->host_logp + w * each, NULL));
  INGOT_TRY(t->nn->ops->copy_in(t->nn, t->ids, t->host_ids, n * sizeof *t->ids));
  INGOT_TRY(t->nn->ops->copy_in(t->nn, t->logp, t->host_logp, n * sizeof *t->logp));
done:
  return st;
}

static double weight_of(const ingot_teachers *t, int data, int i)
{
  return t->plan->weights[data * t->plan->n_teacher + i];
}

/* A teacher runs over the windows that it takes part in, and those between them. */
static ingot_members_part part_of(const ingot_teachers *t, int i, const ingot_batch *batch)
{
  ingot_members_part part = {0, 0};
  for (int64_t w = 0; w < batch->n_batch; w++) {
    if (weight_of(t, t->draws[w].data, i) == 0.0) continue;
    if (part.end == 0) part.first = w;
    part.end = w + 1;
  }
  return part;
}

ingot_status ingot_teachers_run(ingot_teachers *t, const ingot_batch *batch, const ingot_draw *draws)
{
  t->draws = draws;
  t->n_batch_row = batch->n_batch * batch->n_time;
  if (t->plan->loss.alpha <= 0.0f) return INGOT_OK;
  if (t->plan->logits) return read_top_k(t, batch, draws);
  for (int i = 0; i < t->plan->n_teacher; i++) t->parts[i] = part_of(t, i, batch);
  return ingot_members_run_parts(&t->members, batch, t->parts);
}

ingot_status ingot_teachers_end(ingot_teachers *t, ingot_status mine)
{
  bool ended = t->ended;
  t->ended = false;
  return ended ? INGOT_OK : ingot_members_end(&t->members, mine);
}

/* ---- the loss of a segment: rows of windows of one data set ---- */

typedef struct segment {
  int             data;
  int64_t         row; /* of the batch */
  ingot_nn_logits z;
  const int32_t  *labels;
  float           scale;
  void           *d_logits;
} segment;

static ingot_status logits_of(ingot_teachers *t, int i, const segment *s, ingot_nn_logits *z)
{
  return ingot_members_logits(&t->members, i, s->row, s->z.n_row, z);
}

/* Say which teachers' logits of the segment are needed. */
static ingot_status want(ingot_teachers *t, const segment *s)
{
  for (int i = 0; i < t->plan->n_teacher; i++) t->wanted[i] = weight_of(t, s->data, i) != 0.0;
  return ingot_members_rows(&t->members, s->row, s->z.n_row, t->wanted);
}

static const float *row_of(const ingot_teachers *t, int64_t i)
{
  return t->rows + i * t->n_row;
}

static ingot_status mix_one(ingot_teachers *t, const segment *s, int i, bool first)
{
  ingot_status        st = INGOT_OK;
  const ingot_nn_ops *ops = t->nn->ops;
  ingot_nn_mix        kind = t->plan->combine == INGOT_COMBINE_LINEAR ? INGOT_NN_MIX_LINEAR : INGOT_NN_MIX_LOG_LINEAR;
  ingot_nn_logits     z;
  INGOT_TRY(logits_of(t, i, s, &z));
  if (t->tempered) {
    INGOT_TRY(ops->mix(t->nn, INGOT_NN_MIX_LOG_LINEAR, &z, row_of(t, weight_rows(t->plan) - 2), -INFINITY, true,
                       t->tempered));
    z.data = t->tempered;
  }
  INGOT_TRY(ops->mix(t->nn, kind, &z, row_of(t, (int64_t)s->data * t->plan->n_teacher + i),
                     kind == INGOT_NN_MIX_LINEAR ? -INFINITY : (float)t->plan->floor, first, t->mixed));
  if (t->plan->plausibility > 0.0 && i == t->plan->reference)
    INGOT_TRY(ops->rule_out(t->nn, &z, (float)log(t->plan->plausibility), t->mixed));
done:
  return st;
}

/* The teachers' distribution of a segment as logits, to be used at the loss's temperature. */
static ingot_status mix_teachers(ingot_teachers *t, const segment *s, const float **target)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  int                       n_used = 0, last = -1;
  ingot_nn_logits           z;
  for (int i = 0; i < plan->n_teacher; i++) {
    if (weight_of(t, s->data, i) == 0.0) continue;
    n_used++;
    last = i;
  }
  if (n_used == 1 && weight_of(t, s->data, last) == 1.0 && plan->plausibility <= 0.0) {
    INGOT_TRY(logits_of(t, last, s, &z));
    *target = z.data;
    goto done;
  }
  bool first = true;
  for (int i = 0; i < plan->n_teacher; i++) {
    if (weight_of(t, s->data, i) == 0.0) continue;
    INGOT_TRY(mix_one(t, s, i, first));
    first = false;
  }
  *target = t->mixed;
  if (!t->tempered) goto done;
  z = (ingot_nn_logits){t->mixed, s->z.n_row, s->z.n_vocab, t->ld}; /* back to temperature 1, which the loss undoes */
  INGOT_TRY(t->nn->ops->mix(t->nn, INGOT_NN_MIX_LOG_LINEAR, &z, row_of(t, weight_rows(plan) - 1), -INFINITY, true,
                            t->tempered));
  *target = t->tempered;
done:
  return st;
}

/* Each teacher's own loss; gradients are added up. */
static ingot_status average_losses(ingot_teachers *t, const segment *s, ingot_nn_distill loss)
{
  ingot_status        st = INGOT_OK;
  const ingot_nn_ops *ops = t->nn->ops;
  bool                first = true;
  for (int i = 0; i < t->plan->n_teacher; i++) {
    ingot_nn_logits z;
    float          *soft = t->soft + i * t->n_token + s->row;
    double          w = weight_of(t, s->data, i);
    if (w == 0.0) {
      INGOT_TRY(ops->zero(t->nn, soft, (size_t)s->z.n_row * sizeof *soft));
      continue;
    }
    void *gradient = !s->d_logits ? NULL : first ? s->d_logits : t->scratch;
    loss.scale = (float)((double)s->scale * w);
    INGOT_TRY(logits_of(t, i, s, &z));
    INGOT_TRY(ops->distill(t->nn, &loss, &s->z, z.data, s->labels, soft, t->nll + s->row, gradient));
    if (gradient && !first) INGOT_TRY(ops->add(t->nn, s->z.n_row * s->z.ld, t->scratch, s->d_logits));
    first = false;
  }
done:
  return st;
}

static ingot_status segment_loss(ingot_teachers *t, const segment *s)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  const ingot_nn_ops       *ops = t->nn->ops;
  ingot_nn_distill          loss = plan->loss;
  float                    *soft = t->soft + s->row, *nll = t->nll + s->row;
  loss.scale = s->scale;
  if (loss.alpha <= 0.0f) {
    INGOT_TRY(ops->zero(t->nn, soft, (size_t)s->z.n_row * sizeof *soft));
    INGOT_TRY(ops->cross_entropy(t->nn, &s->z, s->labels, s->scale, nll, NULL, s->d_logits));
  } else if (plan->logits) {
    ingot_nn_top_k top = {t->k, t->ids + s->row * t->k, t->logp + s->row * t->k,
                          (ingot_nn_tail)ingot_logits_about(t->logits)->tail};
    INGOT_TRY(ops->distill_top_k(t->nn, &loss, &s->z, &top, s->labels, soft, nll, s->d_logits));
  } else if (plan->combine == INGOT_COMBINE_AVERAGE_LOSS) {
    INGOT_TRY(want(t, s));
    INGOT_TRY(average_losses(t, s, loss));
  } else {
    const float *target = NULL;
    INGOT_TRY(want(t, s));
    INGOT_TRY(mix_teachers(t, s, &target));
    INGOT_TRY(ops->distill(t->nn, &loss, &s->z, target, s->labels, soft, nll, s->d_logits));
  }
done:
  return st;
}

ingot_status ingot_teachers_loss(ingot_teachers *t, int64_t first_row, const ingot_nn_logits *z, const int32_t *labels,
                                 float scale, void *d_logits)
{
  ingot_status st = INGOT_OK;
  int64_t      end_row = first_row + z->n_row;
  for (int64_t row = first_row; row < end_row;) {
    int64_t w = row / t->n_time, next = w + 1;
    while (next * t->n_time < end_row && t->draws[next].data == t->draws[w].data) next++;
    int64_t end = next * t->n_time < end_row ? next * t->n_time : end_row, at = row - first_row;
    segment s = {.data = t->draws[w].data, .row = row, .z = *z, .labels = labels + at, .scale = scale};
    s.z.data = z->data + at * z->ld;
    s.z.n_row = end - row;
    if (d_logits) s.d_logits = (char *)d_logits + (size_t)(at * z->ld) * ingot_dtype_size(t->nn->dtype);
    INGOT_TRY(segment_loss(t, &s));
    row = end;
  }
  if (end_row < t->n_batch_row) goto done;
  INGOT_TRY(ingot_members_end(&t->members, INGOT_OK)); /* nobody waits for this rank's backward pass */
  t->ended = true;
done:
  return st;
}
