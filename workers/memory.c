/*
 * The memory of a rank that merges. Methods that read tiles in a stream keep below LIMIT for any models and up to 64
 * threads: lanes get what they need, as many as that leaves room for, and summaries of tensors get the rest.
 */
#include "workers/memory.h"

#include <stdlib.h>

#include "workers/lane.h"
#include "workers/matrix.h"

static const uint64_t MIB = 1 << 20;

enum {
  LIMIT_MIB = 256,
  RESERVE_MIB = 24,   /* of the limit: the process, its tables, and what is estimated too low */
  SUMMARIES_MIB = 48, /* summaries get at least this, and lanes the rest */
  TABLE_BYTES_INPUT =
      2048, /* an input tensor: its row, its name, and what reading the header leaves in malloc's pools */
};

static uint64_t at_least(uint64_t have, uint64_t least)
{
  return have > least ? have : least;
}

static int fitting(uint64_t bytes, uint64_t each, int n)
{
  uint64_t fit = each ? bytes / each : (uint64_t)n;
  return fit < 1 ? 1 : fit < (uint64_t)n ? (int)fit : n;
}

int ingot_memory_lanes(const ingot_merge_plan *plan, int n_thread, bool on_device)
{
  bool summary = false;
  if (on_device) return n_thread > INGOT_GPU_LANES_MAX ? INGOT_GPU_LANES_MAX : n_thread;
  for (int i = 0; i < plan->n_tensor && !summary; i++) summary = ingot_merge_has_summary(&plan->tensors[i]);
  return fitting((uint64_t)(LIMIT_MIB - RESERVE_MIB - (summary ? SUMMARIES_MIB : 0)) * MIB, ingot_lane_cpu_bytes(plan),
                 n_thread);
}

/* A pass over the model does not touch the buffer for a merged tile. */
static uint64_t model_lane_bytes(const ingot_merge_plan *plan, int64_t n_sum)
{
  uint64_t element = 1;
  for (int i = 0; i < plan->n_tensor; i++) element = at_least(element, ingot_dtype_size(plan->tensors[i].dtype));
  return ingot_lane_cpu_bytes(plan) - INGOT_TILE * element + (uint64_t)n_sum * sizeof(int64_t);
}

int ingot_memory_model_lanes(const ingot_merge_plan *plan, int n_thread, int64_t n_sum)
{
  return fitting((uint64_t)(LIMIT_MIB - RESERVE_MIB) * MIB, model_lane_bytes(plan, n_sum), n_thread);
}

/* What the first pass asks for. A method that fails here will say so where it runs. */
static uint64_t first_pass_bytes(const ingot_method *m, const ingot_merge_tensor *t)
{
  ingot_scan_plan scan = {.pass = INGOT_SCAN_DONE};
  void           *state = calloc(1, m->state_bytes(&t->view) + 1);
  if (!state || m->begin(&t->view, state) != INGOT_OK || m->tensor.next(&t->view, state, NULL, &scan) != INGOT_OK) {
    ingot_error_clear();
    scan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  }
  free(state);
  if (scan.pass == INGOT_SCAN_DONE) return 0;
  int64_t n_tile = scan.tiles ? scan.n_tiles : ingot_tile_count(t->view.n_elem);
  return (uint64_t)n_tile * scan.slot_bytes + (uint64_t)scan.n_sum * sizeof(int64_t);
}

uint64_t ingot_memory_of_summary(const ingot_merge_plan *plan, int i)
{
  const ingot_merge_tensor *t = &plan->tensors[i];
  const ingot_method       *m = plan->method;
  if (!ingot_merge_has_summary(t) || t->view.n_elem == 0) return 0;
  uint64_t bytes = m->state_bytes(&t->view);
  if (m->summary_bytes) return bytes + m->summary_bytes(&t->view);
  return m->tensor.next ? bytes + first_pass_bytes(m, t) : bytes;
}

uint64_t ingot_memory_for_summaries(const ingot_merge_plan *plan, int n_thread)
{
  uint64_t lanes = (uint64_t)ingot_memory_lanes(plan, n_thread, false) * ingot_lane_cpu_bytes(plan);
  uint64_t room = (uint64_t)(LIMIT_MIB - RESERVE_MIB) * MIB;
  return at_least(room > lanes ? room - lanes : 0, SUMMARIES_MIB * MIB);
}

