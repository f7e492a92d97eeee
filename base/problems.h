/** A list of problems: planning looks at everything and reports all that is wrong in one go. */
#ifndef INGOT_BASE_PROBLEMS_H
#define INGOT_BASE_PROBLEMS_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ingot_problem {
  ingot_status status;
  char        *message;
} ingot_problem;

/** Starts as {0}. */
typedef struct ingot_problems {
  ingot_problem *item;
  int            count;
  int            capacity;
} ingot_problems;

void ingot_problems_release(ingot_problems *list);
/** Add a problem. Beyond INGOT_PROBLEMS_KEPT the count grows but texts are dropped. */
void ingot_problems_add(ingot_problems *list, ingot_status st, const char *fmt, ...) INGOT_PRINTF(3, 4);
/** Add this thread's error message as a problem when st is not INGOT_OK. Returns st. */
ingot_status ingot_problems_take(ingot_problems *list, ingot_status st);
/**
 * One status for the whole list: INGOT_OK when empty, otherwise the status of the first problem, with all messages
 * (one a line) set as this thread's error message when they fit and a count of the rest when they do not.
 */
ingot_status ingot_problems_status(const ingot_problems *list);

enum { INGOT_PROBLEMS_KEPT = 100 };

#ifdef __cplusplus
}
#endif
#endif
