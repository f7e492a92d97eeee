/*
 * Attention on CUDA, forward and every gradient, against float64 attention written here: head sizes, groups of heads,
 * windows, documents, lengths around the tiles' edges; bfloat16 and float32; twice the same bits.
 */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/device.h"
#include "kernels/nn/cuda_attention.h"
#include "tests/gpu/attention_case.h"

/* batch, time, heads, key heads, head size, window, documents */
static const attention_case cases[] = {
    {1, 1, 1, 1, 64, 0, 0},     {2, 17, 4, 1, 64, 0, 0},    {1, 64, 2, 2, 64, 0, 0},    {2, 100, 8, 2, 64, 0, 0},
    {1, 512, 4, 1, 64, 0, 0},   {1, 1000, 2, 1, 64, 0, 0},  {2, 130, 8, 1, 64, 0, 0},   {1, 65, 2, 1, 128, 0, 0},
    {1, 512, 2, 1, 128, 0, 0},  {2, 193, 4, 2, 128, 0, 0},  {2, 200, 4, 4, 128, 0, 40}, {1, 300, 2, 1, 128, 50, 0},
    {2, 150, 4, 2, 32, 0, 0},   {1, 257, 2, 1, 96, 0, 0},   {1, 257, 2, 1, 96, 33, 0},  {2, 129, 4, 2, 80, 0, 30},
    {1, 140, 2, 1, 8, 0, 0},    {1, 140, 2, 2, 24, 0, 0},   {1, 140, 2, 2, 40, 0, 0},   {1, 140, 2, 2, 72, 0, 0},
    {1, 140, 2, 2, 112, 0, 0},  {2, 300, 4, 1, 64, 1, 0},   {2, 300, 4, 1, 64, 64, 0},  {1, 700, 2, 1, 64, 100, 0},
    {2, 300, 4, 2, 64, 0, 50},  {2, 300, 4, 2, 64, 70, 90}, {3, 250, 2, 2, 64, 0, 5},   {1, 100, 2, 1, 256, 0, 0},
    {2, 70, 4, 2, 136, 20, 30}, {1, 33, 2, 1, 200, 0, 0},   {1, 70, 2, 1, 64, 0, 0},
};
enum { N_CASE = sizeof cases / sizeof *cases, N_BRIEF = 4 };
static const int brief_cases[N_BRIEF] = {1, 7, 28, 30};

static const char *const names[ATT_COUNT] = {"q", "k", "v", "dO", "o", "lse", "dq", "dk", "dv"};

/* Under a checking tool, which is slow: few cases. */
static int n_case(void **state)
{
  return *(const bool *)*state ? N_BRIEF : N_CASE;
}

static const attention_case *case_at(void **state, int i)
{
  return &cases[*(const bool *)*state ? brief_cases[i] : i];
}

static ingot_nn *open_gpu(ingot_dtype dtype)
{
  ingot_nn        *nn = NULL;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .device = 0, .dtype = dtype};
  check_ok(ingot_nn_open(&options, &nn));
  return nn;
}

/*
 * The largest error of a row (one token of one head) beside the row's own size plus that of the array's average row:
 * early rows of dQ and late ones of dK are much larger or smaller than the rest. The average is taken as 0.05 an
 * element at least, because a query that sees one key has no gradient at all. NaN gives infinity.
 */
static double worst_error(const attention_data *got, const attention_data *want, attention_array which)
{
  const int64_t n = attention_count(&want->shape, which), width = which == ATT_LSE ? 1 : want->shape.head_dim;
  double        squares = 0, worst = 0;
  for (int64_t i = 0; i < n; i++) squares += want->x[which][i] * want->x[which][i];
  const double average = fmax(sqrt(squares / (double)n), 0.05) * sqrt((double)width);
  for (int64_t row = 0; row < n; row += width) {
    double own = 0, error = 0;
    for (int64_t i = row; i < row + width; i++) {
      double difference = got->x[which][i] - want->x[which][i];
      own += want->x[which][i] * want->x[which][i];
      error += difference * difference;
    }
    if (isnan(error)) return INFINITY;
    error = sqrt(error) / (sqrt(own) + average);
    if (error > worst) worst = error;
  }
  return worst;
}

static void check_cases(void **state, ingot_dtype dtype, const double tolerance[ATT_COUNT])
{
  ingot_nn *nn = open_gpu(dtype);
  double    worst[ATT_COUNT] = {0};
  int       n_bad = 0;

  for (int i = 0; i < n_case(state); i++) {
    const attention_case *c = case_at(state, i);
    attention_data        want, got;
    check_ok(attention_data_make(c, dtype, (uint64_t)i + 1, true, &want));
    check_ok(attention_data_make(c, dtype, 1, false, &got));
    check_ok(attention_run(nn, &want, &got));
    for (int a = ATT_O; a < ATT_COUNT; a++) {
      double error = worst_error(&got, &want, (attention_array)a);
      if (error > worst[a]) worst[a] = error;
      if (!(error <= tolerance[a])) {
        n_bad++;
        print_error("%s of %d x %d, heads %d / %d of %d, window %d, documents %d, %s: error %g, allowed %g\n", names[a],
                    c->n_batch, c->n_time, c->n_head, c->n_kv_head, c->head_dim, c->window, c->document,
                    ingot_dtype_name(dtype), error, tolerance[a]);
      }
    }
    attention_data_free(&want);
    attention_data_free(&got);
  }
  printf("%s, worst errors: o %.2g, lse %.2g, dq %.2g, dk %.2g, dv %.2g\n", ingot_dtype_name(dtype), worst[ATT_O],
         worst[ATT_LSE], worst[ATT_DQ], worst[ATT_DK], worst[ATT_DV]);
  ingot_nn_close(&nn);
  assert_int_equal(n_bad, 0);
}

