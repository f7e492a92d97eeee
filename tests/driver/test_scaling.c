#define _XOPEN_SOURCE 700
#include "tests/driver/driver_case.h"

#include "driver/scaling.h"

static const char CONFIG[] = "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"dtype\": \"float32\"}\n";

/* Six tensors of 16, 4, 6, 4, 6 and 16 elements: 52. */
static const char *const TENSORS[] = {"model.embed_tokens.weight:F32:8,2", "model.layers.0.a.weight:F32:2,2",
                                      "model.layers.0.b.weight:F32:2,3",   "model.layers.1.a.weight:F32:2,2",
                                      "model.layers.1.b.weight:F32:2,3",   "lm_head.weight:F32:8,2"};

static const char JOB[] = "models = { a = \"a\"; b = \"b\"; };\n"
                          "steps = ( { type = \"merge\"; name = \"x\"; method = \"linear\"; models = ( { model = "
                          "\"a\"; weight = 1.0; }, { model = \"b\"; weight = 2.0; } );\n"
                          "            output = \"out/x.h5\"; },\n"
                          "          { type = \"export\"; model = \"x\"; output = \"out/y\"; } );\n";

static void plan(driver_case *c)
{
  case_model(c, "a", CONFIG, TENSORS, 6);
  case_model(c, "b", CONFIG, TENSORS, 6);
  check_ok(case_plan(c, JOB));
}

static void check_near(double found, double expected)
{
  assert_true(found > expected * (1 - 1e-12) && found < expected * (1 + 1e-12));
}

/*
 * An element of linear of two: 2 * 4 bytes read, 4 written, and 3 multiply-adds of half a byte: 13.5 units. Two inputs
 * of 52 elements are 416 bytes to read; 208 are written.
 */
static void test_rows(void **state)
{
  driver_case      *c = *state;
  ingot_scaling     scaling;
  ingot_scaling_row row;
  plan(c);
  const ingot_step_plan *p = &c->planner.steps[0];
  assert_null(ingot_scaling_refusal(p));
  check_ok(ingot_scaling_parse("1,2,3", "read=1,write=0.5,fs-read=1.8,fs-write=100,cores=2,unit-ns=4", &scaling));
  assert_int_equal(scaling.n_row, 3);

  check_ok(ingot_scaling_row_make(p, &scaling.site, 1, &row));
  check_near(row.share, 1.0);
  check_near(row.read_s, 416e-9);
  check_near(row.write_s, 208 / 0.5e9);
  check_near(row.compute_s, 52 * 13.5 * 4e-9 / 2);

  /* 16 + 4 + 6 | 4 + 6 + 16: half; now the file system is what reading waits for: 416 B at 1.8 GB/s, not 208 B at 1 */
  check_ok(ingot_scaling_row_make(p, &scaling.site, 2, &row));
  check_near(row.share, 0.5);
  check_near(row.read_s, 416 / 1.8e9);
  check_near(row.write_s, 104 / 0.5e9);
  check_near(row.compute_s, 26 * 13.5 * 4e-9 / 2);

  /* 16 | 4 + 6 + 4 + 6 | 16: the middle has most, 20 of 52 */
  check_ok(ingot_scaling_row_make(p, &scaling.site, 3, &row));
  check_near(row.share, 20.0 / 52);
  check_near(row.write_s, 80 / 0.5e9);
  check_near(row.compute_s, 20 * 13.5 * 4e-9 / 2);
}

static void test_defaults_and_json(void **state)
{
  driver_case  *c = *state;
  ingot_scaling scaling;
  plan(c);
  check_ok(ingot_scaling_parse("1,64", NULL, &scaling));
  check_near(scaling.site.node_read, 10e9);
  check_near(scaling.site.node_write, 5e9);
  check_near(scaling.site.fs_read, 200e9);
  check_near(scaling.site.fs_write, 100e9);
  check_near(scaling.site.cores, 32);
  check_near(scaling.site.unit_ns, 0.15);
  json_t *rows = ingot_scaling_json(&c->planner.steps[0], &scaling);
  assert_int_equal(json_array_size(rows), 2);
  assert_int_equal(json_integer_value(json_object_get(json_array_get(rows, 1), "nodes")), 64);
  check_near(json_real_value(json_object_get(json_array_get(rows, 1), "share")),
             16.0 / 52); /* tensors of one tile stay whole */
  json_decref(rows);
  assert_string_equal(ingot_scaling_refusal(&c->planner.steps[1]), "its inputs are yet to be made");
  assert_null(ingot_scaling_json(&c->planner.steps[1], &scaling));
}

static void test_refused(void **state)
{
  static const char *const nodes[] = {"", "0", "x", "2,1", "1,1", "1,", "1;2", "1,2x", "9999999"};
  static const char *const sites[] = {"reed=1",   "read",    "read=",          "read=0", "read=-1",
                                      "read=inf", "read=1,", "read=1 write=2", "=1"};
  ingot_scaling            scaling;
  (void)state;
  for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++)
    check_fails(ingot_scaling_parse(nodes[i], NULL, &scaling), INGOT_ERR_USAGE, "--nodes: expected ascending numbers");
  for (size_t i = 0; i < sizeof sites / sizeof *sites; i++)
    check_fails(ingot_scaling_parse("1", sites[i], &scaling), INGOT_ERR_USAGE, "--site: expected read, write");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_rows, case_setup, case_teardown),
      cmocka_unit_test_setup_teardown(test_defaults_and_json, case_setup, case_teardown),
      cmocka_unit_test(test_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
