#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#define MODELS "models = { a = \"a\"; b = { path = \"/abs/b\"; }; base = \"base\"; };\n"
#define STEP(body) MODELS "steps = (\n  { type = \"merge\"; output = \"out/x.h5\";\n" body " }\n);\n"
#define LINEAR \
  STEP("method = \"linear\"; models = ( { model = \"a\"; weight = 1.0; }, { model = \"b\"; weight = 2.0; } );")

static const ingot_merge_settings *settings(const driver_case *c)
{
  return c->job.steps[0].settings;
}

static void test_reads_settings(void **state)
{
  driver_case *c = *state;
  check_ok(case_job(c, "name = \"n\"; seed = 42;\n" LINEAR, NULL, 0));
  const ingot_merge_settings *s = settings(c);
  char                        path[SCRATCH_PATH];
  assert_string_equal(c->job.name, "n");
  assert_int_equal(c->job.seed, 42);
  assert_int_equal(c->job.n_model, 3);
  assert_string_equal(c->job.models[0].path, scratch_path(&c->dir, "a", path)); /* beside the job file */
  assert_string_equal(c->job.models[1].path, "/abs/b");
  assert_string_equal(c->job.steps[0].output, scratch_path(&c->dir, "out/x.h5", path));
  assert_string_equal(s->method->name, "linear");
  assert_int_equal(s->seed, 42);
  assert_int_equal(s->n_model, 2);
  assert_string_equal(s->models[1].ref.id, "b");
  assert_true(s->keep_dtype);
  assert_true(s->durable);
  assert_int_equal(s->shard_bytes, 5000000000u);
  assert_int_equal(s->nonfinite, INGOT_NONFINITE_FAIL);
}

static void test_other_settings(void **state)
{
  driver_case *c = *state;
  check_ok(case_job(
      c,
      STEP("method = \"linear\"; models = ( \"a\", \"b\" ); parameters = { weight = 1; }; seed = 3;"
           "dtype = \"BF16\"; nonfinite = \"zero\"; missing = \"skip\"; tied = \"keep\"; vocabulary = \"ignore\";"
           "shard_size = \"2.5MiB\"; memory_limit = 1000; durable = false; config_from = \"base\";"),
      NULL, 0));
  const ingot_merge_settings *s = settings(c);
  assert_false(s->keep_dtype);
  assert_int_equal(s->dtype, INGOT_DTYPE_BF16);
  assert_int_equal(s->seed, 3);
  assert_int_equal(s->nonfinite, INGOT_NONFINITE_ZERO);
  assert_int_equal(s->missing, INGOT_MISSING_SKIP);
  assert_int_equal(s->tied, INGOT_TIED_KEEP);
  assert_int_equal(s->vocabulary, INGOT_VOCABULARY_IGNORE);
  assert_int_equal(s->shard_bytes, 2621440);
  assert_int_equal(s->memory_limit_bytes, 1000);
  assert_false(s->durable);
  assert_string_equal(s->config.id, "base");
}

static void test_io(void **state)
{
  driver_case *c = *state;
  check_ok(case_job(c, LINEAR, NULL, 0));
  assert_int_equal(c->job.io.n_stripe, 0);
  assert_int_equal(c->job.io.stripe_bytes, 0);
  assert_int_equal(c->job.io.n_hint, 0);
  const char *const set = "io.striping_factor=65535"; /* the group need not be there */
  check_ok(case_job(c, LINEAR, &set, 1));
  assert_int_equal(c->job.io.n_stripe, 65535);
  check_ok(case_job(c,
                    "io = { striping_factor = 8; striping_unit = \"4MiB\";\n"
                    "hints = { cb_nodes = 2; romio_cb_write = \"enable\"; vendors_own = \"x\"; }; };\n" LINEAR,
                    NULL, 0));
  assert_int_equal(c->job.io.n_stripe, 8);
  assert_int_equal(c->job.io.stripe_bytes, 4194304);
  assert_int_equal(c->job.io.n_hint, 3);
  assert_string_equal(c->job.io.hints[0].name, "cb_nodes");
  assert_string_equal(c->job.io.hints[0].value, "2");
  assert_string_equal(c->job.io.hints[1].value, "enable");
  assert_string_equal(c->job.io.hints[2].name, "vendors_own"); /* near none that we know: passed on */
}

