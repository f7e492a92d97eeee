#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#include <sys/statvfs.h>

#include "driver/manifest.h"

static const char *const TENSORS[] = {"w:F32:4"};
#define MODELS "models = { a = \"a\"; b = \"b\"; };\n"
#define JOB(output)                                                                                                  \
  MODELS "steps = (\n  { type = \"merge\"; method = \"linear\"; models = ( \"a\", \"b\" ); parameters = { weight = " \
         "1.0; };\n"                                                                                                 \
         "    output = \"" output "\"; } );\n"

static void make_models(driver_case *c)
{
  case_model(c, "a", "{}", TENSORS, 1);
  case_model(c, "b", "{}", TENSORS, 1);
}

static void test_output_is_input(void **state)
{
  static const char *const outputs[] = {JOB("a"),           JOB("./b/../a/"), JOB("a/model.safetensors"),
                                        JOB("b/inside.h5"), JOB("link"),      JOB("link/x.h5")};
  driver_case             *c = *state;
  char                     link[SCRATCH_PATH], target[SCRATCH_PATH];
  make_models(c);
  assert_int_equal(symlink(scratch_path(&c->dir, "a", target), scratch_path(&c->dir, "link", link)), 0);
  for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
    check_fails(case_plan(c, outputs[i]), INGOT_ERR_JOB, "is an input, or shares a folder with it: model \"");
    assert_message(ingot_error_message(), "job.cfg:4: steps[0].output: output ");
  }
  ingot_plan_options fresh = {.n_thread = 1, .n_rank = 1, .fresh = true}; /* never, whatever is asked */
  check_fails(case_plan_with(c, JOB("a"), &fresh), INGOT_ERR_JOB, "is an input");
  check_ok(case_plan(c, JOB("ab"))); /* a name that only starts like an input */
}

static void test_output_exists(void **state)
{
  driver_case *c = *state;
  make_models(c);
  scratch_text(&c->dir, "x.h5", "precious");
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_EXISTS, "x.h5 exists, without a manifest; --fresh replaces it");
  scratch_text(&c->dir, "x.h5.manifest.json", "{");
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_EXISTS, "with a broken manifest");
  scratch_text(&c->dir, "x.h5.manifest.json", "{\"manifest_version\": 99}");
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_EXISTS, "with a manifest of another version");
  scratch_text(&c->dir, "x.h5.manifest.json", "{\"manifest_version\": 1, \"fingerprint\": \"0000000000000001\"}");
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_EXISTS, "made by other settings or from other inputs");
  ingot_plan_options fresh = {.n_thread = 1, .n_rank = 1, .fresh = true};
  check_ok(case_plan_with(c, JOB("x.h5"), &fresh));
}

/* What --fresh may not replace is found while planning. */
static void test_output_irreplaceable(void **state)
{
  driver_case       *c = *state;
  ingot_plan_options fresh = {.n_thread = 1, .n_rank = 1, .fresh = true};
  char               path[SCRATCH_PATH];
  make_models(c);
  scratch_text(&c->dir, "file", "precious");
  check_fails(case_plan_with(c, JOB("file"), &fresh), INGOT_ERR_EXISTS, "job.cfg:4: steps[0].output: ");
  assert_message(ingot_error_message(), "is a file, cannot become a directory");
  assert_int_equal(mkdir(scratch_path(&c->dir, "x.h5", path), 0755), 0);
  check_fails(case_plan_with(c, JOB("x.h5"), &fresh), INGOT_ERR_EXISTS, "is a directory, cannot become a file");
  assert_int_equal(mkdir(scratch_path(&c->dir, "mine", path), 0755), 0);
  check_ok(case_plan_with(c, JOB("mine"), &fresh));
  scratch_text(&c->dir, "mine/notes.txt", "precious");
  check_fails(case_plan_with(c, JOB("mine"), &fresh), INGOT_ERR_EXISTS, "holds files but no model");
}

#define STEP_TO(output)                                                                                           \
  "{ type = \"merge\"; method = \"linear\"; models = ( \"a\", \"b\" ); parameters = { weight = 1.0; }; output = " \
  "\"" output "\"; }"
#define TWO(first, second) MODELS "steps = (\n  " STEP_TO(first) ",\n  " STEP_TO(second) " );\n"

static void test_outputs_of_two_steps(void **state)
{
  static const char *const jobs[] = {TWO("x.h5", "./x.h5"), TWO("d", "d/x.h5"), TWO("d/x.h5", "d"),
                                     TWO("d/../d", "d/")};
  driver_case             *c = *state;
  make_models(c);
  for (size_t i = 0; i < sizeof jobs / sizeof jobs[0]; i++) {
    check_fails(case_plan(c, jobs[i]), INGOT_ERR_JOB, "is the output of step 1 (");
    assert_message(ingot_error_message(), "job.cfg:4: steps[1].output: output ");
  }
  check_ok(case_plan(c, TWO("d/x.h5", "d/y.h5")));
}

static void test_output_names(void **state)
{
  static const char *const clash[] = {"a:F32:4", "a/b:F32:4"}, *const dot[] = {".:F32:4"};
  driver_case *c = *state;
  char         job[1024];
  make_models(c);
  snprintf(job, sizeof job, JOB("%0255d"), 0); /* a name of 255 digits */
  check_fails(case_plan(c, job), INGOT_ERR_JOB, "its name has 255 bytes, and may have 223");
  case_model(c, "a", "{}", clash, 2);
  case_model(c, "b", "{}", clash, 2);
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_FORMAT, "tensors \"a\" and \"a/b\" cannot both be in an HDF5 file");
  check_ok(case_plan(c, JOB("x.safetensors")));
  case_model(c, "a", "{}", dot, 1);
  case_model(c, "b", "{}", dot, 1);
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_FORMAT, "tensor \".\" is not usable as a name in HDF5");
}

