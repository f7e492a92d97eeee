#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[INGOT_MESSAGE_TEXT];
static _Thread_local char message_origin[INGOT_ORIGIN_TEXT];

static const struct {
  const char *name;
  int         exit_code;
  const char *text;
} statuses[INGOT_STATUS_COUNT] = {
#define INGOT_STATUS(code, exit_code, text) {#code, exit_code, text},
#include "base/status.def"
#undef INGOT_STATUS
};

static unsigned status_index(ingot_status st)
{
  return (unsigned)st < INGOT_STATUS_COUNT ? (unsigned)st : (unsigned)INGOT_ERR_INTERNAL;
}

const char *ingot_status_name(ingot_status st)
{
  return statuses[status_index(st)].name;
}

const char *ingot_status_text(ingot_status st)
{
  return statuses[status_index(st)].text;
}

int ingot_status_exit_code(ingot_status st)
{
  return statuses[status_index(st)].exit_code;
}

ingot_status ingot_fail(ingot_status st, const char *fmt, ...)
{
  char    fresh[INGOT_MESSAGE_TEXT]; /* the arguments may point into the old message */
  va_list args;
  va_start(args, fmt);
  vsnprintf(fresh, sizeof fresh, fmt, args);
  va_end(args);
  memcpy(message, fresh, sizeof message);
  message_origin[0] = '\0';
  return st;
}

ingot_status ingot_wrap(ingot_status st, const char *fmt, ...)
{
  if (st == INGOT_OK) return st;
  char    fresh[INGOT_MESSAGE_TEXT];
  va_list args;
  va_start(args, fmt);
  int used = vsnprintf(fresh, sizeof fresh, fmt, args);
  va_end(args);
  if (used >= 0 && (size_t)used < sizeof fresh - 3) {
    size_t room = sizeof fresh - (size_t)used - 3; /* for ": " and the final 0 */
    snprintf(fresh + used, room + 3, ": %.*s", (int)room, message);
  }
  memcpy(message, fresh, sizeof message);
  return st;
}

const char *ingot_error_message(void)
{
  return message;
}

void ingot_error_clear(void)
{
  message[0] = '\0';
  message_origin[0] = '\0';
}

const char *ingot_error_origin(void)
{
  return message_origin;
}

void ingot_error_set_origin(const char *origin)
{
  char fresh[INGOT_ORIGIN_TEXT]; /* origin may be the old one */
  snprintf(fresh, sizeof fresh, "%s", origin);
  memcpy(message_origin, fresh, sizeof message_origin);
}

void ingot_error_save(ingot_error *out)
{
  memcpy(out->message, message, sizeof message);
  memcpy(out->origin, message_origin, sizeof message_origin);
}

void ingot_error_restore(const ingot_error *saved)
{
  memcpy(message, saved->message, sizeof message);
  memcpy(message_origin, saved->origin, sizeof message_origin);
}

void ingot_assert_failed(const char *cond, const char *file, int line)
{
  fprintf(stderr, "ingot: %s:%d: assertion failed: %s\n", file, line, cond);
  abort();
}
