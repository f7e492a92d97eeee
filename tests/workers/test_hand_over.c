/*
 * Merges that begin on the CPU and go over to a GPU (a fake one, fake_device.c): the same bytes as on the CPU alone,
 * with both kinds of lane at work at once, when the GPU is slower, and when it cannot be used. Many small tensors, so
 * that there are many tiles.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"
#include "tests/io/scratch.h"
#include "tests/workers/fake_device.h"

#include <sched.h>
#include <time.h>

#include "base/hash.h"
#include "kernels/convert.h"
#include "kernels/families/slerp.h"
#include "workers/hand_over.h"
#include "workers/merge.h"

enum { N_TENSOR = 60, N_MODEL = 2, ELEMENTS = 9000 };

/* How often each side has merged a block, and how slow it is. */
static atomic_int          cpu_blocks, gpu_chunks, cpu_delay_us, gpu_delay_us, blocks_before_gpu;
static const ingot_method *real;

static void wait_us(int us)
{
  if (us > 0) nanosleep(&(struct timespec){.tv_nsec = 1000L * us}, NULL);
}

static void cpu_apply(const ingot_method_tensor *t, const void *state, const ingot_chunk *chunk, float *out)
{
  atomic_fetch_add(&cpu_blocks, 1);
  wait_us(atomic_load(&cpu_delay_us));
  real->apply(t, state, chunk, out);
}

static ingot_status gpu_blocks(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *scan,
                               const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  float        wide[N_MODEL][INGOT_BLOCK], out[INGOT_BLOCK];
  const float *in[N_MODEL] = {wide[0], wide[1]};
  for (int64_t at = 0; at < c->n; at += INGOT_BLOCK) {
    int64_t n = c->n - at < INGOT_BLOCK ? c->n - at : INGOT_BLOCK;
    for (int i = 0; i < N_MODEL; i++) {
      const char *raw = (const char *)c->in[i] + (size_t)at * sizeof(float);
      int64_t     bad = ingot_widen_counting(INGOT_DTYPE_F32, raw, wide[i], n);
      if (c->n_nonfinite) c->n_nonfinite[i] += (uint64_t)bad;
    }
    ingot_chunk chunk = {.first = c->first + at, .n = n, .in = in};
    if (scan) {
      real->tensor.scan(t, state, scan, &chunk, slot, sums);
      continue;
    }
    real->apply(t, state, &chunk, out);
    ingot_narrow(c->out_dtype, out, (char *)c->out + (size_t)at * ingot_dtype_size(c->out_dtype), n);
  }
  return INGOT_OK;
}

static ingot_status gpu_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  atomic_fetch_add(&gpu_chunks, 1);
  wait_us(atomic_load(&gpu_delay_us));
  return gpu_blocks(t, state, NULL, c, NULL, NULL);
}

static ingot_status gpu_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                             const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  return gpu_blocks(t, state, plan, c, slot, sums);
}

/* The GPU takes its time to start, until the CPU has merged so much. */
static void start_late(void)
{
  while (atomic_load(&cpu_blocks) < atomic_load(&blocks_before_gpu)) wait_us(200);
}

typedef struct fixture {
  scratch            dir;
  ingot_comm        *comm;
  ingot_source      *source[N_MODEL];
  const char        *source_name[N_MODEL];
  ingot_method       method;
  ingot_device_ops   ops;
  double             global[16], per_model[N_MODEL * 8];
  int                index[N_MODEL], tensor_index[N_TENSOR];
  char               name[N_TENSOR][16];
  ingot_merge_tensor tensor[N_TENSOR];
  ingot_sink_tensor  sink_tensor[N_TENSOR];
  ingot_merge_plan   plan;
  char               out_path[SCRATCH_PATH];
} fixture;

static void write_model(fixture *f, int model)
{
  ingot_text header = {0};
  size_t     bytes = (size_t)ELEMENTS * sizeof(float);
  float     *payload = malloc(N_TENSOR * bytes);
  char       path[SCRATCH_PATH], name[32];
  assert_non_null(payload);
  for (int i = 0; i < N_TENSOR * ELEMENTS; i++) payload[i] = (float)((i * 7 + model * 13 + i / 9000) % 101) - 50.5f;
  for (int k = 0; k < N_TENSOR; k++)
    check_ok(ingot_text_printf(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}",
                               k ? "," : "{", f->name[k], ELEMENTS, (size_t)k * bytes, (size_t)(k + 1) * bytes));
  check_ok(ingot_text_printf(&header, "}"));
  snprintf(name, sizeof name, "m%d.safetensors", model);
  scratch_safetensors(&f->dir, name, ingot_text_string(&header), payload, N_TENSOR * bytes);
  check_ok(ingot_source_open(scratch_path(&f->dir, name, path), &f->source[model]));
  f->source_name[model] = "model";
  f->index[model] = model;
  ingot_text_release(&header);
  free(payload);
}

