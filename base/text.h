/** Growing text, and the small string helpers that messages need. */
#ifndef INGOT_BASE_TEXT_H
#define INGOT_BASE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Starts as {0}. bytes[size] is always 0 once anything was added; it may hold zero bytes before that. */
typedef struct ingot_text {
  char  *bytes;
  size_t size;
  size_t capacity;
} ingot_text;

void         ingot_text_release(ingot_text *t);
ingot_status ingot_text_append(ingot_text *t, const void *bytes, size_t size);
ingot_status ingot_text_printf(ingot_text *t, const char *fmt, ...) INGOT_PRINTF(2, 3);
/** The text as a C string; "" while nothing was added. */
const char *ingot_text_string(const ingot_text *t);

/** Copy of a string, or of its first n bytes, on the heap; NULL when memory is out. */
char *ingot_strdup(const char *s);
char *ingot_strndup(const char *s, size_t n);

/** The candidate nearest to name by edit distance, or NULL when none is near enough to be a likely slip. */
const char *ingot_nearest_name(const char *name, const char *const *candidates, int n_candidate);

/** "1.5 GiB", "312 B": bytes for people. Writes into text and returns it. */
const char *ingot_bytes_text(uint64_t bytes, char text[32]);

#ifdef __cplusplus
}
#endif
#endif
