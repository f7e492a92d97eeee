/* The merge step on the ranks: from a plan to a committed output. */
#include "workers/merge.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/process.h"
#include "kernels/device.h"
#include "workers/hand_over.h"
#include "workers/lane.h"
#include "workers/matrix.h"
#include "workers/memory.h"
#include "workers/pool.h"
#include "workers/resume.h"

/* All that a run holds; released in one place. */
typedef struct merge_run {
  ingot_comm                *comm;
  const ingot_merge_plan    *plan;
  const ingot_merge_options *options;
  const ingot_merge_live    *live; /* NULL: statistics are inputs */
  ingot_merge_result        *result;
  int                        device;        /* -1: CPU */
  bool                       may_go_over;   /* the CPU first, then a GPU where that is faster */
  int64_t                   *begin;         /* [size + 1]: tiles of each rank */
  bool                      *done;          /* [n_tile] */
  uint64_t                  *checksum;      /* [n_tile] */
  int64_t                    tiles_resumed; /* of this rank's, found done */
  void                      *model_state;   /* MODEL grain */
  ingot_sink                *sink;
  ingot_journal             *journal;
  ingot_device_cache        *cache;
} merge_run;

void ingot_merge_result_release(ingot_merge_result *result)
{
  free(result->nonfinite);
  free(result->checksums);
  *result = (ingot_merge_result){0};
}

static int64_t first_tile_of(const merge_run *r)
{
  return r->begin[ingot_comm_rank(r->comm)];
}

static int64_t last_tile_of(const merge_run *r)
{
  return r->begin[ingot_comm_rank(r->comm) + 1];
}

static ingot_status allocate(merge_run *r)
{
  const ingot_merge_plan *plan = r->plan;
  ingot_status            st = INGOT_OK;
  size_t                  n_tile = (size_t)plan->n_tile + 1; /* never 0, so that NULL means no memory */
  r->begin = calloc((size_t)ingot_comm_size(r->comm) + 1, sizeof *r->begin);
  r->done = calloc(n_tile, sizeof *r->done);
  r->checksum = calloc(n_tile, sizeof *r->checksum);
  r->result->nonfinite = calloc(2 * (size_t)plan->n_source, sizeof *r->result->nonfinite);
  r->result->checksums = calloc((size_t)plan->n_tensor + 1, sizeof *r->result->checksums);
  INGOT_CHECK(r->begin && r->done && r->checksum && r->result->nonfinite && r->result->checksums, INGOT_ERR_NOMEM,
              "no memory for the books of %lld tiles", (long long)plan->n_tile);
  r->result->negative = r->result->nonfinite + plan->n_source;
  for (int i = 0; i < 2 * plan->n_source; i++) r->result->nonfinite[i].tensor = -1;
done:
  return st;
}

/* Tiles of a tensor, counted within it, that are this rank's. */
static void own_tiles(const merge_run *r, const ingot_merge_tensor *t, int64_t *begin, int64_t *end)
{
  int64_t n_tile = ingot_tile_count(t->view.n_elem);
  *begin = t->first_tile > first_tile_of(r) ? 0 : first_tile_of(r) - t->first_tile;
  *end = t->first_tile + n_tile < last_tile_of(r) ? n_tile : last_tile_of(r) - t->first_tile;
  if (*end < *begin) *end = *begin;
}

/* Bytes that this rank reads, in one pass over its inputs, and writes. */
static uint64_t bytes_of_rank(const merge_run *r)
{
  uint64_t bytes = 0;
  for (int i = 0; i < r->plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &r->plan->tensors[i];
    int64_t                   begin, end;
    own_tiles(r, t, &begin, &end);
    if (begin == end || t->grain == INGOT_GRAIN_MATRIX) continue;
    uint64_t element = ingot_dtype_size(t->dtype);
    for (int k = 0; k < t->view.n_input; k++)
      element += ingot_dtype_size(ingot_source_tensor(r->plan->sources[t->source[k]], t->tensor[k])->dtype);
    bytes += (uint64_t)t->view.n_elem * element / (uint64_t)ingot_tile_count(t->view.n_elem) * (uint64_t)(end - begin);
  }
  return bytes;
}

/*
 * Where the lanes run. CUDA means the GPU and nothing else. AUTO begins on the CPU; looking for a GPU takes time, so
 * that is left to a thread beside it, and to parts that are worth it.
 */