static void fixture_init(fixture *f, const char *method)
{
  *f = (fixture){0};
  scratch_begin(&f->dir);
  check_ok(ingot_comm_init(NULL, NULL, &f->comm));
  real = ingot_method_find(method);
  f->method = *real;
  f->method.apply = cpu_apply;
  f->method.apply_bf16 = NULL;
  f->ops = (ingot_device_ops){.apply = gpu_apply, .max_input = N_MODEL};
  bool slerp = strcmp(method, "slerp") == 0;
  if (slerp) {
    f->ops.next = ingot_slerp_next;
    f->ops.scan = gpu_scan;
  }
  f->method.device = &f->ops;
  for (int k = 0; k < N_TENSOR; k++) snprintf(f->name[k], sizeof f->name[k], "t%02d", k);
  for (int i = 0; i < N_MODEL; i++) write_model(f, i);
  for (int i = 0; i < 16; i++) f->global[i] = 0.25;
  for (int i = 0; i < N_MODEL * 8; i++) f->per_model[i] = 0.5;
  for (int k = 0; k < N_TENSOR; k++) {
    ingot_merge_tensor *t = &f->tensor[k];
    f->tensor_index[k] = ingot_source_find(f->source[0], f->name[k]);
    t->view = (ingot_method_tensor){.name = f->name[k],
                                    .key = ingot_hash_string(f->name[k]),
                                    .shape = {.n_dim = 1, .dim = {ELEMENTS}},
                                    .n_elem = ELEMENTS,
                                    .n_input = N_MODEL,
                                    .n_model = slerp ? 1 : 2,
                                    .has_base = slerp,
                                    .global = f->global,
                                    .per_model = f->per_model,
                                    .seed = 1};
    t->dtype = INGOT_DTYPE_BF16;
    t->source = f->index;
    t->tensor = (int[]){0, 0};
    t->first_tile = k;
    t->grain = f->method.grain(&t->view);
    f->sink_tensor[k] = (ingot_sink_tensor){f->name[k], t->dtype, t->view.shape};
  }
  f->plan = (ingot_merge_plan){.method = &f->method,
                               .sources = f->source,
                               .source_names = f->source_name,
                               .n_source = N_MODEL,
                               .tensors = f->tensor,
                               .n_tensor = N_TENSOR,
                               .n_tile = N_TENSOR,
                               .nonfinite = INGOT_NONFINITE_FAIL,
                               .fingerprint = 7};
  atomic_store(&fake_device_number, 1);
  atomic_store(&fake_device_useless, 0);
  atomic_store(&cpu_delay_us, 0);
  atomic_store(&gpu_delay_us, 0);
  atomic_store(&blocks_before_gpu, 0);
  fake_device_starting = start_late;
}

static void fixture_release(fixture *f)
{
  for (int i = 0; i < N_MODEL; i++) ingot_source_close(&f->source[i]);
  ingot_comm_finalize(&f->comm);
  scratch_end(&f->dir);
}

static char *run(fixture *f, ingot_device_choice device, const ingot_hand_over_limits *limits, int n_thread,
                 ingot_merge_timing *timing)
{
  static int          number;
  ingot_merge_result  result;
  ingot_merge_options options = {.n_thread = n_thread, .device = device, .fresh = true, .hand_over = limits};
  char                name[64], *bytes = calloc(N_TENSOR, ELEMENTS * sizeof(uint16_t));
  ingot_source       *made = NULL;
  assert_non_null(bytes);
  for (int k = 0; k < N_TENSOR; k++) { /* the order in the file is by name, as here */
    static int both[N_TENSOR][N_MODEL];
    for (int i = 0; i < N_MODEL; i++) both[k][i] = f->tensor_index[k];
    f->tensor[k].tensor = both[k];
  }
  snprintf(name, sizeof name, "out%d.safetensors", number++);
  scratch_path(&f->dir, name, f->out_path);
  f->plan.sink = (ingot_sink_spec){.path = f->out_path,
                                   .format = INGOT_SINK_SAFETENSORS,
                                   .tensors = f->sink_tensor,
                                   .n_tensor = N_TENSOR};
  atomic_store(&cpu_blocks, 0);
  atomic_store(&gpu_chunks, 0);
  check_ok(ingot_merge_run(f->comm, &f->plan, &options, &result));
  *timing = result.timing;
  ingot_merge_result_release(&result);
  assert_int_equal(timing->tiles_done, N_TENSOR);
  assert_int_equal(timing->on_device, timing->tiles_on_device > 0);
  assert_int_equal(timing->tiles_on_device,
                   atomic_load(&gpu_chunks)); /* a tile of these is one chunk of three blocks */
  assert_int_equal(timing->tiles_done - timing->tiles_on_device, atomic_load(&cpu_blocks) / 3);
  check_ok(ingot_source_open(f->out_path, &made));
  for (int k = 0; k < N_TENSOR; k++)
    check_ok(ingot_source_read(made, ingot_source_find(made, f->name[k]), 0, ELEMENTS * sizeof(uint16_t),
                               bytes + (size_t)k * ELEMENTS * sizeof(uint16_t)));
  ingot_source_close(&made);
  return bytes;
}

