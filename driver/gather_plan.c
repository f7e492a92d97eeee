#include "driver/gather_builder.h"

#include <stdlib.h>
#include <string.h>

#include "driver/input_model.h"
#include "driver/placement.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"
#include "workers/statistics/regmean_plus.h"

enum { GPU_SHARE = 90 /* per cent of a GPU's memory: libraries and scratch memory need the rest */ };

typedef ingot_gather_builder builder;

static ingot_gather_kind kind_of(const ingot_step_type *type)
{
  return strcmp(type->name, "fisher") == 0         ? INGOT_GATHER_FISHER
         : strcmp(type->name, "gram") == 0         ? INGOT_GATHER_GRAM
         : strcmp(type->name, "regmean_plus") == 0 ? INGOT_GATHER_BLOCKS
                                                   : INGOT_GATHER_EVALUATE;
}

/* ---- models ---- */

/* Model i: its config, and its tensors. What is wrong is a problem. */
static ingot_status check_model(builder *b, int i)
{
  ingot_model_layout layout = {0};
  int               *tensor = NULL;
  ingot_status       st = ingot_input_model_spec(b->inputs[i], b->plan->window.length, &b->specs[i]);
  if (st != INGOT_OK) goto done;
  INGOT_TRY(ingot_model_layout_make(&b->specs[i], &layout));
  tensor = ingot_arena_alloc(b->arena, (size_t)layout.n_param, sizeof *tensor);
  INGOT_TRY_ALLOC(tensor);
  INGOT_TRY(ingot_input_model_bind(b->inputs[i], &b->specs[i], &layout, tensor));
  if (b->kind == INGOT_GATHER_BLOCKS && i > 0 && b->specs[0].family[0])
    INGOT_TRY(ingot_input_model_compare(b->inputs[0], &b->specs[0], b->inputs[i], &b->specs[i]));
  if (b->kind != INGOT_GATHER_EVALUATE && b->layout.n_param == 0) {
    b->layout = layout;
    b->tensor = tensor;
    layout = (ingot_model_layout){0};
  }
done:
  ingot_model_layout_release(&layout);
  return ingot_planner_take(b->planner, b->place, st);
}

/* One message, of the smallest vocabulary that is known. */
static void check_document(builder *b)
{
  int64_t n_token = 0;
  for (int i = 0; i < b->plan->n_model; i++)
    if (b->specs[i].n_vocab > 0 && (n_token == 0 || b->specs[i].n_vocab < n_token)) n_token = b->specs[i].n_vocab;
  if (b->settings->has_document && n_token > 0)
    ingot_vocabulary_check_id(&b->planner->problems, b->step, "document", b->settings->document, n_token);
}

static ingot_status add_models(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_gather_model          *models = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof *models);
  b->inputs = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(ingot_input *));
  b->specs = calloc((size_t)s->n_model + 1, sizeof *b->specs);
  b->body->model_written = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(char *));
  b->body->model_identity = ingot_arena_alloc(b->arena, (size_t)s->n_model + 1, sizeof(uint64_t));
  INGOT_CHECK(b->specs, INGOT_ERR_NOMEM, "no memory for %d models", s->n_model);
  INGOT_TRY_ALLOC(models && b->inputs && b->body->model_written && b->body->model_identity);
  b->plan->models = models;
  b->plan->n_model = s->n_model;
  b->out->ready = true;
  for (int i = 0; i < s->n_model; i++) {
    const ingot_job_reference *ref = &s->models[i];
    INGOT_TRY(ingot_planner_input(b->planner, ref, b->step->value, &b->inputs[i]));
    if (!b->inputs[i]) continue;
    models[i] = (ingot_gather_model){ref->id, ref->path};
    b->body->model_written[i] = ref->written;
    b->body->model_identity[i] = b->inputs[i]->source ? ingot_source_identity(b->inputs[i]->source) : 0;
    b->out->ready = b->out->ready && b->inputs[i]->source;
    INGOT_TRY(check_model(b, i));
  }
  check_document(b);
