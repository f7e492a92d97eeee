#include "workers/statistics/loop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/process.h"
#include "kernels/device.h"

static const double NOTICE_EVERY_S = 0.2;
enum {
  LOOKS = 4,
  N_ARRAY = 5 /* of a batch: ids, labels, positions, first keys, valid */
};

int64_t ingot_gather_window_count(const ingot_gather_plan *plan)
{
  int64_t n = 0;
  for (int i = 0; i < plan->n_data; i++) n += plan->data[i].n_window;
  return n;
}

/*
 * Products of both kinds, forward and of a gradient, which bring in what the GPU's libraries take for them. What the
 * process has of the host and what is free of the GPU then is the libraries' doing; all that comes later is the step's.
 */
static ingot_status start_libraries(ingot_gather *g)
{
  enum { WIDTH = 256 };
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = g->nn;
  size_t       total = 0, bytes = WIDTH * WIDTH * sizeof(float);
  char        *memory = NULL, name[128];
  void        *found = NULL;
  INGOT_TRY(nn->ops->alloc(nn, 3 * bytes, &found));
  memory = found;
  INGOT_TRY(nn->ops->zero(nn, memory, 3 * bytes));
  for (int gradient = 0; gradient < 2; gradient++) {
    ingot_nn_matrix a = {memory, WIDTH, gradient}, b = {memory + bytes, WIDTH, !gradient};
    INGOT_TRY(nn->ops->matmul(nn, WIDTH, WIDTH, WIDTH, 1.0F, a, b, 0.0F, memory + 2 * bytes, WIDTH,
                              gradient ? INGOT_DTYPE_F32 : nn->dtype, NULL));
  }
  INGOT_TRY(nn->ops->wait(nn));
  nn->ops->free(nn, memory);
  memory = NULL;
  uint64_t anon = ingot_process_anon_bytes(), own = ingot_nn_host_bytes(nn->kind);
  g->timing->library_bytes = anon > own ? anon - own : 0;
  INGOT_TRY(ingot_device_info(nn->device, name, &total, &g->free_before));
done:
  if (memory) nn->ops->free(nn, memory);
  return st;
}

void ingot_gather_look_at_device(ingot_gather *g)
{
  size_t total = 0, free_bytes = 0;
  char   name[128];
  if (!g->options->on_device || ingot_device_info(g->nn->device, name, &total, &free_bytes) != INGOT_OK) return;
  if (g->free_before > free_bytes && g->free_before - free_bytes > g->timing->peak_device_bytes)
    g->timing->peak_device_bytes = g->free_before - free_bytes;
}

static ingot_status open_nn(ingot_gather *g)
{
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = g->options->n_thread, .dtype = INGOT_DTYPE_F32};
  if (g->options->on_device) {
    int n = ingot_device_count();
    options.kind = INGOT_NN_CUDA;
    options.device = n > 0 ? ingot_comm_local_rank(g->comm) % n : 0;
    options.dtype = ingot_compute_dtype(g->plan->compute);
    options.tf32 = g->plan->compute == INGOT_COMPUTE_TF32;
  }
  g->timing->on_device = g->options->on_device;
  ingot_status st = ingot_nn_open(&options, &g->nn);
  return st == INGOT_OK && g->options->on_device ? start_libraries(g) : st;
}

ingot_dtype ingot_compute_dtype(ingot_compute compute)
{
  return compute == INGOT_COMPUTE_BF16 ? INGOT_DTYPE_BF16 : INGOT_DTYPE_F32;
}

ingot_pass_options ingot_gather_pass_options(const ingot_gather_plan *plan, bool backward, bool headless)
{
  return (ingot_pass_options){.n_batch = plan->batch,
                              .n_time = plan->window.length,
                              .backward = backward,
                              .head_rows = headless ? 1 : 0};
}

uint64_t ingot_gather_batch_bytes(const ingot_gather_plan *plan)
{
  return N_ARRAY * (uint64_t)plan->batch * (uint64_t)plan->window.length * sizeof(int32_t);
}

ingot_status ingot_gather_init(ingot_gather *g, ingot_comm *comm, const ingot_gather_plan *plan,
                               const ingot_gather_options *options, ingot_merge_timing *timing)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)plan->batch * (size_t)plan->window.length;
  *timing = (ingot_merge_timing){.n_lane = options->n_thread};
  *g = (ingot_gather){.comm = comm, .plan = plan, .options = options, .timing = timing, .start_s = ingot_clock_s()};
  g->tokens = calloc((size_t)plan->n_data + 1, sizeof(ingot_tokens *));
  g->ids = calloc(N_ARRAY * n + 1, sizeof *g->ids);
  g->rank_windows = calloc((size_t)ingot_comm_size(comm), sizeof *g->rank_windows);
  INGOT_CHECK(g->tokens && g->ids && g->rank_windows, INGOT_ERR_NOMEM, "no memory for windows of %lld tokens",
              (long long)plan->window.length);
  for (int i = 0; i < plan->n_data; i++) {
    INGOT_TRY(ingot_tokens_open(plan->data[i].path, plan->data[i].dtype, &g->tokens[i]));
    INGOT_CHECK(ingot_window_count(g->tokens[i], &plan->window) == plan->data[i].n_window, INGOT_ERR_FORMAT,
                "%s: the file was changed after it was looked at", plan->data[i].path);
  }
  INGOT_TRY(open_nn(g));
