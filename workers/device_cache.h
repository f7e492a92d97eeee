/**
 * Inputs kept on the GPU between the passes over a tensor: the first pass reads and copies them, the later ones find
 * them there. One cache serves all lanes of a rank; it takes one piece of device memory when it is opened and hands out
 * parts.
 *
 * Having no room is never an error: an entry is then NULL, and the lanes read the inputs again. Without CUDA the cache
 * is always NULL, and so is every entry.
 *
 * Use: reserve when a tensor becomes active, put the entry into ingot_task.cache of all its tasks, release after its
 * last task has finished. A pass of a tensor may begin only after every task of its pass before has finished.
 */
#ifndef INGOT_WORKERS_DEVICE_CACHE_H
#define INGOT_WORKERS_DEVICE_CACHE_H

#include "workers/merge.h"

typedef struct ingot_device_cache ingot_device_cache;

/**
 * Open for the tensors of a plan that need summaries. Room: what they take together, at most 0.6 * share of the memory
 * that is free now. The calling thread is bound to the device.
 *
 * @param share  Part of the device that this rank may count as its own, in (0, 1]: 1 / (ranks on the device).
 * @param out    NULL when no tensor needs a summary, when there is no memory, or without CUDA.
 * @return INGOT_ERR_DEVICE only when the device cannot be used at all; INGOT_ERR_NOMEM.
 */
ingot_status ingot_device_cache_open(const ingot_merge_plan *plan, int device, double share, ingot_device_cache **out);
/** NULL is fine. All entries were released, all lanes are closed. */
void ingot_device_cache_close(ingot_device_cache **cache);

/**
 * Room for all inputs of plan->tensors[tensor]; *entry is NULL when there is none or cache is NULL. Any thread.
 * INGOT_ERR_NOMEM (host memory) only.
 */
ingot_status ingot_device_cache_reserve(ingot_device_cache *cache, const ingot_merge_plan *plan, int tensor,
                                        void **entry);
/** Give the room back; *entry becomes NULL. NULL is fine. Any thread. */
void ingot_device_cache_release(void **entry);

/** For lanes: device memory of one input's tile, which starts 256-byte aligned. */
void *ingot_device_cache_tile(void *entry, int input, int64_t tile);
/** For lanes: whether a pass has put a tile's inputs there, all of them. */
bool ingot_device_cache_is_filled(const void *entry, int64_t tile);
void ingot_device_cache_set_filled(void *entry, int64_t tile);

#endif
