/** What the system says of this process. */
#ifndef INGOT_BASE_PROCESS_H
#define INGOT_BASE_PROCESS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Anonymous memory in bytes, now: what is not a page of a file. 0 where the system does not tell (/proc). Any
 * thread. */
uint64_t ingot_process_anon_bytes(void);
/** Memory that this machine has, or less where a control group (a batch system's) gives its processes less. 0: not
 * known. Any thread. */
uint64_t ingot_process_memory_bytes(void);
/**
 * Who failed, "rank 3 on node7": where this thread's error came from (ingot_error_origin), or else this process, which
 * is `rank`. Any thread.
 */
void ingot_process_failed_rank(int rank, char text[INGOT_ORIGIN_TEXT]);

#ifdef __cplusplus
}
#endif
#endif
