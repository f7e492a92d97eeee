/* Ranges of numbers in key tables: their texts, their ends, and that every table states ranges that are enforced. */
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/dtype.h"
#include "driver/distill_settings.h"
#include "driver/gather_settings.h"
#include "driver/job.h"
#include "driver/step.h"

typedef struct numbers {
  int64_t whole;
  double  real;
} numbers;

/* Read "name = text" by one row; what was said, or "". */
static const char *read_as(const ingot_key *row, const char *text, numbers *out)
{
  static char    said[1024];
  char           group[256];
  ingot_arena    arena = {0};
  ingot_value   *root = NULL;
  ingot_problems problems = {0};
  ingot_key      key = *row;
  key.offset = key.type == INGOT_KEY_INT ? offsetof(numbers, whole) : offsetof(numbers, real);
  int n = snprintf(group, sizeof group, "%s = %s;", key.name, text);
  check_ok(ingot_value_parse(group, (size_t)n, "job.cfg", NULL, &arena, &root));
  ingot_keys_read(&key, 1, root, out, NULL, 0, &problems);
  snprintf(said, sizeof said, "%s", ingot_problems_status(&problems) == INGOT_OK ? "" : ingot_error_message());
  ingot_error_clear();
  ingot_problems_release(&problems);
  ingot_arena_release(&arena);
  return said;
}

static const ingot_key rows[] = {
    {"whole", INGOT_KEY_INT, false, "3", NULL, 0, "help"},
    {"span", INGOT_KEY_INT, false, "3", INGOT_FROM_TO(2, 1 << 24), 0, "help"},
    {"any", INGOT_KEY_REAL, false, "3", NULL, 0, "help"},
    {"above", INGOT_KEY_REAL, false, "3", INGOT_ABOVE(0.0), 0, "help"},
    {"least", INGOT_KEY_REAL, false, "3", INGOT_AT_LEAST(0.5), 0, "help"},
    {"most", INGOT_KEY_REAL, false, "-3", INGOT_AT_MOST(0.0), 0, "help"},
    {"part", INGOT_KEY_REAL, false, "0.5", INGOT_ABOVE_TO(0.0, 1.0), 0, "help"},
    {"decay", INGOT_KEY_REAL, false, "0.5", INGOT_FROM_TO_BELOW(0.0, 1.0), 0, "help"},
    {"inside", INGOT_KEY_REAL, false, "0.5", INGOT_ABOVE_TO_BELOW(0.0, 1.0), 0, "help"},
};

static void test_texts(void **state)
{
  static const char *const texts[] = {"integer, 0 or more",   "integer, 2 to 16777216", "number",
                                      "number, above 0",      "number, 0.5 or more",    "number, at most 0",
                                      "number, above 0 to 1", "number, 0 to below 1",   "number, above 0 to below 1"};
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    ingot_text text = {0};
    check_ok(ingot_key_type_text(&rows[i], &text));
    assert_string_equal(ingot_text_string(&text), texts[i]);
    ingot_text_release(&text);
  }
}

static void test_ends(void **state)
{
  static const struct {
    int         row;
    const char *text;
    bool        good;
  } cases[] = {{0, "0", true},         {0, "-1", false},        {0, "9223372036854775807L", true},
               {1, "2", true},         {1, "1", false},         {1, "16777216", true},
               {1, "16777217", false}, {1, "-2", false},        {2, "-1e308", true},
               {3, "0", false},        {3, "1e-300", true},     {3, "-0.0", false},
               {4, "0.5", true},       {4, "0.4999", false},    {5, "0.0", true},
               {5, "1e-8", false},     {5, "-1e300", true},     {6, "0.0", false},
               {6, "1", true},         {6, "1.0000001", false}, {7, "0", true},
               {7, "1.0", false},      {7, "0.9999999", true},  {8, "0.0", false},
               {8, "1.0", false},      {8, "1e-9", true}};
  (void)state;
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const ingot_key *row = &rows[cases[i].row];
    numbers          out = {-77, -77.0};
    const char      *said = read_as(row, cases[i].text, &out);
    if (!*said != cases[i].good) fail_msg("%s = %s: \"%s\"", row->name, cases[i].text, said);
    double got = row->type == INGOT_KEY_INT ? (double)out.whole : out.real;
    double expected =
        strtod(cases[i].good ? cases[i].text : row->default_text, NULL); /* what is refused is not taken */
    if (got != expected) fail_msg("%s = %s: read as %g", row->name, cases[i].text, got);
  }
  numbers out;
  assert_string_equal(read_as(&rows[6], "1.5", &out), "job.cfg:1: part: 1.5 is out of range: above 0 to 1 (help)");
  assert_string_equal(read_as(&rows[1], "1", &out), "job.cfg:1: span: 1 is out of range: 2 to 16777216 (help)");
}

/* The default of a row is in its range, both ends are enforced, and a group of a job says so. */
static int check_rows(const ingot_key *keys, int n)
{
  int n_checked = 0;
  for (int i = 0; i < n; i++) {
    const ingot_key       *key = &keys[i];
    const ingot_key_range *r = ingot_key_range_of(key);
    double                 step = key->type == INGOT_KEY_INT ? 1.0 : 1e-3;
    numbers                out;
    char                   text[64];
    if (!r) continue;
    const char *number = key->default_text; /* or words, such as "the job's" */
    if (number && strchr("-0123456789", *number) && *read_as(key, number, &out))
      fail_msg("%s: its default is out of range", key->name);
    for (int side = 0; side < 2; side++) {
      double end = side ? r->high : r->low;
      if (isinf(end)) continue;
      const char *format = key->type == INGOT_KEY_INT ? "%.0fL" : "%.17e";
      snprintf(text, sizeof text, format, end + (side ? step : -step));
      if (!strstr(read_as(key, text, &out), "is out of range: ")) fail_msg("%s = %s: taken", key->name, text);
      snprintf(text, sizeof text, format, end);
      bool open = side ? r->high_open : r->low_open;
      if (!*read_as(key, text, &out) == open) fail_msg("%s = %s: wrong", key->name, text);
      n_checked++;
    }
  }
  return n_checked;
}

static void test_tables(void **state)
{
  int n = 0;
  (void)state;
  n += check_rows(ingot_job_keys, ingot_job_n_key) + check_rows(ingot_io_keys, ingot_io_n_key);
  n += check_rows(ingot_train_data_keys, ingot_train_data_n_key) + check_rows(ingot_teacher_keys, ingot_teacher_n_key);
  for (int i = 0; i < ingot_step_type_count(); i++)
    n += check_rows(ingot_step_type_at(i)->keys, ingot_keys_count(ingot_step_type_at(i)->keys));
  assert_true(n > 100);
}

static void test_dtypes(void **state)
{
  ingot_text text = {0};
  (void)state;
  for (int i = 0; i < INGOT_DTYPE_COUNT; i++)
    if (ingot_dtype_is_float((ingot_dtype)i))
      check_ok(ingot_text_printf(&text, "%s%s", text.size ? ", " : "", ingot_dtype_long_name((ingot_dtype)i)));
  assert_string_equal(INGOT_FLOAT_DTYPES, ingot_text_string(&text));
  ingot_text_release(&text);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_texts), cmocka_unit_test(test_ends),
                                     cmocka_unit_test(test_tables), cmocka_unit_test(test_dtypes)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
