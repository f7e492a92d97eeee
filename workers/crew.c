#include "workers/crew.h"

#include <pthread.h>
#include <stdio.h>

enum { THREAD_MAX = 256 };

typedef struct crew {
  pthread_mutex_t lock;
  ingot_crew_work work;
  void           *context;
  int64_t         next, n_item;
  int             n_number; /* threads that have one */
  ingot_status    status;
  char            message[1024];
} crew;

static void *member(void *argument)
{
  crew        *c = argument;
  ingot_status st = INGOT_OK;
  pthread_mutex_lock(&c->lock);
  int thread = c->n_number++;
  while (c->status == INGOT_OK && c->next < c->n_item) {
    int64_t item = c->next++;
    pthread_mutex_unlock(&c->lock);
    st = c->work(c->context, item, thread);
    pthread_mutex_lock(&c->lock);
    if (st == INGOT_OK || c->status != INGOT_OK) continue;
    c->status = st;
    snprintf(c->message, sizeof c->message, "%s", ingot_error_message());
  }
  pthread_mutex_unlock(&c->lock);
  return NULL;
}

ingot_status ingot_crew_run(int n_thread, int64_t n_item, ingot_crew_work work, void *context)
{
  crew      c = {.work = work, .context = context, .n_item = n_item};
  pthread_t threads[THREAD_MAX];
  int       n = 0;
  if (n_thread > THREAD_MAX) n_thread = THREAD_MAX;
  if (n_thread > n_item) n_thread = (int)n_item;
  pthread_mutex_init(&c.lock, NULL);
  while (n < n_thread - 1 && pthread_create(&threads[n], NULL, member, &c) == 0) n++;
  member(&c);
  for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
  pthread_mutex_destroy(&c.lock);
  return c.status == INGOT_OK ? INGOT_OK : ingot_fail(c.status, "%s", c.message);
}

static void *fly(void *argument)
{
  ingot_crew_flight *f = argument;
  f->status = ingot_crew_run(f->n_thread, f->n_item, f->work, f->context);
  if (f->status != INGOT_OK) snprintf(f->message, sizeof f->message, "%s", ingot_error_message());
  return NULL;
}

void ingot_crew_start(ingot_crew_flight *flight, int n_thread, int64_t n_item, ingot_crew_work work, void *context)
{
  *flight = (ingot_crew_flight){.n_thread = n_thread, .n_item = n_item, .work = work, .context = context};
  flight->under_way = pthread_create(&flight->thread, NULL, fly, flight) == 0;
  if (!flight->under_way) fly(flight);
}

ingot_status ingot_crew_wait(ingot_crew_flight *flight)
{
  if (flight->under_way) pthread_join(flight->thread, NULL);
  flight->under_way = false;
  ingot_status st = flight->status;
  flight->status = INGOT_OK;
  return st == INGOT_OK ? INGOT_OK : ingot_fail(st, "%s", flight->message);
}