done:
  return st;
}

/* The blocks of the models, which all have as many. */
static int n_block(const builder *b)
{
  return b->layout.n_linear > 0 ? b->specs[0].n_layer : 1;
}

/* ---- data ---- */

static ingot_status look_at_data(builder *b, const ingot_job_data *d, ingot_gather_data *out, uint64_t *identity)
{
  ingot_tokens            *tokens = NULL;
  const ingot_window_spec *w = &b->plan->window;
  ingot_status             st = INGOT_OK;
  int64_t                  promised;
  if (ingot_tokens_promised(b->planner, b->step, d->path, &promised)) {
    *out = (ingot_gather_data){d->name, d->path, d->dtype, ingot_promised_windows(promised, w)};
    *identity = 0;
    b->out->ready = false;
    INGOT_CHECK(out->n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens at most, fewer than a window of %lld", d->path,
                (long long)promised, (long long)w->length);
    goto done;
  }
  INGOT_TRY(ingot_tokens_open(d->path, d->dtype, &tokens));
  *out = (ingot_gather_data){d->name, d->path, d->dtype, ingot_window_count(tokens, w)};
  *identity = ingot_tokens_identity(tokens);
  INGOT_CHECK(out->n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens, fewer than a window of %lld", d->path,
              (long long)ingot_tokens_count(tokens), (long long)w->length);
  b->out->bytes_read += (uint64_t)out->n_window * (uint64_t)w->length * sizeof(uint16_t) *
                        (uint64_t)(b->kind == INGOT_GATHER_BLOCKS ? n_block(b) : 1);
done:
  ingot_tokens_close(&tokens);
  return st;
}

static ingot_status add_data(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_gather_data           *data = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof *data);
  b->body->data_written = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof(char *));
  b->body->data_identity = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof(uint64_t));
  INGOT_TRY_ALLOC(data && b->body->data_written && b->body->data_identity);
  b->plan->data = data;
  b->plan->n_data = s->n_data;
  for (int i = 0; i < s->n_data; i++) {
    const ingot_job_data *d = &s->data[i];
    b->body->data_written[i] = d->written;
    st = look_at_data(b, d, &data[i], &b->body->data_identity[i]);
    if (st == INGOT_ERR_NOMEM) goto done;
    ingot_wrap(st, "%s: data \"%s\"", ingot_value_place(d->value), d->name);
    if (st != INGOT_OK) ingot_problems_take(&b->planner->problems, st);
    st = INGOT_OK;
  }
done:
  return st;
}

static ingot_status fill_inputs(builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *p = b->out;
  p->inputs = ingot_arena_alloc(b->arena, (size_t)(b->plan->n_model + b->plan->n_data), sizeof *p->inputs);
  INGOT_TRY_ALLOC(p->inputs);
  for (int i = 0; i < b->plan->n_model; i++) {
    if (!b->inputs[i]) continue;
    uint64_t bytes = ingot_input_bytes(b->inputs[i]);
    p->bytes_read += bytes * (uint64_t)b->planner->options.n_rank;
    p->inputs[p->n_input++] =
        (ingot_plan_input){b->plan->models[i].id, b->plan->models[i].path, bytes, b->body->model_identity[i]};
  }
  for (int i = 0; i < b->plan->n_data; i++)
    p->inputs[p->n_input++] =
        (ingot_plan_input){b->settings->data[i].name, b->settings->data[i].path,
                           (uint64_t)b->plan->data[i].n_window * (uint64_t)b->plan->window.length * sizeof(uint16_t),
                           b->body->data_identity[i]};
done:
  return st;
}

/* ---- arithmetic and memory ---- */

