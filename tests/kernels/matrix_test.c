#include "tests/kernels/matrix_test.h"

#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/run_method.h"

typedef struct solving {
  const matrix_test *m;
  float             *out;
} solving;

static ingot_status give_weight(void *context, int input, ingot_linalg *l, ingot_linalg_array *to)
{
  const matrix_test *m = ((const solving *)context)->m;
  const float       *from = m->base && input == 0 ? m->base : m->weights[input - (m->base ? 1 : 0)];
  ingot_linalg_input how = {.form = INGOT_LINALG_ROWS, .dtype = INGOT_DTYPE_F32, .rows = m->n_out, .columns = m->n_in};
  ingot_linalg_found found;
  return ingot_linalg_load(l, &how, from, to, &found);
}

static ingot_status give_gram(void *context, int k, double alpha, ingot_linalg *l, ingot_linalg_array *to)
{
  const matrix_test *m = ((const solving *)context)->m;
  int64_t            n = k < m->n_model ? m->n_in : m->n_out;
  ingot_linalg_input how = {.form = INGOT_LINALG_PACKED,
                            .dtype = INGOT_DTYPE_F32,
                            .rows = n,
                            .columns = n,
                            .alpha = alpha};
  ingot_linalg_found found;
  if (!m->grams[k]) return ingot_fail(INGOT_ERR_IO, "gram %d cannot be read", k);
  return ingot_linalg_load(l, &how, m->grams[k], to, &found);
}

static ingot_status take_result(void *context, int64_t first, int64_t n, const float *values)
{
  memcpy(((const solving *)context)->out + first, values, (size_t)n * sizeof *values);
  return INGOT_OK;
}

ingot_status matrix_try(const matrix_test *m, float *out, ingot_matrix_report *report)
{
  enum { PARAMETERS_MAX = 64 };
  const ingot_method *method = ingot_method_find(m->method);
  double              global[PARAMETERS_MAX], per_model[PARAMETERS_MAX];
  ingot_linalg       *own = NULL;
  ingot_status        st = INGOT_OK;
  solving             s = {m, out};
  ingot_matrix_feed   feed = {&s, give_weight, give_gram, take_result};
  ingot_method_tensor t = {.name = "w",
                           .shape = {.n_dim = 2, .dim = {m->n_out, m->n_in}},
                           .n_elem = (int64_t)m->n_out * m->n_in,
                           .n_model = m->n_model,
                           .n_statistic = m->n_statistic,
                           .has_base = m->base != NULL,
                           .n_input = m->n_model + m->n_statistic + (m->base != NULL),
                           .global = global,
                           .per_model = per_model};
  INGOT_TRY(run_parameters(method, m->n_model, m->parameters, global, per_model));
  INGOT_TRY(method->check(&t));
  INGOT_ASSERT(method->grain(&t) == INGOT_GRAIN_MATRIX);
  if (!m->linalg) INGOT_TRY(ingot_linalg_open_cpu(m->n_thread, &own));
  st = method->matrix->solve(&t, m->n_out, m->n_in, own ? own : m->linalg, &feed, report);
done:
  ingot_linalg_close(&own);
  return st;
}

/* The reference file: see the top of matrix_reference.py. */

enum { ARRAYS_MAX = 16 };

typedef struct matrix_case {
  char    name[65], method[33], parameters[161];
  double  tolerance;
  int32_t n_model, n_out, n_in, n_statistic, has_base, iterations;
  float  *arrays[ARRAYS_MAX]; /* base, weights, statistics */
  int     n_array;
  double *expected;
} matrix_case;

static void take(FILE *f, void *into, size_t bytes)
{
  INGOT_ASSERT(fread(into, bytes, 1, f) == 1);
}

static void *take_new(FILE *f, size_t bytes)
{
  void *memory = malloc(bytes);
  INGOT_ASSERT(memory);
  take(f, memory, bytes);
  return memory;
}

static void take_case(FILE *f, matrix_case *c)
{
  *c = (matrix_case){.n_array = 0};
  take(f, c->name, 64);
  take(f, c->method, 32);
  take(f, c->parameters, 160);
  take(f, &c->tolerance, sizeof c->tolerance);
  take(f, &c->n_model, 6 * sizeof c->n_model);
  size_t n_elem = (size_t)c->n_out * (size_t)c->n_in;
  for (int i = 0; i < c->n_model + c->has_base; i++) c->arrays[c->n_array++] = take_new(f, n_elem * sizeof(float));
  for (int i = 0; i < c->n_statistic; i++) {
    int64_t width = i < c->n_model ? c->n_in : c->n_out;
    c->arrays[c->n_array++] = take_new(f, (size_t)ingot_linalg_packed_count(width) * sizeof(float));
  }
  c->expected = take_new(f, n_elem * sizeof(double));
}

static void check_case(const matrix_case *c, ingot_linalg *linalg, int n_thread, float *out)
{
  const float *const *arrays = (const float *const *)c->arrays;
  ingot_matrix_report report;
  matrix_test         m = {.method = c->method,
                           .parameters = c->parameters,
                           .n_model = c->n_model,
                           .n_out = c->n_out,
                           .n_in = c->n_in,
                           .base = c->has_base ? arrays[0] : NULL,
                           .weights = arrays + c->has_base,
                           .grams = arrays + c->has_base + c->n_model,
                           .n_statistic = c->n_statistic,
                           .linalg = linalg,
                           .n_thread = n_thread};
  check_ok(matrix_try(&m, out, &report));
  if (c->iterations >= 0) assert_int_equal(report.n_iteration, c->iterations);
  for (int i = 0; i < c->n_out * c->n_in; i++)
    if (!(fabs((double)out[i] - c->expected[i]) <= c->tolerance * (1 + fabs(c->expected[i]))))
      fail_msg("%s, %s: element %d is %.9g, expected %.9g", c->method, c->name, i, (double)out[i], c->expected[i]);
}

void matrix_check_cases(const char *method, ingot_linalg *linalg)
{
  FILE    *f = fopen(INGOT_TEST_DIR "/golden/matrix_reference.bin", "rb");
  char     magic[8];
  uint32_t count;
  int      n_own = 0;
  assert_non_null(f);
  take(f, magic, sizeof magic);
  take(f, &count, sizeof count);
  assert_memory_equal(magic, "INGOTMTX", 8);
  for (uint32_t i = 0; i < count; i++) {
    matrix_case c;
    take_case(f, &c);
    size_t bytes = (size_t)c.n_out * (size_t)c.n_in * sizeof(float);
    float *out = malloc(bytes), *again = malloc(bytes);
    assert_true(out && again);
    if (strcmp(c.method, method) == 0) {
      n_own++;
      check_case(&c, linalg, 1, out);
      if (!linalg) check_case(&c, linalg, 3, again);
      if (!linalg) assert_memory_equal(out, again, bytes);
    }
    for (int k = 0; k < c.n_array; k++) free(c.arrays[k]);
    free(c.expected);
    free(out);
    free(again);
  }
  assert_true(n_own >= 10);
  fclose(f);
}