static ingot_status choose_device(merge_run *r)
{
  ingot_device_choice choice = r->options->device;
  r->device = -1;
  if (choice == INGOT_DEVICE_CPU || (choice == INGOT_DEVICE_AUTO && !ingot_device_built())) return INGOT_OK;
  if (!ingot_device_built()) return ingot_fail(INGOT_ERR_DEVICE, "--device cuda: this program was built without CUDA");
  ingot_status st = ingot_lane_cuda_check(r->plan);
  if (choice == INGOT_DEVICE_AUTO) {
    r->may_go_over = st == INGOT_OK && ingot_hand_over_is_worth(r->options->hand_over, bytes_of_rank(r));
    if (st != INGOT_OK) ingot_log_info("%s: it runs on the CPU", ingot_error_message());
    ingot_error_clear();
    return INGOT_OK;
  }
  int n_device = ingot_device_count();
  if (n_device == 0) return ingot_fail(INGOT_ERR_DEVICE, "--device cuda: no usable GPU was found");
  if (st != INGOT_OK && r->plan->method->matrix) { /* its matrices run there */
    ingot_log_info("%s: tensors other than matrices run on the CPU", ingot_error_message());
    ingot_error_clear();
    return INGOT_OK;
  }
  if (st != INGOT_OK) return ingot_wrap(st, "--device cuda");
  r->device = ingot_comm_local_rank(r->comm) % n_device;
  return INGOT_OK;
}

static ingot_status open_cache(merge_run *r)
{
  if (r->device < 0) return INGOT_OK;
  int n_device = ingot_device_count(), n_local = ingot_comm_local_size(r->comm);
  int ranks_on_device = (n_local + n_device - 1) / n_device;
  return ingot_device_cache_open(r->plan, r->device, 1.0 / ranks_on_device, &r->cache);
}

static ingot_schedule_spec schedule_spec(const merge_run *r, int device)
{
  return (ingot_schedule_spec){.plan = r->plan,
                               .tile_begin = first_tile_of(r),
                               .tile_end = last_tile_of(r),
                               .done = r->done,
                               .n_task = ingot_memory_lanes(r->plan, r->options->n_thread, device >= 0) *
                                         (device >= 0 ? 2 : 1),
                               .summaries_bytes = ingot_memory_for_summaries(r->plan, r->options->n_thread),
                               .cache = device >= 0 ? r->cache : NULL,
                               .model_state = r->model_state};
}

/* Run a schedule on every rank; all leave with the same status. */
static ingot_status run_together(merge_run *r, int n_lane, int device, ingot_hand_over *hand_over,
                                 ingot_schedule *schedule, const ingot_pool_output *output)
{
  ingot_merge_options options = *r->options;
  options.n_thread = n_lane;
  ingot_status mine =
      ingot_pool_run(r->comm, r->plan, &options, device, hand_over, schedule, output, &r->result->timing);
  ingot_status drained = ingot_comm_drain(r->comm);
  return ingot_comm_agree(r->comm, mine != INGOT_OK ? mine : drained);
}

/* One pass over the whole model on all ranks; slots and sums are complete on every rank afterwards. */
static ingot_status model_pass(merge_run *r, const ingot_scan_plan *scan, char *slots, int64_t *sums)
{
  ingot_schedule     *schedule = NULL;
  ingot_schedule_spec spec = schedule_spec(r, -1);
  ingot_pool_output   nothing = {0};
  int                 size = ingot_comm_size(r->comm);
  int64_t            *begin = calloc((size_t)size + 1, sizeof *begin);
  ingot_status        st = begin ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory for %d ranks", size);
  if (st == INGOT_OK) st = ingot_schedule_create_model_scan(&spec, r->model_state, scan, slots, sums, &schedule);
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  INGOT_TRY(run_together(r, ingot_memory_model_lanes(r->plan, r->options->n_thread, scan->n_sum), -1, NULL, schedule,
                         &nothing));

  for (int k = 0; k <= size; k++) begin[k] = r->begin[k] * (int64_t)scan->slot_bytes;
  if (scan->slot_bytes) INGOT_TRY(ingot_comm_share(r->comm, slots, begin));
  if (scan->n_sum) INGOT_TRY(ingot_comm_sum_i64(r->comm, sums, scan->n_sum));
done:
  ingot_schedule_destroy(&schedule);
  free(begin);
  return st;
}

