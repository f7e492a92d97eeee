/**
 * The lock of an output ("<path>.lock"): of several runs with one output, one writes it.
 *
 * The lock is a text file with a line for each of: host, pid, the process's start and the machine's boot (so that a pid
 * used again is not mistaken), what runs, its Slurm job, when it began, whether the kernel's file lock is held as well,
 * and a random token. It appears under its name complete, by link(2), with an open-file-description lock on it where
 * the file system has such locks. The holder renews its modification time every INGOT_LOCK_BEAT_S.
 *
 * A lock whose holder is gone is taken over:
 * - on the same machine (host and boot) at once: the kernel's lock went with the process, or no such process is there;
 * - of the same Slurm job, when Slurm has started that job again since, at once;
 * - of another machine when its modification time is older than INGOT_LOCK_STALE_S, by the file system's own clock. A
 *   holder that only slept so long finds out before its output gets its name (ingot_lock_check).
 */
#ifndef INGOT_IO_LOCK_H
#define INGOT_IO_LOCK_H

#include <stdbool.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_LOCK_BEAT_S = 20, INGOT_LOCK_STALE_S = 300 };

typedef struct ingot_lock ingot_lock;

/**
 * Take the lock of an output; makes missing parent folders. One rank does it. Starts a thread that renews the lock.
 *
 * @param what  For people and messages: the job file, for example. One line.
 * @return INGOT_ERR_BUSY when another run holds it: the message names the holder and the lock file; INGOT_ERR_IO,
 *         INGOT_ERR_NOSPACE, INGOT_ERR_NOMEM.
 */
ingot_status ingot_lock_take(const char *output_path, const char *what, ingot_lock **out);
/** Whether an output has a lock file: of a run at work, or of one that is gone. */
bool ingot_lock_is_there(const char *output_path);
/** Look whether the lock is still ours, and renew it. INGOT_ERR_BUSY when not: the output must not be touched. Any
 * thread. */
ingot_status ingot_lock_check(ingot_lock *lock);
/** Give it back: the file goes, unless it is another's by now. *lock becomes NULL; NULL is fine. */
void ingot_lock_release(ingot_lock **lock);

#ifdef __cplusplus
}
#endif
#endif