/* Against the CPU alone; returns the tiles that the GPU merged. */
static int64_t expect_same(fixture *f, const ingot_hand_over_limits *limits, int n_thread)
{
  ingot_merge_timing plain, timing;
  int                cpu_us = atomic_exchange(&cpu_delay_us, 0);
  char              *cpu = run(f, INGOT_DEVICE_CPU, NULL, 2, &plain);
  assert_int_equal(plain.tiles_on_device, 0);
  atomic_store(&cpu_delay_us, cpu_us);
  char *both = run(f, INGOT_DEVICE_AUTO, limits, n_thread, &timing);
  assert_memory_equal(cpu, both, N_TENSOR * ELEMENTS * sizeof(uint16_t));
  free(cpu);
  free(both);
  return timing.tiles_on_device;
}

static const char *const methods[] = {"linear", "slerp"};
enum { N_METHOD = 2 };

/* The GPU comes when ten tiles are merged; a slow CPU leaves it the rest, all but what its lanes still have. */
static void goes_over(void **unused)
{
  (void)unused;
  static const ingot_hand_over_limits at_once = {.trial_lanes = 2, .trial_tiles = 4};
  for (int m = 0; m < N_METHOD; m++) {
    for (int n_thread = 1; n_thread <= 4; n_thread++) {
      fixture f;
      fixture_init(&f, methods[m]);
      atomic_store(&cpu_delay_us, 2000);
      atomic_store(&blocks_before_gpu, 30);
      int64_t on_gpu = expect_same(&f, &at_once, n_thread);
      assert_in_range(on_gpu, 1, N_TENSOR - 10);
      fixture_release(&f);
    }
  }
}

/* A GPU that takes a thread longer than its core does gets the trial's tiles, and few more. */
static void goes_back(void **unused)
{
  (void)unused;
  static const ingot_hand_over_limits limits = {.trial_lanes = 1, .trial_tiles = 3};
  for (int m = 0; m < N_METHOD; m++) {
    fixture f;
    fixture_init(&f, methods[m]);
    atomic_store(&cpu_delay_us, 300);
    atomic_store(&gpu_delay_us, 20000);
    atomic_store(&blocks_before_gpu, 30);
    int64_t on_gpu = expect_same(&f, &limits, 2);
    assert_in_range(on_gpu, 0, 12);
    fixture_release(&f);
  }
}

static void stays(void **unused)
{
  (void)unused;
  static const ingot_hand_over_limits now = {.trial_lanes = 2, .trial_tiles = 4};
  static const ingot_hand_over_limits small = {.min_bytes = UINT64_C(1) << 40, .trial_lanes = 2};
  static const ingot_hand_over_limits short_rest = {.min_rest_s = 1e9, .trial_lanes = 2};
  static const ingot_hand_over_limits short_start = {.min_start_s = 1e9, .trial_lanes = 2};
  fixture                             f;
  fixture_init(&f, "linear");
  assert_int_equal(expect_same(&f, NULL, 2), 0);   /* the defaults: far too little to start a GPU for */
  assert_int_equal(expect_same(&f, &small, 2), 0); /* not worth starting it */
  assert_int_equal(expect_same(&f, &short_rest, 2), 0);
  assert_int_equal(expect_same(&f, &short_start, 2), 0); /* the pace says that it is not worth starting it */
  atomic_store(&fake_device_number, 0);
  assert_int_equal(expect_same(&f, &now, 2), 0);
  atomic_store(&fake_device_number, 1);
  atomic_store(&fake_device_useless, 1); /* a warning, and the CPU */
  assert_int_equal(expect_same(&f, &now, 2), 0);
  fixture_release(&f);
}

static atomic_int n_start;

static void count_start(void)
{
  atomic_fetch_add(&n_start, 1);
}

/* 1000 tasks, of passes so far: with 999 of them done little is left, with one done nearly all. The look is late enough
 * for this thread to say so before. */
static void counts_passes(void **unused)
{
  (void)unused;
  static const ingot_hand_over_limits limits = {.look_s = 0.2, .min_start_s = 5.0};
  static const int                    done[] = {999, 1};
  ingot_hand_over_spec                spec = {.n_local_rank = 1, .n_task = 1000, .limits = &limits};
  fake_device_starting = count_start;
  atomic_store(&fake_device_number, 0); /* looked for, and not there */
  for (int i = 0; i < 2; i++) {
    ingot_hand_over *h = NULL;
    atomic_store(&n_start, 0);
    check_ok(ingot_hand_over_start(&spec, &h));
    ingot_hand_over_note(h, false, 0.01, done[i], 0);
    for (int k = 0; k < (i ? 1000 : 40) && atomic_load(&n_start) == 0; k++)
      wait_us(10000); /* ten seconds of patience */
    ingot_hand_over_finish(&h);
    assert_int_equal(atomic_load(&n_start), i);
  }
  atomic_store(&fake_device_number, 1);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(goes_over),
      cmocka_unit_test(goes_back),
      cmocka_unit_test(stays),
      cmocka_unit_test(counts_passes),
  };
  return cmocka_run_group_tests_name("workers/hand_over", tests, NULL, NULL);
}
