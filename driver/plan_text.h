/** A plan for people, and as JSON: what `ingot plan` and `ingot run --dry-run` print. */
#ifndef INGOT_DRIVER_PLAN_TEXT_H
#define INGOT_DRIVER_PLAN_TEXT_H

#include <jansson.h>

#include "driver/bandwidth.h"
#include "driver/planner.h"

ingot_status ingot_plan_text(const ingot_planner *planner, const ingot_bandwidth *bandwidth, ingot_text *text);
ingot_status ingot_plan_json(const ingot_planner *planner, const ingot_bandwidth *bandwidth, json_t **out);

#endif
