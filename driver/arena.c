#include "driver/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_BLOCK_BYTES = 64 << 10 };

struct ingot_arena_block {
  struct ingot_arena_block *next;
  size_t                    used, capacity;
  _Alignas(max_align_t) unsigned char bytes[];
};

void ingot_arena_release(ingot_arena *arena)
{
  while (arena->head) {
    struct ingot_arena_block *next = arena->head->next;
    free(arena->head);
    arena->head = next;
  }
}

void *ingot_arena_alloc(ingot_arena *arena, size_t count, size_t size)
{
  const size_t align = _Alignof(max_align_t);
  if (size && count > (SIZE_MAX / 2) / size) {
    ingot_fail(INGOT_ERR_NOMEM, "%zu items of %zu bytes are too many", count, size);
    return NULL;
  }
  size_t wanted = count * size;
  size_t bytes = wanted > 0 ? (wanted + align - 1) / align * align : align;
  if (!arena->head || arena->head->capacity - arena->head->used < bytes) {
    size_t                    capacity = bytes > ARENA_BLOCK_BYTES ? bytes : ARENA_BLOCK_BYTES;
    struct ingot_arena_block *block = calloc(1, sizeof *block + capacity);
    if (!block) {
      ingot_fail(INGOT_ERR_NOMEM, "no memory for %zu bytes", capacity);
      return NULL;
    }
    block->capacity = capacity;
    block->next = arena->head;
    arena->head = block;
  }
  void *p = arena->head->bytes + arena->head->used;
  arena->head->used += bytes;
  return p;
}

char *ingot_arena_copy(ingot_arena *arena, const void *bytes, size_t size)
{
  char *copy = ingot_arena_alloc(arena, size + 1, 1);
  if (copy && size) memcpy(copy, bytes, size);
  return copy;
}

char *ingot_arena_strdup(ingot_arena *arena, const char *s)
{
  return ingot_arena_copy(arena, s, strlen(s));
}

char *ingot_arena_printf(ingot_arena *arena, const char *fmt, ...)
{
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int   need = vsnprintf(NULL, 0, fmt, args);
  char *text = ingot_arena_alloc(arena, (size_t)(need > 0 ? need : 0) + 1, 1);
  if (text && need > 0) vsnprintf(text, (size_t)need + 1, fmt, again);
  va_end(again);
  va_end(args);
  return text;
}
