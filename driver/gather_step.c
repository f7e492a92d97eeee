/* How the plan of a step that runs models on data travels between ranks, and what its run needs. */
#include <string.h>

#include "driver/gather_plan.h"
#include "driver/pack.h"

static ingot_status pack_lists(const ingot_gather_plan *g, ingot_text *bytes)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_pack_i64(bytes, g->n_model));
  for (int i = 0; i < g->n_model; i++) {
    INGOT_TRY(ingot_pack_string(bytes, g->models[i].id));
    INGOT_TRY(ingot_pack_string(bytes, g->models[i].path));
  }
  INGOT_TRY(ingot_pack_i64(bytes, g->n_data));
  for (int i = 0; i < g->n_data; i++) {
    INGOT_TRY(ingot_pack_string(bytes, g->data[i].name));
    INGOT_TRY(ingot_pack_string(bytes, g->data[i].path));
    INGOT_TRY(ingot_pack_string(bytes, g->data[i].dtype));
    INGOT_TRY(ingot_pack_i64(bytes, g->data[i].n_window));
  }
done:
  return st;
}

ingot_status ingot_gather_step_pack(const ingot_step_plan *plan, ingot_text *bytes)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_body *body = plan->body;
  INGOT_TRY(ingot_pack_blob(bytes, body, sizeof *body)); /* pointers in it are replaced on the other side */
  INGOT_TRY(pack_lists(&body->plan, bytes));
done:
  return st;
}

ingot_status ingot_gather_step_unpack(const void *bytes, size_t size, ingot_step_plan *plan)
{
  ingot_status       st = INGOT_OK;
  ingot_unpacker     u = {bytes, (const char *)bytes + size, INGOT_OK};
  ingot_gather_body *body = ingot_arena_alloc(&plan->arena, 1, sizeof *body);
  INGOT_TRY_ALLOC(body);
  INGOT_TRY(ingot_unpack_exact(&u, body, sizeof *body));
  ingot_gather_plan *g = &body->plan;
  g->n_model = (int)ingot_unpack_i64(&u);
  INGOT_TRY(ingot_unpack_status(&u));
  ingot_gather_model *models = ingot_arena_alloc(&plan->arena, (size_t)g->n_model + 1, sizeof *models);
  INGOT_TRY_ALLOC(models);
  for (int i = 0; i < g->n_model; i++) {
    models[i].id = ingot_unpack_string(&u, &plan->arena);
    models[i].path = ingot_unpack_string(&u, &plan->arena);
  }
  g->n_data = (int)ingot_unpack_i64(&u);
  INGOT_TRY(ingot_unpack_status(&u));
  ingot_gather_data *sets = ingot_arena_alloc(&plan->arena, (size_t)g->n_data + 1, sizeof *sets);
  INGOT_TRY_ALLOC(sets);
  for (int i = 0; i < g->n_data; i++) {
    sets[i].name = ingot_unpack_string(&u, &plan->arena);
    sets[i].path = ingot_unpack_string(&u, &plan->arena);
    sets[i].dtype = ingot_unpack_string(&u, &plan->arena);
    sets[i].n_window = ingot_unpack_i64(&u);
  }
  INGOT_TRY(ingot_unpack_status(&u));
  g->models = models;
  g->data = sets;
  g->sink = plan->sink;
  g->output = plan->output;
  g->fingerprint = plan->fingerprint;
  body->model_written = body->data_written = NULL;
  body->model_identity = body->data_identity = NULL;
  plan->body = body;
done:
  return st;
}

ingot_gather_options ingot_gather_step_options(const ingot_run_context *context, const ingot_step_plan *plan,
                                               ingot_progress *progress)
{
  const ingot_gather_body *body = plan->body;
  bool                     quiet = context->quiet || ingot_comm_rank(context->comm) != 0;
  ingot_progress_start(progress, context->events, plan->number, quiet);
  return (ingot_gather_options){.n_thread = context->n_thread,
                                .on_device = body->on_device,
                                .fresh = context->fresh,
                                .stop = context->stop,
                                .progress = ingot_progress_windows,
                                .progress_context = progress};
}
