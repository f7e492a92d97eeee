/** Resolving a soup step, and what it says of its search. */
#ifndef INGOT_DRIVER_SOUP_PLAN_H
#define INGOT_DRIVER_SOUP_PLAN_H

#include "driver/soup_settings.h"
#include "workers/statistics/soup.h"

/** The body of a soup step's plan. */
typedef struct ingot_soup_body {
  ingot_data_merge parts; /* of all candidates: the run merges those that are in the soup */
  ingot_soup_plan  soup;  /* how to search; gather is set when it runs */
} ingot_soup_body;

/* As ingot_step_type.plan, .pack, .unpack and .release. */
ingot_status ingot_soup_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan);
ingot_status ingot_soup_step_pack(const ingot_step_plan *plan, ingot_text *bytes);
ingot_status ingot_soup_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan);
void         ingot_soup_step_release(ingot_step_plan *plan);

/** Ranking, trials and members as JSON text; scores [evaluations][n_data]. Appended; rank 0. */
ingot_status ingot_soup_json(const ingot_soup_body *body, const ingot_soup *soup, const ingot_score *scores,
                             ingot_text *text);
/** The same as tables for people. */
ingot_status ingot_soup_table(const ingot_soup_body *body, const ingot_soup *soup, ingot_text *text);
/** The members alone, as they go into the output; the same text however the search ran. */
ingot_status ingot_soup_members(const ingot_soup_body *body, const ingot_soup *soup, ingot_text *text);

#endif
