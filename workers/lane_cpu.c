/* The CPU lane: reads cache-sized pieces of all inputs, widens, merges and rounds them block by block. */
#define _POSIX_C_SOURCE 200809L
#include "workers/lane.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/pages.h"
#include "kernels/convert.h"

enum {
  ALIGN = 64,
  READ_BYTES_TARGET = 512 << 10, /* raw bytes of all inputs in flight: about half of a core's L2 */
  READ_BLOCKS_MAX = 16,          /* 16 blocks of bf16 are 128 KiB a read: system calls no longer count */
};

typedef struct cpu_lane {
  ingot_lane        head;
  int               n_input_max;
  int64_t           read_elems; /* of each input a read; a multiple of INGOT_BLOCK */
  size_t            raw_stride; /* bytes between the raw buffers of two inputs */
  char             *raw;        /* [n_input_max][raw_stride] */
  const void      **raw_in;     /* [n_input_max], into raw: one block as it is stored */
  float            *wide;       /* [n_input_max][INGOT_BLOCK] */
  const float     **wide_in;    /* [n_input_max], into wide */
  float            *merged;     /* [INGOT_BLOCK] */
  char             *out;        /* one tile in the output dtype */
  int64_t          *sums;       /* private sums of a scan task, added up at its end */
  int64_t           n_sum;
  ingot_lane_bad   *nonfinite; /* [n_input_max] */
  ingot_lane_bad   *negative;  /* [n_input_max] */
  ingot_lane_output output;
} cpu_lane;

static size_t round_up(size_t n)
{
  return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* Largest number of inputs, input element and output element of a plan. */
static void plan_extent(const ingot_merge_plan *plan, int *n_input, size_t *in_bytes, size_t *out_bytes)
{
  *n_input = 1;
  *in_bytes = 1;
  *out_bytes = 1;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &plan->tensors[i];
    if (t->grain == INGOT_GRAIN_MATRIX) continue; /* never comes to a lane */
    if (t->view.n_input > *n_input) *n_input = t->view.n_input;
    for (int k = 0; k < t->view.n_input; k++) {
      size_t bytes = ingot_dtype_size(ingot_source_tensor(plan->sources[t->source[k]], t->tensor[k])->dtype);
      if (bytes > *in_bytes) *in_bytes = bytes;
    }
    if (ingot_dtype_size(t->dtype) > *out_bytes) *out_bytes = ingot_dtype_size(t->dtype);
  }
}

static int64_t read_elems_for(int n_input, size_t in_bytes)
{
  int64_t blocks = READ_BYTES_TARGET / ((int64_t)n_input * (int64_t)in_bytes * INGOT_BLOCK);
  if (blocks > READ_BLOCKS_MAX) blocks = READ_BLOCKS_MAX;
  return (blocks > 1 ? blocks : 1) * INGOT_BLOCK;
}

uint64_t ingot_lane_cpu_bytes(const ingot_merge_plan *plan)
{
  int    n_input;
  size_t in_bytes, out_bytes;
  plan_extent(plan, &n_input, &in_bytes, &out_bytes);
  uint64_t raw = round_up((size_t)read_elems_for(n_input, in_bytes) * in_bytes);
  return (uint64_t)n_input * (raw + INGOT_BLOCK * sizeof(float)) + INGOT_BLOCK * sizeof(float) +
         (uint64_t)INGOT_TILE * out_bytes;
}

static void *aligned(size_t bytes)
{
  return aligned_alloc(ALIGN, round_up(bytes ? bytes : 1));
}

static void cpu_close(ingot_lane *lane)
{
  cpu_lane *l = (cpu_lane *)lane;
  free(l->raw);
  free(l->raw_in);
  free(l->wide);
  free(l->wide_in);
  free(l->merged);
  free(l->out);
  ingot_pages_give_back(l->sums, (size_t)l->n_sum * sizeof *l->sums);
  free(l->nonfinite);
  free(l->negative);
  free(l);
}

static const ingot_tensor_info *input_info(const cpu_lane *l, const ingot_merge_tensor *t, int input)
{
  return ingot_source_tensor(l->head.plan->sources[t->source[input]], t->tensor[input]);
}

