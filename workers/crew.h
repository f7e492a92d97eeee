/** The same work on many items, by a few threads that live as long as the call. */
#ifndef INGOT_WORKERS_CREW_H
#define INGOT_WORKERS_CREW_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/** `thread` is a number below n_thread that no other item has at the same time: for buffers of a thread. */
typedef ingot_status (*ingot_crew_work)(void *context, int64_t item, int thread);

/**
 * work(context, i, ...) for i = 0 .. n_item - 1, begun in ascending order, on n_thread threads with the calling one.
 * After a failure no more are begun; the first failure's status and message are returned. Fewer threads than asked for
 * are no failure.
 */
ingot_status ingot_crew_run(int n_thread, int64_t n_item, ingot_crew_work work, void *context);

/** Such a run beside the calling thread; zero-initialised. */
typedef struct ingot_crew_flight {
  pthread_t       thread;
  bool            under_way;
  int             n_thread;
  int64_t         n_item;
  ingot_crew_work work;
  void           *context;
  ingot_status    status;
  char            message[1024];
} ingot_crew_flight;

/** Begin a run, after the one before was waited for. Without a thread for it, it is done here and now. */
void ingot_crew_start(ingot_crew_flight *flight, int n_thread, int64_t n_item, ingot_crew_work work, void *context);
/** The end of the run, and its status with its message; INGOT_OK when none was begun. */
ingot_status ingot_crew_wait(ingot_crew_flight *flight);

#endif
