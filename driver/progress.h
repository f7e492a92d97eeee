/** Progress of a step: one line on a terminal, a line every ten seconds elsewhere, and events. */
#ifndef INGOT_DRIVER_PROGRESS_H
#define INGOT_DRIVER_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "driver/events.h"

typedef struct ingot_progress {
  ingot_events *events;
  int           step;
  bool          quiet, terminal, shown;
  double        last_line_s, last_event_s;
} ingot_progress;

void ingot_progress_start(ingot_progress *progress, ingot_events *events, int step, bool quiet);
/** As ingot_merge_options.progress; context is the ingot_progress. */
void ingot_progress_update(void *context, int64_t tiles_done, int64_t n_tile, uint64_t bytes_done, uint64_t n_bytes,
                           double elapsed_s);
/** As ingot_gather_options.progress: windows instead of tiles. */
void ingot_progress_windows(void *context, int64_t windows_done, int64_t n_window, int64_t tokens_done,
                            double elapsed_s);
/** End the terminal's line. */
void ingot_progress_finish(ingot_progress *progress);
/** "42 % (17 of 40 tiles), 1.2 of 3.0 GB, 1.50 GB/s, 12 s left" into text. */
void ingot_progress_text(char text[160], int64_t tiles_done, int64_t n_tile, uint64_t bytes_done, uint64_t n_bytes,
                         double elapsed_s);

#endif