static void test_io_errors(void **state)
{
  static const struct {
    const char *io, *message;
  } cases[] = {
      {"io = 1;", "job.cfg:1: io: expected a group { }, found"},
      {"io = { striping_factor = 65536; };", "io.striping_factor: 65536 is out of range: 0 to 65535"},
      {"io = { striping_factor = -1; };", "io.striping_factor: -1 is out of range: 0 to 65535"},
      {"io = { striping_unit = 32768; };",
       "io.striping_unit: expected a power of two from 64KiB to 1GiB, or 0, found 32768"},
      {"io = { striping_unit = \"3MiB\"; };",
       "io.striping_unit: expected a power of two from 64KiB to 1GiB, or 0, found 3145728"},
      {"io = { striping_unit = \"2GiB\"; };",
       "io.striping_unit: expected a power of two from 64KiB to 1GiB, or 0, found 2147483648"},
      {"io = { striping_unit = \"big\"; };", "io.striping_unit: expected bytes"},
      {"io = { stripe_factor = 1; };",
       "io.stripe_factor: unknown key \"stripe_factor\"; did you mean \"striping_factor\"?"},
      {"io = { hints = ( ); };", "io.hints: expected a group { }, found"},
      {"io = { hints = { cb_node = 1; }; };", "io.hints.cb_node: unknown hint \"cb_node\"; did you mean \"cb_nodes\"?"},
      {"io = { hints = { striping_unit = 1; }; };",
       "io.hints.striping_unit: not among the hints: striping_unit is a key of io"},
      {"io = { hints = { stripe_width = 1; }; };",
       "io.hints.stripe_width: not among the hints: striping_factor is a key of io"},
      {"io = { hints = { cb_nodes = 1.5; }; };", "io.hints.cb_nodes: expected a string or a whole number, found"},
      {"io = { hints = { cb_nodes = \"\"; }; };",
       "io.hints.cb_nodes: a hint has a name of 1 to 35 characters and a value of 1 to 255"},
      {"io = { hints = { the_own_hint_of_a_vendor_of_file_systems_x = 1; }; };", "a name of 1 to 35 characters"},
  };
  driver_case *c = *state;
  char         text[1024];
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    snprintf(text, sizeof text, "%s\n%s", cases[i].io, LINEAR);
    check_fails(case_job(c, text, NULL, 0), INGOT_ERR_JOB, cases[i].message);
  }
}

static void test_include(void **state)
{
  driver_case *c = *state;
  scratch_text(&c->dir, "models.cfg", MODELS);
  check_ok(case_job(c, "@include \"models.cfg\"\nsteps = ( { type = \"export\"; model = \"a\"; output = \"x\"; } );",
                    NULL, 0));
  assert_int_equal(c->job.n_model, 3);
  scratch_text(&c->dir, "models.cfg", "models = { a = 1; };\n\n\nfoo = 1;\n");
  ingot_status st =
      case_job(c, "@include \"models.cfg\"\nsteps = ( { type = \"export\"; model = \"a\"; output = \"x\"; } );", NULL,
               0);
  assert_int_equal(st, INGOT_ERR_JOB);
  assert_message(ingot_error_message(), "models.cfg:4: foo: unknown key \"foo\""); /* the line of the included file */
  assert_message(ingot_error_message(), "models.cfg:1: models.a: expected a path");
  scratch_text(&c->dir, "loop.cfg", "@include \"loop.cfg\"\n");
  check_fails(case_job(c, "@include \"loop.cfg\"\n", NULL, 0), INGOT_ERR_JOB, "nested more than 10 deep");
}

static void test_all_problems_at_once(void **state)
{
  driver_case *c = *state;
  check_fails(case_job(c, "sed = 1;\n" STEP("method = \"linaer\";\n models = ( \"q\" ); nonfinite = 3;"), NULL, 0),
              INGOT_ERR_JOB, "job.cfg:1: sed: unknown key \"sed\"; did you mean \"seed\"?");
  assert_message(ingot_error_message(),
                 "job.cfg:5: steps[0].method: unknown method \"linaer\"; did you mean \"linear\"?");
  assert_message(ingot_error_message(), "job.cfg:6: steps[0].models[0]: \"q\" is neither");
  assert_message(ingot_error_message(), "job.cfg:6: steps[0].nonfinite: expected a string, one of fail|keep|zero");
}

static void test_unreadable(void **state)
{
  driver_case *c = *state;
  char         path[SCRATCH_PATH];
  check_fails(ingot_job_read(scratch_path(&c->dir, "none.cfg", path), NULL, 0, &c->job), INGOT_ERR_JOB,
              "none.cfg: cannot read the file: no such file");
  ingot_job_release(&c->job);
  check_fails(ingot_job_read(c->dir.dir, NULL, 0, &c->job), INGOT_ERR_JOB, "not a file");
  ingot_job_release(&c->job);
  scratch_write(&c->dir, "zero.cfg", "a = 1;\0b = 2;", 13);
  check_fails(ingot_job_read(scratch_path(&c->dir, "zero.cfg", path), NULL, 0, &c->job), INGOT_ERR_JOB, "a zero byte");
  ingot_job_release(&c->job);
  scratch_text(&c->dir, "mark.cfg", "\xef\xbb\xbf" LINEAR);
  check_fails(ingot_job_read(scratch_path(&c->dir, "mark.cfg", path), NULL, 0, &c->job), INGOT_ERR_JOB,
              "mark.cfg: begins with a byte order mark");
}