done:
  return st;
}

static void unload(ingot_gather *g)
{
  ingot_pass_close(&g->pass);
  ingot_model_close(&g->model);
  if (g->source) ingot_source_close(&g->source);
}

void ingot_gather_stop_clock(ingot_merge_timing *timing, double start_s, double start_cpu_s)
{
  timing->wall_s = ingot_clock_s() - start_s;
  timing->cpu_s = ingot_clock_cpu_s() - start_cpu_s;
  ingot_timing_of_lanes(timing, timing->n_lane);
}

void ingot_gather_release(ingot_gather *g)
{
  unload(g);
  ingot_nn_close(&g->nn);
  for (int i = 0; g->tokens && i < g->plan->n_data; i++) ingot_tokens_close(&g->tokens[i]);
  free(g->tokens);
  free(g->ids);
  free(g->rank_windows);
  g->tokens = NULL;
  g->ids = NULL;
  g->rank_windows = NULL;
}

ingot_status ingot_gather_load(ingot_gather *g, int model, bool backward)
{
  ingot_status       st = INGOT_OK;
  double             start_s = ingot_clock_s();
  ingot_pass_options pass = ingot_gather_pass_options(g->plan, backward, g->headless);
  const char        *path = g->plan->models[model].path;
  unload(g);
  g->n_look = 0;
  INGOT_TRY(ingot_source_open(path, &g->source));
  INGOT_TRY(ingot_model_load(g->nn, g->source, &g->model));
  INGOT_CHECK(g->plan->window.length <= g->model->spec.n_position, INGOT_ERR_MISMATCH,
              "%s: windows of %lld tokens, and the model has %lld positions", path, (long long)g->plan->window.length,
              (long long)g->model->spec.n_position);
  INGOT_TRY(ingot_pass_open(g->model, &pass, &g->pass));
  g->n_vocab = g->model->spec.n_vocab;
  for (int i = 0; i < ingot_source_count(g->source); i++)
    g->timing->bytes_read += ingot_source_tensor(g->source, i)->bytes;
done:
  g->timing->read_s += ingot_clock_s() - start_s;
  return st;
}

ingot_status ingot_gather_resume(ingot_gather *g, ingot_text *path, const ingot_state_part *parts, int n_part,
                                 int64_t *n_done)
{
  ingot_status st = INGOT_OK;
  const char  *why = NULL;
  int          rank = ingot_comm_rank(g->comm), size = ingot_comm_size(g->comm);
  *n_done = 0;
  INGOT_TRY(ingot_state_path(g->plan->output, rank, size, path));
  if (g->options->fresh) goto done;
  INGOT_TRY(ingot_state_load(ingot_text_string(path), g->plan->fingerprint, n_done, g->nn, parts, n_part, &why));
  if (why) ingot_log_info("%s: not taken up, because %s", ingot_text_string(path), why);
  if (*n_done == 0 && ingot_state_other_ranks(g->plan->output, size))
    ingot_log_info("%s: there are saved states of another number of ranks: begun anew", g->plan->output);
  if (*n_done > 0) ingot_log_info("%s: goes on behind %lld windows", ingot_text_string(path), (long long)*n_done);
  g->timing->tiles_resumed = *n_done;
done:
  return st;
}

void ingot_gather_part(const ingot_comm *comm, int64_t first, int64_t end, int64_t *part_begin, int64_t *part_end)
{
  int64_t n = end - first, rank = ingot_comm_rank(comm), size = ingot_comm_size(comm);
  *part_begin = first + n * rank / size;
  *part_end = first + n * (rank + 1) / size;
}

/* The data set of a window, and its number there. */
static int find_window(const ingot_gather *g, int64_t window, int64_t *index)
{
  int d = 0;
  while (window >= g->plan->data[d].n_window) window -= g->plan->data[d++].n_window;
  *index = window;
  return d;
}

ingot_status ingot_gather_place(const ingot_gather *g, int64_t window, ingot_text *text)
{
  int64_t index;
  int     d = find_window(g, window, &index);
  return ingot_text_printf(text, "window %lld of %lld of %s", (long long)(index + 1),
                           (long long)g->plan->data[d].n_window, g->plan->data[d].path);
}

