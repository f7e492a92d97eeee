/* JSON helpers: positions in messages, strings as RFC 8259 wants them, files with a limit. */
#define _GNU_SOURCE

#include "scratch.h"

#include <jansson.h>
#include <sys/stat.h>

#include "io/json.h"

static void test_parse(void **state)
{
  (void)state;
  json_t    *value = NULL;
  const char good[] = "{\"a\": [1, 2.5, \"x\"]}";
  assert_int_equal(ingot_json_parse("text", good, strlen(good), &value), INGOT_OK);
  assert_string_equal(ingot_json_type_text(value), "an object");
  assert_string_equal(ingot_json_type_text(json_object_get(value, "a")), "an array");
  assert_string_equal(ingot_json_type_text(json_object_get(value, "b")), "nothing");
  json_decref(value);
  const char broken[] = "{\n \"a\": 1,\n \"b\" 2}";
  assert_int_equal(ingot_json_parse("file.json", broken, strlen(broken), &value), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "file.json: broken JSON at line 3, column 6");
  assert_null(value);
  const char twice[] = "{\"a\": 1, \"a\": 2}";
  assert_int_equal(ingot_json_parse("file.json", twice, strlen(twice), &value), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "duplicate object key");
}

static void test_string(void **state)
{
  (void)state;
  ingot_text text = {0};
  assert_int_equal(ingot_json_append_string(&text, "a\"b\\c\n\x01\x7f\xc3\xa9"), INGOT_OK);
  assert_string_equal(ingot_text_string(&text), "\"a\\\"b\\\\c\\u000a\\u0001\\u007f\xc3\xa9\"");
  ingot_text_release(&text);
}

static void test_file(void **state)
{
  (void)state;
  scratch    folder;
  char       path[SCRATCH_PATH];
  json_t    *value = NULL;
  ingot_text bytes = {0};
  scratch_begin(&folder);
  scratch_text(&folder, "x.json", "[1, 2]");
  scratch_path(&folder, "x.json", path);
  assert_int_equal(ingot_json_read(path, 6, &value), INGOT_OK);
  assert_int_equal(json_array_size(value), 2);
  json_decref(value);
  assert_int_equal(ingot_json_read(path, 5, &value), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "x.json: longer than the limit of 5 bytes");
  assert_int_equal(ingot_file_append(folder.dir, 100, &bytes), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "not a regular file");
  assert_int_equal(mkfifo(scratch_path(&folder, "pipe.json", path), 0600), 0); /* nobody writes into it */
  assert_int_equal(ingot_file_append(path, 100, &bytes), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "pipe.json: not a regular file");
  assert_int_equal(ingot_json_read(scratch_path(&folder, "y.json", path), 5, &value), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "y.json: No such file or directory");
  ingot_text_release(&bytes);
  scratch_end(&folder);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_string),
                                     cmocka_unit_test(test_file)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