/* libconfig cuts whole numbers without an L behind them to 32 bits. */
static void test_wide_numbers(void **state)
{
  static const struct {
    const char *text, *message;
  } cases[] = {
      {"seed = 2147483648;", "job.cfg:1: the whole number 2147483648 has more than 32 bits: it needs an L behind it"},
      {"/* 9999999999\n */ seed = 9007199254740993;",
       "job.cfg:2: the whole number 9007199254740993 has more than 32 bits"},
      {"seed = 0x1ffffffff;", "the whole number 0x1ffffffff has more than 32 bits"},
      {"seed = 9223372036854775808L;", "the whole number 9223372036854775808 has more than 64 bits"},
      {"name = \"a\\\"9999999999\"; # 9999999999\nseed = -2147483649;",
       "job.cfg:2: the whole number -2147483649 has more"},
      {"@include \"wide.cfg\"", "wide.cfg:2: the whole number 4294967297 has more than 32 bits"},
  };
  driver_case *c = *state;
  char         text[1024];
  scratch_text(&c->dir, "wide.cfg", "\nseed = 4294967297;\n");
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    snprintf(text, sizeof text, "%s\n%s", cases[i].text, LINEAR);
    check_fails(case_job(c, text, NULL, 0), INGOT_ERR_JOB, cases[i].message);
  }
  const char *const wide = "seed=4294967296", *const fits = "seed=9007199254740993L";
  check_fails(case_job(c, LINEAR, &wide, 1), INGOT_ERR_JOB, "the whole number 4294967296 has more than 32 bits");
  check_ok(case_job(c, "name = \"9999999999\"; // 9999999999\n" LINEAR, &fits, 1));
  assert_int_equal(c->job.seed, 9007199254740993);
  check_ok(case_job(c,
                    "seed = 2147483647;\n" STEP(
                        "method = \"linear\"; models = ( \"a\", \"b\" ); parameters = { weight = 99999999999.5; };"),
                    NULL, 0));
  assert_int_equal(c->job.seed, 2147483647);
}

static void test_set(void **state)
{
  driver_case      *c = *state;
  const char *const set[] = {"seed=7",
                             "models.a=\"elsewhere\"",
                             "models.new={ path = \"n\"; }",
                             "steps[0].parameters.normalize=false",
                             "steps[0].models[1].weight=[0.5, 1.5]",
                             "seed=8"};
  check_ok(case_job(c, LINEAR, set, 6));
  const ingot_merge_settings *s = settings(c);
  char                        path[SCRATCH_PATH];
  assert_int_equal(c->job.seed, 8); /* the last one counts */
  assert_int_equal(c->job.n_model, 4);
  assert_string_equal(c->job.models[0].path, scratch_path(&c->dir, "elsewhere", path));
  assert_string_equal(c->job.models[3].path, scratch_path(&c->dir, "n", path));
  double                 value = -1.0;
  const ingot_param_set *params = &s->models[1].params;
  for (int i = 0; i < params->n_param; i++)
    if (params->value[i]) assert_true(ingot_param_value_at(params->value[i], "x", 0.25, &value));
  assert_true(value == 0.75);
}

static void test_set_errors(void **state)
{
  static const struct {
    const char *set, *message;
  } cases[] = {
      {"seed", "\"seed\" is not key=value"},
      {"=1", "\"=1\" is not key=value"},
      {"models.a=x", "a string needs its quotes"},
      {"seed=1; name=\"y\"", "the value is not one in job-file syntax"},
      {"steps[3].seed=1", "no element [3] in a list of 1"},
      {"seed[0]=1", "[0] follows what is not a list"},
      {"seed.x=1", "x follows what is not a group"},
      {"a..b=1", "is not a path"},
      {"steps[x]=1", "is not a path"},
  };
  driver_case *c = *state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
    check_fails(case_job(c, "seed = 1;\n" LINEAR, &cases[i].set, 1), INGOT_ERR_USAGE, cases[i].message);
  const char *const wrong = "steps[0].parameters.normalise=true"; /* good syntax, unknown parameter */
  check_fails(case_job(c, LINEAR, &wrong, 1), INGOT_ERR_JOB, "--set: steps[0].parameters.normalise: unknown parameter");
}

