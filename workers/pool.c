#define _GNU_SOURCE
#include "workers/pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"

enum { MAX_FLIGHT = 8, MESSAGE_BYTES = 4096, SUPERVISE_NS = 20 * 1000 * 1000 };

static const double NOTICE_PERIOD_S = 0.5;

typedef struct pool {
  const ingot_merge_plan    *plan;
  const ingot_merge_options *options;
  int                        device;
  ingot_hand_over           *hand_over;
  ingot_schedule            *schedule;
  const ingot_pool_output   *output;
  pthread_mutex_t            lock;
  pthread_cond_t             left; /* a lane has returned */
  int                        n_running;
  ingot_status               status; /* of the first lane that failed */
  char                       message[MESSAGE_BYTES];
  ingot_merge_timing         timing; /* of lanes that returned; counters below are live */
  atomic_llong               tiles_done, bytes_done;
} pool;

static void pool_fail(pool *p, ingot_status st)
{
  pthread_mutex_lock(&p->lock);
  if (p->status == INGOT_OK) {
    p->status = st;
    snprintf(p->message, sizeof p->message, "%s", ingot_error_message());
  }
  pthread_mutex_unlock(&p->lock);
  ingot_schedule_cancel(p->schedule);
}

/* Add what a task saw of one kind, [n_input] or NULL, to the reports; true when something was seen. */
static bool report_bad(pool *p, const ingot_task *task, const ingot_lane_bad *notes, ingot_bad_report *reports)
{
  bool seen = false;
  if (!notes) return false;
  for (int i = 0; i < task->tensor->view.n_input; i++) {
    const ingot_lane_bad *note = &notes[i];
    if (note->count == 0) continue;
    seen = true;
    pthread_mutex_lock(&p->lock);
    ingot_bad_report *r = &reports[task->tensor->source[i]];
    bool              earlier = r->tensor < 0 || task->tensor_index < r->tensor ||
                   (task->tensor_index == r->tensor && note->first < r->element);
    if (earlier) {
      r->tensor = task->tensor_index;
      r->element = note->first;
      r->is_nan = note->is_nan;
    }
    r->count += note->count;
    pthread_mutex_unlock(&p->lock);
  }
  return seen;
}

static ingot_status store_tile(pool *p, ingot_lane *lane, const ingot_task *task, const ingot_lane_output *out)
{
  const ingot_pool_output *o = p->output;
  int64_t                  tile = task->tensor->first_tile + task->tile;
  uint64_t                 offset = (uint64_t)task->tile * INGOT_TILE * ingot_dtype_size(task->tensor->dtype);
  double                   start = ingot_clock_s();
  uint64_t                 checksum = ingot_hash(out->bytes, out->size);
  ingot_status             st = ingot_fault_check(INGOT_FAULT_KILL);
  if (st == INGOT_OK) st = ingot_fault_check(INGOT_FAULT_STOP);
  if (st == INGOT_OK) st = ingot_fault_check(INGOT_FAULT_SLOW);
  if (st == INGOT_OK) st = ingot_fault_check(INGOT_FAULT_WRITE);
  if (st == INGOT_OK) st = ingot_sink_write(o->sink, task->tensor_index, offset, out->size, out->bytes);
  if (st == INGOT_OK) st = ingot_journal_record(o->journal, tile, checksum);
  if (st != INGOT_OK) return st;
  o->checksum[tile] = checksum;
  o->done[tile] = true; /* a bool of its own byte: no lane reads another's */
  lane->timing.bytes_written += out->size;
  lane->timing.tiles_done++;
  lane->timing.write_s += ingot_clock_s() - start;
  return INGOT_OK;
}

/* The lanes of one thread, and the tasks that it has begun, oldest first. */
enum { ON_CPU, ON_DEVICE, N_KIND };

typedef struct worker {
  pool       *pool;
  ingot_lane *lane[N_KIND]; /* NULL: none of this kind */
  ingot_task  flight[MAX_FLIGHT];
  int         n_flight, n_in[N_KIND]; /* in flight, of each lane */
} worker;

