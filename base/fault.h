/**
 * Planned failures, for the tests of promises 3 and 4 in docs/architecture.md: "the 7th write of rank 1 fails".
 *
 * The driver reads the environment variable INGOT_FAULT = POINT@RANK:N once, before threads start; without it a check
 * is one comparison. POINT is a name of ingot_fault_point; N counts from 1 within the process. RANK -1 is every rank.
 */
#ifndef INGOT_BASE_FAULT_H
#define INGOT_BASE_FAULT_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_fault_point {
  INGOT_FAULT_READ,   /* a read of an input: INGOT_ERR_IO */
  INGOT_FAULT_WRITE,  /* a write of the output: INGOT_ERR_NOSPACE */
  INGOT_FAULT_COMMIT, /* before the output is renamed into place: INGOT_ERR_IO */
  INGOT_FAULT_KILL,   /* at a write, or a batch of windows: the process kills itself with SIGKILL */
  INGOT_FAULT_LIST,   /* an output has its name, and no manifest yet: likewise */
  INGOT_FAULT_TIDY,   /* an output is complete, and what was kept for a restart still there: likewise */
  INGOT_FAULT_STOP,   /* at a write, or a batch of windows: the process sends itself SIGTERM; no failure */
  INGOT_FAULT_SLOW,   /* every write waits N milliseconds: time for signals from outside to arrive; no failure */
  INGOT_FAULT_COUNT
} ingot_fault_point;

/** spec NULL or "" plans nothing. INGOT_ERR_USAGE for a spec that cannot be read. */
ingot_status ingot_fault_init(const char *spec, int rank);
/** INGOT_OK, or the planned failure. Any thread. */
ingot_status ingot_fault_check(ingot_fault_point point);

#ifdef __cplusplus
}
#endif
#endif
