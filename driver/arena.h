/**
 * Memory that is released all at once: a job's settings, a plan's arrays. Not thread-safe.
 */
#ifndef INGOT_DRIVER_ARENA_H
#define INGOT_DRIVER_ARENA_H

#include <stddef.h>

#include "base/status.h"

/** Starts as {0}. */
typedef struct ingot_arena {
  struct ingot_arena_block *head;
} ingot_arena;

void ingot_arena_release(ingot_arena *arena);
/** Zeroed memory of count * size bytes, aligned for any type; NULL with INGOT_ERR_NOMEM's message set. Never of size
 * 0. */
void *ingot_arena_alloc(ingot_arena *arena, size_t count, size_t size);
/** Copies; NULL as above. */
char *ingot_arena_strdup(ingot_arena *arena, const char *s);
char *ingot_arena_copy(ingot_arena *arena, const void *bytes, size_t size); /* with a 0 behind */
char *ingot_arena_printf(ingot_arena *arena, const char *fmt, ...) INGOT_PRINTF(2, 3);

/** Go to `done` with INGOT_ERR_NOMEM when an allocation of the arena came back NULL. */
#define INGOT_TRY_ALLOC(pointer) \
  do {                           \
    if (!(pointer)) {            \
      st = INGOT_ERR_NOMEM;      \
      goto done;                 \
    }                            \
  } while (0)

#endif
