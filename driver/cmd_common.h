/** What the commands `run` and `plan` share. */
#ifndef INGOT_DRIVER_CMD_COMMON_H
#define INGOT_DRIVER_CMD_COMMON_H

#include "driver/commands.h"
#include "driver/planner.h"

/** A whole number of at least `least` from an option's value; `missing` when the option was not given. */
ingot_status ingot_line_number(const ingot_command_line *line, const char *option, int least, int missing, int *out);
/** All values of a repeated option; *values (lent by line, [*n]) is freed with free(). */
ingot_status ingot_line_values(const ingot_command_line *line, const char *option, const char ***values, int *n);
/** A plan for people, for programs, and for batch scripts (plan_text.h). */
typedef enum ingot_plan_form { INGOT_PLAN_PLAIN, INGOT_PLAN_JSON, INGOT_PLAN_RESOURCES } ingot_plan_form;
/** Plan a job and print the plan to stdout. */
ingot_status ingot_print_plan(const ingot_command_line *line, const ingot_plan_options *options, ingot_plan_form form);

#endif
