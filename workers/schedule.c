#define _POSIX_C_SOURCE 200809L
#include "workers/schedule.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "workers/memory.h"

enum { MAX_ACTIVE = 64, MAX_SPARE = 2, MAX_SPARE_BYTES = 8 << 20 };

/* Slots that a summary has left, for the next one: new pages of a virtual machine can cost more than the pass that
 * fills them. */
typedef struct spare {
  void  *pages;
  size_t bytes;
} spare;

typedef enum entry_phase { PHASE_SCAN, PHASE_DECIDE, PHASE_ROOM, PHASE_APPLY } entry_phase; /* ROOM: waits for memory */

/* An active tensor. */
typedef struct entry {
  struct entry             *next; /* in file order */
  const ingot_merge_tensor *tensor;
  int                       tensor_index;
  ingot_method_tensor       view;                 /* tensor->view with the model state */
  ingot_merge_tensor        bound;                /* *tensor with that view */
  int64_t                   tile_begin, tile_end; /* this rank's part, within the tensor */
  void                     *state;
  void                     *cache;
  bool                      on_device; /* began on a GPU lane; its passes stay there */
  entry_phase               phase;
  ingot_scan_plan           scan;
  char                     *slots;
  size_t                    slots_bytes;
  bool                      is_dense;     /* the estimate counts every byte of the slots */
  uint64_t                  bytes;        /* that its summary takes, about */
  uint64_t                  wanted_bytes; /* ROOM */
  int64_t                  *sums;
  int64_t                   n_task, n_taken, n_done; /* of this phase; APPLY counts the tiles already done as taken */
  int64_t                   cursor;                  /* APPLY: next tile to look at */
} entry;

struct ingot_schedule {
  ingot_schedule_spec spec;
  pthread_mutex_t     lock;
  pthread_mutex_t     sums_lock;
  pthread_cond_t      changed;
  entry              *active; /* in file order */
  int                 n_active;
  int64_t             active_tiles;
  uint64_t            active_bytes; /* of summaries */
  int                 n_waiting;    /* entries in phase ROOM */
  spare               spares[MAX_SPARE];
  int64_t             next_tile; /* of all tiles: the first one of tensors not yet active */
  int                 next_tensor;
  bool                cancelled;

  /* One pass over the model; NULL for the merge. */
  const ingot_scan_plan *model_scan;
  void                  *model_scan_state;
  char                  *model_slots;
  int64_t               *model_sums;
  int64_t                n_outstanding;
};

static const ingot_merge_tensor *plan_tensor(const ingot_schedule *s, int i)
{
  return &s->spec.plan->tensors[i];
}

static int64_t tensor_tiles(const ingot_merge_tensor *t)
{
  return ingot_tile_count(t->view.n_elem);
}

