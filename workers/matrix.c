#include "workers/matrix.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "kernels/convert.h"
#include "kernels/device.h"
#include "workers/matrix_feed.h"

/* A tensor of MATRIX grain, and who solves it. */
typedef struct matrix {
  int    tensor;
  int    rank;
  bool   done; /* from an earlier run */
  double flops;
} matrix;

typedef struct runner {
  const ingot_matrix_run *run;
  matrix                 *list; /* [n], largest first: of the group */
  int                     n;
  int                    *solver; /* [n_tensor]: the rank that has solved it in this run, or -1 */
  int64_t                *tiles;  /* [n_tile]: scratch for the exchange of flags and checksums */
  ingot_linalg           *linalg;
  ingot_matrix_summary    mine;
  double                  start_s;
} runner;

void ingot_matrix_extent(const ingot_method_tensor *t, int64_t *n_out, int64_t *n_in)
{
  *n_out = t->shape.dim[t->transposed ? 1 : 0];
  *n_in = t->shape.dim[t->transposed ? 0 : 1];
}

/* What solving takes besides the method's matrices: room for reading, and for a tile in its dtype. */
static const uint64_t OWN_BYTES = INGOT_LINALG_ROOM_BYTES + (uint64_t)INGOT_TILE * 8;

uint64_t ingot_matrix_memory_bytes(const ingot_merge_plan *plan, int *tensor)
{
  uint64_t most = 0;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_method_tensor *t = &plan->tensors[i].view;
    int64_t                    n_out, n_in;
    if (plan->tensors[i].grain != INGOT_GRAIN_MATRIX) continue;
    ingot_matrix_extent(t, &n_out, &n_in);
    uint64_t bytes = plan->method->matrix->bytes(t, n_out, n_in) + OWN_BYTES;
    if (bytes <= most) continue;
    most = bytes;
    if (tensor) *tensor = i;
  }
  return most;
}

uint64_t ingot_matrix_host_bytes(const ingot_merge_plan *plan, uint64_t *device_bytes)
{
  *device_bytes = 0;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_method_tensor *t = &plan->tensors[i].view;
    int64_t                    n_out, n_in;
    if (plan->tensors[i].grain != INGOT_GRAIN_MATRIX) continue;
    ingot_matrix_extent(t, &n_out, &n_in);
    /* on their way: weights, and a matrix as it is packed */
    uint64_t inputs = (uint64_t)(t->n_elem + ingot_linalg_packed_count(n_in)) * sizeof(float);
    uint64_t bytes = plan->method->matrix->bytes(t, n_out, n_in) + inputs;
    if (bytes > *device_bytes) *device_bytes = bytes;
  }
  return *device_bytes > 0 ? OWN_BYTES : 0;
}

static int by_size(const void *a, const void *b)
{
  const matrix *x = a, *y = b;
  if (x->flops != y->flops) return x->flops > y->flops ? -1 : 1;
  return x->tensor < y->tensor ? -1 : 1;
}

static int64_t tile_count(const runner *r, const matrix *m)
{
  return ingot_tile_count(r->run->plan->tensors[m->tensor].view.n_elem);
}

static bool is_in_group(const runner *r, int tensor, int group)
{
  const ingot_merge_live *live = r->run->live;
  return r->run->plan->tensors[tensor].grain == INGOT_GRAIN_MATRIX && (!live || live->group[tensor] == group);
}

/* All matrices of a group, largest first, each to the rank that has the least so far: the same list on every rank. */
static ingot_status share_out(runner *r, int group)
{
  ingot_status            st = INGOT_OK;
  const ingot_merge_plan *plan = r->run->plan;
  int                     size = ingot_comm_size(r->run->comm);
  double                 *load = calloc((size_t)size, sizeof *load);
  INGOT_CHECK(load, INGOT_ERR_NOMEM, "no memory for the loads of %d ranks", size);
  r->n = 0;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &plan->tensors[i];
    int64_t                   n_out, n_in;
    if (!is_in_group(r, i, group)) continue;
    ingot_matrix_extent(&t->view, &n_out, &n_in);
    matrix m = {.tensor = i, .done = true, .flops = plan->method->matrix->flops(&t->view, n_out, n_in)};
    for (int64_t k = 0; k < ingot_tile_count(t->view.n_elem); k++) m.done = m.done && r->tiles[t->first_tile + k] != 0;
    r->list[r->n++] = m;
  }
  qsort(r->list, (size_t)r->n, sizeof *r->list, by_size);
  for (int i = 0; i < r->n; i++) {
    if (r->list[i].done) continue;
    int least = 0;
    for (int k = 1; k < size; k++)
      if (load[k] < load[least]) least = k;
    r->list[i].rank = least;
    r->solver[r->list[i].tensor] = least;
    load[least] += r->list[i].flops;
  }
