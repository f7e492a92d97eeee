/* The same bytes on GPU and CPU: every method with a GPU side, over dtypes, sizes, numbers of models and bad values. */
#include "tests/check.h"

#include <stdlib.h>

#include "base/philox.h"
#include "kernels/convert.h"
#include "kernels/device.h"
#include "tests/gpu/gpu_method.h"
#include "tests/kernels/cases.h"

enum { MAX_PARAM = 16, MAX_INPUT = 400 };

/* Under a checking tool, which is slow: fewer sizes and dtypes. */
typedef struct effort {
  int n_size, n_dtype;
} effort;

/* What the inputs look like. */
typedef enum data_kind {
  TRAINED, /* a base, and models a little away from it, many elements not at all: magnitudes repeat */
  WILD,    /* any bit pattern, NaN and infinities included */
} data_kind;

typedef struct method_case {
  const char *method, *parameters;
  int         n_model;
} method_case;

static const method_case cases[] = {
    {"linear", "weight=0.3 normalize=false", 1},
    {"linear", "weight@0=0.3 weight@1=0.7", 2},
    {"linear", "weight=1 normalize=true", 3},
    {"linear", "weight@0=0.5 weight@1=-0.25 weight@2=2 weight@3=1 normalize=false", 4},
    {"linear", "weight=0.125", 8},
    {"linear", "weight=0.1", 21},
    {"passthrough", "scale=0.7", 1},
    {"slerp", "t=0.3", 1},
    {"slerp", "t=0.9", 1},
    {"task_arithmetic", "weight=0.4", 1},
    {"task_arithmetic", "weight@0=0.4 weight@1=-0.3 weight@2=1 lambda=0.7 normalize=true", 3},
    {"task_arithmetic", "weight=0.4 lambda=0.3", 2},
    {"task_arithmetic", "weight=0.2", 4},
    {"task_arithmetic", "weight=0.05", 33},
    {"ties", "weight=1 density=1", 3},
    {"ties", "weight=1 density=0.5", 1},
    {"ties", "weight@0=1 weight@1=2 weight@2=-0.5 density@0=0.2 density@1=0.77 density@2=1", 3},
    {"ties", "weight=1 density=0.3 normalize=false lambda=0.5", 4},
    {"ties", "weight=1 density=0.1 rescale=l1", 2},
    {"ties", "weight=1 density=0.45", 2},
    {"ties", "weight=0.5 density=0.3", 4},
    {"ties", "weight=0.5 density=0.6", 7},
    {"ties", "weight=0.5 density=0.4", 19},
    {"dare_linear", "weight=0.5 density=0.5", 2},
    {"dare_linear", "weight=0.5 density=0.3 rescale=inv_density", 4},
    {"dare_linear", "weight=0.5 density@0=0.9 density@1=1 density@2=0.01", 3},
    {"dare_linear", "weight=0.1 density=0.5", 18},
    {"dare_linear", "weight=0.5 density=0.35", 1},
    {"dare_ties", "weight=0.5 density=0.5", 3},
    {"dare_ties", "weight=0.5 density=0.35 normalize=true", 4},
    {"dare_ties", "weight=1 density@0=0.00001 density@1=0.99999", 2},
    {"dare_ties", "weight=1 density=0.25", 1},
    {"dare_ties", "weight=1 density=0.2 rescale=none normalize=true lambda=1.5", 5},
    {"dare_ties", "weight=1 density=0.4 rescale=inv_density", 12},
    {"fisher", "weight=1", 1},
    {"fisher", "weight@0=0.5 weight@1=2", 2},
    {"fisher", "weight=1 floor=1e-3", 3},
    {"fisher", "weight=1 floor=1e-3 floor_rule=max_first normalize=l2", 3},
    {"fisher", "weight=1 floor=1e-6 floor_rule=add normalize=mergelm", 4},
    {"fisher", "weight=1", 11},
    {"mats", "metric=fisher start=base weight=1", 2},
    {"mats", "metric=gram start=base rest=start weight=1", 2}, /* a tensor that stays as the base has it */
};