static uint64_t model_bytes(const builder *b)
{
  uint64_t most = 0;
  if (b->kind == INGOT_GATHER_FISHER) return ingot_fisher_bytes(b->plan, &b->specs[0], &b->layout);
  if (b->kind == INGOT_GATHER_GRAM) return ingot_gram_bytes(b->plan, &b->specs[0], &b->layout);
  if (b->kind == INGOT_GATHER_BLOCKS)
    return ingot_regmean_plus_bytes(b->plan, &b->specs[0], &b->layout) + b->settings->beside_device_bytes;
  for (int i = 0; i < b->plan->n_model; i++) {
    uint64_t bytes = ingot_evaluate_bytes(b->plan, &b->specs[i]);
    if (bytes > most) most = bytes;
  }
  return most;
}

static uint64_t host_bytes(const builder *b)
{
  int n_thread = b->planner->options.n_thread;
  return b->kind == INGOT_GATHER_FISHER ? ingot_fisher_host_bytes(b->plan, &b->layout, b->specs[0].n_vocab, n_thread)
         : b->kind == INGOT_GATHER_GRAM ? ingot_gram_host_bytes(b->plan, &b->layout, n_thread, b->body->on_device)
         : b->kind == INGOT_GATHER_BLOCKS
             ? ingot_regmean_plus_host_bytes(b->plan, &b->layout) + b->settings->beside_bytes
             : ingot_evaluate_host_bytes(b->plan);
}

static uint64_t bytes_of_rank(const builder *b)
{
  return ingot_rank_memory_need(b->body->on_device, model_bytes(b), host_bytes(b));
}

/* Gram matrices that do not fit are gathered in several passes over the data. */
static void share_sums(builder *b, uint64_t limit)
{
  if (limit == 0 || b->out->memory_bytes <= limit) return;
  uint64_t rest = b->out->memory_bytes - ingot_gram_sums_bytes(b->plan, &b->layout);
  b->plan->sums_bytes = rest < limit ? limit - rest : 1; /* a group has one matrix at least */
  b->out->memory_bytes = bytes_of_rank(b);
}

/* Windows of a pass, and whether that fits. */
static ingot_status fit_memory(builder *b)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = b->settings;
  ingot_rank_memory            limit;
  char                         need[32], have[32];
  INGOT_TRY(ingot_rank_memory_find(b->planner, b->body->on_device, s->memory_limit_bytes, &limit));
  int64_t wanted = ingot_batch_default(b->body->on_device, b->plan->window.length);
  b->plan->batch = b->kind == INGOT_GATHER_FISHER ? 1 : s->batch > 0 ? s->batch : wanted;
  b->out->memory_bytes = bytes_of_rank(b);
  while (s->batch == 0 && b->plan->batch > 1 && limit.bytes > 0 && b->out->memory_bytes > limit.bytes) {
    b->plan->batch /= 2;
    b->out->memory_bytes = bytes_of_rank(b);
  }
  if (b->kind == INGOT_GATHER_GRAM)
    share_sums(b, limit.stated || !b->body->on_device ? limit.bytes : limit.bytes / 100 * GPU_SHARE);
  b->out->host_bytes = ingot_rank_host_need(b->body->on_device, b->plan->compute, b->specs, b->plan->n_model,
                                            b->planner->options.n_thread, host_bytes(b));
  if (limit.bytes > 0 && b->out->memory_bytes > limit.bytes)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: a rank needs %s for weights, activations and sums, and %s %s", b->place,
                       ingot_bytes_text(b->out->memory_bytes, need), limit.what, ingot_bytes_text(limit.bytes, have));
done:
  return st;
}

/* ---- the whole ---- */

