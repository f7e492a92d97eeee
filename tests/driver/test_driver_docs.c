/*
 * The tables of the documentation are those of the program: every key, option and status has its line, word for word,
 * and no line is left over. `test_driver_docs --print` prints the lines as they should be.
 */
#include "tests/check.h"

#include <stdlib.h>

#include "base/text.h"
#include "driver/commands.h"
#include "driver/distill_settings.h"
#include "driver/gather_settings.h"
#include "driver/job.h"
#include "driver/merge_settings.h"
#include "driver/step.h"

typedef struct doc {
  char text[1 << 16];
  int  n_row; /* table rows that start with a name in backquotes */
} doc;

static void load(doc *d, const char *name)
{
  char path[1024];
  snprintf(path, sizeof path, "%s/../docs/%s", INGOT_TEST_DIR, name);
  FILE *f = fopen(path, "rb");
  if (!f) fail_msg("cannot read %s", path);
  size_t n = fread(d->text, 1, sizeof d->text - 1, f);
  fclose(f);
  d->text[n] = '\0';
  d->n_row = 0;
  for (const char *p = strstr(d->text, "\n| `"); p; p = strstr(p + 1, "\n| `")) d->n_row++;
}

/* A check of one line, or its printing. */
typedef struct lines {
  const doc *doc; /* NULL: print */
  int        n, n_missing;
} lines;

static void line(lines *l, const char *text)
{
  l->n++;
  if (!l->doc) {
    printf("%s\n", text);
  } else if (!strstr(l->doc->text, text)) {
    print_error("missing: %s\n", text);
    l->n_missing++;
  }
}

static void key_lines(lines *l, const ingot_key *keys, int n)
{
  for (int i = 0; i < n; i++) {
    ingot_text  type = {0}, plain = {0}, row = {0};
    const char *fallback = keys[i].required ? "required" : keys[i].default_text ? keys[i].default_text : "";
    assert_int_equal(ingot_key_type_text(&keys[i], &type), INGOT_OK);
    for (const char *p = ingot_text_string(&type); *p; p++)
      assert_int_equal(*p == '|' ? ingot_text_append(&plain, ", ", 2) : ingot_text_append(&plain, p, 1), INGOT_OK);
    assert_int_equal(ingot_text_printf(&row, "| `%s` | %s | %s | %s |", keys[i].name, ingot_text_string(&plain),
                                       fallback, keys[i].help),
                     INGOT_OK);
    line(l, ingot_text_string(&row));
    ingot_text_release(&type);
    ingot_text_release(&plain);
    ingot_text_release(&row);
  }
}

static void job_file_lines(lines *l)
{
  key_lines(l, ingot_job_keys, ingot_job_n_key);
  key_lines(l, ingot_io_keys, ingot_io_n_key);
  for (int i = 0; i < ingot_step_type_count(); i++) {
    const ingot_step_type *type = ingot_step_type_at(i);
    key_lines(l, type->keys, ingot_keys_count(type->keys));
  }
  key_lines(l, ingot_merge_model_keys, ingot_merge_model_n_key);
  key_lines(l, ingot_merge_slice_keys, ingot_merge_slice_n_key);
  key_lines(l, ingot_merge_source_keys, ingot_merge_source_n_key);
  key_lines(l, ingot_data_keys, ingot_data_n_key);
  key_lines(l, ingot_train_data_keys, ingot_train_data_n_key);
  key_lines(l, ingot_teacher_keys, ingot_teacher_n_key);
}

static void error_lines(lines *l)
{
  for (int st = 0; st < INGOT_STATUS_COUNT; st++) {
    char text[256];
    snprintf(text, sizeof text, "| `%s` | %d | %s |", ingot_status_name((ingot_status)st),
             ingot_status_exit_code((ingot_status)st), ingot_status_text((ingot_status)st));
    line(l, text);
  }
}

static void usage_lines(lines *l)
{
  for (int i = 0; ingot_commands[i]; i++) {
    const ingot_command *c = ingot_commands[i];
    char                 text[256];
    snprintf(text, sizeof text, "`ingot %s %s`: %s.", c->name, c->arguments, c->summary);
    line(l, text);
    for (const ingot_option *o = c->options; o && o->name; o++) {
      char   plain[64] = "";
      size_t n = 0;
      for (const char *p = o->value ? o->value : ""; *p && n + 3 < sizeof plain; p++) {
        if (*p == '|') plain[n++] = '\\';
        plain[n++] = *p;
      }
      snprintf(text, sizeof text, "| `%s%s%s` | %s |", o->name, o->value && o->value[0] != '[' ? " " : "", plain,
               o->help);
      line(l, text);
    }
  }
}

static void check(const char *name, void (*all)(lines *), int n_not_rows)
{
  static doc d;
  load(&d, name);
  lines l = {.doc = &d};
  all(&l);
  assert_int_equal(l.n_missing, 0);
  /* Nothing in the tables that the program does not have. The same line may serve two tables. */
  if (d.n_row != l.n - n_not_rows) fail_msg("docs/%s: %d table rows, expected %d", name, d.n_row, l.n - n_not_rows);
}

static void test_job_file(void **state)
{
  (void)state;
  check("job-file.md", job_file_lines, 0);
}

static void test_errors(void **state)
{
  (void)state;
  check("errors.md", error_lines, 0);
}

static void test_usage(void **state)
{
  (void)state;
  int n_command = 0;
  while (ingot_commands[n_command]) n_command++;
  check("usage.md", usage_lines, n_command);
}

int main(int argc, char **argv)
{
  if (argc == 2 && strcmp(argv[1], "--print") == 0) {
    lines l = {0};
    job_file_lines(&l);
    error_lines(&l);
    usage_lines(&l);
    return 0;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_job_file), cmocka_unit_test(test_errors),
                                     cmocka_unit_test(test_usage)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
