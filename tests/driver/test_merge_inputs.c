#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#define EMBED "model.embed_tokens.weight"
#define Q "model.layers.0.self_attn.q_proj.weight"
#define HEAD "lm_head.weight"
#define JOB(body)                                          \
  "models = { a = \"a\"; b = \"b\"; base = \"base\"; };\n" \
  "steps = (\n  { type = \"merge\"; output = \"out/x.h5\";\n" body " }\n);\n"
#define LINEAR "method = \"linear\"; models = ( \"a\", \"b\" ); parameters = { weight = 0.5; };"
#define TIES "method = \"ties\"; base = \"base\"; models = ( \"a\", \"b\" ); parameters = { weight = 0.5; };"
#define CROP " embeddings = \"crop\";"
#define TOKENS(more) "{\"model\": {\"vocab\": {\"x\": 0, \"y\": 1, \"z\": 2, \"u\": 3, \"v\": 4" more "}}}"

/* ---- embeddings ---- */

static void make_rows(driver_case *c, const char *name, int rows)
{
  char              embed[64], head[64], config[128];
  const char *const tensors[] = {embed, Q ":F32:2,2", "model.norm.weight:F32:2", head};
  snprintf(embed, sizeof embed, EMBED ":F32:%d,2", rows);
  snprintf(head, sizeof head, HEAD ":F32:%d,2", rows);
  snprintf(config, sizeof config, "{\"num_hidden_layers\": 1, \"vocab_size\": %d}", rows);
  case_model(c, name, config, tensors, 4);
}

static const char *file_text(const driver_case *c, const char *name)
{
  const ingot_sink_spec *sink = &case_merge(c, 1)->sink;
  for (int i = 0; i < sink->n_file; i++)
    if (strcmp(sink->files[i].name, name) == 0) return sink->files[i].bytes;
  fail_msg("the output has no %s", name);
  return "";
}

static void check_rows(const driver_case *c, int64_t rows)
{
  const char *const names[] = {EMBED, HEAD};
  for (int i = 0; i < 2; i++) {
    const ingot_merge_tensor *t = case_tensor(c, names[i]);
    assert_int_equal(t->view.shape.dim[0], rows);
    assert_int_equal(t->view.shape.dim[1], 2);
    assert_int_equal(t->view.n_elem, 2 * rows);
  }
}

static void test_rows_refused(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 5);
  make_rows(c, "b", 8);
  check_fails(case_plan(c, JOB(LINEAR)), INGOT_ERR_MISMATCH, "vocab_size is 5 in \"a\"");
  check_fails(case_plan(c, JOB(LINEAR " vocabulary = \"ignore\";")), INGOT_ERR_MISMATCH,
              "tensor " EMBED ": [8, 2] in \"b\" (");
  assert_message(ingot_error_message(), "(embeddings = \"crop\" merges the rows that all have)");
}

static void test_rows_cropped(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 7);
  make_rows(c, "b", 5);
  check_ok(case_plan(c, JOB(LINEAR CROP)));
  check_rows(c, 5);
  assert_non_null(strstr(file_text(c, "config.json"), "\"vocab_size\": 5"));
  /* two tensors of 10, q of 4, norm of 2, of 4 bytes each, in both models */
  assert_int_equal(c->planner.steps[0].bytes_read, 2 * 26 * 4);
  assert_int_equal(c->planner.steps[0].bytes_written, 26 * 4);
  const char *recipe = c->planner.steps[0].recipe;
  assert_non_null(strstr(recipe, "\"embeddings\": \"crop\""));
  assert_non_null(strstr(recipe, "\"a\": 7"));
  assert_null(strstr(recipe, "\"b\": 5")); /* not cropped */
}

static void test_nothing_to_crop(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 5);
  make_rows(c, "b", 5);
  check_ok(case_plan(c, JOB(LINEAR)));
  uint64_t fingerprint = c->planner.steps[0].fingerprint;
  check_ok(case_plan(c, JOB(LINEAR CROP)));
  assert_true(c->planner.steps[0].fingerprint ==
              fingerprint); /* the setting changes nothing: neither does it the result's name */
  assert_null(strstr(c->planner.steps[0].recipe, "crop"));
}

