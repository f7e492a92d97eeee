#define _GNU_SOURCE
#include "driver/run.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/process.h"
#include "driver/begun.h"
#include "driver/manifest.h"
#include "driver/memory_watch.h"
#include "driver/pack.h"
#include "driver/recipe.h"
#include "driver/report.h"
#include "workers/statistics/gather.h"

/* A positive number from the environment, or 0. */
static int environment_number(const char *name)
{
  const char *text = getenv(name);
  long        value = text ? strtol(text, NULL, 10) : 0;
  return value > 0 && value < 4096 ? (int)value : 0;
}

int ingot_run_threads(int asked, int n_local_rank)
{
  int n = asked;
  if (n <= 0) n = environment_number("OMP_NUM_THREADS");
  if (n <= 0) n = environment_number("SLURM_CPUS_PER_TASK");
  if (n <= 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    n = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    n /= n_local_rank > 0 ? n_local_rank : 1;
  }
  return n > 0 ? n : 1;
}

/* What rank 0 holds while a job runs. */
typedef struct run_state {
  ingot_job     job;
  ingot_planner planner;
  bool          job_read, planner_made;
  ingot_lock   *lock;      /* of the running step's output */
  double        waiting_s; /* moment since when another run's lock is waited for; 0: not waiting */
} run_state;

static ingot_status prepare(run_state *state, const ingot_run_request *request, ingot_run_context *context)
{
  ingot_status st = INGOT_OK;
  if (request->events_path) INGOT_TRY(ingot_events_open(request->events_path, &context->events));
  state->job_read = true;
  INGOT_TRY(ingot_job_read(request->job_path, request->set, request->n_set, &state->job));
  ingot_events_write(context->events, "job_start",
                     json_pack("{s:s, s:s?, s:i, s:i, s:i}", "job", request->job_path, "name", state->job.name, "steps",
                               state->job.n_step, "ranks", ingot_comm_size(context->comm), "threads",
                               context->n_thread));
  state->planner_made = true;
  INGOT_TRY(ingot_planner_init(&state->planner, &state->job, &request->plan));
  INGOT_TRY(ingot_planner_plan(&state->planner));
done:
  return st;
}

static void plan_event(ingot_run_context *context, const ingot_step_plan *p)
{
  ingot_events_write(context->events, "plan",
                     json_pack("{s:i, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:b}", "step", p->number, "title",
                               p->title, "output", p->output, "tensors", p->sink.n_tensor, "tiles",
                               (json_int_t)p->n_tile, "bytes_read", (json_int_t)p->bytes_read, "bytes_written",
                               (json_int_t)p->bytes_written, "memory_bytes", (json_int_t)p->memory_bytes, "host_bytes",
                               (json_int_t)p->host_bytes, "complete", (int)p->complete));
}

/*
 * The manifests of what a step wrote. An output without a manifest is not complete: when one cannot be written, all go
 * out of sight, until the same command has written it.
 */
static ingot_status write_manifests(run_state *state, const ingot_step_plan *plan, const ingot_step_result *result,
                                    const ingot_manifest_run *run)
{
  ingot_status    st = INGOT_OK;
  ingot_step_plan other = *plan;
  bool            durable = plan->sink.durable;
  if (plan->other) {
    other.output = other.sink.path = plan->other;
    INGOT_TRY(ingot_manifest_write(&state->job, &other, result->checksums + plan->sink.n_tensor, run, durable));
  }
  INGOT_TRY(ingot_manifest_write(&state->job, plan, result->checksums, run, durable));
done:
  if (st == INGOT_OK) return st;
  ingot_status withdrawn = ingot_sink_withdraw(plan->output);
  if (plan->other && withdrawn == INGOT_OK) withdrawn = ingot_manifest_remove(plan->other);
  if (plan->other && withdrawn == INGOT_OK) withdrawn = ingot_sink_withdraw(plan->other);
  return withdrawn != INGOT_OK ? withdrawn : st;
}

/*
 * Rank 0, with the lock: what was kept for a restart goes. The note of what the output was begun from goes last: as
 * long as it is there, a run that finds the output complete knows that there may be more.
 */
static ingot_status tidy(const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  if (plan->other) INGOT_TRY(ingot_sink_remove_partial(plan->other));
  INGOT_TRY(ingot_sink_remove_partial(plan->output));
  INGOT_TRY(ingot_gather_forget(plan->output));
  st = ingot_begun_remove(plan->output, false);
done:
  return st;
}

