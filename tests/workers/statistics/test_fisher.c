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

/* The sum of one tensor of the output. */
static double trace_of(const plan_case *c)
{
  ingot_source *out = NULL;
  int64_t       n;
  double        sum = 0.0;
  check_ok(ingot_source_open(c->output, &out));
  float *values = read_all(out, "model.norm.weight", &n);
  for (int64_t i = 0; i < n; i++) sum += (double)values[i];
  free(values);
  ingot_source_close(&out);
  return sum;
}

/* Sampled labels: the same for one seed, others for another; and on average over draws the exact information. */
static void test_fisher_sampled(void **state)
{
  (void)state;
  enum { N_DRAW = 400 };
  static const uint64_t seeds[] = {0, 0, 2};
  plan_case             c;
  double                one[3], exact;
  char                 *tokens, path[SCRATCH_PATH];
  size_t                size;
  open_case(&c, "llama_bias_tied");
  fisher_tensors(&c);
  c.plan.window.limit = c.data.n_window = 1;
  c.plan.labels = INGOT_LABELS_EXACT;
  c.plan.top_k = 67; /* all classes */
  check_ok(run_fisher(&c));
  exact = trace_of(&c);
  c.plan.labels = INGOT_LABELS_SAMPLED;
  for (int k = 0; k < 3; k++) {
    c.plan.seed = seeds[k];
    check_ok(run_fisher(&c));
    one[k] = trace_of(&c);
  }
  assert_true(one[0] == one[1] && one[0] != one[2]);
  /* the same window again and again: its labels are drawn anew each time */
  read_file(c.data_path, &tokens, &size);
  for (int k = 1; k < N_DRAW; k++) memcpy(tokens + k * LENGTH * 2, tokens, LENGTH * 2);
  scratch_write(&c.s, "again.u16", tokens, N_DRAW * LENGTH * 2);
  free(tokens);
  c.data.path = scratch_path(&c.s, "again.u16", path);
  c.plan.window.limit = c.data.n_window = N_DRAW;
  check_ok(run_fisher(&c));
  assert_true(fabs(trace_of(&c) / exact - 1) < 0.2); /* 400 draws of a sum of squares of 15 parts: about 5 % off */
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