/* Looked up where there was memory to keep them. */
static uint64_t summary_bytes(const ingot_merge_plan *plan, const uint64_t *kept, int i)
{
  return kept ? kept[i] : ingot_memory_of_summary(plan, i);
}

/* What keeps all lanes at work: one tensor that nears its end, and as many tiles of those after it as there are
 * lanes. */
static uint64_t summaries_bytes(const ingot_merge_plan *plan, int n_lane, uint64_t limit)
{
  uint64_t most = 0, largest = 0, *bytes = malloc(((size_t)plan->n_tensor + 1) * sizeof *bytes);
  for (int i = 0; bytes && i < plan->n_tensor; i++) bytes[i] = ingot_memory_of_summary(plan, i);
  for (int i = 0; i < plan->n_tensor; i++) {
    uint64_t sum = summary_bytes(plan, bytes, i);
    int64_t  n_left = n_lane;
    largest = at_least(largest, sum);
    for (int k = i + 1; k < plan->n_tensor && n_left > 0; k++) {
      int64_t n_tile = ingot_tile_count(plan->tensors[k].view.n_elem), n = n_tile < n_left ? n_tile : n_left;
      if (n_tile > 0) sum += (uint64_t)((double)summary_bytes(plan, bytes, k) * (double)n / (double)n_tile);
      n_left -= n;
    }
    most = at_least(most, sum);
  }
  free(bytes);
  return most < limit ? most : at_least(limit, largest);
}

/* MODEL grain: the passes over the model, of which the first asks for most. */
static uint64_t model_bytes(const ingot_merge_plan *plan, int n_thread)
{
  const ingot_merge_tensor *last = NULL;
  ingot_scan_plan           scan = {.pass = INGOT_SCAN_DONE};
  for (int i = 0; i < plan->n_tensor; i++)
    if (plan->tensors[i].grain == INGOT_GRAIN_MODEL) last = &plan->tensors[i];
  if (!last) return 0;
  void *state = calloc(1, plan->method->model_state_bytes(&last->view) + 1);
  if (!state || plan->method->model.next(&last->view, state, NULL, &scan) != INGOT_OK) {
    ingot_error_clear();
    scan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  }
  free(state);
  if (scan.pass == INGOT_SCAN_DONE) return 0;
  return (uint64_t)ingot_memory_model_lanes(plan, n_thread, scan.n_sum) * model_lane_bytes(plan, scan.n_sum) +
         (uint64_t)scan.n_sum * sizeof(int64_t) + (uint64_t)plan->n_tile * scan.slot_bytes;
}

/* Lanes, summaries and tables; `matrix`: what solving takes, before the lanes. */
static uint64_t rank_bytes(const ingot_merge_plan *plan, int n_thread, bool on_device, uint64_t matrix)
{
  uint64_t device_bytes = 0, books = INGOT_PROCESS_BYTES + (uint64_t)plan->n_tile * (sizeof(bool) + sizeof(uint64_t));
  int      n_lane = ingot_memory_lanes(plan, n_thread, false);
  uint64_t lanes = ingot_lane_cpu_bytes(plan) * (uint64_t)n_lane;
  if (on_device)
    lanes += ingot_lane_cuda_bytes(plan, &device_bytes) * (uint64_t)ingot_memory_lanes(plan, n_thread, true);
  lanes += summaries_bytes(plan, n_lane, ingot_memory_for_summaries(plan, n_thread));
  uint64_t model = model_bytes(plan, n_thread); /* one after the other */
  if (matrix > 0) books += (uint64_t)plan->n_tile * sizeof(int64_t);
  for (int i = 0; i < plan->n_tensor; i++) books += (uint64_t)plan->tensors[i].view.n_input * TABLE_BYTES_INPUT;
  return at_least(at_least(lanes, model), matrix) + books;
}

uint64_t ingot_merge_memory_bytes(const ingot_merge_plan *plan, int n_thread, bool on_device)
{
  return rank_bytes(plan, n_thread, on_device, ingot_matrix_memory_bytes(plan, NULL));
}

uint64_t ingot_merge_host_bytes(const ingot_merge_plan *plan, int n_thread, bool on_device, uint64_t *device_bytes)
{
  return rank_bytes(plan, n_thread, on_device, ingot_matrix_host_bytes(plan, device_bytes));
}
