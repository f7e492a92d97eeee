/** How fast this machine reads the inputs and writes to the output's directory: for the plan's estimate. */
#ifndef INGOT_DRIVER_BANDWIDTH_H
#define INGOT_DRIVER_BANDWIDTH_H

#include "driver/planner.h"

typedef struct ingot_bandwidth {
  double read_bytes_per_s, write_bytes_per_s; /* 0: not known */
} ingot_bandwidth;

/** "3.5,1.2": reading and writing in GB/s. INGOT_ERR_USAGE. */
ingot_status ingot_bandwidth_parse(const char *text, ingot_bandwidth *out);
/**
 * Read up to 256 MB of the planned steps' inputs and write 64 MB to a nameless file beside the first output (flushed
 * when that output is durable). What cannot be measured stays 0. INGOT_ERR_NOMEM only.
 */
ingot_status ingot_bandwidth_measure(const ingot_planner *planner, ingot_bandwidth *out);
/** Seconds that a step takes when reading and writing do not overlap; 0 when not known. */
double ingot_bandwidth_estimate(const ingot_bandwidth *b, uint64_t bytes_read, uint64_t bytes_written);

#endif