static ingot_status schedule_create(const ingot_schedule_spec *spec, ingot_schedule **out)
{
  ingot_schedule *s = calloc(1, sizeof *s);
  if (!s) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the schedule");
  s->spec = *spec;
  pthread_mutex_init(&s->lock, NULL);
  pthread_mutex_init(&s->sums_lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  s->next_tile = spec->tile_begin;
  while (s->next_tensor < spec->plan->n_tensor &&
         plan_tensor(s, s->next_tensor)->first_tile + tensor_tiles(plan_tensor(s, s->next_tensor)) <= spec->tile_begin)
    s->next_tensor++;
  *out = s;
  return INGOT_OK;
}

ingot_status ingot_schedule_create(const ingot_schedule_spec *spec, ingot_schedule **out)
{
  return schedule_create(spec, out);
}

ingot_status ingot_schedule_create_model_scan(const ingot_schedule_spec *spec, void *model_state,
                                              const ingot_scan_plan *scan, void *slots, int64_t *sums,
                                              ingot_schedule **out)
{
  ingot_status st = schedule_create(spec, out);
  if (st != INGOT_OK) return st;
  (*out)->model_scan = scan;
  (*out)->model_scan_state = model_state;
  (*out)->model_slots = slots;
  (*out)->model_sums = sums;
  return INGOT_OK;
}

/* Slots, zeroed: dense ones from a spare that is large enough, else new ones, in exchange for a spare that does not
 * fit. */
static void take_slots(ingot_schedule *s, entry *e, size_t bytes)
{
  spare *unfit = NULL;
  for (int i = 0; e->is_dense && i < MAX_SPARE; i++) {
    spare *left = &s->spares[i];
    if (!left->pages) continue;
    unfit = left;
    if (left->bytes < bytes || left->bytes / 2 > bytes) continue;
    e->slots = left->pages;
    e->slots_bytes = left->bytes;
    *left = (spare){0};
    memset(e->slots, 0, bytes);
    return;
  }
  if (unfit) {
    ingot_pages_give_back(unfit->pages, unfit->bytes);
    *unfit = (spare){0};
  }
  e->slots = ingot_pages_take(bytes);
  e->slots_bytes = bytes;
}

/* Slots that were expected to be full, and are not very large, become a spare; others would have to be touched to be
 * zeroed. */
static void free_slots(ingot_schedule *s, entry *e)
{
  int i = 0;
  while (i < MAX_SPARE && s->spares[i].pages) i++;
  if (e->slots && e->is_dense && e->slots_bytes <= MAX_SPARE_BYTES && i < MAX_SPARE)
    s->spares[i] = (spare){e->slots, e->slots_bytes};
  else ingot_pages_give_back(e->slots, e->slots_bytes);
  e->slots = NULL;
  e->slots_bytes = 0;
}

static void entry_destroy(ingot_schedule *s, entry *e)
{
  ingot_device_cache_release(&e->cache);
  free(e->state);
  free_slots(s, e);
  free(e->sums);
  free(e);
}

void ingot_schedule_destroy(ingot_schedule **schedule)
{
  ingot_schedule *s = schedule ? *schedule : NULL;
  if (!s) return;
  while (s->active) {
    entry *e = s->active;
    s->active = e->next;
    entry_destroy(s, e);
  }
  for (int i = 0; i < MAX_SPARE; i++) ingot_pages_give_back(s->spares[i].pages, s->spares[i].bytes);
  pthread_cond_destroy(&s->changed);
  pthread_mutex_destroy(&s->sums_lock);
  pthread_mutex_destroy(&s->lock);
  free(s);
  *schedule = NULL;
}

/* Enter the phase that a scan plan asks for. Under the lock, or before the entry is in the list. */
static ingot_status entry_start_phase(ingot_schedule *s, entry *e, const ingot_scan_plan *plan)
{
  if (!e->scan.keep_slots || plan->pass != INGOT_SCAN_DONE) free_slots(s, e);
  free(e->sums);
  e->sums = NULL;
  e->scan = *plan;
  e->n_taken = 0;
  e->n_done = 0;
  if (e->scan.pass == INGOT_SCAN_DONE) {
    e->phase = PHASE_APPLY;
    e->cursor = e->tile_begin;
    e->n_task = 0;
    for (int64_t i = e->tile_begin; i < e->tile_end; i++)
      if (!s->spec.done[e->tensor->first_tile + i]) e->n_task++;
    return INGOT_OK;
  }
  e->phase = PHASE_SCAN;
  e->n_task = e->scan.tiles ? e->scan.n_tiles : e->tile_end - e->tile_begin;
  INGOT_ASSERT(e->n_task > 0);
  size_t bytes = (size_t)e->n_task * e->scan.slot_bytes;
  e->is_dense = bytes <= e->bytes;
  take_slots(s, e, bytes);
  e->sums = calloc((size_t)e->scan.n_sum + 1,
                   sizeof *e->sums); /* of 0 bytes it may be NULL: one more keeps NULL for "no memory" */
  if (!e->slots || !e->sums)
    return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for the sums of %lld tiles", e->view.name, (long long)e->n_task);
  return INGOT_OK;
}

/* What a pass takes, about: slots have room for more than is likely, and pages that stay empty cost nothing. */
static uint64_t pass_bytes(const entry *e, const ingot_scan_plan *plan, uint64_t estimate)
{
  int64_t  n_tile = plan->tiles ? plan->n_tiles : e->tile_end - e->tile_begin;
  uint64_t half = (uint64_t)n_tile * plan->slot_bytes / 2;
  return half > estimate ? half : estimate;
}

static bool has_room(const ingot_schedule *s, uint64_t bytes)
{
  return s->spec.summaries_bytes == 0 || s->active_bytes == 0 || bytes == 0 ||
         s->active_bytes + bytes <= s->spec.summaries_bytes;
}

/* Go on with what `next` has asked for; with more than there is room for, later. Called under the lock. */
static ingot_status entry_go_on(ingot_schedule *s, entry *e, const ingot_scan_plan *plan)
{
  bool     more = plan->pass != INGOT_SCAN_DONE;
  uint64_t bytes = more ? pass_bytes(e, plan, e->bytes) : 0;
  s->active_bytes -= e->bytes;
  if (more && bytes > e->bytes && !has_room(s, bytes)) {
    free_slots(s, e);
    e->scan = *plan;
    e->bytes = 0;
    e->wanted_bytes = bytes;
    e->phase = PHASE_ROOM;
    s->n_waiting++;
    return INGOT_OK;
  }
  ingot_status st = entry_start_phase(s, e, plan);
  e->bytes = more ? bytes : e->slots_bytes;
  s->active_bytes += e->bytes;
  return st;
}

/* Start what waits for memory, in file order. Called under the lock. */
static ingot_status start_waiting(ingot_schedule *s)
{
  ingot_status st = INGOT_OK;
  for (entry *e = s->active; st == INGOT_OK && e && s->n_waiting > 0; e = e->next) {
    if (e->phase != PHASE_ROOM) continue;
    if (!has_room(s, e->wanted_bytes)) break;
    ingot_scan_plan plan = e->scan;
    st = entry_start_phase(s, e, &plan);
    e->bytes = e->wanted_bytes;
    s->active_bytes += e->bytes;
    s->n_waiting--;
  }
  return st;
}

/* The method's choice of the next pass, for where it runs; DONE at once when there is no summary. No lock needed. */
static ingot_status entry_decide(const ingot_schedule *s, entry *e, const ingot_scan_result *result,
                                 ingot_scan_plan *plan)
{
  const ingot_method *m = s->spec.plan->method;
  ingot_status        st = INGOT_OK;
  bool                summary = ingot_merge_has_summary(e->tensor);
  *plan = (ingot_scan_plan){.pass = INGOT_SCAN_DONE};
  if (summary && e->on_device && m->device->next) st = m->device->next(&e->view, e->state, result, plan);
  else if (summary && !e->on_device && m->tensor.next) st = m->tensor.next(&e->view, e->state, result, plan);
  return ingot_wrap(st, "%s", e->view.name);
}

static bool all_done(const ingot_schedule *s, const ingot_merge_tensor *t, int64_t begin, int64_t end)
{
  for (int64_t i = begin; i < end; i++)
    if (!s->spec.done[t->first_tile + i]) return false;
  return true;
}

/* Make the next tensor active; *made is false when there is none left, or no memory for it yet. Called under the
 * lock. */
static ingot_status activate_next(ingot_schedule *s, bool on_device, bool *made)
{
  const ingot_merge_plan *plan = s->spec.plan;
  *made = false;
  while (s->next_tensor < plan->n_tensor && s->next_tile < s->spec.tile_end) {
    const ingot_merge_tensor *t = plan_tensor(s, s->next_tensor);
    int64_t                   begin = s->next_tile - t->first_tile;
    int64_t                   end = tensor_tiles(t);
    if (t->first_tile + end > s->spec.tile_end) end = s->spec.tile_end - t->first_tile;
    int      index = s->next_tensor;
    bool     needless = all_done(s, t, begin, end);
    uint64_t bytes = needless || on_device ? 0 : ingot_memory_of_summary(plan, index); /* a GPU's are small here */
    if (bytes > 0 && (s->n_waiting > 0 || !has_room(s, bytes))) return INGOT_OK;
    s->next_tensor++;
    s->next_tile = t->first_tile + tensor_tiles(t);
    if (needless) continue;

    entry *e = calloc(1, sizeof *e);
    if (!e) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its schedule", t->view.name);
    e->tensor = t;
    e->tensor_index = index;
    e->view = t->view;
    e->view.model_state = s->spec.model_state;
    e->bound = *t;
    e->bound.view = e->view;
    e->tile_begin = begin;
    e->tile_end = end;
    e->on_device = on_device;
    e->bytes = bytes;
    ingot_status st = INGOT_OK;
    if (!t->copy) {
      e->state = calloc(1, plan->method->state_bytes(&e->view) + 1);
      st = e->state ? plan->method->begin(&e->view, e->state)
                    : ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for the method's state", t->view.name);
      if (st == INGOT_OK && s->spec.cache && on_device && t->grain == INGOT_GRAIN_TENSOR)
        st = ingot_device_cache_reserve(s->spec.cache, plan, index, &e->cache);
    }
    ingot_scan_plan first;
    if (st == INGOT_OK) st = entry_decide(s, e, NULL, &first);
    if (st == INGOT_OK) st = entry_start_phase(s, e, &first);
    if (st != INGOT_OK) {
      entry_destroy(s, e);
      return st;
    }
    entry **link = &s->active;
    while (*link) link = &(*link)->next;
    *link = e;
    s->n_active++;
    s->active_tiles += end - begin;
    s->active_bytes += e->bytes;
    *made = true;
    return INGOT_OK;
  }
  return INGOT_OK;
}

static bool begins_on_device(ingot_schedule_lanes lanes)
{
  return lanes.device && (lanes.prefer_device || !lanes.cpu);
}

static void entry_take(ingot_schedule *s, entry *e, ingot_schedule_lanes lanes, ingot_task *task)
{
  *task = (ingot_task){.tensor = &e->bound, .tensor_index = e->tensor_index, .state = e->state, .cache = e->cache};
  task->on_device = ingot_merge_has_summary(e->tensor) ? e->on_device : begins_on_device(lanes);
  if (e->phase == PHASE_APPLY) {
    while (s->spec.done[e->tensor->first_tile + e->cursor]) e->cursor++;
    task->kind = INGOT_TASK_APPLY;
    task->tile = e->cursor++;
    task->count_nonfinite = true;
  } else {
    task->kind = INGOT_TASK_SCAN;
    task->tile = e->scan.tiles ? e->scan.tiles[e->n_taken] : e->tile_begin + e->n_taken;
    task->ops = &s->spec.plan->method->tensor;
    task->scan = &e->scan;
    task->slot = e->slots + (size_t)e->n_taken * e->scan.slot_bytes;
    task->sums = e->sums;
    task->sums_lock = &s->sums_lock;
  }
  e->n_taken++;
}

static bool take_active(ingot_schedule *s, ingot_schedule_lanes lanes, ingot_task *task)
{
  for (entry *e = s->active; e; e = e->next) {
    bool fits = !ingot_merge_has_summary(e->tensor) || (e->on_device ? lanes.device : lanes.cpu);
    if (fits && e->phase != PHASE_DECIDE && e->phase != PHASE_ROOM && e->n_taken < e->n_task) {
      entry_take(s, e, lanes, task);
      return true;
    }
  }
  return false;
}

/* Few large tensors or many small ones: enough to keep the lanes busy while a pass ends. */
static bool wants_another(const ingot_schedule *s)
{
  return s->n_active < 2 || (s->n_active < MAX_ACTIVE && s->active_tiles < 4 * (int64_t)s->spec.n_task);
}

static bool take_model_scan(ingot_schedule *s, ingot_task *task)
{
  while (s->next_tile < s->spec.tile_end) {
    const ingot_merge_tensor *t = plan_tensor(s, s->next_tensor);
    int64_t                   tile = s->next_tile - t->first_tile;
    if (tile >= tensor_tiles(t)) {
      s->next_tensor++;
      continue;
    }
    if (t->copy) {
      s->next_tile = t->first_tile + tensor_tiles(t);
      continue;
    }
    *task = (ingot_task){.kind = INGOT_TASK_SCAN,
                         .tensor = t,
                         .tensor_index = s->next_tensor,
                         .tile = tile,
                         .state = s->model_scan_state,
                         .ops = &s->spec.plan->method->model,
                         .scan = s->model_scan,
                         .slot = s->model_slots + (size_t)s->next_tile * s->model_scan->slot_bytes,
                         .sums = s->model_sums,
                         .sums_lock = &s->sums_lock};
    s->next_tile++;
    s->n_outstanding++;
    return true;
  }
  return false;
}

ingot_status ingot_schedule_next(ingot_schedule *s, ingot_schedule_lanes lanes, bool wait, ingot_task *task,
                                 ingot_schedule_answer *answer)
{
  ingot_status st = INGOT_OK;
  pthread_mutex_lock(&s->lock);
  for (;;) {
    *answer = INGOT_SCHEDULE_FINISHED;
    if (s->cancelled) break;
    *answer = INGOT_SCHEDULE_TASK;
    if (s->model_scan) {
      if (!take_model_scan(s, task)) *answer = INGOT_SCHEDULE_FINISHED;
      break;
    }
    if (take_active(s, lanes, task)) break;
    bool made = false;
    if (wants_another(s)) st = activate_next(s, begins_on_device(lanes), &made);
    if (st != INGOT_OK) break;
    if (made) continue;
    *answer = s->n_active == 0 ? INGOT_SCHEDULE_FINISHED : INGOT_SCHEDULE_LATER;
    if (*answer == INGOT_SCHEDULE_FINISHED || !wait) break;
    pthread_cond_wait(&s->changed, &s->lock);
  }
  pthread_mutex_unlock(&s->lock);
  return st;
}

static entry **find_entry(ingot_schedule *s, const ingot_task *task)
{
  entry **link = &s->active;
  while (*link && (*link)->tensor_index != task->tensor_index) link = &(*link)->next;
  INGOT_ASSERT(*link);
  return link;
}

ingot_status ingot_schedule_complete(ingot_schedule *s, const ingot_task *task)
{
  ingot_status st = INGOT_OK;
  pthread_mutex_lock(&s->lock);
  if (s->model_scan) {
    s->n_outstanding--;
    goto done;
  }
  entry **link = find_entry(s, task);
  entry  *e = *link;
  if (++e->n_done < e->n_task) goto done;

  if (e->phase == PHASE_SCAN) {
    /* The decision may sort or solve something: other lanes work on meanwhile. */
    e->phase = PHASE_DECIDE;
    pthread_mutex_unlock(&s->lock);
    ingot_scan_plan   next;
    ingot_scan_result result = {.plan = &e->scan, .n_slot = e->n_task, .slots = e->slots, .sums = e->sums};
    st = entry_decide(s, e, &result, &next);
    pthread_mutex_lock(&s->lock);
    if (st == INGOT_OK) st = entry_go_on(s, e, &next);
  } else {
    *link = e->next;
    s->n_active--;
    s->active_tiles -= e->tile_end - e->tile_begin;
    s->active_bytes -= e->bytes;
    entry_destroy(s, e);
  }
  if (st == INGOT_OK) st = start_waiting(s);
  pthread_cond_broadcast(&s->changed);
done:
  pthread_mutex_unlock(&s->lock);
  return st;
}

void ingot_schedule_cancel(ingot_schedule *s)
{
  pthread_mutex_lock(&s->lock);
  s->cancelled = true;
  pthread_cond_broadcast(&s->changed);
  pthread_mutex_unlock(&s->lock);
}

void ingot_schedule_set_cache(ingot_schedule *s, ingot_device_cache *cache)
{
  pthread_mutex_lock(&s->lock);
  s->spec.cache = cache;
  pthread_mutex_unlock(&s->lock);
}
