/** The most anonymous memory that the process has while a step runs, whatever it does: a thread looks. */
#ifndef INGOT_DRIVER_MEMORY_WATCH_H
#define INGOT_DRIVER_MEMORY_WATCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ingot_memory_watch {
  pthread_t       thread;
  pthread_mutex_t lock;
  pthread_cond_t  ended;
  bool            running, over;
  uint64_t        peak_bytes; /* seen so far; with the lock while it runs */
} ingot_memory_watch;

/** Begin; without a thread nothing is seen. The watch must stay where it is until its end. */
void ingot_memory_watch_start(ingot_memory_watch *watch);
/** Look once more, end, and return the most that was seen; 0 where the system does not tell. */
uint64_t ingot_memory_watch_end(ingot_memory_watch *watch);

#endif