/*
 * Probabilities and their gradients are rounded to bfloat16 (2^-9 each) before they are multiplied, outputs once more;
 * dQ and dK also have what dP - <dO, O> leaves of O's rounding, most in rows where one key takes nearly all.
 */
static void test_bf16(void **state)
{
  static const double tolerance[ATT_COUNT] =
      {[ATT_O] = 0.01, [ATT_LSE] = 1e-5, [ATT_DQ] = 0.04, [ATT_DK] = 0.02, [ATT_DV] = 0.01};
  check_cases(state, INGOT_DTYPE_BF16, tolerance);
}

/* A query that sees one key has no gradient: what is left is the rounding of dP and <dO, O>, each about 8 in size. */
static void test_f32(void **state)
{
  static const double tolerance[ATT_COUNT] =
      {[ATT_O] = 5e-6, [ATT_LSE] = 5e-6, [ATT_DQ] = 5e-5, [ATT_DK] = 5e-5, [ATT_DV] = 5e-6};
  check_cases(state, INGOT_DTYPE_F32, tolerance);
}

static void test_twice_the_same_bits(void **state)
{
  static const ingot_dtype dtypes[] = {INGOT_DTYPE_BF16, INGOT_DTYPE_F32};
  for (int t = 0; t < 2; t++) {
    ingot_nn *nn = open_gpu(dtypes[t]);
    for (int i = 0; i < n_case(state); i += 3) {
      attention_data first, second;
      check_ok(attention_data_make(case_at(state, i), dtypes[t], 77, false, &first));
      check_ok(attention_data_make(case_at(state, i), dtypes[t], 77, false, &second));
      check_ok(attention_run(nn, &first, &first));
      check_ok(attention_run(nn, &second, &second));
      for (int a = ATT_O; a < ATT_COUNT; a++) {
        size_t bytes = (size_t)attention_count(&first.shape, (attention_array)a) * sizeof(double);
        assert_memory_equal(first.x[a], second.x[a], bytes);
      }
      attention_data_free(&first);
      attention_data_free(&second);
    }
    ingot_nn_close(&nn);
  }
}

/* A head's worked example, docs of the method: q = (1, 0), (1, 1); k = (1, 1), (0, 2); v = 1; padded to 8 columns. */
static void test_worked_example(void **state)
{
  (void)state;
  ingot_nn      *nn = open_gpu(INGOT_DTYPE_F32);
  attention_case c = {1, 2, 1, 1, 8, 0, 0};
  attention_data d;
  check_ok(attention_data_make(&c, INGOT_DTYPE_F32, 1, false, &d));
  for (int i = ATT_Q; i <= ATT_DO; i++) memset(d.x[i], 0, 16 * sizeof(double));
  d.x[ATT_Q][0] = d.x[ATT_Q][8] = d.x[ATT_Q][9] = 1;
  d.x[ATT_K][0] = d.x[ATT_K][1] = 1, d.x[ATT_K][9] = 2;
  d.x[ATT_V][0] = d.x[ATT_V][9] = 1;
  d.x[ATT_DO][8] = 1;
  check_ok(attention_run(nn, &d, &d));
  /* both keys of the second query score 2 / sqrt(8): half each, and dS = 1/4, -1/4 over sqrt(8) */
  const double s = 0.25 / sqrt(8.0);
  assert_true(fabs(d.x[ATT_O][0] - 1) < 1e-6 && fabs(d.x[ATT_O][8] - 0.5) < 1e-6 && fabs(d.x[ATT_O][9] - 0.5) < 1e-6);
  assert_true(fabs(d.x[ATT_DV][0] - 0.5) < 1e-6 && fabs(d.x[ATT_DV][8] - 0.5) < 1e-6 && fabs(d.x[ATT_DV][1]) < 1e-6);
  assert_true(fabs(d.x[ATT_DQ][8] - s) < 1e-6 && fabs(d.x[ATT_DQ][9] + s) < 1e-6 && fabs(d.x[ATT_DQ][0]) < 1e-6);
  assert_true(fabs(d.x[ATT_DK][0] - s) < 1e-6 && fabs(d.x[ATT_DK][9] + s) < 1e-6);
  attention_data_free(&d);
  ingot_nn_close(&nn);
}

static void test_head_sizes(void **state)
{
  (void)state;
  check_ok(ingot_nn_cuda_attention_check(8));
  check_ok(ingot_nn_cuda_attention_check(80));
  check_ok(ingot_nn_cuda_attention_check(256));
  check_fails(ingot_nn_cuda_attention_check(12), INGOT_ERR_DEVICE, "heads of 12 elements");
  check_fails(ingot_nn_cuda_attention_check(264), INGOT_ERR_DEVICE, "heads of 264 elements");
  check_fails(ingot_nn_cuda_attention_check(0), INGOT_ERR_DEVICE, "heads of 0 elements");
}

int main(int argc, char **argv)
{
  bool                    brief = argc > 1 && strcmp(argv[1], "--brief") == 0;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_head_sizes),
      cmocka_unit_test(test_worked_example),
      cmocka_unit_test_prestate(test_f32, &brief),
      cmocka_unit_test_prestate(test_bf16, &brief),
      cmocka_unit_test_prestate(test_twice_the_same_bits, &brief),
  };
  if (ingot_device_count() == 0 || ingot_device_use(0) != INGOT_OK) {
    fprintf(stderr, "no usable GPU: %s\n", ingot_device_built() ? "none found" : "built without CUDA");
    return 77; /* skipped */
  }
  return cmocka_run_group_tests_name("attention on CUDA", tests, NULL, NULL);
}