done:
  free(load);
  return st;
}

/* Which tiles are done on any rank, by the sum of the flags of the ranks that look after them. */
static ingot_status share_done(const runner *r)
{
  const ingot_matrix_run *run = r->run;
  int                     rank = ingot_comm_rank(run->comm);
  for (int64_t i = 0; i < run->plan->n_tile; i++)
    r->tiles[i] = i >= run->begin[rank] && i < run->begin[rank + 1] && run->done[i];
  return ingot_comm_sum_i64(run->comm, r->tiles, run->plan->n_tile);
}

/* Checksums of what was solved now: 0 but on one rank, so that the sum is that rank's, bit for bit. */
static ingot_status share_checksums(const runner *r)
{
  const ingot_matrix_run *run = r->run;
  int                     rank = ingot_comm_rank(run->comm);
  ingot_status            st = ingot_comm_sum_i64(run->comm, r->tiles, run->plan->n_tile);
  if (st != INGOT_OK) return st;
  for (int i = 0; i < r->n; i++) {
    int64_t first = run->plan->tensors[r->list[i].tensor].first_tile;
    if (r->list[i].done) continue;
    for (int64_t k = first; k < first + tile_count(r, &r->list[i]); k++) {
      if (k < run->begin[rank] || k >= run->begin[rank + 1]) continue;
      memcpy(&run->checksum[k], &r->tiles[k], sizeof run->checksum[k]);
      run->done[k] = true;
    }
  }
  return INGOT_OK;
}

static const double GPU_FLOPS_LEAST = 1e12; /* less is done before a GPU has started */

/* For this group and the n_more after it, which are taken to be of its size. */
static ingot_status open_linalg(runner *r, int n_more)
{
  const ingot_matrix_run *run = r->run;
  double                  flops = 0;
  for (int i = 0; i < r->n; i++) flops += r->list[i].done ? 0 : r->list[i].flops * (n_more + 1);
  bool wanted = run->options->device == INGOT_DEVICE_CUDA ||
                (run->options->device == INGOT_DEVICE_AUTO && ingot_device_built() &&
                 ((run->live && run->live->on_device) || flops / ingot_comm_size(run->comm) > GPU_FLOPS_LEAST));
  int n_device = wanted ? ingot_device_count() : 0;
  if (n_device > 0) {
    ingot_status st = ingot_linalg_open_cuda(ingot_comm_local_rank(run->comm) % n_device, &r->linalg);
    if (st == INGOT_OK || run->options->device == INGOT_DEVICE_CUDA) return st;
    ingot_log_warning("%s: matrices are solved on the CPU", ingot_error_message());
    ingot_error_clear();
  } else if (run->options->device == INGOT_DEVICE_CUDA) {
    return ingot_fail(INGOT_ERR_DEVICE, "--device cuda: no usable GPU was found");
  }
  return ingot_linalg_open_cpu(run->options->n_thread, &r->linalg);
}

/* A matrix being solved: the context of its feed. */
typedef struct solving {
  ingot_matrix_reader reader; /* first, see matrix_feed.h */
  runner             *r;
  char               *rounded; /* [INGOT_TILE * 8] */
} solving;

static ingot_status made_gram(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  const solving          *s = context;
  const ingot_merge_live *live = s->r->run->live;
  return live->gram(live->context, s->reader.tensor_index, k, alpha, l, to);
}