/* MODEL grain: pass after pass until the method has seen enough. Every rank decides alike, from the same numbers. */
static ingot_status summarise_model(merge_run *r)
{
  const ingot_merge_plan   *plan = r->plan;
  const ingot_merge_tensor *last = NULL;
  ingot_status              st = INGOT_OK;
  char                     *slots = NULL;
  int64_t                  *sums = NULL;
  for (int i = 0; i < plan->n_tensor; i++)
    if (plan->tensors[i].grain == INGOT_GRAIN_MODEL) last = &plan->tensors[i];
  if (!last) return INGOT_OK;

  r->model_state = calloc(1, plan->method->model_state_bytes(&last->view) + 1);
  if (!r->model_state) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the summary of the model");
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  ingot_scan_plan   scan = {.pass = INGOT_SCAN_DONE}, ran;
  ingot_scan_result result = {0};
  for (;;) {
    st = plan->method->model.next(&last->view, r->model_state, result.plan ? &result : NULL, &scan);
    INGOT_TRY(ingot_comm_agree(r->comm, st));
    if (scan.pass == INGOT_SCAN_DONE) break;
    free(slots);
    free(sums);
    slots = calloc((size_t)plan->n_tile * scan.slot_bytes + 1, 1);
    sums = calloc((size_t)scan.n_sum + 1, sizeof *sums);
    if (!slots || !sums) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the sums of the model");
    INGOT_TRY(ingot_comm_agree(r->comm, st));
    ran = scan;
    INGOT_TRY(model_pass(r, &ran, slots, sums));
    result = (ingot_scan_result){.plan = &ran, .n_slot = plan->n_tile, .slots = slots, .sums = sums};
  }
done:
  free(slots);
  free(sums);
  return st;
}

/* Whether values were found that the step does not go on with; their tiles are left undone. */
static bool saw_bad(const merge_run *r)
{
  bool found = false;
  for (int i = 0; i < r->plan->n_source; i++)
    found |= r->result->negative[i].count > 0 ||
             (r->result->nonfinite[i].count > 0 && r->plan->nonfinite == INGOT_NONFINITE_FAIL);
  return found;
}

/* Tiles of this rank that a method reads whole before it merges the tensor. */
static int64_t count_scans(const merge_run *r)
{
  int64_t n = 0, begin, end;
  for (int i = 0; i < r->plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &r->plan->tensors[i];
    bool                      left = false;
    own_tiles(r, t, &begin, &end);
    for (int64_t k = begin; k < end && !left; k++) left = !r->done[t->first_tile + k];
    if (left && ingot_merge_has_summary(t)) n += end - begin;
  }
  return n;
}

static ingot_status start_hand_over(merge_run *r, ingot_schedule *schedule, int64_t tiles_before, ingot_hand_over **out)
{
  ingot_hand_over_spec spec = {.plan = r->plan,
                               .schedule = schedule,
                               .cache = &r->cache,
                               .local_rank = ingot_comm_local_rank(r->comm),
                               .n_local_rank = ingot_comm_local_size(r->comm),
                               .lanes_max = INGOT_GPU_LANES_MAX,
                               .n_task = last_tile_of(r) - first_tile_of(r) - tiles_before + count_scans(r),
                               .limits = r->options->hand_over};
  return ingot_hand_over_start(&spec, out);
}

/* Nothing unfinished is ever committed, whatever mistake may be in the schedule. Bad values leave their tiles
 * undone. */
static ingot_status check_done(const merge_run *r)
{
  int64_t n_left = 0;
  for (int64_t i = first_tile_of(r); i < last_tile_of(r); i++) n_left += !r->done[i];
  if (n_left == 0 || saw_bad(r)) return INGOT_OK;
  return ingot_fail(INGOT_ERR_INTERNAL, "%lld tiles were left unmerged", (long long)n_left);
}

