/* driver/gpu_start: which command lines start the GPU early. */
#include "tests/check.h"

#include "driver/gpu_start.h"

static bool wanted(const char *line)
{
  static char text[256];
  char       *argv[16];
  int         argc = 0;
  snprintf(text, sizeof text, "%s", line);
  for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
  return ingot_gpu_start_wanted(argc, argv);
}

static void runs_on_the_gpu(void **state)
{
  (void)state;
  assert_false(wanted("ingot run job.cfg")); /* begins on the CPU */
  assert_false(wanted("ingot run --device auto job.cfg"));
  assert_true(wanted("ingot run --device=cuda job.cfg"));
  assert_true(wanted("ingot run job.cfg --device cuda"));
  assert_false(wanted("ingot run --device cpu job.cfg"));
  assert_false(wanted("ingot run --device=cpu job.cfg"));
  assert_false(wanted("ingot run --dry-run --device cuda job.cfg"));
  assert_false(wanted("ingot plan job.cfg"));
  assert_false(wanted("ingot"));
}

static void nothing_is_started_for_other_commands(void **state)
{
  (void)state;
  char            words[3][8] = {"ingot", "plan", "job.cfg"};
  char           *argv[] = {words[0], words[1], words[2]};
  ingot_gpu_start start;
  ingot_gpu_start_init(&start, 3, argv);
  assert_false(start.running);
  ingot_gpu_start_release(&start);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(runs_on_the_gpu),
      cmocka_unit_test(nothing_is_started_for_other_commands),
  };
  return cmocka_run_group_tests_name("driver/gpu_start", tests, NULL, NULL);
}
