/**
 * Messages to people, on stderr. Results that a user asked for (plans, tables) go to stdout, not through here.
 *
 * info:    once a run, from rank 0: what was done.
 * warning: once a run, from rank 0: done, but perhaps not as meant.
 * error:   the one line (or block) before a non-zero exit, with the rank that failed and its host when there are
 * several (ingot_error_origin, or else this one).
 */
#ifndef INGOT_BASE_LOG_H
#define INGOT_BASE_LOG_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Tell the log which rank this is; ranks other than 0 print no info and no warnings. Call once, before threads. */
void ingot_log_init(int rank, int n_rank);
/** Drop info messages (--quiet). */
void ingot_log_set_quiet(int quiet);
void ingot_log_info(const char *fmt, ...) INGOT_PRINTF(1, 2);
void ingot_log_warning(const char *fmt, ...) INGOT_PRINTF(1, 2);
void ingot_log_error(const char *fmt, ...) INGOT_PRINTF(1, 2);

#ifdef __cplusplus
}
#endif
#endif
