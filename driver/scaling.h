/** Strong scaling of a merge by a model: what reading, computing and writing would take on several numbers of nodes. */
#ifndef INGOT_DRIVER_SCALING_H
#define INGOT_DRIVER_SCALING_H

#include <jansson.h>

#include "driver/planner.h"
#include "driver/step.h"

enum { INGOT_SCALING_ROWS = 64 };

/** What is assumed of a cluster. Rates are bytes a second. */
typedef struct ingot_site {
  double node_read, node_write; /* of one node */
  double fs_read, fs_write;     /* of the file system, all nodes together */
  double cores;                 /* of a node */
  double unit_ns;               /* nanoseconds of one core for a unit of the plan's cost (workers/merge.h) */
} ingot_site;

typedef struct ingot_scaling {
  int        n_row;
  int        nodes[INGOT_SCALING_ROWS];
  ingot_site site;
} ingot_scaling;

/** One row of the table. */
typedef struct ingot_scaling_row {
  int    nodes;
  double share; /* of the cost, on the node that has most; 1 / nodes when the split is even */
  double read_s, compute_s, write_s;
} ingot_scaling_row;

/**
 * "1,2,4" into nodes, ascending; "read=10,write=5,fs-read=200,fs-write=100,cores=32,unit-ns=0.15" (GB/s; any of them;
 * NULL: the defaults, which these are) into the site. INGOT_ERR_USAGE.
 */
ingot_status ingot_scaling_parse(const char *nodes, const char *site, ingot_scaling *out);
/** One row for a merge step whose inputs are there. */
ingot_status ingot_scaling_row_make(const ingot_step_plan *plan, const ingot_site *site, int nodes,
                                    ingot_scaling_row *row);
/** Why a step has no table, or NULL when it has one. */
const char *ingot_scaling_refusal(const ingot_step_plan *plan);

/** All planned steps: assumptions and a table each. */
ingot_status ingot_scaling_text(const ingot_planner *planner, const ingot_scaling *scaling, ingot_text *text);
/** The table of one step; NULL where there is none. */
json_t *ingot_scaling_json(const ingot_step_plan *plan, const ingot_scaling *scaling);

#endif
