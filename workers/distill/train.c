#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/process.h"
#include "kernels/convert.h"
#include "kernels/device.h"
#include "workers/distill/trainer.h"
#include "workers/statistics/score.h"

double ingot_distill_rate(const ingot_distill_optimizer *o, int64_t step, int64_t n_step)
{
  if (step < o->warmup) return o->rate * (double)(step + 1) / (double)o->warmup;
  double part = n_step > o->warmup ? (double)(step - o->warmup) / (double)(n_step - o->warmup) : 0.0;
  if (o->schedule == INGOT_SCHEDULE_CONSTANT) return o->rate;
  if (o->schedule == INGOT_SCHEDULE_LINEAR) return o->rate + (o->final_rate - o->rate) * part;
  return o->final_rate + 0.5 * (o->rate - o->final_rate) * (1.0 + cos(3.14159265358979323846 * part));
}

void ingot_distill_history_release(ingot_distill_history *history)
{
  free(history->records);
  free(history->checks);
  free(history->check_nll);
  *history = (ingot_distill_history){0};
}

/* ---- opening ---- */

static ingot_status init_history(ingot_trainer *t)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  ingot_distill_history    *h = t->history;
  *h = (ingot_distill_history){.n_step = plan->n_step, .best = -1};
  if (plan->validation.n_data > 0)
    h->capacity = 2 + (plan->validate_every > 0 ? plan->n_step / plan->validate_every : 0);
  h->records = calloc((size_t)plan->n_step + 1, sizeof *h->records);
  h->checks = calloc((size_t)h->capacity + 1, sizeof *h->checks);
  h->check_nll = calloc((size_t)(h->capacity * plan->validation.n_data) + 1, sizeof *h->check_nll);
  INGOT_CHECK(h->records && h->checks && h->check_nll, INGOT_ERR_NOMEM, "no memory for the history of %lld steps",
              (long long)plan->n_step);
done:
  return st;
}

static ingot_status open_data(ingot_trainer *t)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  int64_t                   size = ingot_comm_size(t->comm), length = plan->window.length;
  t->n_own = (plan->batch + size - 1) / size;
  t->tokens = calloc((size_t)plan->n_data + 1, sizeof(ingot_tokens *));
  t->draws = calloc((size_t)plan->batch + 1, sizeof *t->draws);
  t->drawn = calloc((size_t)plan->n_data + 1, sizeof *t->drawn);
  t->ids = calloc((size_t)(5 * t->n_own * length) + 1, sizeof *t->ids);
  t->host_rows = calloc((size_t)((plan->n_teacher + 2) * plan->micro_batch * length), sizeof *t->host_rows);
  INGOT_CHECK(t->tokens && t->draws && t->drawn && t->ids && t->host_rows, INGOT_ERR_NOMEM,
              "no memory for %lld windows of %lld tokens", (long long)plan->batch, (long long)length);
  for (int d = 0; d < plan->n_data; d++) {
    INGOT_TRY(ingot_tokens_open(plan->data[d].path, plan->data[d].dtype, &t->tokens[d]));
    INGOT_CHECK(ingot_window_count(t->tokens[d], &plan->window) == plan->data[d].n_window, INGOT_ERR_FORMAT,
                "%s: the file was changed after it was looked at", plan->data[d].path);
  }
done:
  return st;
}

/* Values of both signs: products of zeros draw less power, and run faster, than real ones. */
static ingot_status fill(ingot_nn *nn, int64_t n_elem, void *memory)
{
  enum { ROOM = 4096 };
  ingot_status st = INGOT_OK;
  size_t       width = ingot_dtype_size(nn->dtype);
  float        wide[ROOM], narrow[ROOM];
  for (uint32_t i = 0; i < ROOM; i++) wide[i] = (float)(i * 2654435761u % 8191u) / 8191.0f - 0.5f;
  ingot_narrow(nn->dtype, wide, narrow, ROOM);
  for (int64_t at = 0; at < n_elem && st == INGOT_OK; at += ROOM)
    st = nn->ops->copy_in(nn, (char *)memory + (size_t)at * width, narrow,
                          (size_t)(n_elem - at < ROOM ? n_elem - at : ROOM) * width);
  return st;
}