/* Sizes around vectors, blocks and tiles. */
static const int64_t sizes[] = {1, 7, 8, 31, 4095, 4097, 100003, INGOT_TILE + 12345};
static const int64_t many_sizes[] = {9, 70001}; /* for steps of many models */

typedef struct dtype_case {
  ingot_dtype base, models, out;
} dtype_case;

static const dtype_case dtypes[] = {
    {INGOT_DTYPE_BF16, INGOT_DTYPE_BF16, INGOT_DTYPE_BF16},
    {INGOT_DTYPE_F32, INGOT_DTYPE_BF16, INGOT_DTYPE_F32},
    {INGOT_DTYPE_F16, INGOT_DTYPE_F16, INGOT_DTYPE_F16},
    {INGOT_DTYPE_BF16, INGOT_DTYPE_F8_E4M3, INGOT_DTYPE_F64},
    {INGOT_DTYPE_F64, INGOT_DTYPE_F8_E5M2, INGOT_DTYPE_F8_E4M3},
    {INGOT_DTYPE_BF16, INGOT_DTYPE_F32, INGOT_DTYPE_F8_E5M2},
};

typedef struct inputs {
  int         n_input, n_weight; /* statistics come behind the weights */
  int64_t     n_elem;
  void       *in[MAX_INPUT];
  ingot_dtype dtype[MAX_INPUT];
} inputs;

static uint32_t random_word(uint64_t stream, int64_t i)
{
  uint32_t word[4];
  ingot_philox4x32(stream, (uint64_t)i, word);
  return word[0];
}

static void fill_trained(inputs *d, int input, uint64_t seed)
{
  float *v = malloc((size_t)d->n_elem * sizeof *v);
  assert_non_null(v);
  for (int64_t i = 0; i < d->n_elem; i++) {
    float    base = (float)((int32_t)random_word(seed, i) >> 8) * 0x1p-26f;
    uint32_t w = random_word(seed + 1 + (uint64_t)input, i);
    float    step = (float)((int32_t)(w & 63) - 32) * 0x1p-9f; /* few different steps: equal magnitudes abound */
    v[i] = input == 0 || w >> 30 == 0 ? base : base + step;
  }
  ingot_narrow(d->dtype[input], v, d->in[input], d->n_elem);
  free(v);
}

/* Fisher information: squares, and many zeros, so that all models have none for some elements. */
static void fill_statistic(inputs *d, int input, uint64_t seed)
{
  float *v = d->in[input];
  for (int64_t i = 0; i < d->n_elem; i++) {
    uint32_t w = random_word(seed + 1000 + (uint64_t)input, i);
    float    g = (float)(w >> 8) * 0x1p-24f;
    v[i] = w % 3 == 0 ? 0.0f : g * g;
  }
}

static void fill_wild(inputs *d, int input, uint64_t seed)
{
  uint32_t word[4];
  size_t   bytes = (size_t)d->n_elem * ingot_dtype_size(d->dtype[input]);
  for (size_t at = 0; at < bytes; at += sizeof word) {
    ingot_philox4x32(seed + (uint64_t)input * 77, at, word);
    memcpy((char *)d->in[input] + at, word, bytes - at < sizeof word ? bytes - at : sizeof word);
  }
}

static bool has_base(const method_case *c)
{
  return ingot_method_find(c->method)->base != INGOT_BASE_UNUSED;
}

/* Every model's Fisher information, for methods that want it. */
static int n_statistic_of(const method_case *c)
{
  if (strstr(c->parameters, "metric=gram")) return 0;
  return ingot_method_find(c->method)->needs & INGOT_NEED_FISHER ? c->n_model : 0;
}

static void inputs_init(inputs *d, const method_case *c, int64_t n_elem, const dtype_case *types, data_kind kind,
                        uint64_t seed)
{
  d->n_weight = c->n_model + has_base(c);
  d->n_input = d->n_weight + n_statistic_of(c);
  d->n_elem = n_elem;
  for (int i = 0; i < d->n_input; i++) {
    d->dtype[i] = i >= d->n_weight ? INGOT_DTYPE_F32 : i == 0 ? types->base : types->models;
    d->in[i] = malloc((size_t)n_elem * ingot_dtype_size(d->dtype[i]));
    assert_non_null(d->in[i]);
    if (kind == TRAINED && i >= d->n_weight) fill_statistic(d, i, seed);
    else if (kind == TRAINED) fill_trained(d, i, seed);
    else fill_wild(d, i, seed);
  }
}

