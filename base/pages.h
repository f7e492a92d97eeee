/**
 * Memory for large arrays that live shortly: pages straight from the system. Pages that nobody touches cost nothing,
 * and all are given back at once; malloc keeps what a thread has freed in that thread's pool.
 */
#ifndef INGOT_BASE_PAGES_H
#define INGOT_BASE_PAGES_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Zeroed memory of `bytes`, aligned for any type; NULL when there is none. Any thread. Owned:
 * ingot_pages_give_back. */
void *ingot_pages_take(size_t bytes);
/** The same without zeroes: what is in it is not known. */
void *ingot_pages_take_any(size_t bytes);
/** With the same number of bytes; NULL is allowed. Any thread. */
void ingot_pages_give_back(void *pages, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
