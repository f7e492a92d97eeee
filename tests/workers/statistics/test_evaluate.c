/* Scores of whole models against PyTorch; evaluations gone on with; data that is no use. */
#define _XOPEN_SOURCE 700
#include "tests/workers/statistics/gather_case.h"

static double sum_of(const ingot_source *src, const char *name)
{
  int64_t n;
  double *values = read_all(src, name, &n), sum = 0.0;
  for (int64_t i = 0; i < n; i++) sum += values[i];
  free(values);
  return sum;
}

static void test_evaluate(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  for (int i = 0; i < 2; i++) {
    plan_case   c;
    ingot_score score = {0};
    open_case(&c, names[i]);
    check_ok(run_evaluate(&c, &score));
    assert_int_equal(score.n_token, N_WINDOW * (LENGTH - 1));
    assert_true(fabs(score.nll / sum_of(c.reference, "nll") - 1) < 1e-5);
    assert_true((double)score.n_right == sum_of(c.reference, "top1"));
    /* documents alone: 5 more tokens are not predicted (one of the six begins a window) */
    check_ok(ingot_gather_forget(c.output));
    c.plan.window.document = 0;
    c.plan.window.separate = true;
    check_ok(run_evaluate(&c, &score));
    assert_int_equal(score.n_token, N_WINDOW * (LENGTH - 1) - 5);
    assert_true(fabs(score.nll / sum_of(c.reference, "nll_separate") - 1) < 1e-5);
    close_case(&c);
  }
}

/* The part of the data that overlapping windows predict does not depend on how they overlap. */
static void test_evaluate_overlap(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score = {0};
  open_case(&c, "llama_bias_tied");
  c.plan.window.stride = 8;
  c.plan.window.partial = true;
  c.data.n_window = 8; /* at 0, 8, ... 48; and 56 to 68 for 64 to 68 */
  check_ok(run_evaluate(&c, &score));
  assert_int_equal(score.n_token, 68);
  close_case(&c);
}

/* What is done of an evaluation is kept by model and data set. */
static void test_evaluate_resume(void **state)
{
  (void)state;
  plan_case          c;
  ingot_score        scores[2], again[2];
  ingot_merge_timing timing;
  open_case(&c, "gpt2");
  ingot_gather_data two[2] = {c.data, c.data};
  c.plan.data = two;
  c.plan.n_data = 2;
  c.plan.batch = 1;
  check_ok(ingot_fault_init("read@0:6", 0)); /* in the second data set */
  check_fails(ingot_evaluate_run(c.comm, &c.plan, &c.options, scores, &timing), INGOT_ERR_IO, "");
  check_ok(ingot_fault_init("read@0:5", 0)); /* four windows are left */
  check_ok(ingot_evaluate_run(c.comm, &c.plan, &c.options, scores, &timing));
  assert_int_equal(timing.tiles_resumed, N_WINDOW);
  check_ok(ingot_fault_init(NULL, 0));
  c.options.fresh = true;
  check_ok(ingot_evaluate_run(c.comm, &c.plan, &c.options, again, &timing));
  assert_int_equal(timing.tiles_resumed, 0);
  for (int i = 0; i < 2; i++) assert_true(again[i].nll == scores[i].nll && again[i].n_right == scores[i].n_right);
  close_case(&c);
}

static void test_bad_data(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score;
  char        path[SCRATCH_PATH];
  uint16_t    ids[N_WINDOW * LENGTH] = {0};
  open_case(&c, "gpt2");
  ids[40] = 67;
  scratch_write(&c.s, "big.u16", ids, sizeof ids);
  c.data.path = scratch_path(&c.s, "big.u16", path);
  check_fails(run_evaluate(&c, &score), INGOT_ERR_FORMAT,
              "big.u16: token 40 is 67, and ids go from 0 to 66 (the model's vocabulary)");
  c.data.n_window = 3;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_FORMAT, "the file was changed after it was looked at");
  c.plan.window.length = 128; /* the model has 64 positions */
  static uint16_t zeros[256];
  scratch_write(&c.s, "big.u16", zeros, sizeof zeros);
  c.data.n_window = 2;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_MISMATCH, "windows of 128 tokens, and the model has ");
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_evaluate),
      cmocka_unit_test(test_evaluate_overlap),
      cmocka_unit_test(test_evaluate_resume),
      cmocka_unit_test(test_bad_data),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
