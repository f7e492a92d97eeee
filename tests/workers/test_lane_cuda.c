/*
 * The GPU lane with the device cache and the GPU's own passes, on a fake device (fake_device.c): the same output bytes
 * as with CPU lanes, and the same report of bad values. The methods' GPU sides are stood in for by their CPU code, and
 * the selection by histograms by plain counting.
 */
#define _XOPEN_SOURCE 700
#include "tests/check.h"
#include "tests/io/scratch.h"

#include "base/philox.h"
#include "kernels/convert.h"
#include "kernels/families/select_radix.h"
#include "kernels/families/slerp.h"
#include "workers/merge.h"

enum { MAX_INPUT = 16, N_TENSOR = 3, ELEMENTS = INGOT_TILE + 777, SMALL = 5000, COPIED = 100 };

/* A block of a chunk, widened, as the kernels do: bad values counted, and replaced when asked. */
typedef struct widened {
  float        value[MAX_INPUT][INGOT_BLOCK];
  const float *in[MAX_INPUT];
  ingot_chunk  chunk;
} widened;

static void widen(const ingot_method_tensor *t, const ingot_device_chunk *c, int64_t at, widened *w)
{
  int64_t n = c->n - at < INGOT_BLOCK ? c->n - at : INGOT_BLOCK;
  for (int i = 0; i < t->n_input; i++) {
    const char *raw = (const char *)c->in[i] + (size_t)at * ingot_dtype_size(c->in_dtype[i]);
    int64_t     bad = ingot_widen_counting(c->in_dtype[i], raw, w->value[i], n);
    if (c->n_nonfinite) c->n_nonfinite[i] += (uint64_t)bad;
    if (c->nonfinite == INGOT_NONFINITE_ZERO)
      ingot_replace_nonfinite(w->value[i], t->has_base && i > 0 ? w->value[0] : NULL, n);
    w->in[i] = w->value[i];
  }
  w->chunk = (ingot_chunk){.first = c->first + at, .n = n, .in = w->in};
}

static ingot_status apply_with(const char *method, const ingot_method_tensor *t, const void *state,
                               const ingot_device_chunk *c)
{
  static _Thread_local widened w;
  float                        out[INGOT_BLOCK];
  for (int64_t at = 0; at < c->n; at += INGOT_BLOCK) {
    widen(t, c, at, &w);
    ingot_method_find(method)->apply(t, state, &w.chunk, out);
    ingot_narrow(c->out_dtype, out, (char *)c->out + (size_t)at * ingot_dtype_size(c->out_dtype), w.chunk.n);
  }
  return INGOT_OK;
}

static ingot_status linear_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  return apply_with("linear", t, state, c);
}

static ingot_status slerp_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  return apply_with("slerp", t, state, c);
}

static ingot_status ties_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  return apply_with("ties", t, state, c);
}

static ingot_status fisher_apply(const ingot_method_tensor *t, const void *state, const ingot_device_chunk *c)
{
  return apply_with("fisher", t, state, c);
}

static ingot_status slerp_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                               const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  static _Thread_local widened w;
  for (int64_t at = 0; at < c->n; at += INGOT_BLOCK) {
    widen(t, c, at, &w);
    ingot_method_find("slerp")->tensor.scan(t, state, plan, &w.chunk, slot, sums);
  }
  return INGOT_OK;
}

/* What families/select_radix.h says of the passes, element by element. */
static void radix_element(const ingot_radix_model *m, int model, int pass, int64_t flat, uint32_t key, void *slot,
                          int64_t *sums)
{
  uint32_t digits = key >> ingot_radix_shift(pass), mask = (1u << ingot_radix_bits(pass)) - 1;
  if (pass == INGOT_RADIX_COUNT) {
    ((int64_t *)slot)[model] += key == m->prefix;
  } else if (pass == INGOT_RADIX_LOCATE) {
    ingot_radix_place *place = (ingot_radix_place *)slot + model;
    if (m->tile == flat / INGOT_TILE && key == m->prefix && ++place->seen == m->wanted) place->cut = flat + 1;
  } else if (digits >> ingot_radix_bits(pass) == m->prefix) {
    sums[(int64_t)model * INGOT_RADIX_BUCKETS + (digits & mask)]++;
  }
}

