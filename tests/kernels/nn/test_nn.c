/* The CPU back end against float64 reference values, in all cases, with one thread and with several. */
#include "tests/check.h"

#include <stdlib.h>

#include "tests/kernels/nn/nn_cases.h"

/* Of the largest magnitude of an output. Sums of up to 300 products in float32, and functions good to 2e-7. */
static const double limit = 2e-6;

static ingot_nn *open_cpu(int n_thread)
{
  ingot_nn        *nn;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = n_thread, .dtype = INGOT_DTYPE_F32};
  check_ok(ingot_nn_open(&options, &nn));
  return nn;
}

static void check_case(const nn_case *c, ingot_nn *nn)
{
  nn_outputs  got, expected;
  const char *worst;
  if (!nn_case_reference(c, &expected)) fail_msg("%s: not in reference.bin: run make_reference.py", c->name);
  nn_case_run(c, nn, &got);
  double difference = nn_outputs_difference(&got, &expected, &worst);
  if (!(difference <= limit))
    fail_msg("%s/%s: off by %.3g of its largest value (limit %.3g)", c->name, worst, difference, limit);
  nn_outputs_release(&got);
  nn_outputs_release(&expected);
}

static void test_reference(void **state)
{
  (void)state;
  for (int n_thread = 1; n_thread <= 3; n_thread += 2) {
    ingot_nn *nn = open_cpu(n_thread);
    for (int i = 0; i < nn_case_count; i++) check_case(&nn_cases[i], nn);
    ingot_nn_close(&nn);
  }
}

/*
 * The same bits from run to run; for any number of threads too, but for matmul. The first number of a case counts rows,
 * tokens or windows: a hundred times as many are worth several threads.
 */
static void test_same_bits(void **state)
{
  (void)state;
  for (int i = 0; i < nn_case_count; i++) {
    nn_case    c = nn_cases[i];
    nn_outputs first, again;
    ingot_nn  *nn = open_cpu(3), *other = open_cpu(strncmp(c.name, "matmul", 6) == 0 ? 3 : 2);
    c.shape[0] *= 100;
    nn_case_run(&c, nn, &first);
    nn_case_run(&c, other, &again);
    assert_int_equal(first.count, again.count);
    for (int o = 0; o < first.count; o++)
      if (memcmp(first.item[o].values, again.item[o].values, (size_t)first.item[o].n * sizeof(float)) != 0)
        fail_msg("%s/%s differs", c.name, first.item[o].name);
    nn_outputs_release(&first);
    nn_outputs_release(&again);
    ingot_nn_close(&nn);
    ingot_nn_close(&other);
  }
}

static void test_without_cuda(void **state)
{
  (void)state;
  ingot_nn        *nn = (ingot_nn *)state;
  ingot_nn_options options = {.kind = INGOT_NN_CUDA, .n_thread = 1, .device = 12345, .dtype = INGOT_DTYPE_F32};
  check_fails(ingot_nn_open(&options, &nn), INGOT_ERR_DEVICE, "12345");
  assert_null(nn);
  ingot_nn_close(&nn);
}

static void test_no_memory(void **state)
{
  (void)state;
  ingot_nn *nn = open_cpu(1);
  void     *p = state;
  check_fails(nn->ops->alloc(nn, SIZE_MAX, &p), INGOT_ERR_NOMEM, "18446744073709551615 bytes");
  assert_null(p);
  ingot_nn_close(&nn);
}

static void test_memory(void **state)
{
  (void)state;
  ingot_nn *nn = open_cpu(1);
  float     in[3] = {1, 2, 3}, out[3] = {0};
  void     *a, *b;
  check_ok(nn->ops->alloc(nn, 0, &a));
  nn->ops->free(nn, a);
  nn->ops->free(nn, NULL);
  check_ok(nn->ops->alloc(nn, sizeof in, &a));
  check_ok(nn->ops->alloc(nn, sizeof in, &b));
  assert_int_equal((uintptr_t)a % 256, 0);
  check_ok(nn->ops->zero(nn, b, sizeof in));
  check_ok(nn->ops->copy_in(nn, a, in, sizeof in));
  check_ok(nn->ops->copy(nn, b, a, 2 * sizeof(float)));
  check_ok(nn->ops->wait(nn));
  check_ok(nn->ops->copy_out(nn, out, b, sizeof out));
  assert_true(out[0] == 1 && out[1] == 2 && out[2] == 0);
  nn->ops->free(nn, a);
  nn->ops->free(nn, b);
  ingot_nn_close(&nn);
  assert_null(nn);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_reference), cmocka_unit_test(test_same_bits), cmocka_unit_test(test_without_cuda),
      cmocka_unit_test(test_no_memory), cmocka_unit_test(test_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
