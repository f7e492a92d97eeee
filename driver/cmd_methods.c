/* ingot methods [NAME]: the merge methods and their parameters, from the registry. */
#include <stdio.h>
#include <string.h>

#include "driver/commands.h"
#include "kernels/method.h"

static const char *base_text(ingot_base_rule rule)
{
  static const char *const texts[] = {
      [INGOT_BASE_UNUSED] = "no base",
      [INGOT_BASE_TASK_VECTOR] = "a base, and models as base plus task vector",
      [INGOT_BASE_ENDPOINT] = "a base, which is one of its two models",
      [INGOT_BASE_START] = "no base, or one to start from",
  };
  return texts[rule];
}

static ingot_status type_width(const ingot_method *m, int *width)
{
  ingot_status st = INGOT_OK;
  ingot_text   type = {0};
  *width = (int)strlen("integer");
  for (int i = 0; i < m->n_param; i++) {
    INGOT_TRY(ingot_param_type_text(&m->params[i], &type));
    int n = (int)strlen(ingot_text_string(&type));
    if (n > *width) *width = n;
    ingot_text_release(&type);
  }
done:
  ingot_text_release(&type);
  return st;
}

static ingot_status print_param(const ingot_param_spec *p, int width)
{
  ingot_status st = INGOT_OK;
  ingot_text   type = {0}, range = {0}, value = {0};
  INGOT_TRY(ingot_param_type_text(p, &type));
  INGOT_TRY(ingot_param_range_text(p, &range));
  if (p->required) INGOT_TRY(ingot_text_printf(&value, "required"));
  else INGOT_TRY(ingot_param_value_text(p, p->default_value, &value));
  printf("  %-12s %-9s %-*s  %-10s %-10s %s\n", p->name, p->scope == INGOT_PARAM_GLOBAL ? "step" : "model", width,
         ingot_text_string(&type), ingot_text_string(&value), ingot_text_string(&range), p->help);
done:
  ingot_text_release(&type);
  ingot_text_release(&range);
  ingot_text_release(&value);
  return st;
}

static ingot_status print_method(const ingot_method *m)
{
  ingot_status st = INGOT_OK;
  int          width = 0;
  INGOT_TRY(type_width(m, &width));
  printf("%s: %s\n  source: %s\n  needs %s; at least %d model%s", m->name, m->summary, m->source, base_text(m->base),
         m->min_models, m->min_models == 1 ? "" : "s");
  if (m->max_models > 0) printf(", at most %d", m->max_models);
  printf("%s\n", m->device ? "" : "; CPU only in this build");
  if (m->n_param > 0)
    printf("  %-12s %-9s %-*s  %-10s %-10s %s\n", "parameter", "per", width, "type", "default", "range", "meaning");
  for (int i = 0; i < m->n_param; i++) INGOT_TRY(print_param(&m->params[i], width));
done:
  return st;
}

static ingot_status methods_run(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status st = INGOT_OK;
  (void)context;
  if (line->n_arg == 1) {
    const ingot_method *m = ingot_method_find(line->args[0]);
    const char         *nearest = m ? NULL : ingot_method_nearest(line->args[0]);
    INGOT_CHECK(m, INGOT_ERR_USAGE, "unknown method \"%s\"%s%s%s", line->args[0], nearest ? "; did you mean \"" : "",
                nearest ? nearest : "", nearest ? "\"?" : "");
    return print_method(m);
  }
  for (int i = 0; i < ingot_method_count(); i++) {
    if (i > 0) printf("\n");
    INGOT_TRY(print_method(ingot_method_at(i)));
  }
done:
  return st;
}

const ingot_command ingot_command_methods = {
    .name = "methods",
    .arguments = "[NAME]",
    .summary = "list the merge methods and their parameters",
    .min_args = 0,
    .max_args = 1,
    .run = methods_run,
};