/* Read elements first .. first + n of every input into the raw buffers. */
static ingot_status read_inputs(cpu_lane *l, const ingot_merge_tensor *t, int64_t first, int64_t n)
{
  double start = ingot_clock_s();
  for (int i = 0; i < t->view.n_input; i++) {
    const ingot_tensor_info *info = input_info(l, t, i);
    size_t                   size = ingot_dtype_size(info->dtype);
    ingot_status st = ingot_source_read(l->head.plan->sources[t->source[i]], t->tensor[i], (uint64_t)first * size,
                                        (size_t)n * size, l->raw + (size_t)i * l->raw_stride);
    if (st != INGOT_OK) return ingot_wrap(st, "%s", l->head.plan->source_names[t->source[i]]);
    l->head.timing.bytes_read += (uint64_t)n * size;
  }
  l->head.timing.read_s += ingot_clock_s() - start;
  return INGOT_OK;
}

static void note_nonfinite(cpu_lane *l, int input, ingot_dtype dtype, const void *raw, int64_t first, int64_t n,
                           int64_t count)
{
  ingot_lane_bad *note = &l->nonfinite[input];
  if (note->first < 0) note->first = first + ingot_first_nonfinite(dtype, raw, n, &note->is_nan);
  note->count += (uint64_t)count;
}

static void note_negative(cpu_lane *l, int input, ingot_dtype dtype, const void *raw, int64_t first, int64_t n,
                          int64_t count)
{
  ingot_lane_bad *note = &l->negative[input];
  if (note->first < 0) note->first = first + ingot_first_negative(dtype, raw, n);
  note->count += (uint64_t)count;
}

/* Widen block [at, at + n) of what was read; `first` is its flat index in the tensor. */
static void widen_block(cpu_lane *l, const ingot_task *task, int64_t at, int64_t first, int64_t n)
{
  const ingot_merge_tensor *t = task->tensor;
  bool                      replace = l->head.plan->nonfinite == INGOT_NONFINITE_ZERO;
  for (int i = 0; i < t->view.n_input; i++) {
    ingot_dtype dtype = input_info(l, t, i)->dtype;
    const char *raw = l->raw + (size_t)i * l->raw_stride + (size_t)at * ingot_dtype_size(dtype);
    float      *wide = l->wide + (size_t)i * INGOT_BLOCK;
    if (!task->count_nonfinite && !replace) {
      ingot_widen(dtype, raw, wide, n);
      continue;
    }
    int64_t count = ingot_widen_counting(dtype, raw, wide, n);
    int64_t negative =
        task->count_nonfinite && i >= ingot_lane_first_fisher(&t->view) ? ingot_count_negative(wide, n) : 0;
    if (negative) note_negative(l, i, dtype, raw, first, n, negative);
    if (count == 0) continue;
    if (task->count_nonfinite) note_nonfinite(l, i, dtype, raw, first, n, count);
    if (replace) ingot_replace_nonfinite(wide, ingot_lane_base_fills(&t->view) && i > 0 ? l->wide : NULL, n);
  }
}

static ingot_status copy_tile(cpu_lane *l, const ingot_task *task, int64_t first, int64_t n)
{
  const ingot_merge_tensor *t = task->tensor;
  size_t                    size = ingot_dtype_size(t->dtype);
  double                    start = ingot_clock_s();
  ingot_status st = ingot_source_read(l->head.plan->sources[t->source[0]], t->tensor[0], (uint64_t)first * size,
                                      (size_t)n * size, l->out);
  l->head.timing.bytes_read += (uint64_t)n * size;
  l->head.timing.read_s += ingot_clock_s() - start;
  return ingot_wrap(st, "%s", l->head.plan->source_names[t->source[0]]);
}

/* Whether all inputs are stored as bfloat16, so that blocks may go to the method as they are. */
static bool is_all_bf16(const cpu_lane *l, const ingot_merge_tensor *t)
{
  for (int i = 0; i < t->view.n_input; i++)
    if (input_info(l, t, i)->dtype != INGOT_DTYPE_BF16) return false;
  return true;
}

static const void *const *raw_block(cpu_lane *l, const ingot_merge_tensor *t, int64_t at)
{
  for (int i = 0; i < t->view.n_input; i++)
    l->raw_in[i] = l->raw + (size_t)i * l->raw_stride + (size_t)at * sizeof(uint16_t);
  return l->raw_in;
}

