/* What all statistics share: stops and saved states, values that are not finite, plans that do not fit. */
#define _XOPEN_SOURCE 700
#include "tests/workers/statistics/gather_case.h"

/* Stopped before its third window, a run goes on from there to the same bytes; states that do not fit are left. */
static void test_stop_and_resume(void **state)
{
  (void)state;
  for (int kind = 0; kind < 2; kind++) {
    plan_case c;
    char      first[PATH + 8], saved[PATH + 32];
    open_case(&c, "llama_bias_tied");
    c.plan.outputs = kind == 1;
    if (kind == 0) fisher_tensors(&c);
    else gram_tensors(&c);
    c.plan.batch = 1;
    ingot_status (*run)(plan_case *) = kind == 0 ? run_fisher : run_gram;
    snprintf(first, sizeof first, "%s.first", c.output);
    snprintf(saved, sizeof saved, "%s.state.0-of-1", c.output);
    check_ok(run(&c));
    assert_int_equal(rename(c.output, first), 0);

    run_until_stop(&c, run, "stop@0:3");
    assert_int_equal(access(saved, F_OK), 0);
    assert_int_not_equal(access(c.output, F_OK), 0);
    /* three windows are done: a read that fails at the second one of the rest would be the fifth of four */
    check_ok(ingot_fault_init("read@0:2", 0));
    check_ok(run(&c));
    check_same_file(c.output, first);

    /* of other settings; and damaged: begun anew, with the same result */
    c.plan.fingerprint++;
    check_ok(ingot_fault_init("read@0:4", 0));
    check_fails(run(&c), INGOT_ERR_IO, "");
    c.plan.fingerprint--;
    FILE *f = fopen(saved, "r+b");
    assert_non_null(f);
    assert_int_equal(fseek(f, 200, SEEK_SET), 0);
    assert_int_equal(fputc(77, f), 77);
    fclose(f);
    check_ok(ingot_fault_init("read@0:4", 0));
    check_fails(run(&c), INGOT_ERR_IO, "");
    check_ok(ingot_fault_init(NULL, 0));
    check_ok(run(&c));
    check_same_file(c.output, first);
    check_ok(ingot_gather_forget(c.output));
    assert_int_not_equal(access(saved, F_OK), 0);
    close_case(&c);
  }
}

/* A copy of the model with weights of the final norm so large that logits are infinite. */
static void break_model(plan_case *c, char path[SCRATCH_PATH])
{
  char  *bytes, from[PATH + 32];
  size_t size;
  scratch_mkdir(&c->s, "bad");
  snprintf(from, sizeof from, "%s/config.json", c->model_path);
  read_file(from, &bytes, &size);
  scratch_write(&c->s, "bad/config.json", bytes, size);
  free(bytes);
  snprintf(from, sizeof from, "%s/model.safetensors", c->model_path);
  read_file(from, &bytes, &size);
  memset(bytes + size - 8, 0x7f, 8); /* two float32 of 3.4e38 */
  scratch_write(&c->s, "bad/model.safetensors", bytes, size);
  free(bytes);
  scratch_path(&c->s, "bad", path);
}

static void test_not_finite(void **state)
{
  (void)state;
  plan_case   c;
  ingot_score score;
  char        path[SCRATCH_PATH], partial[PATH + 16];
  open_case(&c, "llama_bias_tied");
  break_model(&c, path);
  c.model.path = path;
  check_fails(run_evaluate(&c, &score), INGOT_ERR_NUMERIC, "tokens.u16: the loss is not finite");
  assert_non_null(strstr(ingot_error_message(), "window 1 of 4 of "));
  fisher_tensors(&c);
  check_fails(run_fisher(&c), INGOT_ERR_NUMERIC, "the loss is not finite");
  free(c.tensors);
  c.plan.head = true;
  gram_tensors(&c);
  check_fails(run_gram(&c), INGOT_ERR_NUMERIC, "model.embed_tokens.weight: the mean of element 14 is not finite");
  assert_int_not_equal(access(c.output, F_OK), 0);
  snprintf(partial, sizeof partial, "%s.partial", c.output);
  assert_int_not_equal(access(partial, F_OK), 0); /* another run would find the same: nothing is kept */
  close_case(&c);
}

static void test_plan_mismatch(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  fisher_tensors(&c);
  c.plan.sink.n_tensor--;
  check_fails(run_fisher(&c), INGOT_ERR_MISMATCH, "28 parameters, and the plan has 27");
  close_case(&c);
}

/* Bytes grow with what is held. */
static void test_bytes(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  uint64_t evaluate = ingot_evaluate_bytes(&c.plan, &c.spec), fisher = ingot_fisher_bytes(&c.plan, &c.spec, &c.layout);
  uint64_t inputs = ingot_gram_bytes(&c.plan, &c.spec, &c.layout);
  /* of a token five 32-bit numbers, its loss and its likeliest token; a double a window */
  uint64_t rows = (uint64_t)c.plan.batch * (uint64_t)c.plan.window.length, most = 0;
  for (int i = 0; i < c.plan.n_data; i++)
    if ((uint64_t)c.plan.data[i].n_window > most) most = (uint64_t)c.plan.data[i].n_window;
  assert_int_equal(ingot_evaluate_host_bytes(&c.plan), rows * 7 * 4 + most * 8);
  assert_true(ingot_fisher_host_bytes(&c.plan, &c.layout, c.spec.n_vocab, 2) > (uint64_t)c.plan.window.length * 6 * 4);
  c.plan.outputs = true;
  uint64_t both = ingot_gram_bytes(&c.plan, &c.spec, &c.layout), weights = (uint64_t)c.layout.n_elem * 4;
  assert_true(evaluate > weights && fisher > 2 * weights && inputs > weights && both > inputs);
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_stop_and_resume),
      cmocka_unit_test(test_not_finite),
      cmocka_unit_test(test_plan_mismatch),
      cmocka_unit_test(test_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
