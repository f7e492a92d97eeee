#include "workers/device_cache.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/status.h"
#include "kernels/device.h"

enum { ALIGN = 256 };

typedef struct entry entry;
struct entry {
  ingot_device_cache       *cache;
  const ingot_merge_tensor *tensor;
  const ingot_merge_plan   *plan;
  uint64_t                  begin, size; /* part of the cache's memory */
  entry                    *next;        /* by begin */
  uint64_t                 *input_begin; /* [n_input], from the start of the entry */
  bool                     *filled;      /* [n_tile]; each tile is one task's, so tasks never share an element */
};

struct ingot_device_cache {
  char           *memory;
  uint64_t        size;
  pthread_mutex_t lock;  /* of the list */
  entry          *first; /* entries in use */
};

static uint64_t align_up(uint64_t bytes)
{
  return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static ingot_dtype input_dtype(const ingot_merge_plan *plan, const ingot_merge_tensor *t, int input)
{
  return ingot_source_tensor(plan->sources[t->source[input]], t->tensor[input])->dtype;
}

static uint64_t tensor_bytes(const ingot_merge_plan *plan, const ingot_merge_tensor *t)
{
  uint64_t bytes = 0;
  for (int i = 0; i < t->view.n_input; i++) {
    bytes += align_up((uint64_t)t->view.n_elem * ingot_dtype_size(input_dtype(plan, t, i)));
  }
  return bytes;
}

static uint64_t wanted_bytes(const ingot_merge_plan *plan)
{
  uint64_t bytes = 0;
  for (int i = 0; i < plan->n_tensor; i++) {
    const ingot_merge_tensor *t = &plan->tensors[i];
    if (ingot_merge_has_summary(t)) bytes += tensor_bytes(plan, t);
  }
  return bytes;
}

ingot_status ingot_device_cache_open(const ingot_merge_plan *plan, int device, double share, ingot_device_cache **out)
{
  ingot_status        st = INGOT_OK;
  ingot_device_cache *cache = NULL;
  char                name[128];
  size_t              total_bytes = 0, free_bytes = 0;
  void               *memory = NULL;

  *out = NULL;
  if (!ingot_device_built() || plan->method->device == NULL) return INGOT_OK;
  uint64_t size = wanted_bytes(plan);
  if (size == 0) return INGOT_OK;

  INGOT_TRY(ingot_device_info(device, name, &total_bytes, &free_bytes));
  uint64_t room = (uint64_t)(0.6 * share * (double)free_bytes);
  if (size > room) size = room / ALIGN * ALIGN;
  if (size == 0 || ingot_device_alloc(size, &memory) != INGOT_OK) {
    ingot_error_clear(); /* no room: the inputs will be read again */
    return INGOT_OK;
  }
  cache = calloc(1, sizeof *cache);
  INGOT_CHECK(cache != NULL, INGOT_ERR_NOMEM, "out of memory for the device cache");
  cache->memory = memory;
  cache->size = size;
  memory = NULL;
  pthread_mutex_init(&cache->lock, NULL);
  *out = cache;
done:
  ingot_device_free(memory);
  return st;
}

void ingot_device_cache_close(ingot_device_cache **cache)
{
  if (*cache == NULL) return;
  INGOT_ASSERT((*cache)->first == NULL);
  ingot_device_free((*cache)->memory);
  pthread_mutex_destroy(&(*cache)->lock);
  free(*cache);
  *cache = NULL;
}

/* First fit: put e between its neighbours; false when no gap is large enough. */
static bool place(ingot_device_cache *cache, entry *e)
{
  uint64_t begin = 0;
  entry  **link = &cache->first;
  while (*link != NULL && (*link)->begin - begin < e->size) {
    begin = (*link)->begin + (*link)->size;
    link = &(*link)->next;
  }
  if (*link == NULL && cache->size - begin < e->size) return false;
  e->begin = begin;
  e->next = *link;
  *link = e;
  return true;
}

static void entry_free(entry *e)
{
  if (e == NULL) return;
  free(e->input_begin);
  free(e->filled);
  free(e);
}

ingot_status ingot_device_cache_reserve(ingot_device_cache *cache, const ingot_merge_plan *plan, int tensor,
                                        void **entry_out)
{
  ingot_status              st = INGOT_OK;
  const ingot_merge_tensor *t = &plan->tensors[tensor];
  entry                    *e = NULL;

  *entry_out = NULL;
  if (cache == NULL || t->view.n_elem == 0) return INGOT_OK;
  e = calloc(1, sizeof *e);
  INGOT_CHECK(e != NULL, INGOT_ERR_NOMEM, "out of memory for the device cache");
  e->input_begin = calloc((size_t)t->view.n_input, sizeof *e->input_begin);
  e->filled = calloc((size_t)ingot_tile_count(t->view.n_elem), sizeof *e->filled);
  INGOT_CHECK(e->input_begin != NULL && e->filled != NULL, INGOT_ERR_NOMEM, "out of memory for the device cache");
  e->cache = cache;
  e->tensor = t;
  e->plan = plan;
  for (int i = 0; i < t->view.n_input; i++) {
    e->input_begin[i] = e->size;
    e->size += align_up((uint64_t)t->view.n_elem * ingot_dtype_size(input_dtype(plan, t, i)));
  }
  pthread_mutex_lock(&cache->lock);
  bool placed = place(cache, e);
  pthread_mutex_unlock(&cache->lock);
  if (placed) {
    *entry_out = e;
    e = NULL;
  }
done:
  entry_free(e);
  return st;
}

void ingot_device_cache_release(void **entry_in)
{
  entry *e = *entry_in;
  if (e == NULL) return;
  pthread_mutex_lock(&e->cache->lock);
  entry **link = &e->cache->first;
  while (*link != e) link = &(*link)->next;
  *link = e->next;
  pthread_mutex_unlock(&e->cache->lock);
  entry_free(e);
  *entry_in = NULL;
}

void *ingot_device_cache_tile(void *entry_in, int input, int64_t tile)
{
  entry *e = entry_in;
  size_t element = ingot_dtype_size(input_dtype(e->plan, e->tensor, input));
  return e->cache->memory + e->begin + e->input_begin[input] + (uint64_t)tile * INGOT_TILE * element;
}

bool ingot_device_cache_is_filled(const void *entry_in, int64_t tile)
{
  const entry *e = entry_in;
  return e->filled[tile];
}

void ingot_device_cache_set_filled(void *entry_in, int64_t tile)
{
  entry *e = entry_in;
  e->filled[tile] = true;
}
