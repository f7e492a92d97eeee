#include "tests/gpu/nn_pair.h"

#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/convert.h"

void nn_pair_open(nn_pair *pair, ingot_dtype dtype)
{
  ingot_nn_options cpu = {.kind = INGOT_NN_CPU, .n_thread = 2, .dtype = INGOT_DTYPE_F32};
  ingot_nn_options gpu = {.kind = INGOT_NN_CUDA, .n_thread = 1, .dtype = dtype};
  check_ok(ingot_nn_open(&cpu, &pair->cpu));
  check_ok(ingot_nn_open(&gpu, &pair->gpu));
  pair->exact = 1e-5;
  pair->rounded = dtype == INGOT_DTYPE_BF16 ? 0.01 : 1e-5; /* two roundings of 2^-9 each, and what follows from them */
}

void nn_pair_close(nn_pair *pair)
{
  ingot_nn_close(&pair->cpu);
  ingot_nn_close(&pair->gpu);
}

static double random_unit(uint64_t counter)
{
  uint32_t word[4];
  ingot_philox4x32(2026, counter, word);
  return ((double)word[0] + 0.5) / 4294967296.0;
}

nn_array nn_random(nn_array_kind kind, int64_t n, double scale, double tolerance)
{
  static uint64_t counter = 0;
  nn_array        a = {.kind = kind,
                       .n = n,
                       .value = malloc((size_t)(n > 0 ? n : 1) * sizeof(double)),
                       .tolerance = tolerance};
  assert_non_null(a.value);
  for (int64_t i = 0; i < n; i++) a.value[i] = scale == 0 ? 7.0 : scale * (2 * random_unit(counter++) - 1);
  return a;
}

nn_array nn_random_index(int64_t n, int64_t limit)
{
  nn_array a = nn_random(NN_I32, n, 1.0, 0);
  for (int64_t i = 0; i < n; i++) {
    int64_t v = (int64_t)((a.value[i] + 1) / 2 * (double)limit);
    a.value[i] = (double)(v < limit ? v : limit - 1);
  }
  return a;
}

static ingot_dtype stored_dtype(const ingot_nn *nn, nn_array_kind kind)
{
  return kind == NN_ACT   ? nn->dtype
         : kind == NN_F64 ? INGOT_DTYPE_F64
         : kind == NN_I32 ? INGOT_DTYPE_I32
                          : INGOT_DTYPE_F32;
}

/** Values as they are stored by `gpu`'s dtype, so that both sides start from the same ones. */
static double as_stored(ingot_dtype dtype, double v)
{
  float    f = (float)v, back = 0;
  uint16_t half = 0;
  if (dtype == INGOT_DTYPE_F64 || dtype == INGOT_DTYPE_I32) return v;
  if (dtype == INGOT_DTYPE_F32) return (double)f;
  ingot_narrow(dtype, &f, &half, 1);
  ingot_widen(dtype, &half, &back, 1);
  return (double)back;
}

static void to_bytes(ingot_dtype dtype, const double *v, int64_t n, void *out)
{
  for (int64_t i = 0; i < n; i++) {
    float f = (float)v[i];
    if (dtype == INGOT_DTYPE_F64) ((double *)out)[i] = v[i];
    else if (dtype == INGOT_DTYPE_I32) ((int32_t *)out)[i] = (int32_t)v[i];
    else ingot_narrow(dtype, &f, (char *)out + (size_t)i * ingot_dtype_size(dtype), 1);
  }
}

static void from_bytes(ingot_dtype dtype, const void *in, int64_t n, double *v)
{
  for (int64_t i = 0; i < n; i++) {
    float f = 0;
    if (dtype == INGOT_DTYPE_F64) v[i] = ((const double *)in)[i];
    else if (dtype == INGOT_DTYPE_I32) v[i] = (double)((const int32_t *)in)[i];
    else {
      ingot_widen(dtype, (const char *)in + (size_t)i * ingot_dtype_size(dtype), &f, 1);
      v[i] = (double)f;
    }
  }
}