/* Rank 0: manifests, then what was kept for a restart goes, then the summary. */
static ingot_status finish_step(run_state *state, ingot_run_context *context, const ingot_step_plan *plan,
                                const ingot_step_result *result, const ingot_merge_timing *timing, const char *started)
{
  ingot_status       st = INGOT_OK;
  ingot_text         text = {0};
  ingot_report       report;
  int                n_rank = ingot_comm_size(context->comm);
  ingot_manifest_run run = {started, n_rank, context->n_thread, timing[0].on_device ? "cuda" : "cpu", timing};
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_LIST));
  INGOT_TRY(write_manifests(state, plan, result, &run));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_TIDY));
  INGOT_TRY(tidy(plan));
  ingot_report_make(timing, n_rank, &report);
  report.windows = plan->work != NULL;
  report.planned_bytes = plan->memory_bytes;
  report.planned_host_bytes = plan->host_bytes;
  INGOT_TRY(ingot_report_text(&report, &text));
  ingot_log_info("step %d: %s: %s%s%s is complete\n%s", plan->number, plan->title, plan->output,
                 plan->other ? ", with " : "", plan->other ? plan->other : "", ingot_text_string(&text));
  json_t *event = ingot_report_json(&report);
  json_object_set_new(event, "step", json_integer(plan->number));
  json_object_set_new(event, "output", ingot_json_text(plan->output));
  ingot_events_write(context->events, "step_end", event);
done:
  ingot_text_release(&text);
  return st;
}

/* Rank 0, with the lock: refuse unfinished work of another job, and note what this one is made from. */
static ingot_status begin_step(const ingot_run_context *context, const ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  ingot_text   why = {0};
  if (!context->fresh) INGOT_TRY(ingot_begun_look(plan, &why));
  INGOT_CHECK(why.size == 0, INGOT_ERR_EXISTS,
              "%s: was begun by other settings or from other inputs (%s); --fresh discards what is there", plan->output,
              ingot_text_string(&why));
  INGOT_TRY(ingot_begun_write(plan));
done:
  ingot_text_release(&why);
  return st;
}

/*
 * Rank 0, after a failure: what was begun needs its note as long as there is something to continue. After values that
 * cannot be used there is nothing: the same command would find the same.
 */
static void leave_step(ingot_status st, const ingot_step_plan *plan)
{
  ingot_error first;
  ingot_error_save(&first);
  if (st == INGOT_ERR_NUMERIC && !plan->type->keeps_states) (void)tidy(plan);
  else (void)ingot_begun_remove(plan->output, true);
  ingot_error_restore(&first);
}

/* Run one step whose plan all ranks have. */
static ingot_status run_step(run_state *state, ingot_run_context *context, const ingot_step_plan *plan)
{
  ingot_status        st = INGOT_OK;
  ingot_step_result   result = {0};
  ingot_memory_watch  watch;
  int                 n_rank = ingot_comm_size(context->comm);
  bool                root = ingot_comm_rank(context->comm) == 0;
  char                started[32];
  ingot_merge_timing *timing = calloc((size_t)n_rank, sizeof *timing);
  st = timing ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for the timings of %d ranks", n_rank);
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  ingot_time_text(started);
  ingot_log_info("step %d: %s -> %s", plan->number, plan->title, plan->output);
  ingot_events_write(context->events, "step_start",
                     json_pack("{s:i, s:s}", "step", plan->number, "title", plan->title));
  st = root ? begin_step(context, plan) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  ingot_memory_watch_start(&watch);
  st = plan->type->run(context, plan, &result);
  result.timing.peak_anon_bytes = ingot_memory_watch_end(&watch);
  ingot_wrap(st, "step %d (%s)", plan->number, plan->title);
  INGOT_TRY(st);
  INGOT_TRY(ingot_comm_gather(context->comm, &result.timing, sizeof result.timing, timing));
  st = root ? finish_step(state, context, plan, &result, timing, started) : INGOT_OK;
  st = ingot_comm_agree(context->comm, st);
done:
  if (st != INGOT_OK && root) leave_step(st, plan);
  free(timing);
  ingot_step_result_release(&result);
  return st;
}

/* What rank 0 tells the others about a step. */
typedef enum step_order { STEP_SKIP, STEP_RUN, STEP_WAIT } step_order;

enum { WAIT_POLL_NS = 300 * 1000 * 1000 };

static ingot_status take_lock(run_state *state, const ingot_run_request *request, const ingot_step_plan *plan)
{
  ingot_text   what = {0};
  ingot_status st = ingot_text_printf(&what, "job %s", request->job_path);
  if (st == INGOT_OK) st = ingot_lock_take(plan->output, ingot_text_string(&what), &state->lock);
  ingot_text_release(&what);
  return st;
}

/*
 * The output is complete. A run that was killed behind its manifest has left what was kept for a restart: it goes,
 * under the lock. A run that is still at work there tidies up itself, and a folder that nobody may write in stays as it
 * is.
 */
static ingot_status tidy_behind(run_state *state, const ingot_run_request *request, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  if (!ingot_begun_by(plan) && !ingot_lock_is_there(plan->output)) goto done;
  if (take_lock(state, request, plan) != INGOT_OK) {
    ingot_error_clear();
    goto done;
  }
  INGOT_TRY(ingot_planner_replan(&state->planner, plan->number)); /* another run may have begun it anew in between */
  if (plan->complete && ingot_begun_by(plan)) st = tidy(plan);
done:
  return st;
}

