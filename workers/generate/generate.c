/* Chunks over ranks and threads: the main thread talks to the other ranks while others decode. */
#define _POSIX_C_SOURCE 200809L
#include "workers/generate/generate.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "workers/crew.h"
#include "workers/generate/lane.h"
#include "workers/statistics/loop.h"

static const double NOTICE_EVERY_S = 0.2;
enum { POLL_NS = 5 * 1000 * 1000, LOGITS_BYTES = sizeof(float) };

int64_t ingot_generate_most_tokens(const ingot_generate_plan *plan)
{
  int64_t each = plan->prompt + plan->length, n = plan->n_prompt * plan->samples;
  if (plan->row == 0) return n * each;
  int64_t in_row = plan->row / each;
  return (n + in_row - 1) / in_row * plan->row;
}

int64_t ingot_generate_chunks(const ingot_generate_plan *plan, const int64_t *per_data)
{
  int64_t n = 0;
  int     n_data = plan->ensemble.gather.n_data > 0 ? plan->ensemble.gather.n_data : 1;
  for (int d = 0; d < n_data; d++) n += (per_data[d] * plan->samples + plan->batch - 1) / plan->batch;
  return n;
}

ingot_ensemble_memory ingot_generate_bytes(const ingot_generate_plan *plan, const ingot_model_spec *specs,
                                           bool on_device, int n_thread)
{
  const ingot_gather_plan *g = &plan->ensemble.gather;
  ingot_dtype              dtype = on_device ? ingot_compute_dtype(g->compute) : INGOT_DTYPE_F32;
  ingot_decoder_options    decoder = {.n_row = ingot_lane_rows(plan),
                                      .n_prompt = plan->prompt,
                                      .n_time = plan->prompt + plan->length};
  ingot_ensemble_memory    memory = {0};
  uint64_t                 lanes = (uint64_t)plan->n_lane, rows = (uint64_t)decoder.n_row,
           ld = (uint64_t)(specs[0].n_vocab + 7) / 8 * 8;
  uint64_t batch = (uint64_t)plan->batch, time = (uint64_t)decoder.n_time;
  for (int i = 0; i < g->n_model; i++) {
    memory.device_bytes +=
        ingot_model_bytes(&specs[i], dtype) + lanes * ingot_decoder_bytes(&specs[i], dtype, &decoder);
    memory.host_bytes += lanes * rows * time * 4;
  }
  uint64_t width = (uint64_t)ingot_lane_takes(plan, specs[0].n_vocab).width;
  memory.device_bytes += lanes * rows * (ld * LOGITS_BYTES + width * 8 + 8);
  memory.host_bytes += lanes * (rows * (width * 8 + 8) + 3 * batch * time * 4);
  memory.host_bytes += (on_device ? (uint64_t)n_thread : lanes) * ld * 8; /* room of each thread that chooses tokens */
  if (plan->search == INGOT_SEARCH_BEAM) memory.host_bytes += lanes * (3 * rows + batch) * (uint64_t)plan->length * 4;
  memory.host_bytes += (uint64_t)plan->n_prompt * 16;
  return memory;
}

/* ---- what a rank has ---- */

typedef struct job {
  ingot_gather               g; /* data, options, timing; its nn on a GPU, or to read weights */
  const ingot_generate_plan *plan;
  ingot_prompts              prompts;
  ingot_records              records;
  ingot_source             **sources; /* [n_model] */
  ingot_model              **models;
  ingot_lane                *lanes; /* [n_lane] */
  bool                      *lane_open;
  int                        n_lane;
  int64_t                   *mine; /* chunks of this rank */
  int64_t                    n_mine;
  atomic_int                 cancelled, over;
  _Atomic int64_t            n_done; /* sequences of this run, this rank */
  ingot_status               status; /* of the thread that decodes */
  char                       message[1024];
} job;

