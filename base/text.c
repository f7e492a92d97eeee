#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ingot_text_release(ingot_text *t)
{
  free(t->bytes);
  *t = (ingot_text){0};
}

static ingot_status text_reserve(ingot_text *t, size_t more)
{
  if (more < t->capacity - t->size) return INGOT_OK; /* one byte stays for the final 0 */
  if (more > SIZE_MAX / 4 - t->size) return ingot_fail(INGOT_ERR_NOMEM, "text of %zu bytes is too long", more);
  size_t capacity = t->capacity ? t->capacity : 64;
  while (capacity - t->size <= more) capacity *= 2;
  char *bytes = realloc(t->bytes, capacity);
  if (!bytes) return ingot_fail(INGOT_ERR_NOMEM, "no memory for %zu bytes of text", capacity);
  t->bytes = bytes;
  t->capacity = capacity;
  return INGOT_OK;
}

ingot_status ingot_text_append(ingot_text *t, const void *bytes, size_t size)
{
  ingot_status st = text_reserve(t, size);
  if (st != INGOT_OK) return st;
  if (size) memcpy(t->bytes + t->size, bytes, size);
  t->size += size;
  t->bytes[t->size] = '\0';
  return INGOT_OK;
}

ingot_status ingot_text_printf(ingot_text *t, const char *fmt, ...)
{
  va_list args, again;
  va_start(args, fmt);
  va_copy(again, args);
  int          need = vsnprintf(NULL, 0, fmt, args);
  ingot_status st = need < 0 ? ingot_fail(INGOT_ERR_INTERNAL, "bad text format") : text_reserve(t, (size_t)need);
  if (st == INGOT_OK) {
    vsnprintf(t->bytes + t->size, (size_t)need + 1, fmt, again);
    t->size += (size_t)need;
  }
  va_end(again);
  va_end(args);
  return st;
}

const char *ingot_text_string(const ingot_text *t)
{
  return t->bytes ? t->bytes : "";
}

char *ingot_strndup(const char *s, size_t n)
{
  char *copy = malloc(n + 1);
  if (!copy) return NULL;
  memcpy(copy, s, n);
  copy[n] = '\0';
  return copy;
}

char *ingot_strdup(const char *s)
{
  return ingot_strndup(s, strlen(s));
}

/* Levenshtein distance of two short names; long ones are never near. */
static int edit_distance(const char *a, const char *b)
{
  enum { LONGEST = 64 };
  size_t n_a = strlen(a), n_b = strlen(b);
  if (n_a >= LONGEST || n_b >= LONGEST) return LONGEST;
  int row[LONGEST + 1];
  for (size_t j = 0; j <= n_b; j++) row[j] = (int)j;
  for (size_t i = 1; i <= n_a; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= n_b; j++) {
      int above = row[j];
      int best = diagonal + (a[i - 1] != b[j - 1]);
      if (above + 1 < best) best = above + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      row[j] = best;
      diagonal = above;
    }
  }
  return row[n_b];
}

const char *ingot_nearest_name(const char *name, const char *const *candidates, int n_candidate)
{
  const char *best = NULL;
  int         best_distance = 0;
  for (int i = 0; i < n_candidate; i++) {
    int d = edit_distance(name, candidates[i]);
    if (!best || d < best_distance) {
      best = candidates[i];
      best_distance = d;
    }
  }
  /* A slip touches a letter or two, or up to a third of a long name. */
  int allowed = (int)strlen(name) / 3;
  return best && best_distance <= (allowed > 2 ? allowed : 2) ? best : NULL;
}

const char *ingot_bytes_text(uint64_t bytes, char text[32])
{
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double                   value = (double)bytes;
  int                      unit = 0;
  while (value >= 1024.0 && unit < 5) {
    value /= 1024.0;
    unit++;
  }
  snprintf(text, 32, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
  return text;
}