/* A base larger than a model: its rows beyond the model's have no task vector. */
static void test_larger_base(void **state)
{
  driver_case *c = *state;
  make_rows(c, "base", 8);
  make_rows(c, "a", 6);
  make_rows(c, "b", 7);
  check_ok(case_plan(c, JOB(TIES CROP)));
  check_rows(c, 6);
  assert_non_null(strstr(file_text(c, "config.json"), "\"vocab_size\": 6"));
}

static void test_other_shapes_stay_errors(void **state)
{
  static const char *const wide[] = {EMBED ":F32:5,3", Q ":F32:2,2"}, *const a[] = {EMBED ":F32:5,2", Q ":F32:2,2"};
  static const char *const places_a[] = {"wpe.weight:F32:8,2", Q ":F32:2,2"}, *const places_b[] = {"wpe.weight:F32:9,2",
                                                                                                   Q ":F32:2,2"};
  static const char *const layer_b[] = {EMBED ":F32:5,2", Q ":F32:3,2"};
  driver_case             *c = *state;
  case_model(c, "a", "{}", a, 2);
  case_model(c, "b", "{}", wide, 2);
  check_fails(case_plan(c, JOB(LINEAR CROP)), INGOT_ERR_MISMATCH, "tensor " EMBED ": [5, 3] in \"b\" (");
  case_model(c, "b", "{}", layer_b, 2);
  check_fails(case_plan(c, JOB(LINEAR CROP)), INGOT_ERR_MISMATCH, "tensor " Q ": [3, 2] in \"b\" (");
  case_model(c, "a", "{}", places_a, 2);
  case_model(c, "b", "{}", places_b, 2);
  check_fails(case_plan(c, JOB(LINEAR CROP)), INGOT_ERR_MISMATCH, "tensor wpe.weight: [9, 2] in \"b\" (");
}

/* Of the tokens only those that have a row are compared. */
static void test_cropped_tokens(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 5);
  make_rows(c, "b", 7);
  case_file(c, "a", "tokenizer.json", TOKENS(""));
  case_file(c, "b", "tokenizer.json", TOKENS(", \"<pad>\": 5"));
  check_ok(case_plan(c, JOB(LINEAR CROP)));
  case_file(c, "b", "tokenizer.json", "{\"model\": {\"vocab\": {\"x\": 0, \"y\": 1, \"z\": 2, \"v\": 3, \"u\": 4}}}");
  check_fails(case_plan(c, JOB(LINEAR CROP)), INGOT_ERR_MISMATCH, "different vocabularies: 2 tokens of \"a\" (");
  check_ok(case_plan(c, JOB(LINEAR CROP " vocabulary = \"ignore\";")));
}

/* Stacked layers: embeddings of the first slice and head of the last have the same rows. */
static void test_cropped_slices(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 7);
  make_rows(c, "b", 5);
  check_ok(
      case_plan(c, JOB("method = \"passthrough\"; slices = ( { sources = ( { model = \"a\"; layers = [0, 1]; } ); },"
                       "{ sources = ( { model = \"b\"; layers = [0, 1]; } ); } );" CROP)));
  check_rows(c, 5);
  assert_true(case_tensor(c, EMBED)->copy);
  assert_non_null(strstr(file_text(c, "config.json"), "\"vocab_size\": 5"));
}

/* Fisher information has the shape of its model's tensor, and is cropped as that is. */
static void test_cropped_fisher(void **state)
{
  driver_case *c = *state;
  make_rows(c, "a", 7);
  make_rows(c, "b", 5);
  make_rows(c, "fisher-a", 7);
  make_rows(c, "fisher-b", 5);
  check_ok(case_plan(c, JOB("method = \"fisher\"; models = ( { model = \"a\"; statistics = \"fisher-a\"; },"
                            "{ model = \"b\"; statistics = \"fisher-b\"; } );" CROP)));
  check_rows(c, 5);
  assert_int_equal(case_tensor(c, EMBED)->view.n_statistic, 2);
  assert_int_equal(c->planner.steps[0].bytes_read, 4 * 26 * 4);
  make_rows(c, "fisher-b", 4);
  check_fails(case_plan(c, JOB("method = \"fisher\"; models = ( { model = \"a\"; statistics = \"fisher-a\"; },"
                               "{ model = \"b\"; statistics = \"fisher-b\"; } );" CROP)),
              INGOT_ERR_MISMATCH, "tensor " EMBED " is [4, 2], and the parameter [5, 2]");
}

