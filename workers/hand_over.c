#define _POSIX_C_SOURCE 200809L
#include "workers/hand_over.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "kernels/device.h"

/* docs/performance.md, "Starting the GPU", says where these come from. */
static const ingot_hand_over_limits defaults = {.min_bytes = UINT64_C(4000000000),
                                                .look_s = 0.1,
                                                .min_start_s = 1.5,
                                                .min_rest_s = 0.3,
                                                .trial_lanes = 2,
                                                .trial_tiles = 64};

/* A GPU lane that takes a thread so much longer than a CPU lane is still kept: it leaves the cores to others. */
static const double TOLERANCE = 1.1;

typedef enum start_state { STARTING, READY, UNUSABLE } start_state;
typedef enum verdict { VERDICT_OPEN, VERDICT_DEVICE, VERDICT_CPU } verdict;

struct ingot_hand_over {
  ingot_hand_over_spec   spec;
  ingot_hand_over_limits limits;
  pthread_t              thread;
  int                    device;
  double                 start_s;
  atomic_bool            ending;  /* the merge is over */
  atomic_int             state;   /* start_state */
  atomic_int             verdict; /* verdict */
  atomic_int             n_lane;
  atomic_llong           tiles[2], busy_ns[2]; /* merged; of CPU and GPU lanes */
  atomic_llong           tasks;                /* done, of spec.n_task */
};

bool ingot_hand_over_is_worth(const ingot_hand_over_limits *limits, uint64_t n_bytes)
{
  return n_bytes >= (limits ? limits : &defaults)->min_bytes;
}

/* Seconds that the rest would take as fast as it went so far. */
static double rest_s(ingot_hand_over *h)
{
  long long done = atomic_load(&h->tasks);
  double    elapsed_s = ingot_clock_s() - h->start_s;
  return (double)(h->spec.n_task - done) * elapsed_s / (double)(done > 0 ? done : 1);
}

/* Wait until the pace is known, and look whether the rest is worth a GPU's start and end: 0.4 s together. */
static bool rest_is_worth_it(ingot_hand_over *h)
{
  const struct timespec poll = {.tv_nsec = 5 * 1000 * 1000};
  while (!atomic_load(&h->ending)) {
    double elapsed_s = ingot_clock_s() - h->start_s;
    /* The first tasks may be slow, by page faults and a file's start: look again before calling that slow. */
    bool known = atomic_load(&h->tasks) >= h->spec.n_task / 8 || elapsed_s >= 3 * h->limits.look_s;
    if (known && elapsed_s >= h->limits.look_s) break;
    nanosleep(&poll, NULL);
  }
  return !atomic_load(&h->ending) && rest_s(h) >= h->limits.min_start_s;
}

static ingot_status start_device(ingot_hand_over *h)
{
  ingot_status        st = INGOT_OK;
  ingot_device_cache *cache = NULL;
  int                 n_device = rest_is_worth_it(h) ? ingot_device_count() : 0;
  if (n_device == 0) {
    atomic_store(&h->state, UNUSABLE);
    return INGOT_OK;
  }
  h->device = h->spec.local_rank % n_device;
  INGOT_TRY(ingot_device_use(h->device));
  int ranks_on_device = (h->spec.n_local_rank + n_device - 1) / n_device;
  INGOT_TRY(ingot_device_cache_open(h->spec.plan, h->device, 1.0 / ranks_on_device, &cache));
  *h->spec.cache = cache;
  ingot_schedule_set_cache(h->spec.schedule, cache);
  atomic_store(&h->state, READY);
done:
  return st;
}

static void *start_thread(void *argument)
{
  ingot_hand_over *h = argument;
  if (start_device(h) != INGOT_OK) ingot_hand_over_failed(h);
  return NULL;
}

ingot_status ingot_hand_over_start(const ingot_hand_over_spec *spec, ingot_hand_over **out)
{
  ingot_status     st = INGOT_OK;
  ingot_hand_over *h = calloc(1, sizeof *h);
  INGOT_CHECK(h, INGOT_ERR_NOMEM, "no memory for the start of the GPU");
  h->spec = *spec;
  h->limits = spec->limits ? *spec->limits : defaults;
  h->start_s = ingot_clock_s();
  INGOT_CHECK(pthread_create(&h->thread, NULL, start_thread, h) == 0, INGOT_ERR_NOMEM, "no thread could be started");
  *out = h;
  h = NULL;
done:
  free(h);
  return st;
}

void ingot_hand_over_finish(ingot_hand_over **hand_over)
{
  if (!*hand_over) return;
  atomic_store(&(*hand_over)->ending, true);
  pthread_join((*hand_over)->thread, NULL);
  free(*hand_over);
  *hand_over = NULL;
}

/* Thread seconds a tile on either side, once enough have been merged on both. */
static verdict judge(ingot_hand_over *h)
{
  int       known = atomic_load(&h->verdict);
  long long cpu = atomic_load(&h->tiles[0]), device = atomic_load(&h->tiles[1]);
  if (known != VERDICT_OPEN || cpu < h->limits.trial_tiles || device < h->limits.trial_tiles) return (verdict)known;
  double cpu_ns = (double)atomic_load(&h->busy_ns[0]) / (double)cpu;
  double device_ns = (double)atomic_load(&h->busy_ns[1]) / (double)device;
  int    fresh = device_ns <= cpu_ns * TOLERANCE ? VERDICT_DEVICE : VERDICT_CPU, open = VERDICT_OPEN;
  return atomic_compare_exchange_strong(&h->verdict, &open, fresh) ? (verdict)fresh : (verdict)open;
}

bool ingot_hand_over_wants_lane(ingot_hand_over *h, int *device)
{
  if (atomic_load(&h->state) != READY) return false;
  verdict v = judge(h);
  int     allowed = v == VERDICT_CPU ? 0 : v == VERDICT_DEVICE ? h->spec.lanes_max : h->limits.trial_lanes;
  if (allowed > h->spec.lanes_max) allowed = h->spec.lanes_max;
  if (atomic_load(&h->n_lane) >= allowed || rest_s(h) < h->limits.min_rest_s) return false;
  if (atomic_fetch_add(&h->n_lane, 1) >= allowed) {
    atomic_fetch_sub(&h->n_lane, 1);
    return false;
  }
  *device = h->device;
  return true;
}

void ingot_hand_over_failed(ingot_hand_over *h)
{
  if (atomic_exchange(&h->state, UNUSABLE) != UNUSABLE)
    ingot_log_warning("the merge stays on the CPU: %s", ingot_error_message());
  ingot_error_clear();
}

bool ingot_hand_over_prefers_device(ingot_hand_over *h)
{
  return judge(h) != VERDICT_CPU;
}

void ingot_hand_over_note(ingot_hand_over *h, bool on_device, double seconds, int n_task, int n_tile)
{
  atomic_fetch_add(&h->busy_ns[on_device], (long long)(seconds * 1e9));
  atomic_fetch_add(&h->tasks, n_task);
  atomic_fetch_add(&h->tiles[on_device], n_tile);
}
