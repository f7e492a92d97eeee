/* base/process: memory that is taken shows, memory that is given back is gone. */
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

#include "base/process.h"

enum { TAKEN = 64 << 20 };

static void memory_shows(void **state)
{
  (void)state;
  uint64_t before = ingot_process_anon_bytes();
  if (before == 0) skip(); /* no /proc here */
  char *memory = malloc(TAKEN);
  assert_non_null(memory);
  memset(memory, 1, TAKEN);
  uint64_t with = ingot_process_anon_bytes();
  assert_true(memory[TAKEN / 2] == 1);
  free(memory);
  assert_true(with >= before + TAKEN / 10 * 9);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(memory_shows)};
  return cmocka_run_group_tests_name("base/process", tests, NULL, NULL);
}