static ingot_status merge_tiles(merge_run *r)
{
  ingot_schedule     *schedule = NULL;
  ingot_hand_over    *hand_over = NULL;
  ingot_schedule_spec spec = schedule_spec(r, r->device);
  ingot_pool_output   output = {.sink = r->sink,
                                .journal = r->journal,
                                .done = r->done,
                                .checksum = r->checksum,
                                .nonfinite = r->result->nonfinite,
                                .negative = r->result->negative,
                                .n_tile = r->plan->n_tile};
  for (int64_t i = first_tile_of(r); i < last_tile_of(r); i++) output.tiles_before += r->done[i];
  for (int i = 0; i < r->plan->n_tensor; i++)
    output.n_bytes += (uint64_t)r->plan->tensors[i].view.n_elem * ingot_dtype_size(r->plan->tensors[i].dtype);
  r->result->timing.tiles_resumed = r->tiles_resumed;

  ingot_status st = open_cache(r);
  spec.cache = r->cache;
  if (st == INGOT_OK) st = ingot_schedule_create(&spec, &schedule);
  if (st == INGOT_OK && r->may_go_over) st = start_hand_over(r, schedule, output.tiles_before, &hand_over);
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  INGOT_TRY(run_together(r, ingot_memory_lanes(r->plan, r->options->n_thread, r->device >= 0), r->device, hand_over,
                         schedule, &output));
  INGOT_TRY(ingot_comm_agree(r->comm, check_done(r)));
done:
  ingot_hand_over_finish(&hand_over);
  ingot_schedule_destroy(&schedule);
  return st;
}

/* Reports of all ranks in one: counts add up, the first place is the lowest. */
static ingot_status share_bad(merge_run *r)
{
  ingot_status      st = INGOT_OK;
  int               size = ingot_comm_size(r->comm), rank = ingot_comm_rank(r->comm), n = 2 * r->plan->n_source;
  ingot_bad_report *mine = r->result->nonfinite; /* and the negative ones behind them */
  ingot_bad_report *all = calloc((size_t)size * (size_t)n, sizeof *all);
  int64_t          *begin = calloc((size_t)size + 1, sizeof *begin);
  if (!all || !begin) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the reports of %d ranks", size);
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  for (int k = 0; k <= size; k++) begin[k] = (int64_t)k * n * (int64_t)sizeof *all;
  memcpy(all + (size_t)rank * (size_t)n, mine, (size_t)n * sizeof *mine);
  INGOT_TRY(ingot_comm_share(r->comm, all, begin));
  for (int i = 0; i < n; i++) {
    mine[i] = (ingot_bad_report){.tensor = -1};
    for (int k = 0; k < size; k++) {
      const ingot_bad_report *other = &all[(size_t)k * (size_t)n + (size_t)i];
      uint64_t                count = mine[i].count + other->count;
      if (other->count && (mine[i].tensor < 0 || other->tensor < mine[i].tensor ||
                           (other->tensor == mine[i].tensor && other->element < mine[i].element)))
        mine[i] = *other;
      mine[i].count = count;
    }
  }
done:
  free(all);
  free(begin);
  return st;
}

/* A line on each source in which something was found. */
static ingot_status describe_bad(const merge_run *r, const ingot_bad_report *reports, const char *what,
                                 ingot_text *text)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < r->plan->n_source; i++) {
    const ingot_bad_report *n = &reports[i];
    if (n->count == 0) continue;
    char                       at[INGOT_SHAPE_TEXT];
    const ingot_method_tensor *t = &r->plan->tensors[n->tensor].view;
    const char                *kind = reports == r->result->negative ? "" : n->is_nan ? "NaN " : "infinite ";
    INGOT_TRY(ingot_text_printf(text, "%s%s: %llu values %s; the first is %sin %s%s", text->size ? "\n" : "",
                                r->plan->source_names[i], (unsigned long long)n->count, what, kind, t->name,
                                ingot_shape_position(&t->shape, n->element, at)));
  }
done:
  return st;
}

/*
 * One message that names every model with bad values: an error under FAIL, else a warning. Fisher information below
 * zero is an error always. The same on all ranks.
 */
static ingot_status judge_bad(const merge_run *r)
{
  ingot_text   nonfinite = {0}, negative = {0};
  ingot_status st = INGOT_OK;
  bool         fail = r->plan->nonfinite == INGOT_NONFINITE_FAIL;
  INGOT_TRY(describe_bad(r, r->result->nonfinite, "are not finite", &nonfinite));
  INGOT_TRY(
      describe_bad(r, r->result->negative, "of Fisher information, a mean of squares, are below zero", &negative));
  if (nonfinite.size && !fail) ingot_log_warning("%s", nonfinite.bytes);
  if (negative.size)
    st = ingot_fail(INGOT_ERR_NUMERIC, "%s%s%s", negative.bytes, nonfinite.size && fail ? "\n" : "",
                    nonfinite.size && fail ? nonfinite.bytes : "");
  else if (nonfinite.size && fail)
    st = ingot_fail(INGOT_ERR_NUMERIC, "%s\n(nonfinite = \"zero\" or \"keep\" merges all the same)", nonfinite.bytes);
done:
  ingot_text_release(&nonfinite);
  ingot_text_release(&negative);
  return st;
}