static void inputs_release(inputs *d)
{
  for (int i = 0; i < d->n_input; i++) free(d->in[i]);
}

/* A prepared step on one tensor. */
typedef struct step {
  run_setup  setup;
  run_tensor tensor;
  double     global[MAX_PARAM], per_model[MAX_INPUT * MAX_PARAM];
} step;

static void step_init(step *s, const method_case *c, const inputs *d, ingot_dtype out_dtype)
{
  const ingot_method *m = ingot_method_find(c->method);
  assert_non_null(m);
  assert_non_null(m->device);
  assert_int_equal(run_parameters(m, c->n_model, c->parameters, s->global, s->per_model), INGOT_OK);
  s->tensor = (run_tensor){.name = "layer.0.weight",
                           .shape = {.n_dim = 1, .dim = {d->n_elem}},
                           .in = (const void *const *)d->in,
                           .in_dtype = d->dtype,
                           .out_dtype = out_dtype};
  s->setup = (run_setup){.method = m,
                         .tensors = &s->tensor,
                         .n_tensor = 1,
                         .n_model = c->n_model,
                         .n_statistic = n_statistic_of(c),
                         .has_base = has_base(c),
                         .global = s->global,
                         .per_model = s->per_model,
                         .seed = 42};
}

static void *run_on_cpu(step *s, const inputs *d)
{
  void *out = malloc((size_t)d->n_elem * ingot_dtype_size(s->tensor.out_dtype));
  assert_non_null(out);
  s->tensor.in = (const void *const *)d->in;
  s->tensor.out = out;
  if (run_method(&s->setup, NULL) != INGOT_OK) fail_msg("CPU: %s", ingot_error_message());
  return out;
}

static void *run_on_gpu(step *s, const inputs *d, const gpu_setup *g)
{
  void *out = malloc((size_t)d->n_elem * ingot_dtype_size(s->tensor.out_dtype));
  assert_non_null(out);
  s->tensor.in = (const void *const *)d->in;
  s->tensor.out = out;
  if (gpu_method_run(&s->setup, g) != INGOT_OK) fail_msg("GPU: %s", ingot_error_message());
  return out;
}

static void expect_same(const step *s, const method_case *c, const void *cpu, const void *gpu, int64_t n)
{
  size_t   size = ingot_dtype_size(s->tensor.out_dtype);
  uint64_t a = 0, b = 0;
  if (memcmp(cpu, gpu, (size_t)n * size) == 0) return;
  int64_t i = 0;
  while (memcmp((const char *)cpu + (size_t)i * size, (const char *)gpu + (size_t)i * size, size) == 0) i++;
  memcpy(&a, (const char *)cpu + (size_t)i * size, size);
  memcpy(&b, (const char *)gpu + (size_t)i * size, size);
  fail_msg("%s (%s), %d models, %lld elements, %s to %s: element %lld is %llx on the CPU and %llx on the GPU",
           c->method, c->parameters, c->n_model, (long long)n,
           ingot_dtype_name(s->tensor.in_dtype[c->n_model > 1 ? 1 : 0]), ingot_dtype_name(s->tensor.out_dtype),
           (long long)i, (unsigned long long)a, (unsigned long long)b);
}

static void compare(const method_case *c, int64_t n, const dtype_case *types, data_kind kind, int64_t chunk)
{
  static step s; /* large */
  inputs      d;
  gpu_setup   g = {.chunk = chunk, .nonfinite = INGOT_NONFINITE_KEEP};
  inputs_init(&d, c, n, types, kind, (uint64_t)n);
  step_init(&s, c, &d, types->out);
  void *cpu = run_on_cpu(&s, &d), *gpu = run_on_gpu(&s, &d, &g);
  expect_same(&s, c, cpu, gpu, n);
  free(cpu);
  free(gpu);
  inputs_release(&d);
}