/* Merge block [at, at + n) of what was read; `first` is its flat index in the tensor. */
static void apply_block(cpu_lane *l, const ingot_task *task, int64_t at, int64_t first, int64_t n, char *out)
{
  ingot_chunk chunk = {.first = first, .n = n, .in = l->wide_in};
  widen_block(l, task, at, first, n);
  l->head.plan->method->apply(&task->tensor->view, task->state, &chunk, l->merged);
  ingot_narrow(task->tensor->dtype, l->merged, out, n);
}

static ingot_status apply_tile(cpu_lane *l, const ingot_task *task, int64_t tile_first, int64_t tile_n)
{
  const ingot_merge_tensor *t = task->tensor;
  size_t                    size = ingot_dtype_size(t->dtype);
  const ingot_method       *method = l->head.plan->method;
  bool                      bf16 = method->apply_bf16 && t->dtype == INGOT_DTYPE_BF16 && is_all_bf16(l, t);
  for (int64_t at = 0; at < tile_n; at += l->read_elems) {
    int64_t      n_read = tile_n - at < l->read_elems ? tile_n - at : l->read_elems;
    ingot_status st = read_inputs(l, t, tile_first + at, n_read);
    if (st != INGOT_OK) return st;
    double start = ingot_clock_s();
    for (int64_t b = 0; b < n_read; b += INGOT_BLOCK) {
      int64_t n = n_read - b < INGOT_BLOCK ? n_read - b : INGOT_BLOCK;
      int64_t first = tile_first + at + b;
      char   *out = l->out + (size_t)(at + b) * size;
      if (bf16 && method->apply_bf16(&t->view, task->state, first, n, raw_block(l, t, b), out)) continue;
      apply_block(l, task, b, first, n, out);
    }
    l->head.timing.merge_s += ingot_clock_s() - start;
  }
  return INGOT_OK;
}

/* Scan one stretch that read_elems covers, block by block. */
static ingot_status scan_stretch(cpu_lane *l, const ingot_task *task, int64_t first, int64_t n_read)
{
  const ingot_method_tensor *view = &task->tensor->view;
  bool                       bf16 = task->ops->scan_bf16 && is_all_bf16(l, task->tensor);
  ingot_status               st = read_inputs(l, task->tensor, first, n_read);
  if (st != INGOT_OK) return st;
  double start = ingot_clock_s();
  for (int64_t b = 0; b < n_read; b += INGOT_BLOCK) {
    int64_t     n = n_read - b < INGOT_BLOCK ? n_read - b : INGOT_BLOCK;
    ingot_chunk chunk = {.first = first + b, .n = n, .in = l->wide_in};
    if (bf16 && task->ops->scan_bf16(view, task->state, task->scan, first + b, n, raw_block(l, task->tensor, b),
                                     task->slot, l->sums))
      continue;
    widen_block(l, task, b, chunk.first, n);
    task->ops->scan(view, task->state, task->scan, &chunk, task->slot, l->sums);
  }
  l->head.timing.merge_s += ingot_clock_s() - start;
  return INGOT_OK;
}

static ingot_status reserve_sums(cpu_lane *l, int64_t n_sum)
{
  if (n_sum > l->n_sum) {
    ingot_pages_give_back(l->sums, (size_t)l->n_sum * sizeof *l->sums);
    l->n_sum = 0;
    l->sums = ingot_pages_take((size_t)n_sum * sizeof *l->sums);
    if (!l->sums) return ingot_fail(INGOT_ERR_NOMEM, "no memory for %lld sums", (long long)n_sum);
    l->n_sum = n_sum;
  }
  if (n_sum) memset(l->sums, 0, (size_t)n_sum * sizeof *l->sums);
  return INGOT_OK;
}