/* Windows first .. first + n - 1 into the arrays, as a batch. */
static ingot_status read_batch(ingot_gather *g, int64_t first, int64_t n, ingot_batch *batch)
{
  ingot_status st = INGOT_OK;
  int64_t      length = g->plan->window.length, all = g->plan->batch * length;
  int32_t     *labels = g->ids + all, *positions = labels + all, *first_key = positions + all, *valid = first_key + all;
  bool         padded = false;
  for (int64_t i = 0; i < n; i++) {
    int64_t index, at = i * length;
    int     d = find_window(g, first + i, &index);
    INGOT_TRY(ingot_window_read(g->tokens[d], &g->plan->window, index, g->n_vocab, g->ids + at, labels + at,
                                positions + at, first_key + at, valid + at));
    padded = padded || !valid[at + length - 1];
  }
  *batch = (ingot_batch){.n_batch = n, .n_time = length, .tokens = g->ids, .labels = labels};
  if (g->plan->window.separate) batch->positions = positions;
  if (g->plan->window.separate) batch->first_key = first_key;
  if (padded) batch->valid = valid;
done:
  return st;
}

/* All ids are looked at before anything is computed. */
static ingot_status check_ids(ingot_gather *g, int64_t first, int64_t end)
{
  ingot_status st = INGOT_OK;
  ingot_batch  batch;
  for (int64_t i = first; i < end; i++) INGOT_TRY(read_batch(g, i, 1, &batch));
done:
  return st;
}

ingot_status ingot_gather_loss(const ingot_gather *g, const ingot_batch *batch, int64_t first, const float *nll,
                               double *sum, int64_t *n_token)
{
  ingot_status st = INGOT_OK;
  ingot_text   place = {0};
  for (int64_t b = 0; b < batch->n_batch; b++) {
    double  of_window = 0.0;
    int64_t n = 0;
    for (int64_t t = b * batch->n_time; t < (b + 1) * batch->n_time; t++) {
      if (batch->labels[t] == INGOT_NN_IGNORE) continue;
      of_window += (double)nll[t];
      n++;
    }
    if (!isfinite(of_window)) {
      INGOT_TRY(ingot_gather_place(g, first + b, &place));
      st = ingot_fail(INGOT_ERR_NUMERIC, "%s: the loss is not finite for %s", ingot_text_string(&place),
                      g->source ? ingot_source_path(g->source) : "the model");
      goto done;
    }
    *sum += of_window;
    *n_token += n;
  }
done:
  ingot_text_release(&place);
  return st;
}

/* What a rank keeps between batches. */
typedef struct loop {
  ingot_gather *g;
  double        notice_s, save_s;
  bool          told, stopped, cancelled;
} loop;

static ingot_status take_notices(loop *l)
{
  ingot_status st = INGOT_OK;
  ingot_notice notice;
  int          source;
  bool         got = true;
  while (got) {
    INGOT_TRY(ingot_comm_poll(l->g->comm, &notice, &source, &got));
    if (!got) break;
    if (notice.kind == INGOT_NOTICE_STOP) l->told = l->cancelled = true;
    if (notice.kind == INGOT_NOTICE_PROGRESS) l->g->rank_windows[source] = notice.value[0];
  }
done:
  return st;
}

static ingot_status tell_others(loop *l, ingot_status why)
{
  ingot_notice notice = {.kind = INGOT_NOTICE_STOP, .value = {why}};
  l->cancelled = true;
  if (l->told) return INGOT_OK;
  l->told = true;
  return ingot_comm_notify(l->g->comm, -1, &notice);
}

static ingot_status report(loop *l, int64_t n_done)
{
  ingot_gather *g = l->g;
  double        now_s = ingot_clock_s();
  if (now_s - l->notice_s < NOTICE_EVERY_S) return INGOT_OK;
  l->notice_s = now_s;
  if (ingot_comm_rank(g->comm) != 0) {
    ingot_notice notice = {.kind = INGOT_NOTICE_PROGRESS, .value = {n_done}};
    return ingot_comm_notify(g->comm, 0, &notice);
  }
  g->rank_windows[0] = n_done;
  int64_t windows = g->windows_before;
  for (int r = 0; r < ingot_comm_size(g->comm); r++) windows += g->rank_windows[r];
  if (g->options->progress)
    g->options->progress(g->options->progress_context, windows, g->n_window, windows * g->plan->window.length,
                         now_s - g->start_s);
  return INGOT_OK;
}

/* Before a batch: what is planned to go wrong, and its windows. */
static ingot_status prepare(loop *l, int64_t at, int64_t n, ingot_batch *batch)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_KILL));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_STOP));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_SLOW));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_READ));
  INGOT_TRY(read_batch(l->g, at, n, batch));
