/** Settings of the soup step: those of an evaluation and of a linear merge, and how to search. */
#ifndef INGOT_DRIVER_SOUP_SETTINGS_H
#define INGOT_DRIVER_SOUP_SETTINGS_H

#include "driver/data_merge.h"

typedef struct ingot_soup_settings {
  ingot_data_merge_settings parts;  /* a linear merge of all candidates with weights of 1 */
  int                       search; /* ingot_soup_kind */
  int                       accept; /* ingot_soup_accept */
  int                       metric; /* ingot_soup_metric */
} ingot_soup_settings;

extern const ingot_key   ingot_soup_keys[];
extern const char *const ingot_soup_search_names[], *const ingot_soup_accept_names[], *const ingot_soup_metric_names[];

/** The `read` of the soup step type. */
ingot_status ingot_soup_settings_read(ingot_job *job, ingot_job_step *step, ingot_problems *problems);

#endif
