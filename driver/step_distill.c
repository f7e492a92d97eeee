#define _POSIX_C_SOURCE 200809L
/* The distill step: how its plan travels, what it says while it runs, and what lies beside its output. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "driver/distill_plan.h"
#include "driver/pack.h"
#include "io/atomic_file.h"

/* ---- the plan on its way to other ranks ---- */

static ingot_status pack_data(const ingot_distill_plan *p, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < p->n_data; i++) {
    INGOT_TRY(ingot_pack_string(bytes, p->data[i].name));
    INGOT_TRY(ingot_pack_string(bytes, p->data[i].path));
    INGOT_TRY(ingot_pack_string(bytes, p->data[i].dtype));
    INGOT_TRY(ingot_pack_blob(bytes, &p->data[i].weight, sizeof(double)));
    INGOT_TRY(ingot_pack_i64(bytes, p->data[i].n_window));
  }
  for (int i = 0; i < p->validation.n_data; i++) {
    INGOT_TRY(ingot_pack_string(bytes, p->validation.data[i].name));
    INGOT_TRY(ingot_pack_string(bytes, p->validation.data[i].path));
    INGOT_TRY(ingot_pack_string(bytes, p->validation.data[i].dtype));
    INGOT_TRY(ingot_pack_i64(bytes, p->validation.data[i].n_window));
  }
done:
  return st;
}

ingot_status ingot_distill_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_body *body = plan->body;
  const ingot_distill_plan *p = &body->plan;
  INGOT_TRY(ingot_pack_blob(bytes, body, sizeof *body)); /* pointers in it are replaced on the other side */
  INGOT_TRY(ingot_pack_string(bytes, p->student));
  INGOT_TRY(ingot_pack_string(bytes, p->config));
  INGOT_TRY(ingot_pack_string(bytes, p->logits));
  INGOT_TRY(ingot_pack_string(bytes, p->other));
  for (int i = 0; i < p->n_teacher; i++) {
    INGOT_TRY(ingot_pack_string(bytes, p->teachers[i].id));
    INGOT_TRY(ingot_pack_string(bytes, p->teachers[i].path));
  }
  INGOT_TRY(pack_data(p, bytes));
  INGOT_TRY(ingot_pack_blob(bytes, p->weights, (size_t)(p->n_data * p->n_teacher) * sizeof(double)));
  INGOT_TRY(ingot_pack_blob(bytes, p->tensor_param, (size_t)plan->sink.n_tensor * sizeof(int)));
done:
  return st;
}

/* A blob of a known size into the arena. */
static ingot_status unpack_array(ingot_unpacker *u, ingot_arena *arena, size_t size, void **out)
{
  ingot_status st = INGOT_OK;
  *out = ingot_arena_alloc(arena, size + 1, 1);
  INGOT_TRY_ALLOC(*out);
  INGOT_TRY(ingot_unpack_exact(u, *out, size));
done:
  return st;
}

static ingot_status unpack_lists(ingot_unpacker *u, ingot_arena *arena, ingot_distill_plan *p)
{
  ingot_status        st = INGOT_OK;
  ingot_gather_model *teachers = ingot_arena_alloc(arena, (size_t)p->n_teacher + 1, sizeof *teachers);
  ingot_distill_data *data = ingot_arena_alloc(arena, (size_t)p->n_data + 1, sizeof *data);
  ingot_gather_data  *checks = ingot_arena_alloc(arena, (size_t)p->validation.n_data + 1, sizeof *checks);
  INGOT_TRY_ALLOC(teachers && data && checks);
  for (int i = 0; i < p->n_teacher; i++) {
    teachers[i].id = ingot_unpack_string(u, arena);
    teachers[i].path = ingot_unpack_string(u, arena);
  }
  for (int i = 0; i < p->n_data; i++) {
    data[i].name = ingot_unpack_string(u, arena);
    data[i].path = ingot_unpack_string(u, arena);
    data[i].dtype = ingot_unpack_string(u, arena);
    INGOT_TRY(ingot_unpack_exact(u, &data[i].weight, sizeof data[i].weight));
    data[i].n_window = ingot_unpack_i64(u);
  }
  for (int i = 0; i < p->validation.n_data; i++) {
    checks[i].name = ingot_unpack_string(u, arena);
    checks[i].path = ingot_unpack_string(u, arena);
    checks[i].dtype = ingot_unpack_string(u, arena);
    checks[i].n_window = ingot_unpack_i64(u);
  }
  p->teachers = teachers;
  p->data = data;
  p->validation.data = checks;
  st = ingot_unpack_status(u);
done:
  return st;
}

ingot_status ingot_distill_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status        st = INGOT_OK;
  ingot_unpacker      u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_distill_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  void               *array = NULL;
  INGOT_TRY_ALLOC(body);
  INGOT_TRY(ingot_unpack_exact(&u, body, sizeof *body));
  ingot_distill_plan *p = &body->plan;
  p->student = ingot_unpack_string(&u, &plan->arena);
  p->config = ingot_unpack_string(&u, &plan->arena);
  p->logits = ingot_unpack_string(&u, &plan->arena);
  p->other = ingot_unpack_string(&u, &plan->arena);
  INGOT_TRY(unpack_lists(&u, &plan->arena, p));
  INGOT_TRY(unpack_array(&u, &plan->arena, (size_t)(p->n_data * p->n_teacher) * sizeof(double), &array));
  p->weights = array;
  INGOT_TRY(unpack_array(&u, &plan->arena, (size_t)plan->sink.n_tensor * sizeof(int), &array));
  p->tensor_param = array;
  p->sink = plan->sink;
  p->validation.output = plan->output;
  p->validation.fingerprint = plan->fingerprint;
  p->validation.models = NULL;
  plan->body = body;