/* Operations a second of square matrix products, the best of a few rounds; a round is long beside a launch. */
static ingot_status measure_peak(ingot_trainer *t)
{
  enum { N_ROUND = 5 };
  ingot_status    st = INGOT_OK;
  ingot_nn       *nn = t->g.nn;
  bool            gpu = nn->kind == INGOT_NN_CUDA;
  int64_t         n = gpu ? 4096 : 512, n_product = gpu ? 20 : 1;
  size_t          bytes = (size_t)(n * n) * ingot_dtype_size(nn->dtype);
  void           *memory[3] = {NULL, NULL, NULL};
  ingot_nn_matrix a, b;
  for (int i = 0; i < 3; i++) INGOT_TRY(nn->ops->alloc(nn, bytes, &memory[i]));
  for (int i = 0; i < 2; i++) INGOT_TRY(fill(nn, n * n, memory[i]));
  a = (ingot_nn_matrix){memory[0], n, false};
  b = (ingot_nn_matrix){memory[1], n, true};
  for (int i = 0; i < N_ROUND; i++) {
    INGOT_TRY(nn->ops->wait(nn));
    double start_s = ingot_clock_s();
    for (int64_t k = 0; k < n_product; k++)
      INGOT_TRY(nn->ops->matmul(nn, n, n, n, 1.0f, a, b, 0.0f, memory[2], n, nn->dtype, NULL));
    INGOT_TRY(nn->ops->wait(nn));
    double rate = 2.0 * (double)(n * n * n * n_product) / (ingot_clock_s() - start_s + 1e-9);
    if (i > 0 && rate > t->peak_flops) t->peak_flops = rate;
  }
done:
  for (int i = 0; i < 3; i++) nn->ops->free(nn, memory[i]);
  return st;
}

static ingot_status init_own(ingot_trainer *t)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  ingot_pass_options        pass = {.n_batch = plan->micro_batch,
                                    .n_time = plan->window.length,
                                    .backward = true,
                                    .recompute = plan->recompute};
  INGOT_TRY(init_history(t));
  INGOT_TRY(ingot_gather_init(&t->g, t->comm, &plan->validation, &t->options->gather, t->timing));
  INGOT_TRY(open_data(t));
  INGOT_TRY(ingot_trainer_load(t));
  INGOT_TRY(ingot_pass_open(t->g.model, &pass, &t->g.pass));
  INGOT_TRY(ingot_teachers_init(&t->teachers, t->g.nn, t->comm, plan, t->tokens, ingot_pass_head_rows(t->g.pass),
                                t->g.model->spec.n_vocab));
  if (ingot_comm_rank(t->comm) == 0 && t->options->tell) INGOT_TRY(measure_peak(t));
done:
  return st;
}

ingot_status ingot_trainer_init(ingot_trainer *t, ingot_comm *comm, const ingot_distill_plan *plan,
                                const ingot_distill_options *options, ingot_distill_history *history,
                                ingot_merge_timing *timing)
{
  ingot_status st = INGOT_OK;
  int64_t      n;
  *t = (ingot_trainer){.comm = comm,
                       .plan = plan,
                       .options = options,
                       .timing = timing,
                       .history = history,
                       .validated = -1,
                       .start_s = ingot_clock_s(),
                       .save_s = ingot_clock_s()};
  INGOT_TRY(ingot_comm_agree(comm, init_own(t)));
  INGOT_TRY(ingot_teachers_join(&t->teachers, &t->g));
  uint64_t before = ingot_process_anon_bytes();
  INGOT_TRY(ingot_optimizer_init(&t->optimizer, comm, t->g.model));
  if (t->optimizer.nccl) ingot_timing_add_library(timing, before);
  n = t->optimizer.end - t->optimizer.begin;
  bool keep = plan->keep_best || plan->other;
  if (keep) t->best = calloc((size_t)n + 1, sizeof *t->best);
  st = t->best || !keep
           ? INGOT_OK
           : ingot_fail(INGOT_ERR_NOMEM, "no memory on the host for the best of %lld parameters", (long long)n);
  INGOT_TRY(ingot_comm_agree(comm, st));
done:
  return st;
}

