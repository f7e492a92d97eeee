#include "driver/token_promise.h"

#include <string.h>

#include "driver/generate_plan.h"

/* The output itself, or a data set in it: "out.h5:/tokens". */
static bool is_in(const char *path, const char *output)
{
  size_t n = strlen(output);
  return strncmp(path, output, n) == 0 && (path[n] == '\0' || (path[n] == ':' && path[n + 1] == '/'));
}

bool ingot_tokens_promised(const ingot_planner *planner, const ingot_job_step *step, const char *path, int64_t *n_token)
{
  for (int i = 0; i < step->number - 1; i++) {
    const ingot_step_plan *maker = &planner->steps[i];
    const char            *output = planner->job->steps[i].output;
    if (!maker->type || maker->complete || strcmp(maker->type->name, "generate") != 0 || !output ||
        !is_in(path, output))
      continue;
    *n_token = maker->recipe ? ingot_generate_most_tokens(&((const ingot_generate_body *)maker->body)->plan) : 0;
    return true;
  }
  return false;
}

int64_t ingot_promised_windows(int64_t n_token, const ingot_window_spec *spec)
{
  return n_token > 0 ? ingot_window_count_of(n_token, spec) : 1;
}
