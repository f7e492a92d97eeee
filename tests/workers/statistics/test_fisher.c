/* Fisher information of whole models against PyTorch. */
#define _XOPEN_SOURCE 700
#include "tests/workers/statistics/gather_case.h"

static void test_fisher(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  for (int i = 0; i < 2; i++) {
    plan_case c;
    open_case(&c, names[i]);
    fisher_tensors(&c);
    assert_int_equal(ingot_fisher_examples(&c.plan), N_WINDOW);
    check_ok(run_fisher(&c));
    assert_int_equal(check_output(&c, "fisher", 1e-4), c.layout.n_param);
    close_case(&c);
  }
}

static void test_fisher_spans(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.example = 4;
  c.plan.loss = INGOT_LOSS_SUM;
  assert_int_equal(ingot_fisher_examples(&c.plan), N_WINDOW * 4);
  check_ok(run_fisher(&c));
  assert_int_equal(check_output(&c, "spans", 1e-4), c.layout.n_param);
  close_case(&c);
}

static void test_fisher_exact(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.labels = INGOT_LABELS_EXACT;
  c.plan.window.limit = c.data.n_window = 1;
  check_ok(run_fisher(&c));
  assert_int_equal(check_output(&c, "exact", 1e-4), c.layout.n_param);
  close_case(&c);
}

/* Sampled labels: the same for one seed, others for another; and on average over draws the exact information. */
static void test_fisher_sampled(void **state)
{
  (void)state;
  enum { N_DRAW = 400 };
  plan_case c;
  double    trace = 0.0, exact = 0.0, one[3];
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.window.limit = c.data.n_window = 1;
  for (int k = -1; k < N_DRAW; k++) {
    ingot_source *out = NULL;
    c.plan.labels = k < 0 ? INGOT_LABELS_EXACT : INGOT_LABELS_SAMPLED;
    c.plan.top_k = 67; /* all classes */
    c.plan.seed = k == 1 ? 0 : (uint64_t)(k < 0 ? 0 : k);
    check_ok(run_fisher(&c));
    check_ok(ingot_source_open(c.output, &out));
    int64_t n;
    float  *values = read_all(out, "model.norm.weight", &n);
    double  sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i];
    if (k < 0) exact = sum;
    else trace += sum / N_DRAW;
    if (k >= 0 && k < 3) one[k] = sum;
    free(values);
    ingot_source_close(&out);
  }
  assert_true(one[0] == one[1] && one[0] != one[2]);
  assert_true(fabs(trace / exact - 1) < 0.2); /* 400 draws of a sum of squares of 15 parts: about 5 % off */
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fisher),
      cmocka_unit_test(test_fisher_spans),
      cmocka_unit_test(test_fisher_exact),
      cmocka_unit_test(test_fisher_sampled),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
