#include "tests/gpu/gpu_method.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"

enum { POISON = 0xa5 };

/* One tensor on the device. */
typedef struct gpu_tensor {
  const run_setup    *setup;
  const gpu_setup    *how;
  const run_tensor   *host;
  ingot_method_tensor view;
  void               *state;
  void              **in; /* [n_input] device memory of exactly the tensor's bytes, so that a checker sees overruns */
  const void        **at; /* [n_input] where the chunk begins in it */
  void               *out, *workspace, *counts, *stream;
  bool                counted;
} gpu_tensor;

static size_t bytes_of(const gpu_tensor *t, ingot_dtype d)
{
  return (size_t)t->view.n_elem * ingot_dtype_size(d);
}

static ingot_status tensor_open(gpu_tensor *t, const void *fill)
{
  ingot_status            st = INGOT_OK;
  const ingot_device_ops *ops = t->setup->method->device;
  size_t                  n = (size_t)t->view.n_input;

  t->in = calloc(n, sizeof *t->in);
  t->at = calloc(n, sizeof *t->at);
  t->state = calloc(1, t->setup->method->state_bytes(&t->view) + 1);
  INGOT_CHECK(t->in && t->at && t->state, INGOT_ERR_NOMEM, "out of memory");
  INGOT_TRY(ingot_device_stream_create(&t->stream));
  INGOT_TRY(ingot_device_alloc(n * sizeof(uint64_t), &t->counts));
  INGOT_TRY(ingot_device_zero(t->counts, n * sizeof(uint64_t), t->stream));
  if (ops->workspace_bytes) INGOT_TRY(ingot_device_alloc(ops->workspace_bytes(&t->view), &t->workspace));
  for (size_t i = 0; i < n; i++) {
    INGOT_TRY(ingot_device_alloc(bytes_of(t, t->host->in_dtype[i]), &t->in[i]));
    INGOT_TRY(ingot_device_copy_in(t->in[i], t->host->in[i], bytes_of(t, t->host->in_dtype[i]), t->stream));
  }
  INGOT_TRY(ingot_device_alloc(bytes_of(t, t->host->out_dtype), &t->out));
  INGOT_TRY(ingot_device_copy_in(t->out, fill, bytes_of(t, t->host->out_dtype), t->stream));
  INGOT_TRY(ingot_device_stream_wait(t->stream));
  INGOT_TRY(t->setup->method->begin(&t->view, t->state));
done:
  return st;
}

static void tensor_close(gpu_tensor *t)
{
  for (int i = 0; t->in && i < t->view.n_input; i++) ingot_device_free(t->in[i]);
  ingot_device_free(t->out);
  ingot_device_free(t->workspace);
  ingot_device_free(t->counts);
  ingot_device_stream_destroy(t->stream);
  free(t->in);
  free(t->at);
  free(t->state);
}

static ingot_device_chunk chunk_at(gpu_tensor *t, int64_t first, int64_t end)
{
  for (int i = 0; i < t->view.n_input; i++) {
    t->at[i] = (const char *)t->in[i] + (size_t)first * ingot_dtype_size(t->host->in_dtype[i]);
  }
  return (ingot_device_chunk){
      .first = first,
      .n = end - first < t->how->chunk ? end - first : t->how->chunk,
      .in = t->at,
      .in_dtype = t->host->in_dtype,
      .out = (char *)t->out + (size_t)first * ingot_dtype_size(t->host->out_dtype),
      .out_dtype = t->host->out_dtype,
      .nonfinite = t->how->nonfinite,
      .n_nonfinite = t->how->n_nonfinite && !t->counted ? t->counts : NULL,
      .workspace = t->workspace,
      .stream = t->stream,
  };
}

static int64_t tile_end(const gpu_tensor *t, int64_t tile)
{
  int64_t end = (tile + 1) * INGOT_TILE;
  return end < t->view.n_elem ? end : t->view.n_elem;
}

static ingot_status scan_tiles(gpu_tensor *t, const ingot_scan_plan *plan, int64_t n_slot, char *slots, int64_t *sums)
{
  ingot_status st = INGOT_OK;
  for (int64_t k = 0; k < n_slot; k++) {
    int64_t tile = plan->tiles ? plan->tiles[k] : k;
    for (int64_t first = tile * INGOT_TILE; first < tile_end(t, tile); first += t->how->chunk) {
      ingot_device_chunk c = chunk_at(t, first, tile_end(t, tile));
      INGOT_TRY(
          t->setup->method->device->scan(&t->view, t->state, plan, &c, slots + (size_t)k * plan->slot_bytes, sums));
    }
  }
done:
  return st;
}