/* A tile of the result, rounded and written. */
static ingot_status write_tile(void *context, int64_t first, int64_t n, const float *values)
{
  const solving            *s = context;
  const ingot_matrix_run   *run = s->r->run;
  const ingot_merge_tensor *t = s->reader.tensor;
  ingot_status              st = INGOT_OK;
  size_t                    size = ingot_dtype_size(t->dtype);
  int64_t                   tile = t->first_tile + first / INGOT_TILE;
  double                    start = ingot_clock_s();
  ingot_narrow(t->dtype, values, s->rounded, n);
  uint64_t checksum = ingot_hash(s->rounded, (size_t)n * size);
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_KILL));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_STOP));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_SLOW));
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(ingot_sink_write(run->sink, s->reader.tensor_index, (uint64_t)first * size, (size_t)n * size, s->rounded));
  INGOT_TRY(ingot_journal_record(run->journal, tile, checksum));
  memcpy(&s->r->tiles[tile], &checksum, sizeof checksum);
  run->timing->bytes_written += (uint64_t)n * size;
  run->timing->tiles_done++;
done:
  run->timing->write_s += ingot_clock_s() - start;
  return st;
}

static void note(runner *r, const ingot_matrix_report *report)
{
  ingot_matrix_summary *s = &r->mine;
  s->n_matrix++;
  s->n_ridge += report->ridge > 0;
  s->n_dead += report->n_dead;
  s->n_unfinished += report->unfinished;
  if (report->n_iteration > s->n_iteration) s->n_iteration = report->n_iteration;
  if (report->ridge > s->ridge) s->ridge = report->ridge;
  if (report->residual > s->residual) s->residual = report->residual;
}

/* On the GPU, and on the CPU where its memory is too small and the choice is ours. */
static ingot_status solve_somewhere(runner *r, const ingot_method_tensor *t, int64_t n_out, int64_t n_in,
                                    const ingot_matrix_feed *feed, ingot_matrix_report *report)
{
  const ingot_matrix_ops *ops = r->run->plan->method->matrix;
  ingot_status            st = ops->solve(t, n_out, n_in, r->linalg, feed, report);
  if (st != INGOT_ERR_NOMEM || !r->linalg->on_device) return st;
  if (r->run->options->device == INGOT_DEVICE_CUDA) return st;
  ingot_linalg *cpu = NULL;
  ingot_log_warning("%s: %s; it is solved on the CPU", t->name, ingot_error_message());
  ingot_error_clear();
  st = ingot_linalg_open_cpu(r->run->options->n_thread, &cpu);
  if (st == INGOT_OK) st = ops->solve(t, n_out, n_in, cpu, feed, report);
  ingot_linalg_close(&cpu);
  return st;
}

static ingot_status solve(runner *r, const matrix *m)
{
  const ingot_matrix_run   *run = r->run;
  const ingot_merge_tensor *t = &run->plan->tensors[m->tensor];
  ingot_merge_timing       *timing = run->timing;
  ingot_status              st = INGOT_OK;
  ingot_matrix_report       report = {0};
  solving                   s = {.r = r,
                                 .reader = {.plan = run->plan,
                                            .tensor = t,
                                            .tensor_index = m->tensor,
                                            .nonfinite = run->nonfinite,
                                            .timing = timing}};
  ingot_matrix_feed feed = {&s, ingot_matrix_read_weight, run->live ? made_gram : ingot_matrix_read_gram, write_tile};
  ingot_matrix_extent(&t->view, &s.reader.n_out, &s.reader.n_in);
  s.reader.counted = calloc((size_t)t->view.n_input, sizeof *s.reader.counted);
  s.rounded = malloc((size_t)INGOT_TILE * 8);
  INGOT_CHECK(s.reader.counted && s.rounded, INGOT_ERR_NOMEM, "%s: no memory to solve it", t->view.name);
  double start = ingot_clock_s(), moved_s = timing->read_s + timing->write_s;
  st = solve_somewhere(r, &t->view, s.reader.n_out, s.reader.n_in, &feed, &report);
  if (st == INGOT_ERR_NOMEM) (void)ingot_wrap(st, "%s", t->view.name); /* its size is what takes memory here */
  INGOT_TRY(st);
  timing->merge_s += ingot_clock_s() - start - (timing->read_s + timing->write_s - moved_s);
  note(r, &report);
done:
  free(s.reader.counted);
  free(s.rounded);
  return st;
}

