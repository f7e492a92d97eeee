#include "tests/kernels/method_test.h"

#include <math.h>
#include <stdlib.h>

#include "base/philox.h"
#include "kernels/convert.h"

enum { MAX_PARAMETERS = 512 };

static ingot_status run_case(const merge_case *c, bool backwards, void **out)
{
  const ingot_method *m = ingot_method_find(c->method);
  double              global[MAX_PARAMETERS], per_model[MAX_PARAMETERS];
  run_tensor          tensors[16];
  assert_non_null(m);
  assert_true(c->n_tensor <= 16);
  for (int i = 0; i < c->n_tensor; i++) {
    const merge_case_tensor *t = &c->tensors[i];
    tensors[i] = (run_tensor){.name = t->name,
                              .shape = t->shape,
                              .in = (const void *const *)t->in,
                              .in_dtype = t->in_dtype,
                              .out = out[i],
                              .out_dtype = t->out_dtype};
  }
  ingot_status st = run_parameters(m, c->n_model, c->parameters, global, per_model);
  if (st != INGOT_OK) return st;
  run_setup setup = {.method = m,
                     .tensors = tensors,
                     .n_tensor = c->n_tensor,
                     .n_model = c->n_model,
                     .has_base = c->has_base,
                     .n_statistic = c->n_statistic,
                     .global = global,
                     .per_model = per_model,
                     .seed = c->seed,
                     .backwards = backwards};
  return run_method(&setup, NULL);
}

void method_check_cases(const char *method)
{
  merge_cases cases;
  merge_cases_load(method, &cases);
  assert_true(cases.count >= 10);
  for (int i = 0; i < cases.count; i++) {
    const merge_case *c = &cases.item[i];
    void            **out = merge_case_alloc_outputs(c), **again = merge_case_alloc_outputs(c);
    char              message[256];
    check_ok(run_case(c, false, out));
    if (!merge_case_compare(c, out, message)) fail_msg("%s", message);
    check_ok(run_case(c, true, again));
    for (int k = 0; k < c->n_tensor; k++)
      assert_memory_equal(out[k], again[k],
                          (size_t)c->tensors[k].n_elem * ingot_dtype_size(c->tensors[k].out_dtype) + 1);
    merge_case_free_outputs(c, out);
    merge_case_free_outputs(c, again);
  }
  merge_cases_release(&cases);
}

ingot_status method_try(const char *method, const char *parameters, int n_input, const float *const *in, int64_t n,
                        float *out, run_report *report)
{
  const ingot_method *m = ingot_method_find(method);
  assert_non_null(m);
  bool         has_base = m->base == INGOT_BASE_TASK_VECTOR || m->base == INGOT_BASE_ENDPOINT;
  int          n_statistic = m->needs & INGOT_NEED_FISHER && m->base == INGOT_BASE_UNUSED ? n_input / 2 : 0;
  int          n_model = n_input - has_base - n_statistic;
  double       global[16];
  double      *per_model = calloc((size_t)n_model * 8, sizeof *per_model);
  ingot_dtype *dtypes = calloc((size_t)n_input, sizeof *dtypes);
  assert_true(per_model && dtypes);
  for (int i = 0; i < n_input; i++) dtypes[i] = INGOT_DTYPE_F32;
  run_tensor   tensor = {.name = "t",
                         .shape = {.n_dim = 1, .dim = {n}},
                         .in = (const void *const *)in,
                         .in_dtype = dtypes,
                         .out = out,
                         .out_dtype = INGOT_DTYPE_F32};
  run_setup    setup = {.method = m,
                        .tensors = &tensor,
                        .n_tensor = 1,
                        .n_model = n_model,
                        .has_base = has_base,
                        .n_statistic = n_statistic,
                        .global = global,
                        .per_model = per_model,
                        .seed = 42};
  ingot_status st = run_parameters(m, n_model, parameters, global, per_model);
  if (st == INGOT_OK) st = run_method(&setup, report);
  free(per_model);
  free(dtypes);
  return st;
}

void method_merge(const char *method, const char *parameters, int n_input, const float *const *in, int64_t n,
                  float *out, run_report *report)
{
  check_ok(method_try(method, parameters, n_input, in, n, out, report));
}

float *method_random(int64_t n, uint64_t seed, float scale)
{
  float *v = malloc((size_t)n * sizeof *v + 1);
  assert_non_null(v);
  for (int64_t i = 0; i < n; i++) { /* a sum of four uniform numbers: close enough to a normal one */
    uint32_t word[4];
    double   sum = 0;
    ingot_philox4x32(seed, (uint64_t)i, word);
    for (int k = 0; k < 4; k++) sum += word[k] / 4294967296.0 - 0.5;
    v[i] = (float)(sum * 1.7320508) * scale;
  }
  return v;
}

float *method_random_bf16(int64_t n, uint64_t seed, float scale)
{
  float *v = method_random(n, seed, scale);
  for (int64_t i = 0; i < n; i++) {
    uint16_t bits;
    ingot_narrow(INGOT_DTYPE_BF16, v + i, &bits, 1);
    ingot_widen(INGOT_DTYPE_BF16, &bits, v + i, 1);
  }
  return v;
}

float *method_near(const float *a, const float *b, int64_t n, float scale)
{
  float *v = malloc((size_t)n * sizeof *v + 1);
  assert_non_null(v);
  for (int64_t i = 0; i < n; i++) v[i] = a[i] + scale * b[i];
  return v;
}

void method_check_parameter(const char *method, const char *name, ingot_param_type type, ingot_param_scope scope,
                            bool required, double default_value)
{
  const ingot_method     *m = ingot_method_find(method);
  const ingot_param_spec *spec = NULL;
  assert_non_null(m);
  if (ingot_method_param(m, name, &spec) < 0) fail_msg("%s has no parameter %s", method, name);
  assert_int_equal(spec->type, type);
  assert_int_equal(spec->scope, scope);
  assert_int_equal(spec->required, required);
  if (!required) assert_true(spec->default_value == default_value);
}
