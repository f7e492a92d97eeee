/** Token files that an earlier step of the job is to generate: planning goes on with how many tokens they have at
 * most. */
#ifndef INGOT_DRIVER_TOKEN_PROMISE_H
#define INGOT_DRIVER_TOKEN_PROMISE_H

#include "driver/planner.h"
#include "io/tokens.h"

/** Whether `path` is made by an earlier step that is still to run; *n_token: 0 when that step cannot be planned. */
bool ingot_tokens_promised(const ingot_planner *planner, const ingot_job_step *step, const char *path,
                           int64_t *n_token);
/** Windows of such a file at most; 1 where nothing is known, for which that step's problem is in the list. */
int64_t ingot_promised_windows(int64_t n_token, const ingot_window_spec *spec);

#endif