done:
  return st;
}

/* One batch, which began at start_s. */
static ingot_status step(loop *l, ingot_batch *batch, int64_t at, double start_s, const ingot_gather_work *work)
{
  ingot_status st = work->batch(work->context, batch, at);
  if (st != INGOT_OK) return st;
  l->g->timing->merge_s += ingot_clock_s() - start_s;
  l->g->timing->tiles_done += batch->n_batch;
  if (l->g->options->on_device) l->g->timing->tiles_on_device += batch->n_batch;
  if (l->g->n_look++ < LOOKS) ingot_gather_look_at_device(l->g); /* buffers grow in the first batches */
  return INGOT_OK;
}

static ingot_status own_part(loop *l, int64_t begin, int64_t end, int64_t *at, const ingot_gather_work *work)
{
  ingot_status  st = INGOT_OK;
  ingot_gather *g = l->g;
  INGOT_TRY(check_ids(g, *at, end));
  while (*at < end) {
    INGOT_TRY(take_notices(l));
    if (g->options->stop && atomic_load(g->options->stop)) INGOT_TRY(tell_others(l, INGOT_STOPPED));
    if (l->cancelled) break;
    ingot_batch batch;
    double      start_s = ingot_clock_s();
    int64_t     n = end - *at < g->plan->batch ? end - *at : g->plan->batch;
    INGOT_TRY(prepare(l, *at, n, &batch));
    INGOT_TRY(step(l, &batch, *at, start_s, work));
    *at += n;
    INGOT_TRY(report(l, *at - begin));
    if (!work->save || g->plan->save_every_s <= 0 || ingot_clock_s() - l->save_s < g->plan->save_every_s) continue;
    INGOT_TRY(work->save(work->context, *at - begin));
    l->save_s = ingot_clock_s();
  }
done:
  return st;
}

/* The same where batches are collective: all ranks go on, or all stop. */
static ingot_status own_rounds(loop *l, int64_t begin, int64_t end, int64_t *at, const ingot_gather_work *work)
{
  ingot_status  st = INGOT_OK;
  ingot_gather *g = l->g;
  ingot_status  mine = check_ids(g, *at, end);
  INGOT_ASSERT(!work->save);
  for (;;) {
    ingot_batch batch = {.n_time = g->plan->window.length};
    double      start_s = ingot_clock_s();
    int64_t     n = end - *at < g->plan->batch ? end - *at : g->plan->batch;
    if (mine == INGOT_OK) mine = take_notices(l);
    if (mine == INGOT_OK && n > 0) mine = prepare(l, *at, n, &batch);
    int64_t wants[2] = {g->options->stop && atomic_load(g->options->stop), n > 0};
    INGOT_TRY(ingot_comm_agree(g->comm, mine));
    INGOT_TRY(ingot_comm_max_i64(g->comm, wants, 2));
    l->cancelled = wants[0] != 0;
    if (l->cancelled || !wants[1]) break;
    mine = step(l, &batch, *at, start_s, work);
    if (mine != INGOT_OK) continue;
    *at += n;
    mine = report(l, *at - begin);
  }
done:
  return st;
}

ingot_status ingot_gather_windows(ingot_gather *g, int64_t first, int64_t end, int64_t n_done,
                                  const ingot_gather_work *work)
{
  ingot_status st = INGOT_OK;
  int64_t      part_begin, part_end;
  loop         l = {.g = g, .save_s = ingot_clock_s()};
  memset(g->rank_windows, 0, (size_t)ingot_comm_size(g->comm) * sizeof *g->rank_windows);
  ingot_gather_part(g->comm, first, end, &part_begin, &part_end);
  int64_t      at = part_begin + n_done;
  ingot_status mine =
      work->in_rounds ? own_rounds(&l, part_begin, part_end, &at, work) : own_part(&l, part_begin, part_end, &at, work);
  if (mine != INGOT_OK) {
    ingot_status told = tell_others(&l, mine);
    if (told != INGOT_OK) mine = told;
  }
  ingot_status drained = ingot_comm_drain(g->comm);
  INGOT_TRY(ingot_comm_agree(g->comm, mine != INGOT_OK ? mine : drained));
  int64_t unfinished = at < part_end; /* without an error: somebody was asked to stop */
  INGOT_TRY(ingot_comm_max_i64(g->comm, &unfinished, 1));
  g->windows_before += end - first;
  if (!unfinished) goto done;
  st = work->save ? work->save(work->context, at - part_begin) : INGOT_OK;
  INGOT_TRY(ingot_comm_agree(g->comm, st));
  st = ingot_fail(INGOT_STOPPED, "stopped on request; the same command continues");
done:
  return st;
}