static ingot_status load_models(job *j)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &j->plan->ensemble.gather;
  double                   start_s = ingot_clock_s();
  for (int m = 0; m < g->n_model; m++) {
    INGOT_TRY(ingot_source_open(g->models[m].path, &j->sources[m]));
    INGOT_TRY(ingot_model_load(j->g.nn, j->sources[m], &j->models[m]));
    INGOT_CHECK(j->models[m]->spec.n_vocab == j->models[0]->spec.n_vocab, INGOT_ERR_MISMATCH,
                "%s has a vocabulary of %lld tokens, and %s one of %lld", g->models[m].path,
                (long long)j->models[m]->spec.n_vocab, g->models[0].path, (long long)j->models[0]->spec.n_vocab);
    for (int t = 0; t < ingot_source_count(j->sources[m]); t++)
      j->g.timing->bytes_read += ingot_source_tensor(j->sources[m], t)->bytes;
  }
  j->g.timing->read_s += ingot_clock_s() - start_s;
done:
  return st;
}

static ingot_status open_job(job *j)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &j->plan->ensemble.gather;
  size_t                   n = (size_t)g->n_model;
  j->sources = calloc(n, sizeof(ingot_source *));
  j->models = calloc(n, sizeof(ingot_model *));
  j->n_lane = j->g.options->on_device                    ? 1
              : j->g.options->n_thread < j->plan->n_lane ? j->g.options->n_thread
                                                         : j->plan->n_lane;
  j->lanes = calloc((size_t)j->n_lane, sizeof *j->lanes);
  j->lane_open = calloc((size_t)j->n_lane, sizeof *j->lane_open);
  INGOT_CHECK(j->sources && j->models && j->lanes && j->lane_open, INGOT_ERR_NOMEM, "no memory for %d threads",
              j->n_lane);
  INGOT_TRY(ingot_prompts_find(j->plan, 0, &j->prompts));
  INGOT_CHECK(j->prompts.n == j->plan->n_prompt, INGOT_ERR_FORMAT,
              "the token files were changed after they were looked at: %lld prompts, now %lld",
              (long long)j->plan->n_prompt, (long long)j->prompts.n);
done:
  return st;
}

static void close_lanes(job *j)
{
  for (int i = 0; j->lanes && i < j->n_lane; i++)
    if (j->lanes[i].plan) ingot_lane_close(&j->lanes[i]);
}

static void close_job(job *j)
{
  close_lanes(j);
  for (int m = 0; j->models && m < j->plan->ensemble.gather.n_model; m++) ingot_model_close(&j->models[m]);
  for (int m = 0; j->sources && m < j->plan->ensemble.gather.n_model; m++)
    if (j->sources[m]) ingot_source_close(&j->sources[m]);
  free(j->sources);
  free(j->models);
  free(j->lanes);
  free(j->lane_open);
  free(j->mine);
  ingot_prompts_release(&j->prompts);
  ingot_records_close(&j->records);
  ingot_gather_release(&j->g);
}

/* ---- decoding ---- */

static ingot_status one_chunk(void *context, int64_t item, int thread)
{
  ingot_status st = INGOT_OK;
  job         *j = context;
  ingot_lane  *l = &j->lanes[thread];
  int64_t      chunk = j->mine[item];
  bool         whole = false;
  if (atomic_load(&j->cancelled)) return INGOT_OK;
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_KILL));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_STOP));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_SLOW));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_READ));
  if (!j->lane_open[thread]) {
    *l = (ingot_lane){.plan = j->plan,
                      .prompts = &j->prompts,
                      .records = &j->records,
                      .tokens_of = j->g.tokens,
                      .cancelled = &j->cancelled};
    INGOT_TRY(ingot_lane_open(l, j->models, j->g.options->on_device, j->g.options->n_thread));
    j->lane_open[thread] = true;
  }
  INGOT_TRY(ingot_lane_run(l, chunk, &whole));
  if (atomic_load(&j->n_done) == 0) ingot_gather_look_at_device(&j->g); /* all memory is taken by now */
  if (!whole) goto done;
  INGOT_TRY(ingot_records_put(&j->records, chunk, l->sequences));
  atomic_fetch_add(&j->n_done, l->n);
done:
  return st;
}

