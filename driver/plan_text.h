/** A plan for people, for batch scripts, and as JSON: what `ingot plan` and `ingot run --dry-run` print. */
#ifndef INGOT_DRIVER_PLAN_TEXT_H
#define INGOT_DRIVER_PLAN_TEXT_H

#include <jansson.h>

#include "driver/bandwidth.h"
#include "driver/planner.h"

ingot_status ingot_plan_text(const ingot_planner *planner, const ingot_bandwidth *bandwidth, ingot_text *text);
ingot_status ingot_plan_json(const ingot_planner *planner, const ingot_bandwidth *bandwidth, json_t **out);
/**
 * For batch scripts, a line a step, separated by tabs: number, type, 1 when complete, bytes of memory a rank (0:
 * not known before earlier steps have run), bytes to read, bytes to write, seconds (0: not known), numbers of the
 * earlier steps that it takes outputs of ("1,3", or "-"), output.
 */
ingot_status ingot_plan_resources(const ingot_planner *planner, const ingot_bandwidth *bandwidth, ingot_text *text);

#endif