void ingot_trainer_release(ingot_trainer *t)
{
  ingot_optimizer_release(&t->optimizer);
  if (t->plan) ingot_teachers_release(&t->teachers);
  for (int d = 0; t->tokens && d < t->plan->n_data; d++) ingot_tokens_close(&t->tokens[d]);
  if (t->g.plan) ingot_gather_release(&t->g);
  free(t->tokens);
  free(t->draws);
  free(t->drawn);
  free(t->ids);
  free(t->host_rows);
  free(t->best);
  *t = (ingot_trainer){0};
}

/* ---- a step ---- */

static ingot_status train_chunk(void *context, ingot_nn *nn, int64_t first_row, const ingot_nn_logits *z,
                                const int32_t *labels, void *d_logits)
{
  ingot_trainer *t = context;
  (void)nn;
  return ingot_teachers_loss(&t->teachers, first_row, z, labels, t->scale, d_logits);
}

static void own_part(const ingot_trainer *t, int64_t *begin, int64_t *end)
{
  int64_t rank = ingot_comm_rank(t->comm), size = ingot_comm_size(t->comm);
  *begin = t->plan->batch * rank / size;
  *end = t->plan->batch * (rank + 1) / size;
}

/* This rank's windows of the step. *n_label: tokens that are predicted. */
static ingot_status read_windows(ingot_trainer *t, int64_t begin, int64_t end, int64_t *n_label)
{
  ingot_status st = INGOT_OK;
  int64_t      length = t->plan->window.length, all = t->n_own * length;
  *n_label = 0;
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_READ));
  for (int64_t w = begin; w < end; w++) {
    int32_t          *ids = t->ids + (w - begin) * length;
    ingot_window_spec window = t->plan->window;
    window.shift = t->draws[w].shift;
    INGOT_TRY(ingot_window_read(t->tokens[t->draws[w].data], &window, t->draws[w].window, t->g.model->spec.n_vocab, ids,
                                ids + all, ids + 2 * all, ids + 3 * all, ids + 4 * all));
    for (int64_t i = 0; i < length; i++) *n_label += ids[all + i] != INGOT_NN_IGNORE;
  }
done:
  return st;
}

static ingot_batch make_batch(const ingot_trainer *t, int64_t first, int64_t n)
{
  int64_t     length = t->plan->window.length, all = t->n_own * length;
  int32_t    *ids = t->ids + first * length;
  ingot_batch batch = {.n_batch = n, .n_time = length, .tokens = ids, .labels = ids + all};
  if (t->plan->window.separate) {
    batch.positions = ids + 2 * all;
    batch.first_key = ids + 3 * all;
  }
  return batch;
}

