/** Models and jobs in a scratch folder, and planning them, for the driver's tests. */
#ifndef INGOT_TESTS_DRIVER_CASE_H
#define INGOT_TESTS_DRIVER_CASE_H

#include "tests/check.h"
#include "tests/io/scratch.h"

#include "driver/merge_plan.h"
#include "driver/output_check.h"
#include "driver/planner.h"
#include "driver/step.h"

enum { CASE_NAME = 200 };

typedef struct driver_case {
  scratch       dir;
  ingot_job     job;
  ingot_planner planner;
  bool          planned;
} driver_case;

static inline int case_setup(void **state)
{
  driver_case *c = calloc(1, sizeof *c);
  assert_non_null(c);
  scratch_begin(&c->dir);
  *state = c;
  return 0;
}

static inline void case_forget(driver_case *c)
{
  if (c->planned) ingot_planner_release(&c->planner);
  c->planned = false;
  ingot_job_release(&c->job);
}

static inline int case_teardown(void **state)
{
  driver_case *c = *state;
  case_forget(c);
  scratch_end(&c->dir);
  free(c);
  return 0;
}

/** One tensor of a model: "name:DTYPE:d0,d1"; the payload is zeros. */
static inline void case_model(driver_case *c, const char *name, const char *config, const char *const *tensors, int n)
{
  char   path[CASE_NAME], header[8192] = "{";
  size_t used = 1, offset = 0;
  for (int i = 0; i < n; i++) {
    char        tensor[128], dtype[16], dims[64] = "";
    ingot_dtype d;
    size_t      count = 1;
    assert_true(sscanf(tensors[i], "%127[^:]:%15[^:]:%63s", tensor, dtype, dims) >= 2);
    assert_true(ingot_dtype_parse(dtype, &d));
    for (char *p = dims; *p; p++) {
      count *= (size_t)strtoul(p, &p, 10);
      if (!*p) break;
    }
    size_t bytes = count * ingot_dtype_size(d);
    used += (size_t)snprintf(header + used, sizeof header - used,
                             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", i ? "," : "",
                             tensor, dtype, dims, offset, offset + bytes);
    offset += bytes;
  }
  snprintf(header + used, sizeof header - used, "}");
  unsigned char *zeros = calloc(offset + 1, 1);
  assert_non_null(zeros);
  scratch_mkdir(&c->dir, name);
  snprintf(path, sizeof path, "%s/model.safetensors", name);
  scratch_safetensors(&c->dir, path, header, zeros, offset);
  free(zeros);
  snprintf(path, sizeof path, "%s/config.json", name);
  scratch_text(&c->dir, path, config);
}

/** A text file beside a model's tensors. */
static inline void case_file(driver_case *c, const char *model, const char *name, const char *text)
{
  char path[CASE_NAME];
  snprintf(path, sizeof path, "%s/%s", model, name);
  scratch_text(&c->dir, path, text);
}

/** Read a job given as text; the file stands in the scratch folder. */
static inline ingot_status case_job(driver_case *c, const char *text, const char *const *set, int n_set)
{
  char path[SCRATCH_PATH];
  case_forget(c);
  scratch_text(&c->dir, "job.cfg", text);
  return ingot_job_read(scratch_path(&c->dir, "job.cfg", path), set, n_set, &c->job);
}

static inline ingot_status case_plan_with(driver_case *c, const char *text, const ingot_plan_options *options)
{
  check_ok(case_job(c, text, NULL, 0));
  check_ok(ingot_planner_init(&c->planner, &c->job, options));
  c->planned = true;
  return ingot_planner_plan(&c->planner);
}

static inline ingot_status case_plan(driver_case *c, const char *text)
{
  ingot_plan_options options = {.n_thread = 2, .n_rank = 1};
  return case_plan_with(c, text, &options);
}

/** The merge of a step, and one of its tensors by name (fails when it is not there). */
static inline const ingot_merge_plan *case_merge(const driver_case *c, int number)
{
  return &((const ingot_merge_body *)c->planner.steps[number - 1].body)->plan;
}

static inline const ingot_merge_tensor *case_tensor(const driver_case *c, const char *name)
{
  const ingot_merge_plan *plan = case_merge(c, 1);
  for (int i = 0; i < plan->n_tensor; i++)
    if (strcmp(plan->tensors[i].view.name, name) == 0) return &plan->tensors[i];
  fail_msg("no tensor %s in the plan", name);
  return NULL;
}

/** A parameter of a planned tensor: of model k (0 for a global one). */
static inline double case_value(const driver_case *c, const char *tensor, const char *name, int k)
{
  const ingot_merge_plan   *plan = case_merge(c, 1);
  const ingot_merge_tensor *t = case_tensor(c, tensor);
  const ingot_param_spec   *spec = NULL;
  int                       index = ingot_method_param(plan->method, name, &spec);
  assert_true(index >= 0);
  if (spec->scope == INGOT_PARAM_GLOBAL) return t->view.global[index];
  return t->view.per_model[k * ingot_method_n_param(plan->method, INGOT_PARAM_PER_MODEL) + index];
}

#endif
