/* base/status, base/problems. */
#include "tests/check.h"

#include "base/problems.h"

static void names_and_exit_codes(void **state)
{
  (void)state;
  assert_string_equal(ingot_status_name(INGOT_ERR_FORMAT), "ERR_FORMAT");
  assert_int_equal(ingot_status_exit_code(INGOT_OK), 0);
  assert_int_equal(ingot_status_exit_code(INGOT_ERR_IO), 1);
  assert_int_equal(ingot_status_exit_code(INGOT_ERR_JOB), 2);
  assert_int_equal(ingot_status_exit_code(INGOT_ERR_FORMAT), 3);
  assert_int_equal(ingot_status_exit_code(INGOT_STOPPED), 75);
  assert_string_equal(ingot_status_name((ingot_status)1000), "ERR_INTERNAL");
}

static void messages_are_wrapped(void **state)
{
  (void)state;
  assert_int_equal(ingot_fail(INGOT_ERR_IO, "tensor %d", 7), INGOT_ERR_IO);
  assert_int_equal(ingot_wrap(INGOT_ERR_IO, "file %s", "a"), INGOT_ERR_IO);
  assert_string_equal(ingot_error_message(), "file a: tensor 7");
  ingot_fail(INGOT_ERR_IO, "again: %s", ingot_error_message()); /* its own old text as an argument */
  assert_string_equal(ingot_error_message(), "again: file a: tensor 7");
  assert_int_equal(ingot_wrap(INGOT_OK, "nothing"), INGOT_OK);
  assert_string_equal(ingot_error_message(), "again: file a: tensor 7");
  ingot_error_clear();
  assert_string_equal(ingot_error_message(), "");
}

static void origins_stay_with_their_message(void **state)
{
  (void)state;
  ingot_fail(INGOT_ERR_IO, "a");
  assert_string_equal(ingot_error_origin(), "");
  ingot_error_set_origin("rank 3 on x");
  ingot_wrap(INGOT_ERR_IO, "file");
  ingot_error_set_origin(ingot_error_origin()); /* its own old text */
  assert_string_equal(ingot_error_origin(), "rank 3 on x");
  ingot_fail(INGOT_ERR_IO, "another");
  assert_string_equal(ingot_error_origin(), "");
  ingot_error_set_origin("rank 3 on x");
  ingot_error_clear();
  assert_string_equal(ingot_error_origin(), "");
}

static void errors_are_put_by(void **state)
{
  ingot_error first, none;
  (void)state;
  ingot_error_clear();
  ingot_error_save(&none);
  ingot_fail(INGOT_ERR_IO, "first");
  ingot_error_set_origin("rank 3 on x");
  ingot_error_save(&first);
  ingot_fail(INGOT_ERR_IO, "second");
  ingot_error_restore(&first);
  assert_string_equal(ingot_error_message(), "first");
  assert_string_equal(ingot_error_origin(), "rank 3 on x");
  ingot_error_restore(&none);
  assert_string_equal(ingot_error_message(), "");
  assert_string_equal(ingot_error_origin(), "");
}

static void long_messages_are_cut(void **state)
{
  (void)state;
  char text[6000];
  memset(text, 'x', sizeof text);
  text[sizeof text - 1] = '\0';
  ingot_fail(INGOT_ERR_IO, "%s", text);
  size_t length = strlen(ingot_error_message());
  assert_true(length > 4000 && length < 4096);
  ingot_wrap(INGOT_ERR_IO, "front");
  assert_int_equal(strncmp(ingot_error_message(), "front: xxx", 10), 0);
  assert_true(strlen(ingot_error_message()) < 4096);
}

static void problems_are_listed_in_one_go(void **state)
{
  (void)state;
  ingot_problems list = {0};
  assert_int_equal(ingot_problems_status(&list), INGOT_OK);
  ingot_problems_add(&list, INGOT_ERR_JOB, "first %d", 1);
  ingot_problems_take(&list, ingot_fail(INGOT_ERR_FORMAT, "second"));
  ingot_problems_take(&list, INGOT_OK);
  assert_int_equal(list.count, 2);
  check_fails(ingot_problems_status(&list), INGOT_ERR_JOB, "first 1\nsecond");
  ingot_problems_release(&list);
}

static void very_many_problems_are_counted(void **state)
{
  (void)state;
  ingot_problems list = {0};
  for (int i = 0; i < 3 * INGOT_PROBLEMS_KEPT; i++) ingot_problems_add(&list, INGOT_ERR_JOB, "problem %d", i);
  assert_int_equal(list.count, 3 * INGOT_PROBLEMS_KEPT);
  check_fails(ingot_problems_status(&list), INGOT_ERR_JOB, "problem 99\nand 200 more problems");
  ingot_problems_release(&list);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(names_and_exit_codes),
      cmocka_unit_test(messages_are_wrapped),
      cmocka_unit_test(origins_stay_with_their_message),
      cmocka_unit_test(errors_are_put_by),
      cmocka_unit_test(long_messages_are_cut),
      cmocka_unit_test(problems_are_listed_in_one_go),
      cmocka_unit_test(very_many_problems_are_counted),
  };
  return cmocka_run_group_tests_name("base/status", tests, NULL, NULL);
}
