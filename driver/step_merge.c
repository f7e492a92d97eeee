/* The merge step: how its plan travels between ranks, and how it runs. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "driver/merge_plan.h"
#include "driver/pack.h"
#include "driver/progress.h"

static ingot_status pack_tensor(const ingot_merge_plan *plan, const ingot_merge_tensor *t, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  size_t       n_global = (size_t)ingot_method_n_param(plan->method, INGOT_PARAM_GLOBAL);
  size_t       n_per_model = (size_t)ingot_method_n_param(plan->method, INGOT_PARAM_PER_MODEL);
  size_t       n_input = (size_t)t->view.n_input;
  INGOT_TRY(ingot_pack_blob(bytes, t, sizeof *t)); /* pointers in it are replaced on the other side */
  INGOT_TRY(ingot_pack_string(bytes, t->view.name));
  INGOT_TRY(ingot_pack_blob(bytes, t->source, n_input * sizeof *t->source));
  INGOT_TRY(ingot_pack_blob(bytes, t->tensor, n_input * sizeof *t->tensor));
  INGOT_TRY(ingot_pack_blob(bytes, t->view.global, t->view.global ? n_global * sizeof(double) : 0));
  INGOT_TRY(ingot_pack_blob(bytes, t->view.per_model,
                            t->view.per_model ? n_per_model * (size_t)t->view.n_model * sizeof(double) : 0));
done:
  return st;
}

ingot_status ingot_merge_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status            st = INGOT_OK;
  const ingot_merge_plan *m = &((const ingot_merge_body *)plan->body)->plan;
  ingot_text              source = {0};
  INGOT_TRY(ingot_pack_string(bytes, m->method->name));
  INGOT_TRY(ingot_pack_i64(bytes, (int64_t)m->nonfinite));
  INGOT_TRY(ingot_pack_i64(bytes, m->n_source));
  INGOT_TRY(ingot_pack_i64(bytes, m->n_tensor));
  for (int i = 0; i < m->n_source; i++) {
    source.size = 0;
    INGOT_TRY(ingot_source_pack(m->sources[i], &source));
    INGOT_TRY(ingot_pack_blob(bytes, ingot_text_string(&source), source.size));
    INGOT_TRY(ingot_pack_string(bytes, m->source_names[i]));
  }
  for (int i = 0; i < m->n_tensor; i++) INGOT_TRY(pack_tensor(m, &m->tensors[i], bytes));
done:
  ingot_text_release(&source);
  return st;
}

/* A blob as an array in the arena: aligned, of its own. */
static const void *unpack_array(ingot_unpacker *u, ingot_arena *arena)
{
  size_t      size;
  const void *data = ingot_unpack_blob(u, &size);
  const void *copy = ingot_arena_copy(arena, data, size);
  if (!copy && u->status == INGOT_OK) u->status = INGOT_ERR_NOMEM;
  return copy;
}

static void unpack_tensor(ingot_unpacker *u, ingot_arena *arena, ingot_merge_tensor *t)
{
  size_t      size;
  const void *data = ingot_unpack_blob(u, &size);
  if (!data || size != sizeof *t) {
    if (u->status == INGOT_OK) u->status = INGOT_ERR_INTERNAL;
    return;
  }
  memcpy(t, data, size);
  t->view.name = ingot_unpack_string(u, arena);
  t->source = unpack_array(u, arena);
  t->tensor = unpack_array(u, arena);
  t->view.global = unpack_array(u, arena);
  t->view.per_model = unpack_array(u, arena);
  t->view.model_state = NULL;
}

ingot_status ingot_merge_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status      st = INGOT_OK;
  ingot_unpacker    u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_merge_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  INGOT_TRY_ALLOC(body);
  ingot_merge_plan *m = &body->plan;
  const char       *method = ingot_unpack_string(&u, &plan->arena);
  m->method = method ? ingot_method_find(method) : NULL;
  INGOT_CHECK(m->method, INGOT_ERR_INTERNAL, "a plan of an unknown method came from rank 0");
  m->nonfinite = (ingot_nonfinite)ingot_unpack_i64(&u);
  int n_source = (int)ingot_unpack_i64(&u);
  m->n_tensor = (int)ingot_unpack_i64(&u);
  INGOT_TRY(ingot_unpack_status(&u));
  body->sources = ingot_arena_alloc(&plan->arena, (size_t)n_source, sizeof(ingot_source *));
  const char        **names = ingot_arena_alloc(&plan->arena, (size_t)n_source, sizeof *names);
  ingot_merge_tensor *tensors = ingot_arena_alloc(&plan->arena, (size_t)m->n_tensor, sizeof *tensors);
  INGOT_TRY_ALLOC(body->sources && names && tensors);
  body->owned = true;
  plan->body = body; /* from here release closes the sources */
  m->sources = body->sources;
  m->source_names = names;
  for (int i = 0; i < n_source; i++) {
    size_t      source_size;
    const void *source = ingot_unpack_blob(&u, &source_size);
    INGOT_TRY(ingot_unpack_status(&u));
    INGOT_TRY(ingot_source_unpack(source, source_size, &body->sources[i]));
    m->n_source = i + 1;
    names[i] = ingot_unpack_string(&u, &plan->arena);
  }
  for (int i = 0; i < m->n_tensor; i++) unpack_tensor(&u, &plan->arena, &tensors[i]);
  INGOT_TRY(ingot_unpack_status(&u));
  m->tensors = tensors;
  m->n_tile = plan->n_tile;
  m->sink = plan->sink;
  m->fingerprint = plan->fingerprint;
