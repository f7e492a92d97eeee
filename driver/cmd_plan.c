/* ingot plan JOB: what a job would do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/cmd_common.h"
#include "driver/plan_text.h"
#include "driver/run.h"
#include "driver/scaling.h"
#include "driver/step.h"
#include "kernels/device.h"

ingot_status ingot_line_number(const ingot_command_line *line, const char *option, int least, int missing, int *out)
{
  const char *text = ingot_line_value(line, option);
  char       *end = NULL;
  *out = missing;
  if (!text) return INGOT_OK;
  long value = strtol(text, &end, 10);
  if (end == text || *end || value < least || value > 1 << 20)
    return ingot_fail(INGOT_ERR_USAGE, "%s: expected a whole number of at least %d, found \"%s\"", option, least, text);
  *out = (int)value;
  return INGOT_OK;
}

ingot_status ingot_line_values(const ingot_command_line *line, const char *option, const char ***values, int *n)
{
  *n = 0;
  *values = calloc((size_t)line->n_given + 1, sizeof **values);
  if (!*values) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the command line");
  for (int i = 0; i < line->n_given; i++)
    if (strcmp(line->command->options[line->option[i]].name, option) == 0) (*values)[(*n)++] = line->value[i];
  return INGOT_OK;
}

/* The steps of a plan in JSON are those that were planned, in order. */
static void add_scaling(const ingot_planner *planner, const ingot_scaling *scaling, json_t *json)
{
  size_t at = 0;
  for (int i = 0; i < planner->job->n_step; i++) {
    if (!planner->steps[i].type) continue;
    json_t *rows = ingot_scaling_json(&planner->steps[i], scaling),
           *step = json_array_get(json_object_get(json, "steps"), at++);
    if (rows) json_object_set_new(step, "scaling", rows);
  }
}

ingot_status ingot_print_plan(const ingot_command_line *line, const ingot_plan_options *options, ingot_plan_form form)
{
  ingot_status    st = INGOT_OK;
  ingot_job       job = {0};
  ingot_planner   planner = {0};
  ingot_bandwidth bandwidth = {0.0, 0.0};
  ingot_text      text = {0};
  json_t         *json = NULL;
  char           *plain = NULL;
  const char    **set = NULL;
  int             n_set = 0;
  ingot_scaling   scaling = {0};
  const char     *given = ingot_line_value(line, "--bandwidth"), *nodes = ingot_line_value(line, "--nodes");
  if (nodes) INGOT_TRY(ingot_scaling_parse(nodes, ingot_line_value(line, "--site"), &scaling));
  else INGOT_CHECK(!ingot_line_has(line, "--site"), INGOT_ERR_USAGE, "--site goes with --nodes");
  if (given) INGOT_TRY(ingot_bandwidth_parse(given, &bandwidth));
  INGOT_TRY(ingot_line_values(line, "--set", &set, &n_set));
  INGOT_TRY(ingot_job_read(line->args[0], set, n_set, &job));
  INGOT_TRY(ingot_planner_init(&planner, &job, options));
  INGOT_TRY(ingot_planner_plan(&planner));
  if (!given && !nodes) INGOT_TRY(ingot_bandwidth_measure(&planner, &bandwidth));
  if (form == INGOT_PLAN_JSON) {
    INGOT_TRY(ingot_plan_json(&planner, &bandwidth, &json));
    if (nodes) add_scaling(&planner, &scaling, json);
    plain = json_dumps(json, JSON_INDENT(1));
    INGOT_CHECK(plain, INGOT_ERR_NOMEM, "no memory for the plan");
    printf("%s\n", plain);
  } else {
    if (form == INGOT_PLAN_RESOURCES) INGOT_TRY(ingot_plan_resources(&planner, &bandwidth, &text));
    else if (nodes) INGOT_TRY(ingot_scaling_text(&planner, &scaling, &text));
    else INGOT_TRY(ingot_plan_text(&planner, &bandwidth, &text));
    printf("%s", ingot_text_string(&text));
  }
done:
  free(plain);
  free((void *)set);
  json_decref(json);
  ingot_text_release(&text);
  if (planner.job) ingot_planner_release(&planner);
  ingot_job_release(&job);
  return st;
}

static const ingot_option options[] = {
    {"--set", "KEY=VALUE", "set a value of the job file, such as steps[0].parameters.lambda=0.5"},
    {"--step", "N", "plan step N alone, counted from 1"},
    {"--threads", "N", "threads a rank"},
    {"--fresh", NULL, "as if existing outputs were to be replaced"},
    {"--bandwidth", "READ,WRITE", "GB/s for the estimate, instead of measuring"},
    {"--nodes", "LIST", "print what the plan would take on 1,2,4,... nodes, by a model"},
    {"--site", "KEY=VALUE,...", "with --nodes: read, write, fs-read, fs-write (GB/s), cores, unit-ns"},
    {"--json", NULL, "print JSON"},
    {"--resources", NULL, "print a line a step for batch scripts"},
    {NULL, NULL, NULL},
};

static ingot_status plan_run(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status       st = INGOT_OK;
  ingot_plan_options plan = {.n_rank = ingot_comm_size(context->comm),
                             .n_rank_node = ingot_comm_local_size(context->comm),
                             .fresh = ingot_line_has(line, "--fresh"),
                             .elsewhere = ingot_line_has(line, "--nodes")};
  int                threads;
  plan.other_host = ingot_line_has(line, "--resources");
  INGOT_TRY(ingot_line_number(line, "--step", 1, 0, &plan.only_step));
  INGOT_TRY(ingot_line_number(line, "--threads", 1, 0, &threads));
  plan.n_thread = ingot_run_threads(threads, ingot_comm_local_size(context->comm));
  plan.on_device = ingot_device_count() > 0;
  ingot_plan_form form = ingot_line_has(line, "--json")        ? INGOT_PLAN_JSON
                         : ingot_line_has(line, "--resources") ? INGOT_PLAN_RESOURCES
                                                               : INGOT_PLAN_PLAIN;
  INGOT_TRY(ingot_print_plan(line, &plan, form));
done:
  return st;
}

const ingot_command ingot_command_plan = {
    .name = "plan",
    .arguments = "JOB",
    .summary = "check a job and print what it would do",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .run = plan_run,
};