static void test_references(void **state)
{
  driver_case *c = *state;
  check_ok(case_job(c,
                    MODELS
                    "steps = ( { type = \"merge\"; name = \"first\"; method = \"linear\"; models = ( \"a\", \"b\" );"
                    "parameters = { weight = 1.0; }; output = \"out/x.h5\"; },"
                    "{ type = \"export\"; model = \"first\"; output = \"hf1\"; },"
                    "{ type = \"export\"; model = \"out/x.h5\"; output = \"hf2\"; } );",
                    NULL, 0));
  for (int i = 1; i < 3; i++) {
    const ingot_merge_settings *s = c->job.steps[i].settings;
    assert_int_equal(s->models[0].ref.step, 1);
    assert_string_equal(s->models[0].ref.path, c->job.steps[0].output);
    assert_string_equal(s->models[0].ref.written, "out/x.h5");
  }
}

/* mergekit's check: v = [0, .5, 1, .25] over 7 layers gives 0, .25, .5, .75, 1, .625, .25. */
static void test_gradient(void **state)
{
  static const ingot_param_spec spec = {.name = "t", .type = INGOT_PARAM_REAL, .min = -1e9, .max = 1e9};
  static const double           expected[] = {0.0, 0.25, 0.5, 0.75, 1.0, 0.625, 0.25};
  double                        points[] = {0.0, 0.5, 1.0, 0.25};
  ingot_param_entry             entry = {NULL, points, 4};
  ingot_param_value             v = {&spec, &entry, 1};
  (void)state;
  for (int i = 0; i < 7; i++) {
    double x = -1.0;
    assert_true(ingot_param_value_at(&v, "model.layers.1.x", i / 6.0, &x));
    assert_true(x > expected[i] - 1e-12 && x < expected[i] + 1e-12);
  }
}

/* What is no number takes the entry at floor(t * (n - 1)). */
static void test_gradient_of_bools(void **state)
{
  static const ingot_param_spec spec = {.name = "b", .type = INGOT_PARAM_BOOL};
  double                        points[] = {1.0, 0.0, 1.0}, x = -1.0;
  ingot_param_entry             entry = {NULL, points, 3};
  ingot_param_value             v = {&spec, &entry, 1};
  (void)state;
  assert_true(ingot_param_value_at(&v, "x", 0.49, &x));
  assert_true(x == 1.0);
  assert_true(ingot_param_value_at(&v, "x", 0.5, &x));
  assert_true(x == 0.0);
  assert_true(ingot_param_value_at(&v, "x", 1.0, &x));
  assert_true(x == 1.0);
}

static void test_filters(void **state)
{
  static const ingot_param_spec spec = {.name = "w", .type = INGOT_PARAM_REAL, .min = -1e9, .max = 1e9};
  double                        mlp = 1.0, attention[] = {2.0, 4.0}, x = -1.0;
  ingot_param_entry             entries[] = {{"mlp", &mlp, 1}, {"attn", attention, 2}};
  ingot_param_value             v = {&spec, entries, 2};
  (void)state;
  assert_true(ingot_param_value_at(&v, "layers.0.mlp.attn", 0.5, &x)); /* the first that matches */
  assert_true(x == 1.0);
  assert_true(ingot_param_value_at(&v, "layers.0.attn.q", 0.5, &x));
  assert_true(x == 3.0);
  assert_false(ingot_param_value_at(&v, "norm", 0.5, &x)); /* falls through to the next level */
}

static void test_sizes(void **state)
{
  static const struct {
    const char *text;
    uint64_t    bytes;
  } good[] = {{"5GB", 5000000000u},        {"4096", 4096}, {"1KiB", 1024}, {"0.5 MB", 500000},
              {"2TiB", (uint64_t)2 << 40}, {"0", 0}};
  static const char *const bad[] = {"", "GB", "-1", "5gb", "5 GB x", "1e30", "nan", "inf"};
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    uint64_t bytes = 1;
    assert_true(ingot_parse_size(good[i].text, &bytes));
    assert_int_equal(bytes, good[i].bytes);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    uint64_t bytes;
    if (ingot_parse_size(bad[i], &bytes)) fail_msg("\"%s\" was taken for a size", bad[i]);
  }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_setup, case_teardown)
  const struct CMUnitTest tests[] = {
      CASE(test_reads_settings),
      CASE(test_other_settings),
      CASE(test_io),
      CASE(test_io_errors),
      CASE(test_include),
      CASE(test_all_problems_at_once),
      CASE(test_unreadable),
      CASE(test_wide_numbers),
      CASE(test_set),
      CASE(test_set_errors),
      CASE(test_references),
      cmocka_unit_test(test_gradient),
      cmocka_unit_test(test_gradient_of_bools),
      cmocka_unit_test(test_filters),
      cmocka_unit_test(test_sizes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
