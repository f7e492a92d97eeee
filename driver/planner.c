#define _POSIX_C_SOURCE 200809L
#include "driver/planner.h"

#include <stdlib.h>
#include <string.h>

#include "driver/output_check.h"
#include "driver/step.h"

/* One opened input; a list, so that addresses stay. */
struct ingot_planner_input {
  struct ingot_planner_input *next;
  const char                 *path;
  int                         made_by; /* number of the step that will make it; 0: opened */
  bool                        failed;
  ingot_input                 input;
};

ingot_status ingot_planner_init(ingot_planner *planner, const ingot_job *job, const ingot_plan_options *options)
{
  ingot_status st = INGOT_OK;
  *planner = (ingot_planner){.job = job, .options = *options};
  planner->steps = calloc((size_t)job->n_step + 1, sizeof *planner->steps);
  INGOT_CHECK(planner->steps, INGOT_ERR_NOMEM, "no memory to plan %d steps", job->n_step);
done:
  return st;
}

static void drop_input(struct ingot_planner_input **at)
{
  struct ingot_planner_input *gone = *at;
  *at = gone->next;
  ingot_input_close(&gone->input);
  free(gone);
}

void ingot_planner_release(ingot_planner *planner)
{
  for (int i = 0; planner->steps && i < planner->job->n_step; i++) ingot_step_plan_release(&planner->steps[i]);
  free(planner->steps);
  while (planner->inputs) drop_input(&planner->inputs);
  ingot_problems_release(&planner->problems);
  ingot_arena_release(&planner->arena);
  *planner = (ingot_planner){0};
}

ingot_status ingot_planner_input(ingot_planner *planner, const ingot_job_reference *ref, const ingot_value *where,
                                 ingot_input **out)
{
  ingot_status st = INGOT_OK;
  *out = NULL;
  for (struct ingot_planner_input *i = planner->inputs; i; i = i->next) {
    if (strcmp(i->path, ref->path) != 0) continue;
    if (!i->failed) *out = &i->input;
    return INGOT_OK;
  }
  const ingot_step_plan      *maker = ref->step > 0 ? &planner->steps[ref->step - 1] : NULL;
  struct ingot_planner_input *made = calloc(1, sizeof *made);
  INGOT_CHECK(made, INGOT_ERR_NOMEM, "no memory for an input");
  made->path = ref->path;
  made->next = planner->inputs;
  planner->inputs = made;
  if (maker && maker->type && !maker->complete) {
    made->made_by = ref->step;
    if (maker->sink.n_tensor == 0) made->failed = true; /* that step's own problems are in the list */
    else INGOT_TRY(ingot_input_promise(ref->id, &maker->sink, &planner->arena, &made->input));
  } else {
    ingot_status opened = ingot_input_open(ref->id, ref->path, &planner->arena, &made->input);
    made->failed = opened != INGOT_OK;
    if (opened == INGOT_ERR_NOMEM) INGOT_TRY(opened);
    if (made->failed) {
      ingot_wrap(opened, "%s: model \"%s\"", ingot_value_place(where), ref->id);
      ingot_problems_take(&planner->problems, opened);
    }
  }
  if (!made->failed) *out = &made->input;
done:
  return st;
}

void ingot_planner_step_done(ingot_planner *planner, int number)
{
  planner->steps[number - 1].complete = true;
  struct ingot_planner_input **at = &planner->inputs;
  while (*at) {
    bool stale = (*at)->made_by == number || strcmp((*at)->path, planner->steps[number - 1].output) == 0;
    if (stale) drop_input(at);
    else at = &(*at)->next;
  }
}

static ingot_status plan_step(ingot_planner *planner, int number)
{
  ingot_status          st = INGOT_OK;
  const ingot_job_step *step = &planner->job->steps[number - 1];
  ingot_step_plan      *plan = &planner->steps[number - 1];
  int                   n_problem = planner->problems.count;
  ingot_step_plan_release(plan);
  plan->type = step->type;
  plan->number = number;
  plan->output = step->output;
  INGOT_TRY(step->type->plan(planner, step, plan));
  INGOT_TRY(ingot_output_check(planner, step, plan, planner->problems.count == n_problem));
done:
  return st;
}

ingot_status ingot_planner_plan(ingot_planner *planner)
{
  ingot_status st = INGOT_OK;
  int          only = planner->options.only_step, n_step = planner->job->n_step;
  INGOT_CHECK(only <= n_step, INGOT_ERR_USAGE, "--step %d: %s has %d step%s", only, planner->job->path, n_step,
              n_step == 1 ? "" : "s");
  for (int number = 1; number <= n_step; number++)
    if (only == 0 || number == only) INGOT_TRY(plan_step(planner, number));
  INGOT_TRY(ingot_output_check_space(planner));
  st = ingot_problems_status(&planner->problems);
done:
  return st;
}

ingot_status ingot_planner_replan(ingot_planner *planner, int number)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(plan_step(planner, number));
  st = ingot_problems_status(&planner->problems);
done:
  return st;
}

ingot_status ingot_planner_take(ingot_planner *planner, const char *place, ingot_status failure)
{
  if (failure == INGOT_OK || failure == INGOT_ERR_NOMEM) return failure;
  ingot_wrap(failure, "%s", place);
  ingot_problems_take(&planner->problems, failure);
  return INGOT_OK;
}
