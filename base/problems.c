#include "base/problems.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/text.h"

void ingot_problems_release(ingot_problems *list)
{
  int kept = list->count < list->capacity ? list->count : list->capacity;
  for (int i = 0; i < kept; i++) free(list->item[i].message);
  free(list->item);
  *list = (ingot_problems){0};
}

void ingot_problems_add(ingot_problems *list, ingot_status st, const char *fmt, ...)
{
  if (!list->item) {
    list->item = calloc(INGOT_PROBLEMS_KEPT, sizeof *list->item);
    if (list->item) list->capacity = INGOT_PROBLEMS_KEPT;
  }
  if (list->count < list->capacity) {
    char    text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    list->item[list->count] = (ingot_problem){st, ingot_strdup(text)};
  }
  list->count++;
}

ingot_status ingot_problems_take(ingot_problems *list, ingot_status st)
{
  if (st != INGOT_OK) {
    ingot_problems_add(list, st, "%s", ingot_error_message());
    ingot_error_clear();
  }
  return st;
}

ingot_status ingot_problems_status(const ingot_problems *list)
{
  if (list->count == 0) return INGOT_OK;
  if (list->capacity == 0) return ingot_fail(INGOT_ERR_NOMEM, "no memory to list %d problems", list->count);

  ingot_text text = {0};
  int        shown = 0;
  for (int i = 0; i < list->count && i < list->capacity && text.size < 3000; i++) {
    const char *message = list->item[i].message ? list->item[i].message : ingot_status_text(list->item[i].status);
    if (ingot_text_printf(&text, "%s%s", i ? "\n" : "", message) != INGOT_OK) break;
    shown++;
  }
  if (shown < list->count && ingot_text_printf(&text, "\nand %d more problems", list->count - shown) != INGOT_OK)
    ingot_error_clear();
  ingot_status st = ingot_fail(list->item[0].status, "%s", ingot_text_string(&text));
  ingot_text_release(&text);
  return st;
}
