#define _POSIX_C_SOURCE 200809L
#include "driver/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/log.h"

static const double TERMINAL_EVERY_S = 0.2, LOG_EVERY_S = 10.0, EVENT_EVERY_S = 1.0;

void ingot_progress_start(ingot_progress *p, ingot_events *events, int step, bool quiet)
{
  *p = (ingot_progress){.events = events, .step = step, .quiet = quiet};
  p->terminal = isatty(STDERR_FILENO) != 0;
  p->last_event_s = -EVENT_EVERY_S;
}

void ingot_progress_text(char text[160], int64_t tiles_done, int64_t n_tile, uint64_t bytes_done, uint64_t n_bytes,
                         double elapsed_s)
{
  double part = n_bytes > 0 ? (double)bytes_done / (double)n_bytes : 1.0;
  if (part > 1.0) part = 1.0;
  int used = snprintf(text, 160, "%3.0f %% (%lld of %lld tiles), %.2f of %.2f GB", 100.0 * part, (long long)tiles_done,
                      (long long)n_tile, (double)bytes_done / 1e9, (double)n_bytes / 1e9);
  if (elapsed_s > 0.0 && used > 0 && used < 160)
    used += snprintf(text + used, (size_t)(160 - used), ", %.2f GB/s", (double)bytes_done / 1e9 / elapsed_s);
  if (part > 0.0 && elapsed_s > 0.5 && used > 0 && used < 160)
    snprintf(text + used, (size_t)(160 - used), ", %.0f s left", elapsed_s * (1.0 - part) / part);
}

void ingot_progress_update(void *context, int64_t tiles_done, int64_t n_tile, uint64_t bytes_done, uint64_t n_bytes,
                           double elapsed_s)
{
  ingot_progress *p = context;
  char            text[160];
  if (elapsed_s - p->last_event_s >= EVENT_EVERY_S) {
    p->last_event_s = elapsed_s;
    ingot_events_write(p->events, "progress",
                       json_pack("{s:i, s:I, s:I, s:I, s:I, s:f}", "step", p->step, "tiles_done",
                                 (json_int_t)tiles_done, "tiles", (json_int_t)n_tile, "bytes_done",
                                 (json_int_t)bytes_done, "bytes", (json_int_t)n_bytes, "elapsed_s", elapsed_s));
  }
  if (p->quiet || elapsed_s - p->last_line_s < (p->terminal ? TERMINAL_EVERY_S : LOG_EVERY_S)) return;
  p->last_line_s = elapsed_s;
  ingot_progress_text(text, tiles_done, n_tile, bytes_done, n_bytes, elapsed_s);
  if (p->terminal) fprintf(stderr, "\r%s\033[K", text);
  else ingot_log_info("%s", text);
  p->shown = true;
}

void ingot_progress_windows(void *context, int64_t windows_done, int64_t n_window, int64_t tokens_done,
                            double elapsed_s)
{
  ingot_progress *p = context;
  char            text[160];
  double          part = n_window > 0 ? (double)windows_done / (double)n_window : 1.0;
  if (elapsed_s - p->last_event_s >= EVENT_EVERY_S) {
    p->last_event_s = elapsed_s;
    ingot_events_write(p->events, "progress",
                       json_pack("{s:i, s:I, s:I, s:I, s:f}", "step", p->step, "windows_done", (json_int_t)windows_done,
                                 "windows", (json_int_t)n_window, "tokens_done", (json_int_t)tokens_done, "elapsed_s",
                                 elapsed_s));
  }
  if (p->quiet || elapsed_s - p->last_line_s < (p->terminal ? TERMINAL_EVERY_S : LOG_EVERY_S)) return;
  p->last_line_s = elapsed_s;
  snprintf(text, sizeof text, "%3.0f %% (%lld of %lld windows), %.0f s left", 100.0 * part, (long long)windows_done,
           (long long)n_window, part > 0.0 ? elapsed_s * (1.0 - part) / part : 0.0);
  if (p->terminal) fprintf(stderr, "\r%s\033[K", text);
  else ingot_log_info("%s", text);
  p->shown = true;
}

void ingot_progress_finish(ingot_progress *p)
{
  if (p->terminal && p->shown) fprintf(stderr, "\r\033[K");
  fflush(stderr);
}