/* A product of one element: BLAS is set to one thread by its first user, who had better be alone. */
static ingot_status touch_blas(ingot_nn *nn)
{
  const float a = 1.0F, b = 1.0F;
  float       c = 0.0F;
  if (nn->kind != INGOT_NN_CPU) return INGOT_OK;
  return nn->ops->matmul(nn, 1, 1, 1, 1.0F, (ingot_nn_matrix){&a, 1, false}, (ingot_nn_matrix){&b, 1, false}, 0.0F, &c,
                         1, INGOT_DTYPE_F32, NULL);
}

static ingot_status decode(job *j)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(load_models(j));
  INGOT_TRY(touch_blas(j->g.nn));
  INGOT_TRY(ingot_crew_run(j->n_lane, j->n_mine, one_chunk, j));
done:
  return st;
}

static void *decode_thread(void *context)
{
  job *j = context;
  j->status = decode(j);
  if (j->status != INGOT_OK) snprintf(j->message, sizeof j->message, "%s", ingot_error_message());
  atomic_store(&j->over, 1);
  return NULL;
}

/* ---- talking, meanwhile ---- */

typedef struct talk {
  job    *j;
  double  notice_s;
  bool    told;
  int64_t done_before; /* sequences of earlier runs */
} talk;

static ingot_status take_notices(talk *t)
{
  ingot_status st = INGOT_OK;
  ingot_notice notice;
  int          source;
  bool         got = true;
  while (got) {
    INGOT_TRY(ingot_comm_poll(t->j->g.comm, &notice, &source, &got));
    if (!got) break;
    if (notice.kind == INGOT_NOTICE_STOP) {
      t->told = true;
      atomic_store(&t->j->cancelled, 1);
    }
    if (notice.kind == INGOT_NOTICE_PROGRESS) t->j->g.rank_windows[source] = notice.value[0];
  }
done:
  return st;
}

static ingot_status tell_others(talk *t, ingot_status why)
{
  ingot_notice notice = {.kind = INGOT_NOTICE_STOP, .value = {why}};
  atomic_store(&t->j->cancelled, 1);
  if (t->told) return INGOT_OK;
  t->told = true;
  return ingot_comm_notify(t->j->g.comm, -1, &notice);
}

static ingot_status report(talk *t)
{
  ingot_gather *g = &t->j->g;
  double        now_s = ingot_clock_s();
  int64_t       done = atomic_load(&t->j->n_done), all = t->done_before;
  if (now_s - t->notice_s < NOTICE_EVERY_S) return INGOT_OK;
  t->notice_s = now_s;
  if (ingot_comm_rank(g->comm) != 0) {
    ingot_notice notice = {.kind = INGOT_NOTICE_PROGRESS, .value = {done}};
    return ingot_comm_notify(g->comm, 0, &notice);
  }
  g->rank_windows[0] = done;
  for (int r = 0; r < ingot_comm_size(g->comm); r++) all += g->rank_windows[r];
  if (g->options->progress)
    g->options->progress(g->options->progress_context, all, t->j->records.n_sequence, all * g->plan->window.length,
                         now_s - g->start_s);
  return INGOT_OK;
}

static ingot_status converse(talk *t)
{
  ingot_status      st = INGOT_OK;
  const atomic_int *stop = t->j->g.options->stop;
  while (!atomic_load(&t->j->over)) {
    INGOT_TRY(take_notices(t));
    if (stop && atomic_load(stop)) INGOT_TRY(tell_others(t, INGOT_STOPPED));
    INGOT_TRY(report(t));
    nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
  }
done:
  return st;
}

/* This rank's chunks: a contiguous part of those that are not done. */
static ingot_status take_chunks(job *j, int64_t *n_all)
{
  ingot_status st = INGOT_OK;
  int64_t      n = 0, begin, end, at = 0;
  for (int64_t i = 0; i < j->records.n_chunk; i++) n += !j->records.done[i];
  ingot_gather_part(j->g.comm, 0, n, &begin, &end);
  j->mine = calloc((size_t)(end - begin) + 1, sizeof *j->mine);
  INGOT_CHECK(j->mine, INGOT_ERR_NOMEM, "no memory for %lld chunks", (long long)n);
  for (int64_t i = 0; i < j->records.n_chunk; i++) {
    if (j->records.done[i]) continue;
    if (at >= begin && at < end) j->mine[j->n_mine++] = i;
    at++;
  }
  *n_all = n;
done:
  return st;
}