static void note(worker *w, const ingot_task *task, double start_s, bool finished)
{
  bool is_merge = task->kind == INGOT_TASK_APPLY,
       whole = is_merge || (task->scan->sample_stride == 0 && !task->scan->tiles);
  if (w->pool->hand_over)
    ingot_hand_over_note(w->pool->hand_over, task->on_device, ingot_clock_s() - start_s, finished && whole,
                         finished && is_merge);
}

static ingot_status finish_oldest(worker *w)
{
  pool             *p = w->pool;
  ingot_task        task = w->flight[0];
  ingot_lane       *lane = w->lane[task.on_device];
  ingot_lane_output out;
  double            start_s = ingot_clock_s();
  bool              is_merge = task.kind == INGOT_TASK_APPLY;
  w->n_flight--;
  w->n_in[task.on_device]--;
  for (int i = 0; i < w->n_flight; i++) w->flight[i] = w->flight[i + 1];
  ingot_status st = lane->ops->finish(lane, &out);
  if (st != INGOT_OK) return st;
  if (is_merge) {
    bool nonfinite = report_bad(p, &task, out.nonfinite, p->output->nonfinite);
    bool negative = report_bad(p, &task, out.negative, p->output->negative);
    /* The rest is still looked at, so that the report is complete; nothing of a bad tile is kept. */
    if (!negative && (!nonfinite || p->plan->nonfinite != INGOT_NONFINITE_FAIL)) st = store_tile(p, lane, &task, &out);
    if (st != INGOT_OK) return st;
    atomic_fetch_add(&p->tiles_done, 1);
    atomic_fetch_add(&p->bytes_done, (long long)out.size);
    if (task.on_device) lane->timing.tiles_on_device++;
  }
  note(w, &task, start_s, true);
  return ingot_schedule_complete(p->schedule, &task);
}

/* Begin a task, and finish what has to be finished before its lane can take another one. */
static ingot_status begin_task(worker *w, const ingot_task *task)
{
  ingot_status st = INGOT_OK;
  ingot_lane  *lane = w->lane[task->on_device];
  double       start_s = ingot_clock_s();
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_READ));
  INGOT_TRY(lane->ops->begin(lane, task));
  note(w, task, start_s, false);
  w->flight[w->n_flight++] = *task;
  w->n_in[task->on_device]++;
  while (w->n_in[task->on_device] >= lane->depth) INGOT_TRY(finish_oldest(w));
done:
  return st;
}

/* Between tasks: is it time to go over to the GPU? */
static void look_for_device(worker *w)
{
  int device;
  if (!w->pool->hand_over || w->lane[ON_DEVICE] || !ingot_hand_over_wants_lane(w->pool->hand_over, &device)) return;
  if (ingot_lane_cuda_open(w->pool->plan, device, &w->lane[ON_DEVICE]) != INGOT_OK)
    ingot_hand_over_failed(w->pool->hand_over);
}

static ingot_status work(worker *w)
{
  ingot_status st = INGOT_OK;
  pool        *p = w->pool;
  for (;;) {
    ingot_task            task;
    ingot_schedule_answer answer;
    look_for_device(w);
    ingot_schedule_lanes lanes = {.cpu = w->lane[ON_CPU], .device = w->lane[ON_DEVICE]};
    lanes.prefer_device = lanes.device && (!p->hand_over || ingot_hand_over_prefers_device(p->hand_over));
    double      start_s = ingot_clock_s();
    ingot_lane *first = w->lane[lanes.cpu ? ON_CPU : ON_DEVICE];
    INGOT_TRY(ingot_schedule_next(p->schedule, lanes, w->n_flight == 0, &task, &answer));
    first->timing.wait_s += ingot_clock_s() - start_s;
    if (answer == INGOT_SCHEDULE_FINISHED && w->n_flight == 0) break;
    if (answer == INGOT_SCHEDULE_TASK) INGOT_TRY(begin_task(w, &task));
    else INGOT_TRY(finish_oldest(w));
  }
done:
  return st;
}