/* Whether another rank has failed or was asked to stop. */
static ingot_status listen(const runner *r, bool *leave)
{
  ingot_notice notice;
  ingot_status st = INGOT_OK;
  int          source;
  bool         got = true;
  while (st == INGOT_OK && got) {
    st = ingot_comm_poll(r->run->comm, &notice, &source, &got);
    if (st == INGOT_OK && got && notice.kind == INGOT_NOTICE_STOP) *leave = true;
  }
  return st;
}

static void progress(const runner *r)
{
  const ingot_matrix_run *run = r->run;
  uint64_t                n_bytes = 0;
  if (!run->options->progress || run->live || ingot_comm_rank(run->comm) != 0)
    return; /* windows are what takes time then */
  for (int i = 0; i < run->plan->n_tensor; i++)
    n_bytes += (uint64_t)run->plan->tensors[i].view.n_elem * ingot_dtype_size(run->plan->tensors[i].dtype);
  run->options->progress(run->options->progress_context, run->timing->tiles_done, run->plan->n_tile,
                         run->timing->bytes_written, n_bytes, ingot_clock_s() - r->start_s);
}

static ingot_status solve_mine(runner *r)
{
  const ingot_matrix_run *run = r->run;
  ingot_status            st = INGOT_OK;
  bool                    leave = false;
  for (int i = 0; i < r->n && !leave; i++) {
    if (r->list[i].done || r->list[i].rank != ingot_comm_rank(run->comm)) continue;
    INGOT_CHECK(!run->options->stop || !atomic_load(run->options->stop), INGOT_STOPPED,
                "stopped on request; the same command continues");
    INGOT_TRY(solve(r, &r->list[i]));
    progress(r);
    INGOT_TRY(listen(r, &leave));
  }
  if (!leave && run->options->stop && atomic_load(run->options->stop))
    st = ingot_fail(INGOT_STOPPED, "stopped on request; the same command continues");
done:
  if (st != INGOT_OK && !leave) {
    ingot_error  first;
    ingot_notice notice = {.kind = INGOT_NOTICE_STOP, .value = {(int64_t)st}};
    ingot_error_save(&first);
    (void)ingot_comm_notify(run->comm, -1, &notice);
    ingot_error_restore(&first);
  }
  return st;
}

static int64_t bits_of(double v)
{
  int64_t bits;
  memcpy(&bits, &v, sizeof bits);
  return bits; /* of numbers that are not negative: in the order of the numbers */
}