done:
  return st;
}

void ingot_merge_step_release(ingot_step_plan *plan)
{
  ingot_merge_body *body = plan->body;
  if (!body || !body->owned) return;
  for (int i = 0; i < body->plan.n_source; i++) ingot_source_close(&body->sources[i]);
}

/* Non-finite values that the step went on with and has warned of: an event a model. */
static void report_nonfinite(const ingot_run_context *context, const ingot_merge_plan *plan,
                             const ingot_merge_result *result)
{
  for (int i = 0; result->nonfinite && i < plan->n_source; i++) {
    const ingot_bad_report *r = &result->nonfinite[i];
    char                    position[INGOT_SHAPE_TEXT];
    if (r->count == 0) continue;
    const ingot_method_tensor *t = r->tensor >= 0 ? &plan->tensors[r->tensor].view : NULL;
    const char                *where = t ? ingot_shape_position(&t->shape, r->element, position) : "";
    ingot_events_write(context->events, "nonfinite",
                       json_pack("{s:s, s:I, s:s, s:s, s:b}", "model", plan->source_names[i], "count",
                                 (json_int_t)r->count, "tensor", t ? t->name : "?", "position", where, "nan",
                                 (int)r->is_nan));
  }
}

/* The largest ridge that the job asks for. */
static double asked_ridge(const ingot_merge_plan *plan)
{
  double most = 0.0;
  int    ridge = ingot_method_param(plan->method, "ridge", NULL);
  for (int i = 0; ridge >= 0 && i < plan->n_tensor; i++) {
    const double *global = plan->tensors[i].view.global;
    if (global && global[ridge] > most) most = global[ridge];
  }
  return most;
}

/* What solving the matrices took: a line, an event, and a warning where a sum was not positive definite. */
static void report_matrices(const ingot_run_context *context, const ingot_merge_plan *plan,
                            const ingot_matrix_summary *m)
{
  if (m->n_matrix == 0) return;
  ingot_log_info(
      "%lld matrices solved: at most %lld iterations, residual %.3g, %lld not within the tolerance; ridge on %lld, at "
      "most %.3g; %lld input features never active",
      (long long)m->n_matrix, (long long)m->n_iteration, m->residual, (long long)m->n_unfinished, (long long)m->n_ridge,
      m->ridge, (long long)m->n_dead);
  if (m->ridge > asked_ridge(plan))
    ingot_log_warning(
        "sums of Gram matrices are not positive definite: %lld of %lld matrices have a ridge, the largest %.3g "
        "of the mean diagonal",
        (long long)m->n_ridge, (long long)m->n_matrix, m->ridge);
  ingot_events_write(context->events, "matrices",
                     json_pack("{s:I, s:I, s:f, s:I, s:I, s:f, s:I}", "solved", (json_int_t)m->n_matrix, "iterations",
                               (json_int_t)m->n_iteration, "residual", m->residual, "unfinished",
                               (json_int_t)m->n_unfinished, "with_ridge", (json_int_t)m->n_ridge, "ridge", m->ridge,
                               "dead_features", (json_int_t)m->n_dead));
}

ingot_merge_options ingot_merge_step_options(const ingot_run_context *context, const ingot_step_plan *plan)
{
  return (ingot_merge_options){
      .n_thread = plan->n_thread > 0 && plan->n_thread < context->n_thread ? plan->n_thread : context->n_thread,
      .device = context->device,
      .fresh = context->fresh,
      .stop = context->stop,
  };
}

void ingot_merge_step_report(const ingot_run_context *context, const ingot_merge_plan *plan, ingot_merge_result *merged,
                             ingot_step_result *result)
{
  report_nonfinite(context, plan, merged);
  report_matrices(context, plan, &merged->matrices);
  result->timing = merged->timing;
  result->checksums = merged->checksums;
  merged->checksums = NULL;
  ingot_merge_result_release(merged);
}

ingot_status ingot_merge_step_run(const ingot_run_context *context, const ingot_step_plan *plan,
                                  ingot_step_result *result)
{
  ingot_status       st = INGOT_OK;
  ingot_merge_plan   merge = ((const ingot_merge_body *)plan->body)->plan;
  ingot_merge_result merged = {0};
  ingot_progress     progress;
  bool               quiet = context->quiet || ingot_comm_rank(context->comm) != 0;
  ingot_progress_start(&progress, context->events, plan->number, quiet);
  ingot_merge_options options = ingot_merge_step_options(context, plan);
  options.progress = ingot_progress_update;
  options.progress_context = &progress;
  merge.sink.lock = context->lock;
  st = ingot_merge_run(context->comm, &merge, &options, &merged);
  ingot_progress_finish(&progress);
  INGOT_TRY(st);
  ingot_merge_step_report(context, &merge, &merged, result);
done:
  ingot_merge_result_release(&merged);
  return st;
}

const ingot_step_type ingot_step_merge = {
    .name = "merge",
    .summary = "merge checkpoints into one by a method",
    .keys = ingot_merge_keys,
    .settings_bytes = sizeof(ingot_merge_settings),
    .read = ingot_merge_settings_read,
    .plan = ingot_merge_plan_make,
    .pack = ingot_merge_step_pack,
    .unpack = ingot_merge_step_unpack,
    .run = ingot_merge_step_run,
    .release = ingot_merge_step_release,
};