static void add_timing(ingot_merge_timing *sum, const ingot_merge_timing *t)
{
  sum->read_s += t->read_s;
  sum->move_s += t->move_s;
  sum->merge_s += t->merge_s;
  sum->write_s += t->write_s;
  sum->wait_s += t->wait_s;
  sum->device_s += t->device_s;
  sum->bytes_read += t->bytes_read;
  sum->bytes_written += t->bytes_written;
  sum->tiles_done += t->tiles_done;
  sum->tiles_on_device += t->tiles_on_device;
}

static void *worker_thread(void *argument)
{
  pool        *p = argument;
  worker       w = {.pool = p};
  ingot_status st = p->device >= 0 ? ingot_lane_cuda_open(p->plan, p->device, &w.lane[ON_DEVICE])
                                   : ingot_lane_cpu_open(p->plan, &w.lane[ON_CPU]);
  if (st == INGOT_OK) st = work(&w);
  if (st != INGOT_OK) pool_fail(p, st);

  pthread_mutex_lock(&p->lock);
  for (int k = 0; k < N_KIND; k++)
    if (w.lane[k]) add_timing(&p->timing, &w.lane[k]->timing);
  if (w.lane[ON_DEVICE]) p->timing.device_s += w.lane[ON_DEVICE]->timing.move_s + w.lane[ON_DEVICE]->timing.merge_s;
  p->n_running--;
  pthread_cond_signal(&p->left);
  pthread_mutex_unlock(&p->lock);
  for (int k = 0; k < N_KIND; k++)
    if (w.lane[k]) w.lane[k]->ops->close(w.lane[k]);
  return NULL;
}

/* What the calling thread keeps while lanes run. */
typedef struct supervisor {
  ingot_comm *comm;
  pool       *p;
  double      start_s, notice_s;
  bool        told, stopped, cancelled;
  int64_t    *rank_tiles, *rank_bytes; /* rank 0: [size] */
} supervisor;

static void cancel_here(supervisor *s)
{
  s->cancelled = true;
  ingot_schedule_cancel(s->p->schedule);
}

static ingot_status take_notices(supervisor *s)
{
  ingot_status st = INGOT_OK;
  bool         got = true;
  while (got) {
    ingot_notice notice;
    int          source;
    INGOT_TRY(ingot_comm_poll(s->comm, &notice, &source, &got));
    if (!got) break;
    if (notice.kind == INGOT_NOTICE_STOP) {
      s->told = true; /* everyone knows already */
      if (notice.value[0] == INGOT_STOPPED) s->stopped = true;
      cancel_here(s);
    } else if (notice.kind == INGOT_NOTICE_PROGRESS && s->rank_tiles) {
      s->rank_tiles[source] = notice.value[0];
      s->rank_bytes[source] = notice.value[1];
    }
  }
done:
  return st;
}

static ingot_status tell_others(supervisor *s, ingot_status why)
{
  ingot_notice notice = {.kind = INGOT_NOTICE_STOP, .value = {why}};
  if (s->told) return INGOT_OK;
  s->told = true;
  return ingot_comm_notify(s->comm, -1, &notice);
}

static ingot_status report_progress(supervisor *s)
{
  pool   *p = s->p;
  double  now = ingot_clock_s();
  int64_t tiles = p->output->tiles_before + atomic_load(&p->tiles_done), bytes = atomic_load(&p->bytes_done);
  if (!p->output->sink || now - s->notice_s < NOTICE_PERIOD_S) return INGOT_OK;
  s->notice_s = now;
  if (ingot_comm_rank(s->comm) != 0) {
    ingot_notice notice = {.kind = INGOT_NOTICE_PROGRESS, .value = {tiles, bytes}};
    return ingot_comm_notify(s->comm, 0, &notice);
  }
  s->rank_tiles[0] = tiles;
  s->rank_bytes[0] = bytes;
  for (int r = 1; r < ingot_comm_size(s->comm); r++) {
    tiles += s->rank_tiles[r];
    bytes += s->rank_bytes[r];
  }
  if (p->options->progress)
    p->options->progress(p->options->progress_context, tiles, p->output->n_tile, (uint64_t)bytes, p->output->n_bytes,
                         now - s->start_s);
  return INGOT_OK;
}

