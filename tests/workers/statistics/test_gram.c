/* Gram matrices of whole models against PyTorch, in one pass over the data and in several. */
#define _XOPEN_SOURCE 700
#include "tests/workers/statistics/gather_case.h"

/* The reference's matrices are full, ours the upper triangle by rows. */
static int check_triangles(const plan_case *c, const char *prefix, bool outputs, double limit)
{
  ingot_source *out = NULL;
  int           n_checked = 0;
  check_ok(ingot_source_open(c->output, &out));
  for (int i = 0; i < ingot_source_count(out); i++) {
    const char *name = ingot_source_tensor(out, i)->name;
    size_t      length = strlen(name);
    bool        is_output = length > 7 && strcmp(name + length - 7, "#output") == 0;
    char        wanted[160];
    int64_t     n, n_expected, k = 0;
    if (is_output != outputs) continue;
    snprintf(wanted, sizeof wanted, "%s/%.*s", prefix, (int)(is_output ? length - 7 : length), name);
    if (strstr(name, "embed_tokens") || strstr(name, "wte"))
      snprintf(wanted, sizeof wanted, "%s/lm_head.weight", prefix);
    float  *found = read_all(out, name, &n), *expected = read_all(c->reference, wanted, &n_expected);
    int64_t width = (int64_t)sqrt((double)n_expected);
    assert_int_equal(width * width, n_expected);
    assert_int_equal(n, width * (width + 1) / 2);
    for (int64_t row = 0; row < width; row++)
      for (int64_t column = row; column < width; column++) expected[k++] = expected[row * width + column];
    check_close(wanted, found, expected, n, limit);
    free(found);
    free(expected);
    n_checked++;
  }
  ingot_source_close(&out);
  return n_checked;
}

static void test_gram(void **state)
{
  (void)state;
  static const char *const names[] = {"llama_bias_tied", "gpt2"};
  static const int         n_input[] = {4, 4}, n_output[] = {7, 4}; /* a layer */
  for (int i = 0; i < 2; i++) {
    for (int64_t batch = 1; batch <= 3; batch += 2) {
      plan_case c;
      open_case(&c, names[i]);
      c.plan.head = c.plan.outputs = true;
      c.plan.batch = batch;
      gram_tensors(&c);
      check_ok(run_gram(&c));
      assert_int_equal(check_triangles(&c, "gram", false, 1e-5), n_input[i] * c.spec.n_layer + 1);
      assert_int_equal(check_triangles(&c, "output", true, 1e-4), n_output[i] * c.spec.n_layer);
      close_case(&c);
    }
  }
}

/* Without head and outputs: inputs alone, and no logits. */
static void test_gram_inputs(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  gram_tensors(&c);
  check_ok(run_gram(&c));
  assert_int_equal(check_triangles(&c, "gram", false, 1e-5), 4 * c.spec.n_layer);
  close_case(&c);
}

/* Matrices that do not fit take several passes over the data; stopped in the second one, and gone on with. */
static void test_gram_passes(void **state)
{
  (void)state;
  plan_case c;
  char      first[PATH + 8];
  open_case(&c, "llama_bias_tied");
  c.plan.head = c.plan.outputs = true;
  c.plan.batch = 1;
  gram_tensors(&c);
  snprintf(first, sizeof first, "%s.first", c.output);
  assert_int_equal(ingot_gram_passes(&c.plan, &c.layout), 1);
  check_ok(run_gram(&c));
  assert_int_equal(rename(c.output, first), 0);

  c.plan.sums_bytes = 1; /* one matrix at a time */
  assert_int_equal(ingot_gram_passes(&c.plan, &c.layout), c.plan.sink.n_tensor);
  c.plan.sums_bytes = ingot_gram_sums_bytes(&c.plan, &c.layout) * 4;
  const int n_pass = ingot_gram_passes(&c.plan, &c.layout);
  assert_true(n_pass > 2 && n_pass < c.plan.sink.n_tensor);
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  assert_int_equal(unlink(c.output), 0);

  run_until_stop(&c, run_gram, "stop@0:6");
  char fault[32]; /* six windows are done: one read more than what is left would be an error */
  snprintf(fault, sizeof fault, "read@0:%d", n_pass * N_WINDOW - 6 + 1);
  check_ok(ingot_fault_init(fault, 0));
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  check_ok(ingot_gather_forget(c.output));

  /* what was written is lost: begun anew */
  char partial[PATH + 16];
  snprintf(partial, sizeof partial, "%s.partial", c.output);
  assert_int_equal(unlink(c.output), 0);
  run_until_stop(&c, run_gram, "stop@0:6");
  assert_int_equal(unlink(partial), 0);
  check_ok(ingot_fault_init(NULL, 0));
  check_ok(run_gram(&c));
  check_same_file(c.output, first);
  close_case(&c);
}

/*
 * By hand: 5 arrays of 4 bytes a token of a batch; of each thread's tile what the widest matrix's triangle fills: a sum
 * in float64 and its mean in float32, or from a GPU two of float32.
 */
static void test_gram_host_bytes(void **state)
{
  (void)state;
  plan_case c;
  open_case(&c, "gpt2");
  uint64_t widest = 0, batch = 5 * 4 * 3 * LENGTH;
  for (int i = 0; i < c.layout.n_linear; i++)
    if (c.layout.linears[i].layer >= 0 && (uint64_t)c.layout.linears[i].n_in > widest)
      widest = (uint64_t)c.layout.linears[i].n_in;
  uint64_t triangle = widest * (widest + 1) / 2;
  assert_true(triangle > 0 && triangle < (uint64_t)INGOT_TILE);
  assert_int_equal(ingot_gram_host_bytes(&c.plan, &c.layout, 16, false), batch + triangle * 12);
  assert_int_equal(ingot_gram_host_bytes(&c.plan, &c.layout, 16, true), batch + triangle * 8);
  close_case(&c);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gram),
      cmocka_unit_test(test_gram_inputs),
      cmocka_unit_test(test_gram_passes),
      cmocka_unit_test(test_gram_host_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
