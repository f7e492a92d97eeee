/* base/pages: zeroed, and memory of the process only as far as it is touched. */
#include "tests/check.h"

#include <stdint.h>

#include "base/pages.h"
#include "base/process.h"

enum { TAKEN = 256 << 20, TOUCHED = 32 << 20, SLACK = 8 << 20 };

static void zeroed(void **state)
{
  (void)state;
  static const size_t sizes[] = {0, 1, (1 << 19) - 1, 1 << 19, 3 << 20};
  for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
    unsigned char *pages = ingot_pages_take(sizes[k]);
    assert_non_null(pages);
    assert_int_equal((uintptr_t)pages % 16, 0);
    for (size_t i = 0; i < sizes[k]; i++) assert_int_equal(pages[i], 0);
    for (size_t i = 0; i < sizes[k]; i++) pages[i] = 1;
    ingot_pages_give_back(pages, sizes[k]);
    pages = ingot_pages_take_any(sizes[k]);
    assert_non_null(pages);
    for (size_t i = 0; i < sizes[k]; i++) pages[i] = 1;
    ingot_pages_give_back(pages, sizes[k]);
  }
  ingot_pages_give_back(NULL, 1 << 20);
}

static void costs_what_is_touched(void **state)
{
  (void)state;
#ifdef __SANITIZE_ADDRESS__
  skip(); /* a sanitizer's own memory is not the program's */
#endif
  uint64_t before = ingot_process_anon_bytes();
  if (before == 0) skip(); /* no /proc here */
  volatile unsigned char *pages = ingot_pages_take(TAKEN);
  assert_non_null((void *)(uintptr_t)pages);
  for (size_t i = 0; i < TOUCHED; i += 1024) pages[i] = 1;
  uint64_t with = ingot_process_anon_bytes();
  assert_in_range(with, before + TOUCHED - SLACK, before + TOUCHED + SLACK);
  ingot_pages_give_back((void *)(uintptr_t)pages, TAKEN);
  assert_in_range(ingot_process_anon_bytes(), 0, before + SLACK);
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(zeroed), cmocka_unit_test(costs_what_is_touched)};
  return cmocka_run_group_tests_name("base/pages", tests, NULL, NULL);
}