static ingot_status run_chunks(job *j)
{
  ingot_status st = INGOT_OK;
  pthread_t    thread;
  talk         t = {.j = j};
  int64_t      n_all = 0;
  INGOT_TRY(ingot_comm_agree(j->g.comm, take_chunks(j, &n_all)));
  for (int64_t i = 0; i < j->records.n_chunk; i++)
    if (j->records.done[i]) t.done_before += j->records.chunk_first[i + 1] - j->records.chunk_first[i];
  if (n_all == 0) goto done;
  ingot_status mine = INGOT_OK, talked = INGOT_OK;
  if (pthread_create(&thread, NULL, decode_thread, j) != 0)
    mine = ingot_fail(INGOT_ERR_NOMEM, "a thread cannot be started");
  else {
    talked = converse(&t);
    if (talked != INGOT_OK) atomic_store(&j->cancelled, 1);
    pthread_join(thread, NULL);
    mine = j->status == INGOT_OK ? talked : ingot_fail(j->status, "%s", j->message);
  }
  if (mine != INGOT_OK) {
    ingot_status told = tell_others(&t, mine);
    if (told != INGOT_OK) mine = told;
  }
  ingot_status drained = ingot_comm_drain(j->g.comm);
  INGOT_TRY(ingot_comm_agree(j->g.comm, mine != INGOT_OK ? mine : drained));
  int64_t unfinished = atomic_load(&j->cancelled);
  INGOT_TRY(ingot_comm_max_i64(j->g.comm, &unfinished, 1));
  INGOT_CHECK(!unfinished, INGOT_STOPPED, "stopped on request; the same command continues");
done:
  return st;
}

static ingot_status run_job(job *j, ingot_generate_result *result)
{
  ingot_status st = INGOT_OK;
  int64_t      n_resumed = 0;
  INGOT_TRY(ingot_records_open(&j->records, j->g.comm, j->plan, j->prompts.per_data, j->g.options->fresh, &n_resumed));
  j->g.timing->tiles_resumed = n_resumed;
  if (n_resumed > 0 && ingot_comm_rank(j->g.comm) == 0)
    ingot_log_info("%s: goes on behind %lld of %lld chunks", j->g.plan->output, (long long)n_resumed,
                   (long long)j->records.n_chunk);
  double start_s = ingot_clock_s();
  INGOT_TRY(run_chunks(j));
  j->g.timing->merge_s += ingot_clock_s() - start_s;
  j->g.timing->tiles_done = j->n_mine;
  if (j->g.options->on_device) j->g.timing->tiles_on_device = j->n_mine;
  start_s = ingot_clock_s();
  INGOT_TRY(ingot_generate_write(&j->records, j->g.comm, result));
  j->g.timing->write_s += ingot_clock_s() - start_s;
  if (ingot_comm_rank(j->g.comm) == 0)
    j->g.timing->bytes_written = (uint64_t)result->n_token * (uint64_t)j->plan->width;
done:
  return st;
}

ingot_status ingot_generate_run(ingot_comm *comm, const ingot_generate_plan *plan, const ingot_gather_options *options,
                                ingot_generate_result *result, ingot_merge_timing *timing)
{
  double       start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  job          j = {.plan = plan, .g = {.plan = &plan->ensemble.gather}, .records = {.fd = -1}};
  ingot_status st = ingot_gather_init(&j.g, comm, &plan->ensemble.gather, options, timing);
  if (st == INGOT_OK) st = open_job(&j);
  INGOT_TRY(ingot_comm_agree(comm, st));
  timing->n_lane = j.n_lane;
  INGOT_TRY(run_job(&j, result));
done:
  close_job(&j);
  ingot_gather_stop_clock(timing, start_s, start_cpu_s);
  return st;
}