/* Look after the lanes until all have returned. Called under the pool's lock, which it gives up while it works. */
static ingot_status supervise(supervisor *s)
{
  pool        *p = s->p;
  ingot_status st = INGOT_OK;
  while (p->n_running > 0) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += SUPERVISE_NS;
    if (until.tv_nsec >= 1000000000) {
      until.tv_sec++;
      until.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&p->left, &p->lock, &until);
    ingot_status lane_status = p->status;
    pthread_mutex_unlock(&p->lock);

    if (st == INGOT_OK) st = take_notices(s);
    if (st == INGOT_OK && p->options->stop && atomic_load(p->options->stop) && !s->stopped) {
      s->stopped = true;
      cancel_here(s);
      st = tell_others(s, INGOT_STOPPED);
    }
    if (st == INGOT_OK && lane_status != INGOT_OK) st = tell_others(s, lane_status);
    if (st == INGOT_OK) st = report_progress(s);
    if (st != INGOT_OK) cancel_here(s);
    pthread_mutex_lock(&p->lock);
  }
  /* A lane may have failed between the last look and its return: the others still need to hear of it. */
  if (st == INGOT_OK && p->status != INGOT_OK) st = tell_others(s, p->status);
  return st;
}

static ingot_status start_lanes(pool *p, pthread_t *threads, int n)
{
  for (int i = 0; i < n; i++) {
    pthread_mutex_lock(&p->lock);
    p->n_running++;
    pthread_mutex_unlock(&p->lock);
    if (pthread_create(&threads[i], NULL, worker_thread, p) != 0) {
      pthread_mutex_lock(&p->lock);
      p->n_running--;
      pthread_mutex_unlock(&p->lock);
      if (i > 0) return INGOT_OK; /* fewer lanes do the same work */
      return ingot_fail(INGOT_ERR_NOMEM, "no thread could be started");
    }
    p->timing.n_lane++;
  }
  return INGOT_OK;
}

ingot_status ingot_pool_run(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                            int device, ingot_hand_over *hand_over, ingot_schedule *schedule,
                            const ingot_pool_output *output, ingot_merge_timing *timing)
{
  ingot_status       st = INGOT_OK;
  int                n = options->n_thread, size = ingot_comm_size(comm);
  pthread_t         *threads = calloc((size_t)n, sizeof *threads);
  int64_t           *counts = calloc(2 * (size_t)size, sizeof *counts);
  pthread_condattr_t monotonic;
  pool               p = {.plan = plan,
                          .options = options,
                          .device = device,
                          .hand_over = hand_over,
                          .schedule = schedule,
                          .output = output};
  supervisor         s = {.comm = comm, .p = &p, .start_s = ingot_clock_s(), .rank_tiles = counts};
  pthread_mutex_init(&p.lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&p.left, &monotonic);
  INGOT_CHECK(threads && counts, INGOT_ERR_NOMEM, "no memory for %d lanes", n);
  s.rank_bytes = counts + size;

  INGOT_TRY(start_lanes(&p, threads, n));
  pthread_mutex_lock(&p.lock);
  st = supervise(&s);
  pthread_mutex_unlock(&p.lock);
  for (int i = 0; i < (int)p.timing.n_lane; i++) pthread_join(threads[i], NULL);
  if (st == INGOT_OK && p.status != INGOT_OK) st = ingot_fail(p.status, "%s", p.message);
  if (st == INGOT_OK && s.stopped) st = ingot_fail(INGOT_STOPPED, "stopped on request; the same command continues");

  add_timing(timing, &p.timing);
  timing->n_lane = p.timing.n_lane;
done:
  pthread_cond_destroy(&p.left);
  pthread_condattr_destroy(&monotonic);
  pthread_mutex_destroy(&p.lock);
  free(threads);
  free(counts);
  return st;
}