/* The losses of a batch onto the sums; one that is not finite is an error that names its window. */
static ingot_status add_losses(ingot_trainer *t, const ingot_batch *batch, const ingot_draw *draws, double sums[2])
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = t->plan;
  bool      each = plan->combine == INGOT_COMBINE_AVERAGE_LOSS && !plan->logits && plan->loss.alpha > 0.0f;
  int       n_soft = each ? plan->n_teacher : 1;
  int64_t   n = batch->n_batch * batch->n_time, room = t->teachers.n_token;
  float    *nll = t->host_rows, *soft = nll + room;
  ingot_nn *nn = t->g.nn;
  INGOT_TRY(nn->ops->copy_out(nn, nll, t->teachers.nll, (size_t)n * sizeof *nll));
  for (int i = 0; i < n_soft; i++)
    INGOT_TRY(nn->ops->copy_out(nn, soft + i * room, t->teachers.soft + i * room, (size_t)n * sizeof *soft));
  for (int64_t w = 0; w < batch->n_batch; w++) {
    double of_window[2] = {0.0, 0.0};
    for (int64_t r = w * batch->n_time; r < (w + 1) * batch->n_time; r++) {
      if (batch->labels[r] == INGOT_NN_IGNORE) continue;
      of_window[1] += (double)nll[r];
      for (int i = 0; i < n_soft; i++)
        of_window[0] +=
            (n_soft == 1 ? 1.0 : plan->weights[draws[w].data * plan->n_teacher + i]) * (double)soft[i * room + r];
    }
    INGOT_CHECK(isfinite(of_window[0]) && isfinite(of_window[1]), INGOT_ERR_NUMERIC,
                "step %lld of %lld, window %lld of %s: the loss is not finite", (long long)(t->step + 1),
                (long long)plan->n_step, (long long)(draws[w].window + 1), plan->data[draws[w].data].path);
    for (int k = 0; k < 2; k++) sums[k] += of_window[k];
  }
done:
  return st;
}

/* Windows at .. of this rank's part, which begins at `begin`. */
static ingot_status run_batch(ingot_trainer *t, int64_t begin, int64_t at, int64_t n, double sums[2])
{
  ingot_status    st = INGOT_OK;
  ingot_head      head = {.context = t, .chunk = train_chunk};
  ingot_gradients gradients = ingot_optimizer_door(&t->optimizer);
  ingot_batch     batch = make_batch(t, at - begin, n);
  INGOT_TRY(ingot_teachers_run(&t->teachers, &batch, t->draws + at));
  INGOT_TRY(ingot_pass_run(t->g.pass, &batch, &head, NULL, &gradients));
  INGOT_TRY(add_losses(t, &batch, t->draws + at, sums));
done:
  return st;
}

/* As many rounds on every rank, whether it has windows for all of them or not. */
static ingot_status run_batches(ingot_trainer *t, int64_t begin, int64_t end, double sums[2])
{
  ingot_status st = INGOT_OK, mine = ingot_optimizer_clear(&t->optimizer);
  for (int64_t at = begin; at < begin + t->n_own; at += t->plan->micro_batch) {
    int64_t n = end - at < t->plan->micro_batch ? end - at : t->plan->micro_batch;
    if (mine == INGOT_OK && n > 0) mine = run_batch(t, begin, at, n, sums);
    INGOT_TRY(ingot_teachers_end(&t->teachers, mine));
  }
  st = mine;
done:
  return st;
}

ingot_status ingot_trainer_gradient(ingot_trainer *t, ingot_distill_record *record)
{
  ingot_status st = INGOT_OK;
  int64_t      begin, end, n_label = 0;
  double       sums[2] = {0.0, 0.0}, alpha = (double)t->plan->loss.alpha;
  ingot_stream_draw(t->plan, t->step, t->drawn, t->draws);
  own_part(t, &begin, &end);
  INGOT_TRY(ingot_comm_agree(t->comm, read_windows(t, begin, end, &n_label)));
  INGOT_TRY(ingot_comm_sum_i64(t->comm, &n_label, 1));
  t->scale = n_label > 0 ? (float)(1.0 / (double)n_label) : 0.0f;
  INGOT_TRY(ingot_comm_agree(t->comm, run_batches(t, begin, end, sums)));
  INGOT_TRY(ingot_optimizer_sum(&t->optimizer, &record->norm));
  INGOT_TRY(ingot_comm_sum_f64(t->comm, sums, 2));
  record->soft = n_label > 0 ? sums[0] / (double)n_label : 0.0;
  record->hard = n_label > 0 ? sums[1] / (double)n_label : 0.0;
  record->loss = alpha * record->soft + (1.0 - alpha) * record->hard;
  INGOT_CHECK(isfinite(record->norm), INGOT_ERR_NUMERIC, "step %lld of %lld: the gradient is not finite (loss %g)",
              (long long)(t->step + 1), (long long)t->plan->n_step, record->loss);
done:
  return st;
}

