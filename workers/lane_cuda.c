/*
 * The GPU lane. Two slots, each with its own page-locked and device buffers and its own stream: within a slot the copy
 * in, the kernels and the copy out follow one another, and the work of one slot overlaps with that of the other and of
 * other lanes. The thread reads the next tile while the GPU works on the last.
 *
 * A tile of all inputs that is larger than PINNED_LIMIT goes through its slot in chunks, one after another.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/convert.h"
#include "kernels/count_bad.h"
#include "kernels/device.h"
#include "workers/device_cache.h"
#include "workers/lane.h"

enum {
  DEPTH = 2,
  ALIGN = 256,
  PINNED_LIMIT = 64 << 20,  /* bytes of inputs in a slot */
  SCRATCH_BYTES = 256 << 10 /* sums and slot of a scan; a pass that needs more gets more */
};

/* Sizes of what a slot holds: for the largest tile of the plan. */
typedef struct sizes {
  uint64_t in, out, counts, workspace, scratch;
  int      n_input;
} sizes;

typedef struct slot {
  void     *stream, *done;                           /* done: recorded after a chunk's last work */
  char     *pinned_in, *pinned_out, *pinned_scratch; /* scratch: sums, then the tile's slot */
  uint64_t *pinned_counts;                           /* [n_input] not finite, then [n_input] below zero */
  char     *device_in, *device_out, *device_workspace, *device_scratch;
  uint64_t *device_counts;
  void     *own_pinned_scratch, *own_device_scratch; /* grown; NULL while the first ones do */
  uint64_t  scratch_bytes;

  ingot_task      task;
  int64_t         first, n;             /* of the tile, flat elements */
  int64_t         chunk_first, chunk_n; /* of the chunk in flight */
  bool            from_cache;           /* the inputs were on the device already */
  const void    **in;                   /* [n_input] device pointers of the chunk */
  void          **raw;                  /* [n_input] room of its inputs in pinned memory */
  ingot_dtype    *in_dtype;             /* [n_input] */
  ingot_lane_bad *nonfinite;            /* [n_input] */
  ingot_lane_bad *negative;             /* [n_input] */
} slot;

typedef struct cuda_lane {
  ingot_lane head;
  sizes      size;
  void      *pinned, *device; /* one block of each kind, cut up into the slots' buffers */
  slot       slots[DEPTH];
  int        next_begin, next_finish; /* slots, used in turn */
} cuda_lane;