/* One pass, its result handed to `next`; *plan becomes the pass after it. */
static ingot_status run_pass(gpu_tensor *t, ingot_scan_plan *plan)
{
  ingot_status    st = INGOT_OK;
  ingot_scan_plan done = *plan;
  int64_t         n_slot = plan->tiles ? plan->n_tiles : ingot_tile_count(t->view.n_elem);
  size_t          slot_bytes = (size_t)n_slot * plan->slot_bytes, sum_bytes = (size_t)plan->n_sum * sizeof(int64_t);
  void           *slots = NULL, *sums = NULL, *host_slots = malloc(slot_bytes + 1), *host_sums = malloc(sum_bytes + 1);

  INGOT_CHECK(host_slots && host_sums, INGOT_ERR_NOMEM, "out of memory");
  INGOT_TRY(ingot_device_alloc(slot_bytes + 16, &slots));
  INGOT_TRY(ingot_device_alloc(sum_bytes + 16, &sums));
  INGOT_TRY(ingot_device_zero(slots, slot_bytes + 16, t->stream));
  INGOT_TRY(ingot_device_zero(sums, sum_bytes + 16, t->stream));
  INGOT_TRY(scan_tiles(t, plan, n_slot, slots, sums));
  INGOT_TRY(ingot_device_copy_out(host_slots, slots, slot_bytes, t->stream));
  INGOT_TRY(ingot_device_copy_out(host_sums, sums, sum_bytes, t->stream));
  INGOT_TRY(ingot_device_stream_wait(t->stream));
  t->counted = true;
  ingot_scan_result result = {.plan = &done, .n_slot = n_slot, .slots = host_slots, .sums = host_sums};
  INGOT_TRY(t->setup->method->device->next(&t->view, t->state, &result, plan));
done:
  ingot_device_free(slots);
  ingot_device_free(sums);
  free(host_slots);
  free(host_sums);
  return st;
}

static ingot_status take_counts(gpu_tensor *t)
{
  ingot_status st = INGOT_OK;
  size_t       bytes = (size_t)t->view.n_input * sizeof(uint64_t);
  uint64_t    *counts = NULL;

  if (!t->how->n_nonfinite) return INGOT_OK;
  counts = malloc(bytes);
  INGOT_CHECK(counts, INGOT_ERR_NOMEM, "out of memory");
  INGOT_TRY(ingot_device_copy_out(counts, t->counts, bytes, t->stream));
  INGOT_TRY(ingot_device_stream_wait(t->stream));
  for (int i = 0; i < t->view.n_input; i++) t->how->n_nonfinite[i] += counts[i];
done:
  free(counts);
  return st;
}

static ingot_status run_tensor_on_gpu(gpu_tensor *t)
{
  ingot_status            st = INGOT_OK;
  const ingot_device_ops *ops = t->setup->method->device;
  size_t                  out_bytes = bytes_of(t, t->host->out_dtype);

  memset(t->host->out, POISON, out_bytes);
  INGOT_TRY(tensor_open(t, t->host->out));
  if (ops->next && t->setup->method->grain(&t->view) != INGOT_GRAIN_ELEMENT) {
    ingot_scan_plan plan = {0};
    INGOT_TRY(ops->next(&t->view, t->state, NULL, &plan));
    while (plan.pass != INGOT_SCAN_DONE) INGOT_TRY(run_pass(t, &plan));
  }
  for (int64_t tile = 0; tile < ingot_tile_count(t->view.n_elem); tile++) {
    for (int64_t first = tile * INGOT_TILE; first < tile_end(t, tile); first += t->how->chunk) {
      ingot_device_chunk c = chunk_at(t, first, tile_end(t, tile));
      INGOT_TRY(ops->apply(&t->view, t->state, &c));
    }
  }
  INGOT_TRY(ingot_device_copy_out(t->host->out, t->out, out_bytes, t->stream));
  INGOT_TRY(ingot_device_stream_wait(t->stream));
  INGOT_TRY(take_counts(t));
done:
  tensor_close(t);
  return st;
}

ingot_status gpu_method_run(const run_setup *r, const gpu_setup *g)
{
  ingot_status st = INGOT_OK;
  run_report   report = {0};
  void        *model_state = NULL;

  for (int i = 0; g->n_nonfinite && i < r->n_model + r->has_base + r->n_statistic; i++) g->n_nonfinite[i] = 0;
  INGOT_TRY(run_model_passes(r, &report, &model_state));
  for (int i = 0; i < r->n_tensor; i++) {
    gpu_tensor t = {.setup = r, .how = g, .host = &r->tensors[i], .view = run_view(r, i, model_state)};
    if (r->method->check) INGOT_TRY(r->method->check(&t.view));
    if (t.view.n_elem > 0) INGOT_TRY(run_tensor_on_gpu(&t));
  }
done:
  free(model_state);
  return st;
}