/*
 * Collective. Rank 0, which opened the inputs, looks whether they are still what they were: what is read while somebody
 * writes to it may be half of one model and half of another.
 */
static ingot_status check_inputs(const merge_run *r)
{
  const ingot_merge_plan *plan = r->plan;
  ingot_status            st = INGOT_OK;
  for (int i = 0; ingot_comm_rank(r->comm) == 0 && i < plan->n_source && st == INGOT_OK; i++)
    st = ingot_source_check_unchanged(plan->sources[i]);
  return ingot_comm_agree(r->comm, st);
}

/* Collective: the same on all ranks. */
static void discard_output(merge_run *r)
{
  ingot_sink_close(&r->sink);
  ingot_journal_close(&r->journal);
  bool together = ingot_comm_barrier(r->comm) == INGOT_OK;
  if (ingot_comm_rank(r->comm) == 0 && (!together || ingot_sink_remove_partial(r->plan->sink.path) != INGOT_OK))
    ingot_log_warning("%s", ingot_error_message());
}

void ingot_timing_of_lanes(ingot_merge_timing *t, int64_t n_lane)
{
  double *const phases[] = {&t->read_s, &t->move_s, &t->merge_s, &t->write_s, &t->wait_s, &t->device_s};
  t->n_lane = n_lane;
  for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) *phases[i] *= (double)n_lane;
}

void ingot_timing_add_library(ingot_merge_timing *t, uint64_t anon_before)
{
  uint64_t anon = ingot_process_anon_bytes();
  if (anon > anon_before) t->library_bytes += anon - anon_before;
}

static void add_timing(ingot_merge_timing *t, const ingot_merge_timing *more)
{
  t->read_s += more->read_s;
  t->merge_s += more->merge_s;
  t->write_s += more->write_s;
  t->bytes_read += more->bytes_read;
  t->bytes_written += more->bytes_written;
  t->tiles_done += more->tiles_done;
}

/* MATRIX grain. Values that cannot be used leave nothing behind: running again would find the same. */
static ingot_status solve_matrices(merge_run *r)
{
  ingot_merge_timing timing = {0};
  ingot_matrix_run   run = {.comm = r->comm,
                            .plan = r->plan,
                            .options = r->options,
                            .live = r->live,
                            .begin = r->begin,
                            .sink = r->sink,
                            .journal = r->journal,
                            .done = r->done,
                            .checksum = r->checksum,
                            .nonfinite = r->result->nonfinite,
                            .timing = &timing,
                            .summary = &r->result->matrices};
  ingot_status       st = ingot_matrix_run_all(&run);
  ingot_timing_of_lanes(&timing, r->options->n_thread); /* its libraries' threads */
  add_timing(&r->result->timing, &timing);
  if (st == INGOT_ERR_NUMERIC) discard_output(r);
  return st;
}

/* All tensors but matrices, whose tiles look done meanwhile. *good: nothing was found that the step cannot go on
 * with. */
static ingot_status merge_others(merge_run *r, bool *good)
{
  ingot_status st = INGOT_OK;
  size_t       bytes = (size_t)r->plan->n_tile * sizeof *r->done;
  bool        *kept = malloc(bytes + 1);
  int64_t      bad = 0;
  if (!kept) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for the books of %lld tiles", (long long)r->plan->n_tile);
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  memcpy(kept, r->done, bytes);
  for (int i = 0; i < r->plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &r->plan->tensors[i];
    for (int64_t k = 0; t->grain == INGOT_GRAIN_MATRIX && k < ingot_tile_count(t->view.n_elem); k++)
      r->done[t->first_tile + k] = true;
  }
  INGOT_TRY(merge_tiles(r));
  for (int i = 0; i < r->plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &r->plan->tensors[i];
    if (t->grain != INGOT_GRAIN_MATRIX) continue;
    memcpy(r->done + t->first_tile, kept + t->first_tile, (size_t)ingot_tile_count(t->view.n_elem) * sizeof *kept);
  }
  bad = saw_bad(r);
  INGOT_TRY(ingot_comm_max_i64(r->comm, &bad, 1));
  *good = bad == 0;
done:
  free(kept);
  return st;
}