/* Operations of one token of a step, teachers included; the student's backward pass costs twice its forward pass.
 * Layers that run again are no progress: they do not count. */
static double token_flops(const ingot_trainer *t)
{
  int64_t length = t->plan->window.length;
  double  flops = 3.0 * ingot_model_forward_flops(&t->g.model->spec, length, true);
  for (int i = 0; i < t->plan->n_teacher; i++) {
    if (i >= t->teachers.members.n) continue;
    double part = 0.0, all = 0.0;
    for (int d = 0; d < t->plan->n_data; d++) {
      all += t->plan->data[d].weight;
      if (t->plan->weights[d * t->plan->n_teacher + i] != 0.0) part += t->plan->data[d].weight;
    }
    flops += part / all * ingot_model_forward_flops(&t->teachers.members.specs[i], length, true);
  }
  return flops;
}

static void tell(const ingot_trainer *t, const ingot_distill_record *record, const ingot_distill_check *check,
                 double seconds)
{
  if (ingot_comm_rank(t->comm) != 0 || !t->options->tell) return;
  ingot_distill_news news = {.step = t->step,
                             .n_step = t->plan->n_step,
                             .record = record,
                             .check = check,
                             .elapsed_s = ingot_clock_s() - t->start_s};
  if (record) {
    news.step_s = seconds;
    news.tokens_per_s = (double)(t->plan->batch * t->plan->window.length) / (seconds + 1e-9);
    if (t->peak_flops > 0.0)
      news.utilisation = news.tokens_per_s * token_flops(t) / t->peak_flops / ingot_comm_size(t->comm);
  }
  t->options->tell(t->options->tell_context, &news);
}

/* What the GPU gives is asked for a few times alone: buffers grow in the first steps and in a validation. */
static void look_at_device(ingot_trainer *t)
{
  enum { STEPS = 4 };
  if (t->timing->tiles_done <= STEPS * t->plan->batch || t->validated == t->step) ingot_gather_look_at_device(&t->g);
}

ingot_status ingot_trainer_step(ingot_trainer *t)
{
  ingot_status                   st = INGOT_OK;
  const ingot_distill_optimizer *how = &t->plan->optimizer;
  ingot_distill_record           record = {.rate = ingot_distill_rate(how, t->step, t->plan->n_step)};
  double                         start_s = ingot_clock_s(), wait_s = t->optimizer.exchange_s, scale = 1.0;
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_KILL));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_STOP));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_SLOW));
  INGOT_TRY(ingot_trainer_gradient(t, &record));
  if (how->clip > 0.0 && record.norm > how->clip) scale = how->clip / record.norm;
  INGOT_TRY(ingot_optimizer_step(&t->optimizer, how, record.rate, scale, t->step + 1));
  t->history->records[t->step++] = record;
  t->timing->tiles_done += t->plan->batch;
  if (t->options->gather.on_device) t->timing->tiles_on_device += t->plan->batch;
  wait_s = t->optimizer.exchange_s - wait_s;
  t->timing->wait_s += wait_s;
  t->timing->merge_s += ingot_clock_s() - start_s - wait_s;
  look_at_device(t);
  tell(t, &record, NULL, ingot_clock_s() - start_s);
done:
  return st;
}

/* ---- validation ---- */

static ingot_status keep_best(ingot_trainer *t)
{
  ingot_nn *nn = t->g.nn;
  if (!t->best) return INGOT_OK;
  return nn->ops->copy_out(nn, t->best, t->optimizer.master,
                           (size_t)(t->optimizer.end - t->optimizer.begin) * sizeof *t->best);
}