/* The manifest that we write is the one that we accept; a changed output is not. */
static void test_manifest(void **state)
{
  driver_case       *c = *state;
  ingot_merge_timing timing = {.wall_s = 1.0, .n_lane = 1};
  ingot_manifest_run run = {"2025-01-31T12:00:00Z", 1, 1, "cpu", &timing};
  uint64_t           checksum = 0x0123456789abcdefu;
  char               path[SCRATCH_PATH];
  make_models(c);
  check_ok(case_plan(c, JOB("x.h5")));
  assert_false(c->planner.steps[0].complete);
  scratch_text(&c->dir, "x.h5", "the output");
  check_ok(ingot_manifest_write(&c->job, &c->planner.steps[0], &checksum, &run, false));
  json_t *tree = json_load_file(scratch_path(&c->dir, "x.h5.manifest.json", path), 0, NULL);
  assert_non_null(tree);
  assert_string_equal(json_string_value(
                          json_object_get(json_object_get(json_object_get(tree, "tensors"), "w"), "checksum")),
                      "0123456789abcdef");
  assert_string_equal(json_string_value(json_object_get(tree, "job")), JOB("x.h5"));
  assert_int_equal(json_integer_value(json_object_get(json_object_get(tree, "output"), "bytes")), 10);
  assert_int_equal(json_array_size(json_object_get(tree, "inputs")), 2);
  json_decref(tree);
  check_ok(case_plan(c, JOB("x.h5")));
  assert_true(c->planner.steps[0].complete);
  scratch_text(&c->dir, "x.h5", "the output!");
  check_fails(case_plan(c, JOB("x.h5")), INGOT_ERR_EXISTS, "and was changed after it was made");
}

static void test_folder_is_a_file(void **state)
{
  driver_case *c = *state;
  make_models(c);
  scratch_text(&c->dir, "file", "x");
  check_fails(case_plan(c, JOB("file/deep/x.h5")), INGOT_ERR_JOB, "file is not a directory");
  check_ok(case_plan(c, JOB("new/deep/x.h5"))); /* made when it runs */
}

static void test_folder_is_read_only(void **state)
{
  driver_case *c = *state;
  char         path[SCRATCH_PATH];
  make_models(c);
  scratch_mkdir(&c->dir, "closed");
  assert_int_equal(chmod(scratch_path(&c->dir, "closed", path), 0555), 0);
  if (access(path, W_OK) == 0) skip(); /* root may write everywhere */
  check_fails(case_plan(c, JOB("closed/x.h5")), INGOT_ERR_JOB, "cannot write in ");
}

/* Two models of 8 TiB that take no room themselves. */
static void test_no_space(void **state)
{
  static const char header[] =
      "{\"w\":{\"dtype\":\"F32\",\"shape\":[2199023255552],\"data_offsets\":[0,8796093022208]}}";
  driver_case   *c = *state;
  char           path[SCRATCH_PATH];
  struct statvfs fs;
  if (statvfs(c->dir.dir, &fs) == 0 && (double)fs.f_bavail * (double)fs.f_frsize > 8e12) skip(); /* there is room */
  for (int i = 0; i < 2; i++) {
    const char *name = i ? "b.safetensors" : "a.safetensors";
    scratch_safetensors(&c->dir, name, header, "", 0);
    off_t size = (off_t)(8 + sizeof header - 1 + ((uint64_t)8 << 40));
    if (truncate(scratch_path(&c->dir, name, path), size) != 0) skip(); /* the file system has a lower limit */
  }
  check_fails(case_plan(c,
                        "models = { a = \"a.safetensors\"; b = \"b.safetensors\"; }; steps = ( { type = \"merge\"; "
                        "method = \"linear\";"
                        "models = ( \"a\", \"b\" ); parameters = { weight = 1.0; }; output = \"x.safetensors\"; } );"),
              INGOT_ERR_NOSPACE, "x.safetensors: needs 8.00 TiB, and ");
}

static void test_overlap(void **state)
{
  driver_case *c = *state;
  char         a[SCRATCH_PATH], b[SCRATCH_PATH];
  bool         overlap = true;
  check_ok(ingot_paths_overlap(scratch_path(&c->dir, "x/y", a), scratch_path(&c->dir, "x/z", b), &overlap));
  assert_false(overlap);
  check_ok(ingot_paths_overlap(a, scratch_path(&c->dir, "x/y/z", b), &overlap));
  assert_true(overlap);
  check_ok(ingot_paths_overlap(scratch_path(&c->dir, "x/y/z", b), scratch_path(&c->dir, "x/yy", a), &overlap));
  assert_false(overlap);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, case_setup, case_teardown)
  const struct CMUnitTest tests[] = {
      CASE(test_output_is_input),
      CASE(test_output_exists),
      CASE(test_output_irreplaceable),
      CASE(test_outputs_of_two_steps),
      CASE(test_output_names),
      CASE(test_manifest),
      CASE(test_folder_is_a_file),
      CASE(test_folder_is_read_only),
      CASE(test_no_space),
      CASE(test_overlap),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
