/** Where the models of a step go: the setting `placement`, and the memory that a rank has for them. */
#ifndef INGOT_DRIVER_PLACEMENT_H
#define INGOT_DRIVER_PLACEMENT_H

#include "driver/planner.h"

/** placement = "..." of the steps that run several models. */
typedef enum ingot_placement_choice { INGOT_PLACE_AUTO, INGOT_PLACE_REPLICATED, INGOT_PLACE_SPREAD } ingot_placement_choice;

/** "auto", "replicated", "spread", NULL. */
extern const char *const ingot_placement_names[];

/** A row of a step's keys. */
#define INGOT_PLACEMENT_ROW(offset, what)                                                                              \
  {"placement", INGOT_KEY_CHOICE, false, "auto", ingot_placement_names, offset,                                        \
   what " are all on each rank (replicated) or each on one rank (spread); auto: replicated if they fit"}

/** What a rank may take. */
typedef struct ingot_rank_memory {
  uint64_t    bytes;
  bool        stated; /* by memory_limit, not by the machine */
  const char *what;   /* "memory_limit is", "the GPU has", ...: before the bytes */
} ingot_rank_memory;

/**
 * The least of memory_limit (0: none) and a rank's share of what there is: of its GPU, or of nine tenths of the host's memory. bytes 0: not
 * known, or the job will run on other hosts. INGOT_ERR_DEVICE.
 */
ingot_status ingot_rank_memory_find(const ingot_planner *planner, bool on_device, uint64_t memory_limit, ingot_rank_memory *out);

#endif