done:
  return st;
}

/* ---- progress ---- */

typedef struct teller {
  ingot_events *events;
  int           step;
  bool          quiet, terminal, shown;
  double        last_line_s, last_event_s;
} teller;

static const double TERMINAL_EVERY_S = 0.2, LOG_EVERY_S = 10.0, EVENT_EVERY_S = 1.0;

static void tell_check(teller *t, const ingot_distill_news *news)
{
  double perplexity = exp(news->check->mean_nll);
  ingot_events_write(t->events, "validation",
                     json_pack("{s:i, s:I, s:f, s:f}", "step", t->step, "training_step", (json_int_t)news->check->step,
                               "geometric_mean_perplexity", isfinite(perplexity) ? perplexity : 0.0, "elapsed_s",
                               news->elapsed_s));
  if (t->quiet) return;
  if (t->terminal && t->shown) fprintf(stderr, "\r\033[K");
  ingot_log_info("after step %lld of %lld: validation perplexity %.4f (geometric mean)", (long long)news->step,
                 (long long)news->n_step, perplexity);
}

static void tell(void *context, const ingot_distill_news *news)
{
  teller *t = context;
  char    text[200];
  if (news->check) {
    tell_check(t, news);
    return;
  }
  const ingot_distill_record *r = news->record;
  bool                        last = news->step == news->n_step;
  if (last || news->elapsed_s - t->last_event_s >= EVENT_EVERY_S) {
    t->last_event_s = news->elapsed_s;
    ingot_events_write(t->events, "progress",
                       json_pack("{s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "step", t->step, "training_step",
                                 (json_int_t)news->step, "training_steps", (json_int_t)news->n_step, "loss", r->loss,
                                 "rate", r->rate, "gradient_norm", r->norm, "tokens_per_s", news->tokens_per_s,
                                 "utilisation", news->utilisation, "elapsed_s", news->elapsed_s));
  }
  if (t->quiet || (!last && news->elapsed_s - t->last_line_s < (t->terminal ? TERMINAL_EVERY_S : LOG_EVERY_S))) return;
  t->last_line_s = news->elapsed_s;
  snprintf(
      text, sizeof text,
      "step %lld of %lld: loss %.4f, rate %.3g, gradient %.3g, %.0f tokens/s, %.0f %% of the matrix rate, %.0f s left",
      (long long)news->step, (long long)news->n_step, r->loss, r->rate, r->norm, news->tokens_per_s,
      100.0 * news->utilisation, (double)(news->n_step - news->step) * news->step_s);
  if (t->terminal) fprintf(stderr, "\r%s\033[K", text);
  else ingot_log_info("%s", text);
  t->shown = true;
}

/* ---- the run ---- */

static ingot_status report(void *context, const ingot_distill_plan *plan, const ingot_distill_history *history,
                           bool best, ingot_text *bytes)
{
  (void)context;
  return ingot_distill_report(plan, history, best, bytes);
}

/* The curves, as a file beside the output. */
static ingot_status write_picture(const ingot_distill_plan *plan, const ingot_distill_history *history)
{
  ingot_text   picture = {0};
  char        *path = ingot_file_sibling(plan->sink.path, ".svg");
  ingot_status st =
      path ? ingot_distill_picture(plan, history, &picture) : ingot_fail(INGOT_ERR_NOMEM, "no memory for a path");
  if (st == INGOT_OK) st = ingot_file_replace(path, ingot_text_string(&picture), picture.size, false);
  ingot_text_release(&picture);
  free(path);
  return st;
}

static ingot_status run_distill(const ingot_run_context *context, const ingot_step_plan *plan,
                                ingot_step_result *result)
{
  const ingot_distill_body *body = plan->body;
  ingot_distill_plan        p = body->plan;
  ingot_distill_history     history = {0};
  bool                      root = ingot_comm_rank(context->comm) == 0;
  teller                    t = {.events = context->events,
                                 .step = plan->number,
                                 .quiet = context->quiet || !root,
                                 .terminal = isatty(STDERR_FILENO) != 0,
                                 .last_event_s = -EVENT_EVERY_S};
  ingot_distill_options     options = {.gather = {.n_thread = context->n_thread,
                                                  .on_device = body->on_device,
                                                  .fresh = context->fresh,
                                                  .stop = context->stop},
                                       .tell = tell,
                                       .tell_context = &t,
                                       .report = report,
                                       .report_name = INGOT_TRAINING_FILE};
  p.sink.lock = context->lock;
  result->checksums = calloc(2 * (size_t)p.sink.n_tensor + 1, sizeof *result->checksums);
  ingot_status st =
      result->checksums ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d checksums", p.sink.n_tensor);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  st = ingot_distill_run(context->comm, &p, &options, result->checksums, &history, &result->timing);
  if (t.terminal && t.shown) fprintf(stderr, "\r\033[K");
  INGOT_TRY(st);
  st = root ? write_picture(&p, &history) : INGOT_OK;
  st = ingot_comm_agree(context->comm, st);
done:
  ingot_distill_history_release(&history);
  return st;
}

const ingot_step_type ingot_step_distill = {
    .name = "distill",
    .summary = "a student trained to predict as its teachers do",
    .keys = ingot_distill_keys,
    .settings_bytes = sizeof(ingot_distill_settings),
    .keeps_states = true,
    .read = ingot_distill_settings_read,
    .plan = ingot_distill_plan_make,
    .pack = ingot_distill_step_pack,
    .unpack = ingot_distill_step_unpack,
    .run = run_distill,
};
