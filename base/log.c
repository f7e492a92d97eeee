#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/process.h"

/* Set once before any thread starts, read-only afterwards. */
static struct {
  int rank, n_rank, quiet;
} log_state = {0, 1, 0};

void ingot_log_init(int rank, int n_rank)
{
  log_state.rank = rank;
  log_state.n_rank = n_rank;
}

void ingot_log_set_quiet(int quiet)
{
  log_state.quiet = quiet;
}

/* One write a message, so that lines of several ranks do not mix. */
static void log_print(const char *prefix, const char *fmt, va_list args)
{
  char line[8192];
  int  used = snprintf(line, sizeof line, "%s", prefix);
  used += vsnprintf(line + used, sizeof line - (size_t)used - 1, fmt, args);
  if ((size_t)used > sizeof line - 2) used = (int)sizeof line - 2;
  /* Names come from files: none of them is to steer the terminal. */
  for (int i = 0; i < used; i++)
    if (((unsigned char)line[i] < 0x20 && line[i] != '\n') || line[i] == 0x7f) line[i] = '?';
  line[used] = '\n';
  fwrite(line, 1, (size_t)used + 1, stderr);
  fflush(stderr);
}

void ingot_log_info(const char *fmt, ...)
{
  if (log_state.rank != 0 || log_state.quiet) return;
  va_list args;
  va_start(args, fmt);
  log_print("ingot: ", fmt, args);
  va_end(args);
}

void ingot_log_warning(const char *fmt, ...)
{
  if (log_state.rank != 0) return;
  va_list args;
  va_start(args, fmt);
  log_print("ingot: warning: ", fmt, args);
  va_end(args);
}

void ingot_log_error(const char *fmt, ...)
{
  char prefix[INGOT_ORIGIN_TEXT + 32] = "ingot: error: ";
  if (log_state.n_rank > 1) {
    char who[INGOT_ORIGIN_TEXT];
    ingot_process_failed_rank(log_state.rank, who);
    snprintf(prefix, sizeof prefix, "ingot: error: %s: ", who);
  }
  va_list args;
  va_start(args, fmt);
  log_print(prefix, fmt, args);
  va_end(args);
}
