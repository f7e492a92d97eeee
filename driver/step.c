#include "driver/step.h"

#include <stdlib.h>
#include <string.h>

#define INGOT_STEP(name) extern const ingot_step_type ingot_step_##name;
#include "driver/steps.def"
#undef INGOT_STEP

static const ingot_step_type *const types[] = {
#define INGOT_STEP(name) &ingot_step_##name,
#include "driver/steps.def"
#undef INGOT_STEP
};

enum { N_TYPE = sizeof types / sizeof types[0] };

int ingot_step_type_count(void)
{
  return N_TYPE;
}

const ingot_step_type *ingot_step_type_at(int i)
{
  return types[i];
}

const ingot_step_type *ingot_step_type_find(const char *name)
{
  for (int i = 0; i < N_TYPE; i++)
    if (strcmp(types[i]->name, name) == 0) return types[i];
  return NULL;
}

const char *ingot_step_type_nearest(const char *name)
{
  const char *names[N_TYPE];
  for (int i = 0; i < N_TYPE; i++) names[i] = types[i]->name;
  return ingot_nearest_name(name, names, N_TYPE);
}

void ingot_step_plan_release(ingot_step_plan *plan)
{
  if (plan->type && plan->type->release) plan->type->release(plan);
  ingot_arena_release(&plan->arena);
  *plan = (ingot_step_plan){0};
}

void ingot_step_result_release(ingot_step_result *result)
{
  free(result->checksums);
  *result = (ingot_step_result){0};
}