enum {
  N_CASE = sizeof cases / sizeof *cases,
  N_SIZE = sizeof sizes / sizeof *sizes,
  N_MANY = sizeof many_sizes / sizeof *many_sizes,
  N_DTYPE = sizeof dtypes / sizeof *dtypes
};

static void test_sizes(void **state)
{
  const effort *e = *state;
  for (int k = 0; k < N_CASE; k++) {
    if (cases[k].n_model > 8) {
      for (int i = 0; i < N_MANY; i++) compare(&cases[k], many_sizes[i], &dtypes[0], TRAINED, INGOT_TILE);
    } else {
      for (int i = 0; i < e->n_size; i++) compare(&cases[k], sizes[i], &dtypes[0], TRAINED, INGOT_TILE);
    }
  }
}

static void test_dtypes(void **state)
{
  const effort *e = *state;
  for (int k = 0; k < N_CASE; k++) {
    for (int i = 0; i < e->n_dtype; i++) {
      compare(&cases[k], 9001, &dtypes[i], TRAINED, INGOT_TILE);
      compare(&cases[k], 12347, &dtypes[i], WILD, INGOT_TILE);
    }
  }
}

static void test_chunks_of_a_tile(void **unused)
{
  (void)unused;
  for (int k = 0; k < N_CASE; k++) {
    if (cases[k].n_model <= 8) compare(&cases[k], 300001, &dtypes[0], TRAINED, 5 * INGOT_BLOCK);
  }
}

/* As many inputs as one launch takes. */
static void test_most_inputs(void **unused)
{
  (void)unused;
  static const char *const methods[][2] = {{"linear", "weight=0.01"},
                                           {"ties", "weight=0.5 density=0.5"},
                                           {"dare_ties", "weight=0.5 density=0.5"},
                                           {"fisher", "weight=1"}};
  for (int k = 0; k < 4; k++) {
    const ingot_method *m = ingot_method_find(methods[k][0]);
    method_case         c = {methods[k][0], methods[k][1], m->device->max_input - (m->base != INGOT_BASE_UNUSED)};
    if (n_statistic_of(&c) > 0) c.n_model /= 2;
    assert_true(m->device->max_input >= 257);
    compare(&c, 5000, &dtypes[0], TRAINED, INGOT_TILE);
  }
}

/* Bad values: counted for each input, and replaced by the base's element, or 0 where there is none. */
static void test_nonfinite(void **unused)
{
  (void)unused;
  enum { N = 5003, N_BAD = 3 };
  static const int64_t bad_at[N_BAD] = {0, 4096, 5002};
  static step          s;
  for (int k = 0; k < N_CASE; k++) {
    inputs         d, clean;
    uint64_t       count[MAX_INPUT];
    const uint16_t bad[N_BAD] = {0x7f80, 0xff80, 0x7fc1};
    gpu_setup      g = {.chunk = INGOT_TILE, .nonfinite = INGOT_NONFINITE_ZERO, .n_nonfinite = count};
    inputs_init(&d, &cases[k], N, &dtypes[0], TRAINED, 5);
    inputs_init(&clean, &cases[k], N, &dtypes[0], TRAINED, 5);
    for (int i = 0; i < d.n_weight; i++) {
      for (int b = 0; b < N_BAD; b++) {
        if (b > i % (N_BAD + 1)) continue; /* different inputs, different counts */
        ((uint16_t *)d.in[i])[bad_at[b]] = bad[b];
        ((uint16_t *)clean.in[i])[bad_at[b]] = has_base(&cases[k]) && i > 0 ? ((uint16_t *)clean.in[0])[bad_at[b]] : 0;
      }
    }
    step_init(&s, &cases[k], &d, INGOT_DTYPE_BF16);
    void *gpu = run_on_gpu(&s, &d, &g), *cpu = run_on_cpu(&s, &clean);
    expect_same(&s, &cases[k], cpu, gpu, N);
    for (int i = 0; i < d.n_weight; i++)
      assert_int_equal(count[i], i % (N_BAD + 1) < N_BAD ? i % (N_BAD + 1) + 1 : N_BAD);
    for (int i = d.n_weight; i < d.n_input; i++) assert_int_equal(count[i], 0);
    free(cpu);
    free(gpu);
    inputs_release(&d);
    inputs_release(&clean);
  }
}