static double of_bits(int64_t bits)
{
  double v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

static ingot_status share_summary(const runner *r)
{
  ingot_status          st = INGOT_OK;
  ingot_matrix_summary *s = r->run->summary;
  int64_t               sums[4] = {r->mine.n_matrix, r->mine.n_ridge, r->mine.n_dead, r->mine.n_unfinished};
  int64_t               largest[3] = {r->mine.n_iteration, bits_of(r->mine.ridge), bits_of(r->mine.residual)};
  INGOT_TRY(ingot_comm_sum_i64(r->run->comm, sums, 4));
  INGOT_TRY(ingot_comm_max_i64(r->run->comm, largest, 3));
  *s = (ingot_matrix_summary){.n_matrix = sums[0],
                              .n_ridge = sums[1],
                              .n_dead = sums[2],
                              .n_unfinished = sums[3],
                              .n_iteration = largest[0],
                              .ridge = of_bits(largest[1]),
                              .residual = of_bits(largest[2])};
done:
  return st;
}

/* ---- the partial output, for statistics that are made meanwhile ---- */

struct ingot_merge_partial {
  const runner *r;
  char         *tile; /* [INGOT_TILE * 8] */
};

/* Who wrote a tile: now, or by an earlier run, whose work the rank that looks after the tile has found. */
static int writer_of(const runner *r, int tensor, int64_t tile)
{
  int rank = 0;
  if (r->solver[tensor] >= 0) return r->solver[tensor];
  while (tile >= r->run->begin[rank + 1]) rank++;
  return rank;
}

ingot_status ingot_merge_partial_read(const ingot_merge_partial *partial, int tensor, int64_t first, int64_t n,
                                      float *values)
{
  ingot_status              st = INGOT_OK;
  const ingot_matrix_run   *run = partial->r->run;
  const ingot_merge_tensor *t = &run->plan->tensors[tensor];
  size_t                    size = ingot_dtype_size(t->dtype);
  for (int64_t at = first, part; at < first + n; at += part) {
    int64_t room = INGOT_TILE - at % INGOT_TILE;
    part = first + n - at < room ? first + n - at : room;
    int writer = writer_of(partial->r, tensor, t->first_tile + at / INGOT_TILE);
    if (writer == ingot_comm_rank(run->comm))
      st = ingot_sink_read(run->sink, tensor, (uint64_t)at * size, (size_t)part * size, partial->tile);
    INGOT_TRY(ingot_comm_agree(run->comm, st));
    INGOT_TRY(ingot_comm_bcast(run->comm, partial->tile, (size_t)part * size, writer));
    ingot_widen(t->dtype, partial->tile, values + (at - first), part);
  }
done:
  return st;
}

/* ---- the run ---- */

static bool has_work(const runner *r)
{
  bool found = false;
  for (int i = 0; i < r->n; i++) found = found || !r->list[i].done;
  return found;
}

static ingot_status make_statistics(const runner *r, int group)
{
  ingot_status        st = INGOT_OK;
  ingot_merge_partial partial = {r, malloc((size_t)INGOT_TILE * 8)};
  if (!partial.tile) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for a tile of the output");
  INGOT_TRY(ingot_comm_agree(r->run->comm, st));
  INGOT_TRY(r->run->live->make(r->run->live->context, group, &partial));
done:
  free(partial.tile);
  return st;
}

static ingot_status run_group(runner *r, int group, int n_more)
{
  const ingot_matrix_run *run = r->run;
  ingot_status            st = INGOT_OK;
  INGOT_TRY(share_done(r));
  st = share_out(r, group);
  memset(r->tiles, 0, (size_t)run->plan->n_tile * sizeof *r->tiles);
  if (st == INGOT_OK && !r->linalg && has_work(r)) st = open_linalg(r, n_more);
  INGOT_TRY(ingot_comm_agree(run->comm, st));
  if (run->live && has_work(r)) INGOT_TRY(make_statistics(r, group));
  ingot_status mine = solve_mine(r);
  ingot_status drained = ingot_comm_drain(run->comm);
  INGOT_TRY(ingot_comm_agree(run->comm, mine != INGOT_OK ? mine : drained));
  INGOT_TRY(share_checksums(r));
done:
  return st;
}

ingot_status ingot_matrix_run_all(const ingot_matrix_run *run)
{
  ingot_status st = INGOT_OK;
  runner       r = {.run = run, .start_s = ingot_clock_s()};
  int          n = 0, n_group = run->live ? run->live->n_group : 1;
  for (int i = 0; i < run->plan->n_tensor; i++) n += run->plan->tensors[i].grain == INGOT_GRAIN_MATRIX;
  if (n == 0) return INGOT_OK;
  r.list = calloc((size_t)n, sizeof *r.list);
  r.tiles = calloc((size_t)run->plan->n_tile + 1, sizeof *r.tiles);
  r.solver = malloc((size_t)run->plan->n_tensor * sizeof *r.solver);
  if (!r.list || !r.tiles || !r.solver) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the books of %d matrices", n);
  INGOT_TRY(ingot_comm_agree(run->comm, st));
  for (int i = 0; i < run->plan->n_tensor; i++) r.solver[i] = -1;
  for (int group = 0; group < n_group; group++) INGOT_TRY(run_group(&r, group, n_group - 1 - group));
  INGOT_TRY(share_summary(&r));
done:
  ingot_linalg_close(&r.linalg);
  free(r.list);
  free(r.tiles);
  free(r.solver);
  return st;
}