ingot_status ingot_trainer_validate(ingot_trainer *t)
{
  ingot_status           st = INGOT_OK;
  ingot_distill_history *h = t->history;
  int                    n_data = t->plan->validation.n_data;
  double                *nll = h->check_nll + h->n_check * n_data, sum = 0.0;
  INGOT_ASSERT(h->n_check < h->capacity);
  ingot_scorer scorer = {0};
  INGOT_TRY(ingot_comm_agree(t->comm, ingot_scorer_open(&scorer, &t->g)));
  for (int d = 0; d < n_data; d++) {
    ingot_score score;
    INGOT_TRY(ingot_scorer_run(&scorer, d, &score));
    nll[d] = score.n_token > 0 ? score.nll / (double)score.n_token : 0.0;
    sum += nll[d];
  }
  h->checks[h->n_check] = (ingot_distill_check){.step = t->step, .mean_nll = sum / n_data};
  t->validated = t->step;
  if (h->best < 0 || h->checks[h->n_check].mean_nll < h->checks[h->best].mean_nll) {
    h->best = h->n_check;
    INGOT_TRY(ingot_comm_agree(t->comm, keep_best(t)));
  }
  h->n_check++;
  look_at_device(t);
  tell(t, NULL, &h->checks[h->n_check - 1], 0.0);
done:
  ingot_scorer_close(&scorer);
  return st;
}

/* ---- the whole ---- */

static bool validation_due(const ingot_trainer *t)
{
  const ingot_distill_plan *plan = t->plan;
  if (plan->validation.n_data == 0 || t->validated == t->step) return false;
  return t->step == plan->n_step || t->step == 0 || (plan->validate_every > 0 && t->step % plan->validate_every == 0);
}

/* Whether to stop or to save: rank 0's clock, any rank's signal. Collective. */
static ingot_status look_around(ingot_trainer *t, bool *stop, bool *save)
{
  const atomic_int *flag = t->options->gather.stop;
  double            every_s = t->plan->save_every_s;
  int64_t           wants[2] = {flag && atomic_load(flag), 0};
  wants[1] = ingot_comm_rank(t->comm) == 0 && every_s > 0.0 && ingot_clock_s() - t->save_s >= every_s;
  ingot_status st = ingot_comm_max_i64(t->comm, wants, 2);
  *stop = wants[0] != 0;
  *save = wants[1] != 0;
  return st;
}

static ingot_status train(ingot_trainer *t)
{
  ingot_status st = INGOT_OK;
  bool         stop = false, save = false;
  for (;;) {
    INGOT_TRY(look_around(t, &stop, &save));
    if (stop || save) INGOT_TRY(ingot_trainer_save(t));
    INGOT_CHECK(!stop, INGOT_STOPPED, "stopped on request after step %lld of %lld; the same command continues",
                (long long)t->step, (long long)t->plan->n_step);
    if (validation_due(t)) {
      st = ingot_trainer_validate(t);
      if (st == INGOT_STOPPED) continue; /* the signal is still there: saved and left above */
      INGOT_TRY(st);
    }
    if (t->step == t->plan->n_step) break;
    INGOT_TRY(ingot_trainer_step(t));
  }
  INGOT_TRY(ingot_trainer_save(t)); /* a write that fails can be tried again */
done:
  return st;
}

ingot_status ingot_distill_run(ingot_comm *comm, const ingot_distill_plan *plan, const ingot_distill_options *options,
                               uint64_t *checksums, ingot_distill_history *history, ingot_merge_timing *timing)
{
  double        start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  ingot_trainer t;
  ingot_status  st = ingot_trainer_init(&t, comm, plan, options, history, timing);
  INGOT_TRY(st);
  if (!options->gather.fresh) INGOT_TRY(ingot_trainer_resume(&t));
  INGOT_TRY(train(&t));
  if (plan->other) INGOT_TRY(ingot_trainer_write(&t, plan->other, !plan->keep_best, checksums + plan->sink.n_tensor));
  INGOT_TRY(ingot_trainer_write(&t, plan->sink.path, plan->keep_best, checksums));
  look_at_device(&t);
done:
  ingot_trainer_release(&t);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