static ingot_status ties_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                              const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  static _Thread_local widened w;
  ingot_radix_state           *radix = ingot_radix_of_ties(t, (void *)(uintptr_t)state);
  for (int64_t at = 0; at < c->n; at += INGOT_BLOCK) {
    widen(t, c, at, &w);
    if (plan->pass == INGOT_PASS_L1) {
      ingot_delta_l1_scan(state, &w.chunk, slot);
      continue;
    }
    for (int i = 0; i < t->n_model; i++) {
      const ingot_radix_model *m = &ingot_radix_models(radix)[i];
      if (!m->open) continue;
      for (int64_t k = 0; k < w.chunk.n; k++)
        radix_element(m, i, plan->pass, w.chunk.first + k, ingot_delta_key(w.value[1 + i][k] - w.value[0][k]), slot,
                      sums);
    }
  }
  return INGOT_OK;
}

static const ingot_device_ops linear_ops = {.apply = linear_apply, .max_input = 12};
static const ingot_device_ops slerp_ops = {.next = ingot_slerp_next,
                                           .scan = slerp_scan,
                                           .apply = slerp_apply,
                                           .max_input = 2};
static const ingot_device_ops fisher_ops = {.apply = fisher_apply, .max_input = 4};
static const ingot_device_ops ties_ops = {.next = ingot_radix_ties_next,
                                          .scan = ties_scan,
                                          .apply = ties_apply,
                                          .max_input = 12};

/* One job on files of its own: three tensors, the last one integers. */
typedef struct fixture {
  scratch            dir;
  ingot_comm        *comm;
  ingot_source      *source[MAX_INPUT];
  const char        *source_name[MAX_INPUT];
  ingot_method       method;
  double             global[16], per_model[MAX_INPUT * 8];
  int                index[MAX_INPUT], tensor_index[N_TENSOR][MAX_INPUT];
  ingot_merge_tensor tensor[N_TENSOR];
  ingot_sink_tensor  sink_tensor[N_TENSOR];
  ingot_merge_plan   plan;
  char               out_path[SCRATCH_PATH];
} fixture;

static const char *const tensor_names[N_TENSOR] = {"big", "small", "steps"};
static const int64_t     tensor_elements[N_TENSOR] = {ELEMENTS, SMALL, COPIED};

/* Values on a coarse grid, so that many magnitudes of differences are equal. */
static void fill(ingot_dtype d, void *out, int64_t n, uint64_t seed, int bad)
{
  float *v = malloc((size_t)n * sizeof *v);
  assert_non_null(v);
  uint32_t word[4] = {0};
  for (int64_t i = 0; i < n; i++) {
    if (i % 4 == 0) ingot_philox4x32(seed, (uint64_t)i / 4, word);
    v[i] = (float)(int32_t)(word[i % 4] % 41) - 20.0f;
  }
  for (int k = 0; k < bad; k++) v[n - 1 - 300 * k] = k == 0 ? (float)(0.0 / 0.0) : (float)(1.0 / 0.0);
  ingot_narrow(d, v, out, n);
  free(v);
}

static void write_model(fixture *f, int model, ingot_dtype d, int bad)
{
  size_t size = ingot_dtype_size(d), big = ELEMENTS * size, small = SMALL * size, copied = COPIED * sizeof(int64_t);
  char   header[512], name[32], *payload = calloc(1, big + small + copied);
  assert_non_null(payload);
  fill(d, payload, ELEMENTS, (uint64_t)model, bad);
  fill(d, payload + big, SMALL, 100 + (uint64_t)model, 0);
  for (size_t k = 0; k < copied; k++) payload[big + small + k] = (char)(k + (size_t)model);
  snprintf(header, sizeof header,
           "{\"big\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[0,%zu]},"
           "\"small\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]},"
           "\"steps\":{\"dtype\":\"I64\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}}",
           ingot_dtype_name(d), ELEMENTS, big, ingot_dtype_name(d), SMALL, big, big + small, COPIED, big + small,
           big + small + copied);
  snprintf(name, sizeof name, "m%d.safetensors", model);
  scratch_safetensors(&f->dir, name, header, payload, big + small + copied);
  free(payload);
  char path[SCRATCH_PATH];
  check_ok(ingot_source_open(scratch_path(&f->dir, name, path), &f->source[model]));
  f->source_name[model] = tensor_names[0];
}