static ingot_status scan_tile(cpu_lane *l, const ingot_task *task, int64_t tile_first, int64_t tile_n)
{
  const ingot_scan_plan *scan = task->scan;
  ingot_status           st = reserve_sums(l, scan->n_sum);
  if (st != INGOT_OK) return st;
  if (scan->sample_stride > 0) {
    /* Runs lie at multiples of the stride in the whole tensor, not in each tile: small strides and tiles alike work. */
    int64_t stride = scan->sample_stride;
    int64_t end = tile_first + tile_n;
    for (int64_t at = (tile_first + stride - 1) / stride * stride; st == INGOT_OK && at < end; at += stride) {
      int64_t n = end - at < INGOT_SAMPLE_RUN ? end - at : INGOT_SAMPLE_RUN;
      st = scan_stretch(l, task, at, n);
    }
  } else {
    for (int64_t at = 0; st == INGOT_OK && at < tile_n; at += l->read_elems)
      st = scan_stretch(l, task, tile_first + at, tile_n - at < l->read_elems ? tile_n - at : l->read_elems);
  }
  if (st == INGOT_OK && scan->n_sum) {
    pthread_mutex_lock(task->sums_lock);
    for (int64_t i = 0; i < scan->n_sum; i++) task->sums[i] += l->sums[i];
    pthread_mutex_unlock(task->sums_lock);
  }
  return st;
}

static ingot_status cpu_begin(ingot_lane *lane, const ingot_task *task)
{
  cpu_lane                 *l = (cpu_lane *)lane;
  const ingot_merge_tensor *t = task->tensor;
  int64_t                   first = task->tile * INGOT_TILE;
  int64_t                   n = t->view.n_elem - first < INGOT_TILE ? t->view.n_elem - first : INGOT_TILE;
  bool                      counted = task->count_nonfinite && !t->copy;
  if (counted)
    for (int i = 0; i < t->view.n_input; i++) l->nonfinite[i] = l->negative[i] = (ingot_lane_bad){.first = -1};
  l->output = (ingot_lane_output){.nonfinite = counted ? l->nonfinite : NULL, .negative = counted ? l->negative : NULL};
  if (task->kind == INGOT_TASK_SCAN) return scan_tile(l, task, first, n);
  l->output.bytes = l->out;
  l->output.size = (size_t)n * ingot_dtype_size(t->dtype);
  return t->copy ? copy_tile(l, task, first, n) : apply_tile(l, task, first, n);
}

static ingot_status cpu_finish(ingot_lane *lane, ingot_lane_output *output)
{
  *output = ((cpu_lane *)lane)->output;
  return INGOT_OK;
}

static const ingot_lane_ops cpu_ops = {.begin = cpu_begin, .finish = cpu_finish, .close = cpu_close};

ingot_status ingot_lane_cpu_open(const ingot_merge_plan *plan, ingot_lane **out)
{
  ingot_status st = INGOT_OK;
  size_t       in_bytes, out_bytes;
  cpu_lane    *l = calloc(1, sizeof *l);
  INGOT_CHECK(l, INGOT_ERR_NOMEM, "no memory for a lane");
  l->head = (ingot_lane){.ops = &cpu_ops, .depth = 1, .plan = plan};
  plan_extent(plan, &l->n_input_max, &in_bytes, &out_bytes);
  l->read_elems = read_elems_for(l->n_input_max, in_bytes);
  l->raw_stride = round_up((size_t)l->read_elems * in_bytes);

  size_t n = (size_t)l->n_input_max;
  l->raw = aligned(n * l->raw_stride);
  l->raw_in = malloc(n * sizeof *l->raw_in);
  l->wide = aligned(n * INGOT_BLOCK * sizeof *l->wide);
  l->wide_in = malloc(n * sizeof *l->wide_in);
  l->merged = aligned(INGOT_BLOCK * sizeof *l->merged);
  l->out = aligned(INGOT_TILE * out_bytes);
  l->nonfinite = calloc(n, sizeof *l->nonfinite);
  l->negative = calloc(n, sizeof *l->negative);
  INGOT_CHECK(l->raw && l->raw_in && l->wide && l->wide_in && l->merged && l->out && l->nonfinite && l->negative,
              INGOT_ERR_NOMEM, "no memory for a lane of %llu bytes", (unsigned long long)ingot_lane_cpu_bytes(plan));
  for (size_t i = 0; i < n; i++) l->wide_in[i] = l->wide + i * INGOT_BLOCK;
done:
  if (st != INGOT_OK && l) {
    cpu_close(&l->head);
    l = NULL;
  }
  *out = l ? &l->head : NULL;
  return st;
}