/* Take the lock of the step's output; STEP_WAIT while another run holds it and this one is to wait for it. */
static ingot_status lock_output(run_state *state, const ingot_run_request *request, const ingot_step_plan *plan,
                                step_order *order)
{
  double       now_s = ingot_clock_s();
  ingot_status st = take_lock(state, request, plan);
  *order = STEP_RUN;
  if (st != INGOT_ERR_BUSY || !request->wait) return st;
  if (state->waiting_s == 0) {
    state->waiting_s = now_s;
    ingot_log_info("step %d: waiting: %s", plan->number, ingot_error_message());
  }
  if (request->wait_s > 0 && now_s - state->waiting_s >= request->wait_s)
    return ingot_wrap(st, "waited %d s", request->wait_s);
  ingot_error_clear();
  *order = STEP_WAIT;
  return INGOT_OK;
}

static ingot_status order_step(run_state *state, ingot_run_context *context, const ingot_run_request *request,
                               int number, step_order *order)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *plan = &state->planner.steps[number - 1];
  struct stat      info;
  *order = STEP_SKIP;
  if (!plan->type) goto done; /* not asked for */
  if (!plan->ready) INGOT_TRY(ingot_planner_replan(&state->planner, number));
  if (plan->complete) {
    *order = STEP_RUN;
    INGOT_TRY(tidy_behind(state, request, plan));
  } else {
    INGOT_TRY(lock_output(state, request, plan, order));
    if (*order == STEP_WAIT) goto done;
    /* Another run may have finished it since it was planned here. */
    if (state->waiting_s > 0 || (!context->fresh && lstat(plan->output, &info) == 0))
      INGOT_TRY(ingot_planner_replan(&state->planner, number));
    state->waiting_s = 0;
  }
  plan_event(context, plan);
  if (plan->complete) {
    ingot_log_info("step %d: %s: %s is already complete", number, plan->title, plan->output);
    ingot_events_write(context->events, "step_end", json_pack("{s:i, s:b}", "step", number, "skipped", 1));
    *order = STEP_SKIP;
  }
done:
  return st;
}

/* Collective: whether any rank was asked to stop. */
static ingot_status check_stop(const ingot_run_context *context, int number)
{
  ingot_status st = INGOT_OK;
  int64_t      stop = context->stop ? atomic_load(context->stop) : 0;
  INGOT_TRY(ingot_comm_max_i64(context->comm, &stop, 1));
  INGOT_CHECK(stop == 0, INGOT_STOPPED, "stopped before step %d; the same command continues", number);
done:
  return st;
}

static ingot_status do_step(run_state *state, ingot_run_context *context, const ingot_run_request *request, int number)
{
  ingot_status     st = INGOT_OK;
  bool             root = ingot_comm_rank(context->comm) == 0;
  step_order       order = STEP_WAIT;
  ingot_step_plan  received = {0};
  ingot_step_plan *plan = root ? &state->planner.steps[number - 1] : &received;
  while (order == STEP_WAIT) {
    INGOT_TRY(check_stop(context, number));
    st = root ? order_step(state, context, request, number, &order) : INGOT_OK;
    INGOT_TRY(ingot_comm_agree(context->comm, st));
    INGOT_TRY(ingot_comm_bcast(context->comm, &order, sizeof order, 0));
    if (order == STEP_WAIT) nanosleep(&(struct timespec){.tv_nsec = WAIT_POLL_NS}, NULL);
  }
  if (order == STEP_SKIP) goto done;
  INGOT_TRY(ingot_step_plan_share(context->comm, plan));
  context->lock = state->lock;
  INGOT_TRY(run_step(state, context, plan));
  if (root) ingot_planner_step_done(&state->planner, number);
done:
  context->lock = NULL;
  ingot_lock_release(&state->lock);
  ingot_step_plan_release(&received);
  return st;
}

/* The error event, with the rank that failed where there are several; the message and its origin stay. */
static void write_error(const ingot_run_context *context, ingot_status st)
{
  json_t *members = json_pack("{s:s, s:i, s:o}", "status", ingot_status_name(st), "exit_code",
                              ingot_status_exit_code(st), "message", ingot_json_text(ingot_error_message()));
  char    who[INGOT_ORIGIN_TEXT];
  ingot_process_failed_rank(ingot_comm_rank(context->comm), who);
  if (members && ingot_comm_size(context->comm) > 1) json_object_set_new(members, "rank", ingot_json_text(who));
  ingot_events_write(context->events, "error", members);
}

ingot_status ingot_run_job(ingot_run_context *context, const ingot_run_request *request)
{
  ingot_status st = INGOT_OK;
  run_state    state = {0};
  bool         root = ingot_comm_rank(context->comm) == 0;
  int64_t      n_step = 0;
  st = root ? prepare(&state, request, context) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(context->comm, st));
  n_step = state.job.n_step;
  INGOT_TRY(ingot_comm_bcast(context->comm, &n_step, sizeof n_step, 0));
  for (int number = 1; number <= n_step; number++) INGOT_TRY(do_step(&state, context, request, number));
done:
  if (st != INGOT_OK) write_error(context, st);
  ingot_events_write(context->events, "job_end", json_pack("{s:i}", "exit_code", ingot_status_exit_code(st)));
  if (state.planner_made) ingot_planner_release(&state.planner);
  if (state.job_read) ingot_job_release(&state.job);
  ingot_events_close(&context->events);
  return st;
}
