/** One scratch folder of a test program, made before each test and removed after it. */
#ifndef INGOT_TESTS_IO_SCRATCH_FOLDER_H
#define INGOT_TESTS_IO_SCRATCH_FOLDER_H

#include "tests/io/scratch.h"

static scratch folder;

static inline int folder_begin(void **state)
{
  (void)state;
  scratch_begin(&folder);
  return 0;
}

static inline int folder_end(void **state)
{
  (void)state;
  scratch_end(&folder);
  return 0;
}

#endif