/* ---- scales ---- */

#define W "model.layers.0.mlp.up_proj.weight"

static void check_quantized(driver_case *c, const char *const *tensors, const char *message)
{
  case_model(c, "a", "{}", tensors, 2);
  case_model(c, "b", "{}", tensors, 2);
  check_fails(case_plan(c, JOB(LINEAR)), INGOT_ERR_MISMATCH, message);
  assert_message(ingot_error_message(), "\"a\" (");
  assert_message(ingot_error_message(), "(scales = \"ignore\" merges both as they are stored)");
  check_ok(case_plan(c, JOB(LINEAR " scales = \"ignore\";")));
  assert_non_null(strstr(c->planner.steps[0].recipe, "\"scales\": \"ignore\""));
}

static void test_scales(void **state)
{
  static const char *const blocks[] = {W ":F8_E4M3:4,4", W "_scale_inv:F32:1,1"};
  static const char *const rows[] = {W ":F8_E5M2:4,4", W "_scale:BF16:4,1"};
  static const char *const integers[] = {W ":I8:4,4", W "_scale:F32:4,1"};
  static const char *const packed[] = {W "_packed:I32:4,1", W "_scale:F32:4,1"};
  static const char *const four_bits[] = {W ":U8:8,1", W ".absmax:F32:1"};
  static const char *const groups[] = {"h.0.qweight:I32:1,4", "h.0.scales:F16:1,4"};
  driver_case             *c = *state;
  check_quantized(c, blocks, W " (F8_E4M3) has scales (" W "_scale_inv), which a merge does not apply");
  check_quantized(c, rows, W " (F8_E5M2) has scales (" W "_scale)");
  check_quantized(c, integers, W " (I8) has scales (" W "_scale)");
  check_quantized(c, packed, W "_packed (I32) has scales (" W "_scale)");
  check_quantized(c, four_bits, W " (U8) has scales (" W ".absmax)");
  check_quantized(c, groups, "h.0.qweight (I32) has scales (h.0.scales)");
}

/* Layers of a quantized model may be stacked: nothing is computed. A factor would go into weights and scales. */
static void test_scales_copied(void **state)
{
  static const char *const tensors[] = {W ":F8_E4M3:4,4", W "_scale_inv:F32:1,1"};
  driver_case             *c = *state;
  case_model(c, "a", "{}", tensors, 2);
  check_ok(case_plan(c, JOB("method = \"passthrough\"; models = ( \"a\" );")));
  check_fails(case_plan(c, JOB("method = \"passthrough\"; models = ( { model = \"a\"; scale = 0.5; } );")),
              INGOT_ERR_MISMATCH, " is quantized: ");
  check_fails(case_plan(c, JOB("method = \"passthrough\"; models = ( \"a\" ); dtype = \"bfloat16\";")),
              INGOT_ERR_MISMATCH, " is quantized: ");
}

/* Names alone say nothing: floating-point weights, scales of something else, FP8 without scales. */
static void test_no_scales(void **state)
{
  static const char *const tensors[] = {W ":BF16:4,4", W "_scale:F32:4,1", "logit_scale:F32:", "x.k_scale:F32:1",
                                        "y.weight:F8_E4M3:4"};
  driver_case             *c = *state;
  case_model(c, "a", "{}", tensors, 5);
  case_model(c, "b", "{}", tensors, 5);
  check_ok(case_plan(c, JOB(LINEAR)));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, case_setup, case_teardown)

int main(void)
{
  const struct CMUnitTest tests[] = {
      TEST(test_rows_refused),
      TEST(test_rows_cropped),
      TEST(test_nothing_to_crop),
      TEST(test_larger_base),
      TEST(test_other_shapes_stay_errors),
      TEST(test_cropped_tokens),
      TEST(test_cropped_slices),
      TEST(test_cropped_fisher),
      TEST(test_scales),
      TEST(test_scales_copied),
      TEST(test_no_scales),
  };
  return cmocka_run_group_tests_name("driver/merge_inputs", tests, NULL, NULL);
}