/** Run once; out[i]: bytes of array i afterwards, malloc'ed. */
static void run_on(ingot_nn *nn, const char *what, int n_array, const nn_array *array, nn_call call,
                   const void *context, void **out)
{
  void *p[NN_MAX_ARRAY] = {0};
  for (int i = 0; i < n_array; i++) {
    ingot_dtype dtype = stored_dtype(nn, array[i].kind);
    size_t      bytes = (size_t)array[i].n * ingot_dtype_size(dtype);
    out[i] = malloc(bytes + 1);
    assert_non_null(out[i]);
    to_bytes(dtype, array[i].value, array[i].n, out[i]);
    check_ok(nn->ops->alloc(nn, bytes, &p[i]));
    check_ok(nn->ops->copy_in(nn, p[i], out[i], bytes));
  }
  ingot_status st = call(nn, p, context);
  if (st != INGOT_OK) fail_msg("%s: %s", what, ingot_error_message());
  for (int i = 0; i < n_array; i++) {
    size_t bytes = (size_t)array[i].n * ingot_dtype_size(stored_dtype(nn, array[i].kind));
    st = nn->ops->copy_out(nn, out[i], p[i], bytes);
    if (st != INGOT_OK) fail_msg("%s: %s", what, ingot_error_message());
    nn->ops->free(nn, p[i]);
  }
}

static void compare(const char *what, int number, const nn_array *a, const double *cpu, const double *gpu)
{
  double largest = 0;
  for (int64_t i = 0; i < a->n; i++) largest = fmax(largest, fabs(cpu[i]));
  double bound = a->kind == NN_I32 ? 0 : a->tolerance * largest;
  for (int64_t i = 0; i < a->n; i++) {
    if (!(fabs(cpu[i] - gpu[i]) <= bound))
      fail_msg("%s: array %d, element %lld of %lld: CPU %.9g, GPU %.9g, largest %.3g, bound %.3g", what, number,
               (long long)i, (long long)a->n, cpu[i], gpu[i], largest, bound);
  }
}

void nn_pair_run(const nn_pair *pair, const char *what, int n_array, nn_array *array, nn_call call, const void *context,
                 double **gpu_out)
{
  void *on_cpu[NN_MAX_ARRAY], *on_gpu[NN_MAX_ARRAY], *again[NN_MAX_ARRAY];
  for (int i = 0; i < n_array; i++) {
    ingot_dtype dtype = stored_dtype(pair->gpu, array[i].kind);
    for (int64_t j = 0; j < array[i].n; j++) array[i].value[j] = as_stored(dtype, array[i].value[j]);
  }
  run_on(pair->cpu, what, n_array, array, call, context, on_cpu);
  run_on(pair->gpu, what, n_array, array, call, context, on_gpu);
  run_on(pair->gpu, what, n_array, array, call, context, again);
  for (int i = 0; i < n_array; i++) {
    ingot_dtype cpu_dtype = stored_dtype(pair->cpu, array[i].kind), gpu_dtype = stored_dtype(pair->gpu, array[i].kind);
    double *cpu = malloc((size_t)(array[i].n + 1) * sizeof *cpu), *gpu = malloc((size_t)(array[i].n + 1) * sizeof *gpu);
    assert_true(cpu != NULL && gpu != NULL);
    if (memcmp(on_gpu[i], again[i], (size_t)array[i].n * ingot_dtype_size(gpu_dtype)) != 0)
      fail_msg("%s: array %d: other bits the second time", what, i);
    from_bytes(cpu_dtype, on_cpu[i], array[i].n, cpu);
    from_bytes(gpu_dtype, on_gpu[i], array[i].n, gpu);
    if (array[i].tolerance > 0) compare(what, i, &array[i], cpu, gpu);
    if (gpu_out != NULL && i == 0) *gpu_out = gpu;
    else free(gpu);
    free(cpu);
    free(on_cpu[i]);
    free(on_gpu[i]);
    free(again[i]);
    free(array[i].value);
  }
}