static void fixture_init(fixture *f, const char *method, const ingot_device_ops *ops, int n_model, bool has_base,
                         ingot_dtype d, ingot_nonfinite nonfinite, int bad)
{
  *f = (fixture){0};
  scratch_begin(&f->dir);
  check_ok(ingot_comm_init(NULL, NULL, &f->comm));
  f->method = *ingot_method_find(method);
  f->method.device = ops;
  int n_input = n_model + has_base;
  for (int i = 0; i < n_input; i++) {
    write_model(f, i, d, i == n_input - 1 ? bad : 0);
    f->index[i] = i;
  }
  int64_t first_tile = 0;
  for (int k = 0; k < N_TENSOR; k++) {
    ingot_merge_tensor *t = &f->tensor[k];
    for (int i = 0; i < n_input; i++) f->tensor_index[k][i] = ingot_source_find(f->source[i], tensor_names[k]);
    t->view = (ingot_method_tensor){.name = tensor_names[k],
                                    .key = ingot_hash_string(tensor_names[k]),
                                    .shape = {.n_dim = 1, .dim = {tensor_elements[k]}},
                                    .n_elem = tensor_elements[k],
                                    .n_input = n_input,
                                    .n_model = n_model,
                                    .has_base = has_base,
                                    .global = f->global,
                                    .per_model = f->per_model,
                                    .seed = 1};
    t->copy = k == 2;
    if (t->copy) t->view.n_input = 1;
    t->dtype = t->copy ? INGOT_DTYPE_I64 : INGOT_DTYPE_BF16;
    t->source = f->index;
    t->tensor = f->tensor_index[k];
    t->first_tile = first_tile;
    first_tile += ingot_tile_count(t->view.n_elem);
    f->sink_tensor[k] = (ingot_sink_tensor){tensor_names[k], t->dtype, t->view.shape};
  }
  f->plan = (ingot_merge_plan){.method = &f->method,
                               .sources = f->source,
                               .source_names = f->source_name,
                               .n_source = n_input,
                               .tensors = f->tensor,
                               .n_tensor = N_TENSOR,
                               .n_tile = first_tile,
                               .nonfinite = nonfinite,
                               .fingerprint = 7};
}

/* After the parameters are in place. */
static void finish_plan(fixture *f)
{
  for (int k = 0; k < N_TENSOR; k++) {
    f->tensor[k].grain = f->tensor[k].copy ? INGOT_GRAIN_ELEMENT : f->method.grain(&f->tensor[k].view);
  }
}

static void fixture_release(fixture *f)
{
  for (int i = 0; i < f->plan.n_source; i++) ingot_source_close(&f->source[i]);
  ingot_comm_finalize(&f->comm);
  scratch_end(&f->dir);
}

/* Run on CPU or GPU lanes; returns the whole output file. */
static char *run(fixture *f, ingot_device_choice device, const char *name, size_t *size, ingot_merge_result *result)
{
  ingot_merge_options options = {.n_thread = 3, .device = device, .fresh = true};
  scratch_path(&f->dir, name, f->out_path);
  f->plan.sink = (ingot_sink_spec){.path = f->out_path,
                                   .format = INGOT_SINK_SAFETENSORS,
                                   .tensors = f->sink_tensor,
                                   .n_tensor = N_TENSOR};
  check_ok(ingot_merge_run(f->comm, &f->plan, &options, result));
  assert_int_equal(result->timing.on_device, device == INGOT_DEVICE_CUDA);
  FILE *file = fopen(f->out_path, "rb");
  assert_non_null(file);
  assert_int_equal(fseek(file, 0, SEEK_END), 0);
  *size = (size_t)ftell(file);
  rewind(file);
  char *bytes = malloc(*size);
  assert_non_null(bytes);
  assert_int_equal(fread(bytes, 1, *size, file), *size);
  fclose(file);
  return bytes;
}

