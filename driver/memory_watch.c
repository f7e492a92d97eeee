#define _POSIX_C_SOURCE 200809L
#include "driver/memory_watch.h"

#include <time.h>

#include "base/process.h"

enum { LOOK_NS = 20 * 1000 * 1000, SECOND_NS = 1000 * 1000 * 1000 };

/* With the lock. */
static void look(ingot_memory_watch *w)
{
  uint64_t bytes = ingot_process_anon_bytes();
  if (bytes > w->peak_bytes) w->peak_bytes = bytes;
}

static void *watch_thread(void *context)
{
  ingot_memory_watch *w = context;
  pthread_mutex_lock(&w->lock);
  while (!w->over) {
    struct timespec until;
    look(w);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_NS;
    if (until.tv_nsec >= SECOND_NS) {
      until.tv_sec++;
      until.tv_nsec -= SECOND_NS;
    }
    pthread_cond_timedwait(&w->ended, &w->lock, &until);
  }
  pthread_mutex_unlock(&w->lock);
  return NULL;
}

void ingot_memory_watch_start(ingot_memory_watch *w)
{
  pthread_condattr_t monotonic;
  *w = (ingot_memory_watch){0};
  pthread_mutex_init(&w->lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&w->ended, &monotonic);
  pthread_condattr_destroy(&monotonic);
  w->running = pthread_create(&w->thread, NULL, watch_thread, w) == 0;
}

uint64_t ingot_memory_watch_end(ingot_memory_watch *w)
{
  pthread_mutex_lock(&w->lock);
  look(w);
  w->over = true;
  pthread_cond_signal(&w->ended);
  pthread_mutex_unlock(&w->lock);
  if (w->running) pthread_join(w->thread, NULL);
  pthread_cond_destroy(&w->ended);
  pthread_mutex_destroy(&w->lock);
  return w->peak_bytes;
}