static uint64_t align_up(uint64_t bytes)
{
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

static int64_t min_i64(int64_t a, int64_t b)
{
  return a < b ? a : b;
}

static ingot_dtype input_dtype(const ingot_merge_plan *plan, const ingot_merge_tensor *t, int input)
{
  return ingot_source_tensor(plan->sources[t->source[input]], t->tensor[input])->dtype;
}

/* Elements that go through a slot at once: a whole tile, or what fits, in blocks. */
static int64_t chunk_elements(const ingot_merge_plan *plan, const ingot_merge_tensor *t)
{
  int64_t tile = min_i64(t->view.n_elem, INGOT_TILE);
  int64_t bytes = 0; /* of one element of all inputs */
  for (int i = 0; i < t->view.n_input; i++) bytes += (int64_t)ingot_dtype_size(input_dtype(plan, t, i));
  if (tile * bytes <= PINNED_LIMIT) return tile;
  int64_t blocks = PINNED_LIMIT / bytes / INGOT_BLOCK;
  return (blocks > 0 ? blocks : 1) * INGOT_BLOCK;
}

static sizes sizes_of(const ingot_merge_plan *plan)
{
  sizes s = {0};
  for (int k = 0; k < plan->n_tensor; k++) {
    const ingot_merge_tensor *t = &plan->tensors[k];
    int64_t                   tile = min_i64(t->view.n_elem, INGOT_TILE);
    if (t->grain == INGOT_GRAIN_MATRIX) continue; /* never comes to a lane */
    s.out = max_u64(s.out, align_up((uint64_t)tile * ingot_dtype_size(t->dtype)));
    if (t->copy) continue;
    int64_t  chunk = chunk_elements(plan, t);
    uint64_t in = 0;
    for (int i = 0; i < t->view.n_input; i++) {
      in += align_up((uint64_t)chunk * ingot_dtype_size(input_dtype(plan, t, i)));
    }
    s.in = max_u64(s.in, in);
    if (t->view.n_input > s.n_input) s.n_input = t->view.n_input;
    if (plan->method->device != NULL && plan->method->device->workspace_bytes != NULL) {
      s.workspace = max_u64(s.workspace, align_up(plan->method->device->workspace_bytes(&t->view)));
    }
    if (t->grain == INGOT_GRAIN_TENSOR) s.scratch = SCRATCH_BYTES;
  }
  s.counts = align_up(2 * (uint64_t)s.n_input * sizeof(uint64_t));
  return s;
}

static uint64_t pinned_bytes(const sizes *s)
{
  return DEPTH * (s->in + s->out + s->counts + s->scratch);
}

static uint64_t device_bytes(const sizes *s)
{
  return DEPTH * (s->in + s->out + s->counts + s->scratch + s->workspace);
}

uint64_t ingot_lane_cuda_bytes(const ingot_merge_plan *plan, uint64_t *device)
{
  sizes s = sizes_of(plan);
  if (device != NULL) *device = device_bytes(&s);
  return pinned_bytes(&s);
}

/* Sums and slot of a scan need `bytes`; a slot's work is done, so the old buffers may go. */
static ingot_status scratch_reserve(slot *s, uint64_t bytes)
{
  ingot_status st = INGOT_OK;

  if (bytes <= s->scratch_bytes) return INGOT_OK;
  bytes = align_up(bytes + bytes / 2);
  s->scratch_bytes = 0;
  ingot_device_free(s->own_device_scratch);
  ingot_device_pinned_free(s->own_pinned_scratch);
  s->own_device_scratch = s->own_pinned_scratch = NULL;
  INGOT_TRY(ingot_device_alloc(bytes, &s->own_device_scratch));
  INGOT_TRY(ingot_device_pinned_alloc(bytes, &s->own_pinned_scratch));
  s->device_scratch = s->own_device_scratch;
  s->pinned_scratch = s->own_pinned_scratch;
  s->scratch_bytes = bytes;
done:
  return st;
}

static uint64_t sums_bytes(const ingot_scan_plan *scan)
{
  return align_up((uint64_t)scan->n_sum * sizeof(int64_t));
}

/* Bring one input of the chunk to the device, unless the cache has it. */
static ingot_status load_input(cuda_lane *lane, slot *s, int input, uint64_t offset)
{
  ingot_status              st = INGOT_OK;
  const ingot_merge_plan   *plan = lane->head.plan;
  const ingot_merge_tensor *t = s->task.tensor;
  size_t                    element = ingot_dtype_size(s->in_dtype[input]);
  size_t                    bytes = (size_t)s->chunk_n * element;
  char                     *pinned = s->pinned_in + offset;
  char                     *device = s->device_in + offset;

  if (s->task.cache != NULL) {
    device = ingot_device_cache_tile(s->task.cache, input, s->task.tile);
    device += (size_t)(s->chunk_first - s->first) * element;
  }
  s->in[input] = device;
  s->raw[input] = pinned;
  if (s->from_cache) return INGOT_OK;

  double begin_s = ingot_clock_s();
  st = ingot_source_read(plan->sources[t->source[input]], t->tensor[input], (uint64_t)s->chunk_first * element, bytes,
                         pinned);
  INGOT_TRY(ingot_wrap(st, "%s", plan->source_names[t->source[input]]));
  double read_s = ingot_clock_s();
  INGOT_TRY(ingot_device_copy_in(device, pinned, bytes, s->stream));
  lane->head.timing.read_s += read_s - begin_s;
  lane->head.timing.move_s += ingot_clock_s() - read_s;
  lane->head.timing.bytes_read += bytes;
done:
  return st;
}

/* Enqueue the counting of Fisher information below zero: a pass over it on the device, a fiftieth of what its copy
 * takes. */
static ingot_status count_negative(slot *s)
{
  const ingot_method_tensor *t = &s->task.tensor->view;
  ingot_status               st = INGOT_OK;
  for (int i = ingot_lane_first_fisher(t); i < t->n_input && st == INGOT_OK; i++)
    st =
        ingot_device_count_negative(s->in_dtype[i], s->in[i], s->chunk_n, s->device_counts + t->n_input + i, s->stream);
  return st;
}

/* Enqueue one chunk: inputs, kernels, outputs. The slot is idle, so its pinned memory may be overwritten. */
static ingot_status submit_chunk(cuda_lane *lane, slot *s)
{
  ingot_status              st = INGOT_OK;
  const ingot_device_ops   *ops = lane->head.plan->method->device;
  const ingot_merge_tensor *t = s->task.tensor;
  uint64_t                  offset = 0;
  size_t                    out_element = ingot_dtype_size(t->dtype);
  size_t                    counts_bytes = 2 * (size_t)t->view.n_input * sizeof(uint64_t);

  for (int i = 0; i < t->view.n_input; i++) {
    INGOT_TRY(load_input(lane, s, i, offset));
    offset += align_up((uint64_t)s->chunk_n * ingot_dtype_size(s->in_dtype[i]));
  }
  double             begin_s = ingot_clock_s();
  ingot_device_chunk chunk = {
      .first = s->chunk_first,
      .n = s->chunk_n,
      .in = s->in,
      .in_dtype = s->in_dtype,
      .out = s->device_out + (size_t)(s->chunk_first - s->first) * out_element,
      .out_dtype = t->dtype,
      .nonfinite = lane->head.plan->nonfinite,
      .n_nonfinite = s->task.count_nonfinite ? s->device_counts : NULL,
      .workspace = s->device_workspace,
      .stream = s->stream,
  };
  if (s->task.count_nonfinite) {
    INGOT_TRY(ingot_device_zero(s->device_counts, counts_bytes, s->stream));
    INGOT_TRY(count_negative(s));
  }
  if (s->task.kind == INGOT_TASK_SCAN) {
    INGOT_TRY(ops->scan(&t->view, s->task.state, s->task.scan, &chunk, s->device_scratch + sums_bytes(s->task.scan),
                        (int64_t *)(void *)s->device_scratch));
  } else {
    ingot_method_tensor view = t->view;
    view.has_base = ingot_lane_base_fills(&view); /* all that kernels with statistics use it for */
    INGOT_TRY(ops->apply(&view, s->task.state, &chunk));
    INGOT_TRY(ingot_device_copy_out(s->pinned_out + (size_t)(s->chunk_first - s->first) * out_element, chunk.out,
                                    (size_t)s->chunk_n * out_element, s->stream));
  }
  if (s->task.count_nonfinite) {
    INGOT_TRY(ingot_device_copy_out(s->pinned_counts, s->device_counts, counts_bytes, s->stream));
  }
  INGOT_TRY(ingot_device_event_record(s->done, s->stream));
  lane->head.timing.move_s += ingot_clock_s() - begin_s;
done:
  return st;
}

/* Find the first bad value of an input in the chunk, which has some. */
static ingot_status find_first(slot *s, int input, bool negative)
{
  ingot_status    st = INGOT_OK;
  ingot_lane_bad *found = negative ? &s->negative[input] : &s->nonfinite[input];
  size_t          bytes = (size_t)s->chunk_n * ingot_dtype_size(s->in_dtype[input]);

  if (s->from_cache) { /* not read this time: fetch it from the device */
    INGOT_TRY(ingot_device_copy_out(s->raw[input], s->in[input], bytes, s->stream));
    INGOT_TRY(ingot_device_stream_wait(s->stream));
  }
  int64_t place = negative ? ingot_first_negative(s->in_dtype[input], s->raw[input], s->chunk_n)
                           : ingot_first_nonfinite(s->in_dtype[input], s->raw[input], s->chunk_n, &found->is_nan);
  INGOT_CHECK(place >= 0, INGOT_ERR_INTERNAL, "%s: the GPU counted bad values that are not there",
              s->task.tensor->view.name);
  found->first = s->chunk_first + place;
done:
  return st;
}

/* Wait for the chunk in flight, and look for the first bad value where the kernels have counted some. */
static ingot_status wait_chunk(cuda_lane *lane, slot *s)
{
  ingot_status st = INGOT_OK;
  double       begin_s = ingot_clock_s();

  INGOT_TRY(ingot_device_event_wait(s->done));
  lane->head.timing.merge_s += ingot_clock_s() - begin_s;
  if (!s->task.count_nonfinite) return INGOT_OK;
  const uint64_t *nonfinite = s->pinned_counts, *negative = nonfinite + s->task.tensor->view.n_input;
  for (int i = 0; i < s->task.tensor->view.n_input; i++) {
    if (nonfinite[i] > 0 && s->nonfinite[i].count == 0) INGOT_TRY(find_first(s, i, false));
    if (negative[i] > 0 && s->negative[i].count == 0) INGOT_TRY(find_first(s, i, true));
    s->nonfinite[i].count += nonfinite[i];
    s->negative[i].count += negative[i];
  }
done:
  return st;
}

static ingot_status begin_copy(cuda_lane *lane, slot *s)
{
  const ingot_merge_plan   *plan = lane->head.plan;
  const ingot_merge_tensor *t = s->task.tensor;
  size_t                    element = ingot_dtype_size(t->dtype), bytes = (size_t)s->n * element;
  double                    begin_s = ingot_clock_s();
  ingot_status              st =
      ingot_source_read(plan->sources[t->source[0]], t->tensor[0], (uint64_t)s->first * element, bytes, s->pinned_out);
  lane->head.timing.read_s += ingot_clock_s() - begin_s;
  lane->head.timing.bytes_read += bytes;
  return ingot_wrap(st, "%s", plan->source_names[t->source[0]]);
}

static ingot_status cuda_begin(ingot_lane *head, const ingot_task *task)
{
  ingot_status              st = INGOT_OK;
  cuda_lane                *lane = (cuda_lane *)(void *)head;
  slot                     *s = &lane->slots[lane->next_begin];
  const ingot_merge_tensor *t = task->tensor;

  s->task = *task;
  s->first = task->tile * INGOT_TILE;
  s->n = min_i64(t->view.n_elem - s->first, INGOT_TILE);
  lane->next_begin = (lane->next_begin + 1) % DEPTH;
  if (t->copy) return begin_copy(lane, s);

  for (int i = 0; i < t->view.n_input; i++) {
    s->in_dtype[i] = input_dtype(head->plan, t, i);
    s->nonfinite[i] = s->negative[i] = (ingot_lane_bad){.first = -1};
  }
  uint64_t scratch = 0;
  if (task->kind == INGOT_TASK_SCAN) {
    INGOT_CHECK(task->scan->sample_stride == 0, INGOT_ERR_INTERNAL, "%s: a sampled pass on a GPU", t->view.name);
    scratch = sums_bytes(task->scan) + task->scan->slot_bytes;
    INGOT_TRY(scratch_reserve(s, scratch));
    if (scratch > 0) INGOT_TRY(ingot_device_zero(s->device_scratch, scratch, s->stream));
  }
  s->from_cache = task->cache != NULL && ingot_device_cache_is_filled(task->cache, task->tile);
  int64_t step = chunk_elements(head->plan, t);
  for (s->chunk_first = s->first; s->chunk_first < s->first + s->n; s->chunk_first += step) {
    s->chunk_n = min_i64(step, s->first + s->n - s->chunk_first);
    INGOT_TRY(submit_chunk(lane, s));
    if (s->chunk_first + s->chunk_n == s->first + s->n) break; /* finish waits for the last one */
    INGOT_TRY(wait_chunk(lane, s));
  }
  if (scratch > 0) {
    INGOT_TRY(ingot_device_copy_out(s->pinned_scratch, s->device_scratch, scratch, s->stream));
    INGOT_TRY(ingot_device_event_record(s->done, s->stream));
  }
done:
  return st;
}

static void take_sums(const slot *s)
{
  const ingot_scan_plan *scan = s->task.scan;
  const int64_t         *sums = (const int64_t *)(const void *)s->pinned_scratch;

  if (scan->slot_bytes > 0) memcpy(s->task.slot, s->pinned_scratch + sums_bytes(scan), scan->slot_bytes);
  if (scan->n_sum == 0) return;
  pthread_mutex_lock(s->task.sums_lock);
  for (int64_t k = 0; k < scan->n_sum; k++) s->task.sums[k] += sums[k];
  pthread_mutex_unlock(s->task.sums_lock);
}

static ingot_status cuda_finish(ingot_lane *head, ingot_lane_output *output)
{
  ingot_status st = INGOT_OK;
  cuda_lane   *lane = (cuda_lane *)(void *)head;
  slot        *s = &lane->slots[lane->next_finish];

  *output = (ingot_lane_output){0};
  lane->next_finish = (lane->next_finish + 1) % DEPTH;
  if (!s->task.tensor->copy) {
    INGOT_TRY(wait_chunk(lane, s));
    if (s->task.kind == INGOT_TASK_SCAN) take_sums(s);
    if (s->task.cache != NULL) ingot_device_cache_set_filled(s->task.cache, s->task.tile);
    if (s->task.count_nonfinite) {
      output->nonfinite = s->nonfinite;
      output->negative = s->negative;
    }
  }
  if (s->task.kind == INGOT_TASK_APPLY) {
    output->bytes = s->pinned_out;
    output->size = (size_t)s->n * ingot_dtype_size(s->task.tensor->dtype);
  }
done:
  return st;
}

static void slot_release(slot *s)
{
  if (s->stream != NULL && ingot_device_stream_wait(s->stream) != INGOT_OK) ingot_error_clear();
  ingot_device_event_destroy(s->done);
  ingot_device_stream_destroy(s->stream);
  ingot_device_free(s->own_device_scratch);
  ingot_device_pinned_free(s->own_pinned_scratch);
  free(s->in);
  free(s->raw);
  free(s->in_dtype);
  free(s->nonfinite);
  free(s->negative);
}

static void cuda_close(ingot_lane *head)
{
  cuda_lane *lane = (cuda_lane *)(void *)head;
  if (lane == NULL) return;
  for (int i = 0; i < DEPTH; i++) slot_release(&lane->slots[i]);
  ingot_device_free(lane->device);
  ingot_device_pinned_free(lane->pinned);
  free(lane);
}

static char *cut(char **block, uint64_t bytes)
{
  char *part = *block;
  *block += bytes;
  return part;
}

static ingot_status slot_init(slot *s, const sizes *size, char **pinned, char **device)
{
  ingot_status st = INGOT_OK;
  size_t       n = size->n_input > 0 ? (size_t)size->n_input : 1;

  s->pinned_in = cut(pinned, size->in);
  s->pinned_out = cut(pinned, size->out);
  s->pinned_counts = (uint64_t *)(void *)cut(pinned, size->counts);
  s->pinned_scratch = cut(pinned, size->scratch);
  s->device_in = cut(device, size->in);
  s->device_out = cut(device, size->out);
  s->device_counts = (uint64_t *)(void *)cut(device, size->counts);
  s->device_scratch = cut(device, size->scratch);
  s->device_workspace = cut(device, size->workspace);
  s->scratch_bytes = size->scratch;
  s->in = calloc(n, sizeof *s->in);
  s->raw = calloc(n, sizeof *s->raw);
  s->in_dtype = calloc(n, sizeof *s->in_dtype);
  s->nonfinite = calloc(n, sizeof *s->nonfinite);
  s->negative = calloc(n, sizeof *s->negative);
  INGOT_CHECK(s->in != NULL && s->raw != NULL && s->in_dtype != NULL && s->nonfinite != NULL && s->negative != NULL,
              INGOT_ERR_NOMEM, "out of memory for a GPU lane");
  INGOT_TRY(ingot_device_stream_create(&s->stream));
  INGOT_TRY(ingot_device_event_create(&s->done));
done:
  return st;
}

ingot_status ingot_lane_cuda_check(const ingot_merge_plan *plan)
{
  ingot_status            st = INGOT_OK;
  const ingot_device_ops *ops = plan->method->device;
  int                     n_input = sizes_of(plan).n_input; /* 0: nothing but copies */

  INGOT_CHECK(ops != NULL || n_input == 0, INGOT_ERR_DEVICE, "%s has no GPU path", plan->method->name);
  INGOT_CHECK(n_input == 0 || n_input <= ops->max_input, INGOT_ERR_DEVICE,
              "%s takes at most %d inputs on a GPU, and this step has %d", plan->method->name, ops->max_input, n_input);
done:
  return st;
}

ingot_status ingot_lane_cuda_open(const ingot_merge_plan *plan, int device, ingot_lane **out)
{
  static const ingot_lane_ops ops = {.begin = cuda_begin, .finish = cuda_finish, .close = cuda_close};
  ingot_status                st = INGOT_OK;
  cuda_lane                  *lane = NULL;

  *out = NULL;
  INGOT_TRY(ingot_device_use(device));
  lane = calloc(1, sizeof *lane);
  INGOT_CHECK(lane != NULL, INGOT_ERR_NOMEM, "out of memory for a GPU lane");
  lane->head = (ingot_lane){.ops = &ops, .depth = DEPTH, .plan = plan};
  lane->size = sizes_of(plan);
  INGOT_TRY(ingot_lane_cuda_check(plan));
  if (pinned_bytes(&lane->size) > 0) {
    INGOT_TRY(ingot_device_pinned_alloc(pinned_bytes(&lane->size), &lane->pinned));
    INGOT_TRY(ingot_device_alloc(device_bytes(&lane->size), &lane->device));
  }
  char *pinned = lane->pinned, *device_block = lane->device;
  for (int i = 0; i < DEPTH; i++) INGOT_TRY(slot_init(&lane->slots[i], &lane->size, &pinned, &device_block));
  *out = &lane->head;
  lane = NULL;
done:
  if (lane != NULL) cuda_close(&lane->head);
  return st;
}
