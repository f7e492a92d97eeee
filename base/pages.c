#define _DEFAULT_SOURCE
#include "base/pages.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { LEAST_BYTES = 1 << 19 }; /* below, malloc's pools are the better place */

/* A sanitizer watches the ends of what malloc gives, and of nothing else. */
static bool is_small(size_t bytes)
{
#ifdef __SANITIZE_ADDRESS__
  (void)bytes;
  return true;
#else
  return bytes < LEAST_BYTES;
#endif
}

static void *map(size_t bytes)
{
  void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return NULL;
#ifdef MADV_NOHUGEPAGE
  (void)madvise(pages, bytes, MADV_NOHUGEPAGE); /* a hint: a touched page shall not bring 511 others */
#endif
  return pages;
}

void *ingot_pages_take(size_t bytes)
{
  return is_small(bytes) ? calloc(bytes ? bytes : 1, 1) : map(bytes);
}

void *ingot_pages_take_any(size_t bytes)
{
  return is_small(bytes) ? malloc(bytes ? bytes : 1) : map(bytes);
}

void ingot_pages_give_back(void *pages, size_t bytes)
{
  if (!pages) return;
  if (is_small(bytes)) free(pages);
  else munmap(pages, bytes);
}
