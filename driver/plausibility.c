#include "driver/plausibility.h"

#include <string.h>

#include "driver/recipe.h"

void ingot_plausibility_check(const ingot_job_step *step, ingot_plausibility *p, bool log_linear, const char *kind_text,
                              const char *const *ids, int n, ingot_problems *problems)
{
  const ingot_value *share = ingot_value_member(step->value, "plausibility"),
                    *by = ingot_value_member(step->value, "reference");
  p->reference = 0;
  if (share && p->share > 0.0 && !log_linear)
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for %s", ingot_value_place(share), kind_text);
  if (!by) return;
  if (!(p->share > 0.0)) {
    ingot_problems_add(problems, INGOT_ERR_JOB, "%s: it is for a plausibility above 0", ingot_value_place(by));
    return;
  }
  while (p->reference < n && p->written && strcmp(ids[p->reference], p->written) != 0) p->reference++;
  if (p->reference < n) return;
  p->reference = 0;
  ingot_problems_add(problems, INGOT_ERR_JOB, "%s: \"%s\" is none of the models that are mixed", ingot_value_place(by),
                     p->written ? p->written : "");
}

void ingot_plausibility_check_weights(const char *place, double share, int reference, const char *id,
                                      const double *weights, int n_row, int n, ingot_problems *problems)
{
  for (int r = 0; r < n_row && share > 0.0; r++) {
    double w = weights[r * n + reference];
    if (w > 0.0) continue;
    ingot_problems_add(problems, INGOT_ERR_JOB,
                       "%s: \"%s\" says what is plausible, and its weight is %g: it must be above 0", place, id, w);
    return;
  }
}

void ingot_plausibility_note(json_t *tree, double share, const char *id)
{
  if (share <= 0.0) return;
  json_object_set_new(tree, "plausibility", json_real(share));
  json_object_set_new(tree, "reference", ingot_json_text(id));
}