/* Statistics that are made meanwhile need what has no matrices first; otherwise matrices, which take longest, come
 * first. */
static ingot_status merge_all(merge_run *r)
{
  ingot_status st = INGOT_OK;
  bool         good;
  if (r->live) {
    INGOT_TRY(merge_others(r, &good));
    if (!good) goto done;
    INGOT_TRY(solve_matrices(r));
    INGOT_TRY(ingot_comm_agree(r->comm, check_done(r)));
  } else {
    INGOT_TRY(solve_matrices(r));
    INGOT_TRY(summarise_model(r));
    INGOT_TRY(merge_tiles(r));
  }
done:
  return st;
}

static ingot_status commit(merge_run *r)
{
  const ingot_merge_plan *plan = r->plan;
  ingot_status            st = INGOT_OK;
  int                     size = ingot_comm_size(r->comm);
  int64_t                *begin = calloc((size_t)size + 1, sizeof *begin);
  if (!begin) st = ingot_fail(INGOT_ERR_NOMEM, "no memory for %d ranks", size);
  INGOT_TRY(ingot_comm_agree(r->comm, st));
  for (int k = 0; k <= size; k++) begin[k] = r->begin[k] * (int64_t)sizeof *r->checksum;
  INGOT_TRY(ingot_comm_share(r->comm, r->checksum, begin));
  for (int i = 0; i < plan->n_tensor; i++)
    r->result->checksums[i] = ingot_tensor_checksum(r->checksum + plan->tensors[i].first_tile,
                                                    ingot_tile_count(plan->tensors[i].view.n_elem));
  INGOT_TRY(ingot_comm_agree(r->comm, ingot_fault_check(INGOT_FAULT_COMMIT)));
  st = check_inputs(r);
  if (st == INGOT_ERR_MISMATCH) { /* whatever is there by now is another job: nothing is kept for this one */
    ingot_error first;
    ingot_error_save(&first);
    discard_output(r);
    ingot_error_restore(&first);
  }
  INGOT_TRY(st);
  double start = ingot_clock_s();
  st = ingot_sink_commit(r->comm, &r->sink, r->result->checksums);
  r->result->timing.write_s += (ingot_clock_s() - start) * (double)r->result->timing.n_lane;
done:
  free(begin);
  return st;
}

static void release(merge_run *r)
{
  ingot_device_cache_close(&r->cache);
  ingot_journal_close(&r->journal);
  ingot_sink_close(&r->sink);
  free(r->begin);
  free(r->done);
  free(r->checksum);
  free(r->model_state);
}

ingot_status ingot_merge_run_live(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                                  const ingot_merge_live *live, ingot_merge_result *result)
{
  double    start_s = ingot_clock_s(), start_cpu_s = ingot_clock_cpu_s();
  merge_run r = {.comm = comm, .plan = plan, .options = options, .live = live, .result = result, .device = -1};
  *result = (ingot_merge_result){0};

  ingot_status st = allocate(&r);
  if (st == INGOT_OK) st = ingot_merge_partition(plan, ingot_comm_size(comm), r.begin);
  if (st == INGOT_OK) st = choose_device(&r);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(check_inputs(&r)); /* planned some time ago, perhaps: this run may have waited for another */
  INGOT_TRY(ingot_resume_open(comm, plan, options->fresh, options->n_thread, first_tile_of(&r), last_tile_of(&r),
                              r.done, r.checksum, &r.sink, &r.journal));
  for (int64_t i = first_tile_of(&r); i < last_tile_of(&r); i++) r.tiles_resumed += r.done[i];
  INGOT_TRY(merge_all(&r));
  INGOT_TRY(share_bad(&r));
  if (saw_bad(&r)) discard_output(&r); /* running again would find the same: nothing is kept */
  INGOT_TRY(judge_bad(&r));
  INGOT_TRY(commit(&r));
done:
  result->timing.on_device = r.device >= 0 || result->timing.tiles_on_device > 0;
  result->timing.wall_s = ingot_clock_s() - start_s;
  result->timing.cpu_s = ingot_clock_cpu_s() - start_cpu_s;
  release(&r);
  return st;
}

ingot_status ingot_merge_run(ingot_comm *comm, const ingot_merge_plan *plan, const ingot_merge_options *options,
                             ingot_merge_result *result)
{
  return ingot_merge_run_live(comm, plan, options, NULL, result);
}