/* Returns the bytes that the GPU lanes read. */
static uint64_t expect_same(fixture *f)
{
  ingot_merge_result on_cpu, on_gpu;
  size_t             cpu_size, gpu_size;
  finish_plan(f);
  char *cpu = run(f, INGOT_DEVICE_CPU, "cpu.safetensors", &cpu_size, &on_cpu);
  char *gpu = run(f, INGOT_DEVICE_CUDA, "gpu.safetensors", &gpu_size, &on_gpu);
  assert_int_equal(cpu_size, gpu_size);
  assert_memory_equal(cpu, gpu, cpu_size);
  for (int i = 0; i < f->plan.n_source; i++) {
    assert_int_equal(on_cpu.nonfinite[i].count, on_gpu.nonfinite[i].count);
    assert_int_equal(on_cpu.nonfinite[i].tensor, on_gpu.nonfinite[i].tensor);
    assert_int_equal(on_cpu.nonfinite[i].element, on_gpu.nonfinite[i].element);
    assert_int_equal(on_cpu.nonfinite[i].is_nan, on_gpu.nonfinite[i].is_nan);
  }
  uint64_t bytes_read = on_gpu.timing.bytes_read;
  free(cpu);
  free(gpu);
  ingot_merge_result_release(&on_cpu);
  ingot_merge_result_release(&on_gpu);
  return bytes_read;
}

/* What one reading of everything takes. */
static uint64_t bytes_once(int n_input, ingot_dtype d)
{
  return (uint64_t)n_input * (ELEMENTS + SMALL) * ingot_dtype_size(d) + COPIED * sizeof(int64_t);
}

static void set_parameter(fixture *f, const char *name, double value)
{
  const ingot_param_spec *spec = NULL;
  int at = ingot_method_param(&f->method, name, &spec), n = ingot_method_n_param(&f->method, INGOT_PARAM_PER_MODEL);
  assert_true(at >= 0);
  if (spec->scope == INGOT_PARAM_GLOBAL) f->global[at] = value;
  for (int i = 0; spec->scope == INGOT_PARAM_PER_MODEL && i < f->tensor[0].view.n_model; i++)
    f->per_model[i * n + at] = value;
}

static void test_elementwise(void **unused)
{
  (void)unused;
  fixture f;
  fixture_init(&f, "linear", &linear_ops, 3, false, INGOT_DTYPE_BF16, INGOT_NONFINITE_FAIL, 0);
  set_parameter(&f, "weight", 0.3);
  expect_same(&f);
  fixture_release(&f);
}

/* Nine float64 inputs make 72 MiB a tile: more than a slot takes at once. The last one has a NaN and two infinities. */
static void test_chunks_and_bad_values(void **unused)
{
  (void)unused;
  fixture f;
  fixture_init(&f, "linear", &linear_ops, 9, false, INGOT_DTYPE_F64, INGOT_NONFINITE_ZERO, 3);
  set_parameter(&f, "weight", 0.1);
  expect_same(&f);
  fixture_release(&f);
}

/* The passes see inputs that are kept on the device; the bad values are counted while merging, from there. */
static void test_summary_from_the_cache(void **unused)
{
  (void)unused;
  fixture f;
  fixture_init(&f, "slerp", &slerp_ops, 1, true, INGOT_DTYPE_F32, INGOT_NONFINITE_ZERO, 2);
  set_parameter(&f, "t", 0.3);
  assert_int_equal(expect_same(&f), bytes_once(2, INGOT_DTYPE_F32));
  fixture_release(&f);
}

static void test_selection(void **unused)
{
  (void)unused;
  static const double densities[] = {0.5, 0.013, 0.9999};
  for (int k = 0; k < 3; k++) {
    fixture f;
    fixture_init(&f, "ties", &ties_ops, 3, true, INGOT_DTYPE_BF16, INGOT_NONFINITE_KEEP, 0);
    set_parameter(&f, "weight", 1);
    set_parameter(&f, "density", densities[k]);
    set_parameter(&f, "lambda", 0.7);
    set_parameter(&f, "normalize", 1);
    set_parameter(&f, "rescale", k == 1 ? INGOT_RESCALE_L1 : INGOT_RESCALE_NONE);
    assert_int_equal(expect_same(&f), bytes_once(4, INGOT_DTYPE_BF16));
    fixture_release(&f);
  }
}

/* 40 MB of inputs do not fit the fake device's cache: they are read again for every pass. */
static void test_no_room_in_the_cache(void **unused)
{
  (void)unused;
  fixture f;
  fixture_init(&f, "ties", &ties_ops, 4, true, INGOT_DTYPE_F64, INGOT_NONFINITE_KEEP, 0);
  set_parameter(&f, "weight", 1);
  set_parameter(&f, "density", 0.25);
  set_parameter(&f, "lambda", 1);
  assert_true(expect_same(&f) > 3 * bytes_once(5, INGOT_DTYPE_F64));
  fixture_release(&f);
}