/* Methods without a GPU side never come to a GPU lane (ingot_lane_cuda_check); matrices have their own test. */
static bool runs_on_gpu(const merge_case *c, const ingot_method *m)
{
  return m->device && c->n_model + c->n_statistic + c->has_base <= m->device->max_input;
}

/* The cases with known answers that the CPU's tests have: right on the GPU as well, and the same bytes. */
static void test_known_answers(void **unused)
{
  (void)unused;
  enum { MAX_TENSOR = 16 };
  static double global[512], per_model[512];
  int           n_run = 0;
  merge_cases   known;
  merge_cases_load(NULL, &known);
  for (int i = 0; i < known.count; i++) {
    const merge_case   *c = &known.item[i];
    const ingot_method *m = ingot_method_find(c->method);
    run_tensor          tensors[MAX_TENSOR];
    char                message[256];
    assert_true(m && c->n_tensor <= MAX_TENSOR);
    if (!runs_on_gpu(c, m)) continue;
    n_run++;
    void    **cpu = merge_case_alloc_outputs(c), **gpu = merge_case_alloc_outputs(c);
    gpu_setup g = {.chunk = INGOT_TILE, .nonfinite = INGOT_NONFINITE_KEEP};
    run_setup setup = {.method = m,
                       .tensors = tensors,
                       .n_tensor = c->n_tensor,
                       .n_model = c->n_model,
                       .n_statistic = c->n_statistic,
                       .has_base = c->has_base,
                       .global = global,
                       .per_model = per_model,
                       .seed = c->seed};
    check_ok(run_parameters(m, c->n_model, c->parameters, global, per_model));
    for (int k = 0; k < c->n_tensor; k++) {
      const merge_case_tensor *t = &c->tensors[k];
      tensors[k] = (run_tensor){.name = t->name,
                                .shape = t->shape,
                                .in = (const void *const *)t->in,
                                .in_dtype = t->in_dtype,
                                .out = cpu[k],
                                .out_dtype = t->out_dtype};
    }
    check_ok(run_method(&setup, NULL));
    for (int k = 0; k < c->n_tensor; k++) tensors[k].out = gpu[k];
    check_ok(gpu_method_run(&setup, &g));
    if (!merge_case_compare(c, gpu, message)) fail_msg("GPU: %s", message);
    for (int k = 0; k < c->n_tensor; k++) {
      size_t bytes = (size_t)c->tensors[k].n_elem * ingot_dtype_size(c->tensors[k].out_dtype);
      if (memcmp(cpu[k], gpu[k], bytes) != 0) fail_msg("%s: other bytes on GPU and CPU", c->name);
    }
    merge_case_free_outputs(c, cpu);
    merge_case_free_outputs(c, gpu);
  }
  assert_true(n_run > 50);
  merge_cases_release(&known);
}

/* test_gpu_methods [--brief] */
int main(int argc, char **argv)
{
  bool                    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
  effort                  e = {.n_size = brief ? 6 : N_SIZE, .n_dtype = brief ? 2 : N_DTYPE};
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_prestate(test_sizes, &e), cmocka_unit_test_prestate(test_dtypes, &e),
      cmocka_unit_test(test_chunks_of_a_tile),   cmocka_unit_test(test_most_inputs),
      cmocka_unit_test(test_nonfinite),          cmocka_unit_test(test_known_answers),
  };
  if (ingot_device_count() == 0 || ingot_device_use(0) != INGOT_OK) {
    fprintf(stderr, "no usable GPU: %s\n", ingot_device_built() ? "none found" : "built without CUDA");
    return 77; /* skipped */
  }
  return cmocka_run_group_tests_name("GPU methods", tests, NULL, NULL);
}
