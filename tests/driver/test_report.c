#include "tests/check.h"

#include <string.h>

#include "driver/report.h"

/* Two ranks: one of 2 CPU lanes, one of 4 lanes of which some were on a GPU. Expected values worked out by hand. */
static const ingot_merge_timing TIMING[2] = {
    {.read_s = 4,
     .merge_s = 8,
     .write_s = 2,
     .wait_s = 1,
     .wall_s = 8,
     .cpu_s = 10,
     .bytes_read = 6000000000,
     .bytes_written = 2000000000,
     .tiles_done = 10,
     .tiles_resumed = 1,
     .n_lane = 2,
     .peak_anon_bytes = 1048576},
    {.read_s = 4,
     .move_s = 2,
     .merge_s = 12,
     .write_s = 8,
     .device_s = 8,
     .wall_s = 10,
     .cpu_s = 20,
     .bytes_read = 9000000000,
     .bytes_written = 3000000000,
     .tiles_done = 15,
     .tiles_on_device = 5,
     .n_lane = 4,
     .on_device = 1,
     .peak_anon_bytes = 3145728},
};

static void test_table(void **state)
{
  (void)state;
  ingot_report report;
  ingot_text   text = {0};
  ingot_report_make(TIMING, 2, &report);
  check_ok(ingot_report_text(&report, &text));
  assert_string_equal(ingot_text_string(&text),
                      "  seconds      min      mean       max        GB      GB/s\n"
                      "  read       1.000     1.500     2.000     15.00      7.50\n"
                      "  move       0.000     0.250     0.500\n"
                      "  merge      3.000     3.500     4.000\n"
                      "  write      1.000     1.500     2.000      5.00      2.50\n"
                      "  wait       0.000     0.250     0.500\n"
                      "  on GPU     0.000     1.000     2.000\n"
                      "  wall       8.000     9.000    10.000     20.00      2.00\n"
                      "  cpu       10.000    15.000    20.000\n"
                      "  2 ranks, 6 threads, CPU and GPU (5 tiles); 25 tiles merged, 1 taken over\n"
                      "  memory of a rank: 1.00 MiB min, 2.00 MiB mean, 3.00 MiB max");
  ingot_text_release(&text);
}

static double number(const json_t *tree, const char *key, const char *member)
{
  const json_t *value = json_object_get(tree, key);
  value = member ? json_object_get(value, member) : value;
  assert_true(json_is_number(value));
  return json_number_value(value);
}

static void test_json(void **state)
{
  (void)state;
  ingot_report report;
  ingot_report_make(TIMING, 2, &report);
  json_t *tree = ingot_report_json(&report);
  assert_non_null(tree);
  assert_float_equal(number(tree, "device_s", "max"), 2.0, 0);
  assert_float_equal(number(tree, "device_s", "mean"), 1.0, 0);
  assert_float_equal(number(tree, "memory_bytes", "min"), 1048576, 0);
  assert_float_equal(number(tree, "memory_bytes", "mean"), 2097152, 0);
  assert_float_equal(number(tree, "peak_anon_bytes", NULL), 3145728, 0);
  assert_float_equal(number(tree, "bytes_read", NULL), 15e9, 0);
  assert_float_equal(number(tree, "gb_per_s", NULL), 2.0, 0);
  assert_float_equal(number(tree, "write_s", "min"), 1.0, 0);
  assert_float_equal(number(tree, "tiles_on_device", NULL), 5, 0);
  json_decref(tree);
}

/* Without a GPU the table has no row for it; a step that ran models on one was there all the time. */
static void test_where(void **state)
{
  (void)state;
  ingot_merge_timing models = {.peak_device_bytes = 3145728, .merge_s = 3, .wall_s = 4, .n_lane = 1, .on_device = 1};
  ingot_report       report;
  ingot_text         text = {0};
  ingot_report_make(TIMING, 1, &report);
  report.planned_bytes = 1153434; /* 1.1 MiB */
  check_ok(ingot_report_text(&report, &text));
  assert_null(strstr(ingot_text_string(&text), "GPU"));
  assert_non_null(strstr(ingot_text_string(&text),
                         "memory of a rank: 1.00 MiB min, 1.00 MiB mean, 1.00 MiB max; planned 1.10 MiB"));
  ingot_text_release(&text);
  ingot_report_make(&models, 1, &report);
  assert_float_equal(report.device_s.max, 3.0, 0);
  report.planned_bytes = 2097152;
  text = (ingot_text){0};
  check_ok(ingot_report_text(&report, &text));
  assert_non_null(strstr(ingot_text_string(&text), "GPU memory of a rank: 3.00 MiB at most; planned 2.00 MiB"));
  assert_null(strstr(ingot_text_string(&text), "libraries"));
  ingot_text_release(&text);
}

/* The host's part of a step on GPUs: what was planned, on top of the libraries of the rank where they took most. */
static void test_host_beside_gpu(void **state)
{
  (void)state;
  const ingot_merge_timing models[2] = {{.peak_device_bytes = 3145728,
                                         .library_bytes = 262144000,
                                         .peak_anon_bytes = 304087040,
                                         .n_lane = 1,
                                         .on_device = 1},
                                        {.peak_device_bytes = 1048576,
                                         .library_bytes = 209715200,
                                         .peak_anon_bytes = 251658240,
                                         .n_lane = 1,
                                         .on_device = 1}};
  ingot_report             report;
  ingot_text               text = {0};
  ingot_report_make(models, 2, &report);
  report.planned_bytes = 2097152;
  report.planned_host_bytes = 41943040;
  check_ok(ingot_report_text(&report, &text));
  assert_non_null(strstr(ingot_text_string(&text),
                         "  memory of a rank: 240.00 MiB min, 265.00 MiB mean, 290.00 MiB max; planned 290.00 MiB, "
                         "of which 250.00 MiB are the GPU libraries'\n"
                         "  GPU memory of a rank: 3.00 MiB at most; planned 2.00 MiB"));
  json_t *tree = ingot_report_json(&report);
  assert_float_equal(number(tree, "gpu_library_bytes", NULL), 262144000, 0);
  assert_float_equal(number(tree, "planned_host_bytes", NULL), 41943040, 0);
  json_decref(tree);
  ingot_text_release(&text);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_json),
      cmocka_unit_test(test_where),
      cmocka_unit_test(test_host_beside_gpu),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