static ingot_status start(builder *b, ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status                 st = INGOT_OK;
  const ingot_gather_settings *s = step->settings;
  *b = (builder){.planner = planner,
                 .step = step,
                 .settings = s,
                 .out = plan,
                 .arena = &plan->arena,
                 .kind = kind_of(step->type)};
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  b->place = ingot_arena_printf(b->arena, "%s:%d: step %d (%s)", step->value->file, step->value->line, step->number,
                                step->type->name);
  INGOT_TRY_ALLOC(b->body && b->place);
  b->plan = &b->body->plan;
  plan->body = b->body;
  plan->n_thread = planner->options.n_thread;
  plan->n_pass = 1;
  *b->plan = (ingot_gather_plan){.window = {.length = s->window,
                                            .stride = s->stride,
                                            .limit = s->limit,
                                            .partial = s->partial,
                                            .document = s->has_document ? (int32_t)s->document : -1,
                                            .separate = s->separate,
                                            .shuffle = s->shuffle,
                                            .seed = (uint64_t)s->seed},
                                 .batch = 1,
                                 .labels = (ingot_statistics_labels)s->labels,
                                 .top_k = (int)s->top_k,
                                 .loss = (ingot_statistics_loss)s->loss,
                                 .example = s->example,
                                 .seed = (uint64_t)s->seed,
                                 .head = s->head,
                                 .outputs = s->outputs,
                                 .save_every_s = (double)s->save_every_s};
done:
  return st;
}

static ingot_status make_title(builder *b)
{
  ingot_status st = INGOT_OK;
  const char  *id = b->plan->n_model > 0 ? b->settings->models[0].id : "";
  int64_t      n = ingot_gather_window_count(b->plan) *
              (b->kind == INGOT_GATHER_BLOCKS ? 1 : b->plan->n_model); /* blocks: a data set a model */
  if (b->kind == INGOT_GATHER_EVALUATE)
    b->out->title =
        ingot_arena_printf(b->arena, "evaluate %d model%s on %d data set%s", b->plan->n_model,
                           b->plan->n_model == 1 ? "" : "s", b->plan->n_data, b->plan->n_data == 1 ? "" : "s");
  else if (b->kind == INGOT_GATHER_BLOCKS)
    b->out->title =
        ingot_arena_printf(b->arena, "RegMean++ of %d model%s", b->plan->n_model, b->plan->n_model == 1 ? "" : "s");
  else
    b->out->title =
        ingot_arena_printf(b->arena,
                           b->kind == INGOT_GATHER_FISHER ? "Fisher information of %s" : "Gram matrices of %s", id);
  b->out->work =
      ingot_arena_printf(b->arena, "%lld window%s of %lld tokens, %lld in a pass, in %s on the %s", (long long)n,
                         n == 1 ? "" : "s", (long long)b->plan->window.length, (long long)b->plan->batch,
                         ingot_compute_name(b->plan->compute), b->body->on_device ? "GPU" : "CPU");
  if (b->kind == INGOT_GATHER_BLOCKS && b->out->work)
    b->out->work =
        ingot_arena_printf(b->arena, n_block(b) == 1 ? "%d block, by %s" : "%d blocks one after the other, each by %s",
                           n_block(b), b->out->work);
  int passes = b->kind == INGOT_GATHER_GRAM ? ingot_gram_passes(b->plan, &b->layout) : 1;
  if (passes > 1 && b->out->work)
    b->out->work = ingot_arena_printf(b->arena, "%s, in %d passes over the data", b->out->work, passes);
  if (!ingot_gather_makes_statistics(b->kind)) b->out->form = b->out->sink.n_tensor ? "scores (HDF5)" : "scores (JSON)";
  else b->out->form = b->out->sink.format == INGOT_SINK_HDF5 ? "statistics (HDF5)" : "statistics (directory)";
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

ingot_status ingot_gather_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  builder      b;
  int          n_problem = planner->problems.count;
  plan->title = step->type->name;
  INGOT_TRY(start(&b, planner, step, plan));
  INGOT_TRY(add_models(&b));
  INGOT_TRY(add_data(&b));
  b.plan->compute = ingot_compute_choose(planner, step, b.settings->dtype, &b.body->on_device);
  bool good = planner->problems.count == n_problem;
  for (int i = 0; i < b.plan->n_model; i++) good = good && b.inputs[i];
  INGOT_TRY(fill_inputs(&b));
  if (!good) goto done;
  INGOT_TRY(fit_memory(&b));
  INGOT_TRY(ingot_gather_make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  for (int i = 0; b.specs && i < b.settings->n_model; i++) ingot_model_spec_release(&b.specs[i]);
  free(b.specs);
  ingot_model_layout_release(&b.layout);
  return st;
}