/* How many of a model's values in "big" are below zero, and the first of them. */
static int64_t count_below_zero(int model, int64_t elements, uint64_t seed, int64_t *first)
{
  float  *v = malloc((size_t)elements * sizeof *v);
  int64_t count = 0;
  assert_non_null(v);
  fill(INGOT_DTYPE_F32, v, elements, seed + (uint64_t)model, 0);
  for (int64_t i = elements - 1; i >= 0; i--) {
    if (!(v[i] < 0)) continue;
    count++;
    *first = i;
  }
  free(v);
  return count;
}

/* Two models and, as their Fisher information, two more, which have values below zero: refused whatever `nonfinite`
 * says. */
static void test_negative_fisher(void **unused)
{
  (void)unused;
  fixture f;
  char    path[SCRATCH_PATH], expected[2][256];
  int64_t first = -1, in_small = -1;
  fixture_init(&f, "fisher", &fisher_ops, 4, false, INGOT_DTYPE_F32, INGOT_NONFINITE_KEEP, 0);
  for (int k = 0; k < 2; k++) f.tensor[k].view.n_model = f.tensor[k].view.n_statistic = 2;
  set_parameter(&f, "weight", 1);
  finish_plan(&f);
  for (int i = 2; i < 4; i++) {
    int64_t count = count_below_zero(i, ELEMENTS, 0, &first) + count_below_zero(i, SMALL, 100, &in_small);
    snprintf(expected[i - 2], sizeof expected[0],
             "%lld values of Fisher information, a mean of squares, are below zero; the first is in big[%lld]",
             (long long)count, (long long)first);
  }
  for (int k = 0; k < 2; k++) {
    ingot_merge_options options = {.n_thread = 2, .device = k ? INGOT_DEVICE_CUDA : INGOT_DEVICE_CPU, .fresh = true};
    ingot_merge_result  result;
    f.plan.sink = (ingot_sink_spec){.path = scratch_path(&f.dir, "m.safetensors", path),
                                    .format = INGOT_SINK_SAFETENSORS,
                                    .tensors = f.sink_tensor,
                                    .n_tensor = N_TENSOR};
    check_fails(ingot_merge_run(f.comm, &f.plan, &options, &result), INGOT_ERR_NUMERIC, expected[0]);
    ingot_merge_result_release(&result);
    check_fails(ingot_merge_run(f.comm, &f.plan, &options, &result), INGOT_ERR_NUMERIC, expected[1]);
    ingot_merge_result_release(&result);
  }
  fixture_release(&f);
}

static void test_too_many_inputs(void **unused)
{
  (void)unused;
  fixture             f;
  ingot_merge_result  result;
  size_t              size;
  ingot_merge_options cuda = {.n_thread = 1, .device = INGOT_DEVICE_CUDA, .fresh = true};
  fixture_init(&f, "slerp", &linear_ops, 1, true, INGOT_DTYPE_BF16, INGOT_NONFINITE_KEEP, 0);
  f.method.device = &(ingot_device_ops){.apply = slerp_apply, .max_input = 1};
  set_parameter(&f, "t", 0.3);
  finish_plan(&f);
  free(run(&f, INGOT_DEVICE_CPU, "cpu.safetensors", &size, &result));
  ingot_merge_result_release(&result);
  check_fails(ingot_merge_run(f.comm, &f.plan, &cuda, &result), INGOT_ERR_DEVICE,
              "slerp takes at most 1 inputs on a GPU, and this step has 2");
  ingot_merge_result_release(&result);
  f.method.device = NULL;
  check_fails(ingot_merge_run(f.comm, &f.plan, &cuda, &result), INGOT_ERR_DEVICE, "slerp has no GPU path");
  ingot_merge_result_release(&result);
  fixture_release(&f);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_elementwise),
      cmocka_unit_test(test_chunks_and_bad_values),
      cmocka_unit_test(test_summary_from_the_cache),
      cmocka_unit_test(test_selection),
      cmocka_unit_test(test_no_room_in_the_cache),
      cmocka_unit_test(test_too_many_inputs),
      cmocka_unit_test(test_negative_fisher),
  };
  return cmocka_run_group_tests_name("workers/lane_cuda", tests, NULL, NULL);
}
