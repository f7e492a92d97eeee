#include "driver/distill_builder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver/input_model.h"
#include "driver/placement.h"
#include "driver/token_promise.h"
#include "driver/vocabulary.h"
#include "io/logits.h"
#include "workers/model/model.h"

typedef ingot_distill_builder builder;

/* ---- models ---- */

static ingot_status read_config(builder *b)
{
  ingot_status st = INGOT_OK;
  const char  *path = b->settings->config_path;
  FILE        *f = fopen(path, "rb");
  char        *text = NULL;
  long         size = -1;
  INGOT_CHECK(f, INGOT_ERR_NOTFOUND, "%s: cannot be read", path);
  if (fseek(f, 0, SEEK_END) == 0) size = ftell(f);
  INGOT_CHECK(size >= 0 && size < 1 << 20 && fseek(f, 0, SEEK_SET) == 0, INGOT_ERR_FORMAT,
              "%s: no config.json of a model", path);
  text = ingot_arena_alloc(b->arena, (size_t)size + 1, 1);
  INGOT_TRY_ALLOC(text);
  INGOT_CHECK(fread(text, 1, (size_t)size, f) == (size_t)size, INGOT_ERR_IO, "%s: cannot be read", path);
  INGOT_TRY(ingot_model_spec_parse(text, (size_t)size, path, &b->spec));
  INGOT_CHECK(b->plan->window.length <= b->spec.n_position, INGOT_ERR_MISMATCH,
              "windows of %lld tokens, and %s has %lld positions", (long long)b->plan->window.length, path,
              (long long)b->spec.n_position);
  b->plan->config = text;
done:
  if (f) fclose(f);
  return st;
}

static ingot_status add_student(builder *b)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  if (s->config_path) {
    INGOT_TRY(read_config(b));
  } else {
    INGOT_TRY(ingot_planner_input(b->planner, &s->student, b->step->value, &b->student));
    if (!b->student) goto done;
    INGOT_TRY(ingot_input_model_spec(b->student, b->plan->window.length, &b->spec));
    b->plan->student = s->student.path;
    b->out->ready = b->student->source != NULL;
  }
  INGOT_TRY(ingot_model_layout_make(&b->spec, &b->layout));
  b->tensor = ingot_arena_alloc(b->arena, (size_t)b->layout.n_param, sizeof *b->tensor);
  INGOT_TRY_ALLOC(b->tensor);
  if (b->student) INGOT_TRY(ingot_input_model_bind(b->student, &b->spec, &b->layout, b->tensor));
  if (b->body->on_device) INGOT_TRY(ingot_model_check_device(&b->spec, "the student"));
done:
  return st;
}

static ingot_status check_teacher(builder *b, int i)
{
  ingot_status       st = INGOT_OK;
  ingot_model_layout layout = {0};
  int               *tensor = NULL;
  const ingot_input *first = b->student ? b->student : b->teachers[0];
  INGOT_TRY(ingot_input_model_spec(b->teachers[i], b->plan->window.length, &b->specs[i]));
  INGOT_TRY(ingot_model_layout_make(&b->specs[i], &layout));
  tensor = malloc((size_t)layout.n_param * sizeof *tensor);
  INGOT_CHECK(tensor, INGOT_ERR_NOMEM, "no memory for %d parameters", layout.n_param);
  INGOT_TRY(ingot_input_model_bind(b->teachers[i], &b->specs[i], &layout, tensor));
  if (b->body->on_device) INGOT_TRY(ingot_model_check_device(&b->specs[i], b->teachers[i]->path));
  if (first && first != b->teachers[i]) INGOT_TRY(ingot_vocabulary_compare(first, b->teachers[i]));
  INGOT_CHECK(b->spec.n_vocab == 0 || b->specs[i].n_vocab == b->spec.n_vocab, INGOT_ERR_MISMATCH,
              "different vocabularies: %lld tokens in the student and %lld in \"%s\" (%s)", (long long)b->spec.n_vocab,
              (long long)b->specs[i].n_vocab, b->teachers[i]->id, b->teachers[i]->path);
done:
  free(tensor);
  ingot_model_layout_release(&layout);
  return st;
}

static ingot_status add_teachers(builder *b)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  int                           n = s->alpha > 0.0 ? s->n_teacher : 0;
  ingot_gather_model           *models = ingot_arena_alloc(b->arena, (size_t)s->n_teacher + 1, sizeof *models);
  b->teachers = ingot_arena_alloc(b->arena, (size_t)s->n_teacher + 1, sizeof(ingot_input *));
  b->specs = calloc((size_t)s->n_teacher + 1, sizeof *b->specs);
  INGOT_CHECK(b->specs, INGOT_ERR_NOMEM, "no memory for %d teachers", s->n_teacher);
  INGOT_TRY_ALLOC(models && b->teachers);
  b->plan->teachers = models;
  b->plan->n_teacher = n;
  b->plan->weights = s->weights;
  for (int i = 0; i < n; i++) {
    const ingot_job_reference *ref = &s->teachers[i].ref;
    INGOT_TRY(ingot_planner_input(b->planner, ref, s->teachers[i].value, &b->teachers[i]));
    if (!b->teachers[i]) continue;
    models[i] = (ingot_gather_model){ref->id, ref->path};
    b->out->ready = b->out->ready && b->teachers[i]->source;
    INGOT_TRY(ingot_planner_take(b->planner, b->place, check_teacher(b, i)));
  }
done:
  return st;
}

/* ---- data ---- */

static void add_input(builder *b, const char *id, const char *path, uint64_t bytes, uint64_t identity)
{
  b->out->inputs[b->out->n_input++] = (ingot_plan_input){id, path, bytes, identity};
}

/* Whether an earlier step of the job is to make the logits file. */
static bool logits_promised(const builder *b)
{
  for (int i = 0; b->plan->logits && i < b->step->number - 1; i++) {
    const ingot_step_plan *earlier = &b->planner->steps[i];
    if (earlier->type && !earlier->complete && strcmp(b->planner->job->steps[i].output, b->plan->logits) == 0)
      return true;
  }
  return false;
}

/* The logits file among the inputs. */
static ingot_status add_logits(builder *b)
{
  ingot_status  st = INGOT_OK;
  ingot_source *source = NULL;
  uint64_t      bytes = 0;
  if (!b->plan->logits) goto done;
  if (logits_promised(b)) {
    b->out->ready = false;
    add_input(b, b->settings->logits, b->plan->logits, 0, 0);
    goto done;
  }
  INGOT_TRY(ingot_source_open(b->plan->logits, &source));
  for (int i = 0; i < ingot_source_count(source); i++) bytes += ingot_source_tensor(source, i)->bytes;
  add_input(b, b->settings->logits, b->plan->logits, bytes, ingot_source_identity(source));
  b->out->bytes_read += bytes;
done:
  if (source) ingot_source_close(&source);
  return st;
}

static ingot_status check_logits(builder *b, const ingot_tokens *tokens)
{
  ingot_status  st = INGOT_OK;
  ingot_logits *file = NULL;
  int           number = 0;
  uint64_t      tokenizer = 0;
  if (b->student) INGOT_TRY(ingot_vocabulary_hash(b->student, &tokenizer));
  INGOT_TRY(ingot_logits_open(b->plan->logits, &file));
  if (b->spec.n_vocab > 0)
    INGOT_TRY(
        ingot_logits_check_tokenizer(file, b->spec.n_vocab, tokenizer, b->student ? b->student->path : "the student"));
  INGOT_TRY(ingot_logits_find_data(file, tokens, &b->plan->window, &number));
done:
  ingot_logits_close(&file);
  return st;
}

static ingot_status look_at_data(builder *b, const ingot_job_data *d, const ingot_window_spec *window, bool train,
                                 int64_t *n_window, uint64_t *identity)
{
  ingot_tokens *tokens = NULL;
  ingot_status  st = INGOT_OK;
  int64_t       promised;
  if (ingot_tokens_promised(b->planner, b->step, d->path, &promised)) {
    *n_window = ingot_promised_windows(promised, window);
    *identity = 0;
    b->out->ready = false;
    INGOT_CHECK(*n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens at most, fewer than a window of %lld", d->path,
                (long long)promised, (long long)window->length);
    goto done;
  }
  INGOT_TRY(ingot_tokens_open(d->path, d->dtype, &tokens));
  *n_window = ingot_window_count(tokens, window);
  *identity = ingot_tokens_identity(tokens);
  INGOT_CHECK(*n_window > 0, INGOT_ERR_MISMATCH, "%s: %lld tokens, fewer than a window of %lld", d->path,
              (long long)ingot_tokens_count(tokens), (long long)window->length);
  if (train && b->plan->logits && !logits_promised(b)) INGOT_TRY(check_logits(b, tokens));
done:
  ingot_tokens_close(&tokens);
  if (st != INGOT_OK && st != INGOT_ERR_NOMEM) ingot_wrap(st, "%s: data \"%s\"", ingot_value_place(d->value), d->name);
  return st;
}

static ingot_status add_data(builder *b)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = b->settings;
  ingot_distill_data           *data = ingot_arena_alloc(b->arena, (size_t)s->n_data + 1, sizeof *data);
  ingot_gather_data            *checks = ingot_arena_alloc(b->arena, (size_t)s->n_validation + 1, sizeof *checks);
  ingot_gather_plan            *v = &b->plan->validation;
  INGOT_TRY_ALLOC(data && checks);
  b->plan->data = data;
  b->plan->n_data = s->n_data;
  v->data = checks;
  v->n_data = s->n_validation;
  for (int i = 0; i < s->n_data + s->n_validation; i++) {
    bool                  train = i < s->n_data;
    const ingot_job_data *d = train ? &s->data[i] : &s->validation[i - s->n_data];
    int64_t               n_window = 0;
    uint64_t              identity = 0;
    st = look_at_data(b, d, train ? &b->plan->window : &v->window, train, &n_window, &identity);
    if (st == INGOT_ERR_NOMEM) goto done;
    if (st != INGOT_OK) ingot_problems_take(&b->planner->problems, st);
    st = INGOT_OK;
    if (train) data[i] = (ingot_distill_data){d->name, d->path, d->dtype, d->weight, n_window};
    else checks[i - s->n_data] = (ingot_gather_data){d->name, d->path, d->dtype, n_window};
    add_input(b, d->name, d->path, (uint64_t)n_window * (uint64_t)s->window * sizeof(uint16_t), identity);
  }
done:
  return st;
}

static void add_models_as_inputs(builder *b)
{
  uint64_t n_rank = (uint64_t)b->planner->options.n_rank;
  for (int i = -1; i < b->plan->n_teacher; i++) {
    const ingot_input *input = i < 0 ? b->student : b->teachers[i];
    if (!input) continue;
    uint64_t bytes = ingot_input_bytes(input);
    b->out->bytes_read += bytes * n_rank;
    add_input(b, input->id, input->path, bytes, input->source ? ingot_source_identity(input->source) : 0);
  }
}

/* A data set that is used up before the end, when it may not begin again. */
static ingot_status check_amount(builder *b)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *plan = b->plan;
  int64_t                  *drawn = ingot_arena_alloc(b->arena, (size_t)plan->n_data + 1, sizeof *drawn);
  INGOT_TRY_ALLOC(drawn);
  if (b->settings->repeat) goto done;
  ingot_distill_count_draws(plan, drawn);
  for (int d = 0; d < plan->n_data; d++)
    if (drawn[d] > plan->data[d].n_window)
      ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                         "%s: data \"%s\" (%s) ends early: %lld windows are drawn from it and it has %lld (repeat = "
                         "true begins again)",
                         ingot_value_place(b->settings->data[d].value), plan->data[d].name, plan->data[d].path,
                         (long long)drawn[d], (long long)plan->data[d].n_window);
done:
  return st;
}

/* ---- the whole ---- */

static ingot_status start(builder *b, ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status                  st = INGOT_OK;
  const ingot_distill_settings *s = step->settings;
  *b = (builder){.planner = planner, .step = step, .settings = s, .out = plan, .arena = &plan->arena};
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  b->place =
      ingot_arena_printf(b->arena, "%s:%d: step %d (distill)", step->value->file, step->value->line, step->number);
  plan->inputs =
      ingot_arena_alloc(b->arena, (size_t)(s->n_data + s->n_validation + s->n_teacher + 4), sizeof *plan->inputs);
  INGOT_TRY_ALLOC(b->body && b->place && plan->inputs);
  b->plan = &b->body->plan;
  plan->body = b->body;
  plan->ready = true;
  plan->n_thread = planner->options.n_thread;
  plan->n_pass = 1;
  int32_t document = s->has_document ? (int32_t)s->document : -1;
  *b->plan = (ingot_distill_plan){
      .logits = s->alpha > 0.0 ? s->logits_path : NULL,
      .combine = (ingot_distill_combine)s->combine,
      .floor = s->floor,
      .plausibility = s->plausibility.share,
      .reference = s->plausibility.reference,
      .window = {.length = s->window, .limit = s->limit, .document = document, .separate = s->separate},
      .shift = s->shift,
      .n_step = s->steps,
      .batch = s->batch,
      .micro_batch = 1,
      .recompute = s->recompute,
      .loss = {.divergence = (ingot_nn_divergence)s->loss,
               .beta = (float)s->beta,
               .temperature = (float)s->temperature,
               .alpha = (float)s->alpha},
      .optimizer = {.rate = s->rate,
                    .final_rate = s->final_rate * s->rate,
                    .warmup = s->warmup,
                    .schedule = (ingot_distill_schedule)s->schedule,
                    .beta1 = s->beta1,
                    .beta2 = s->beta2,
                    .epsilon = s->epsilon,
                    .decay = s->decay,
                    .clip = s->clip},
      .seed = (uint64_t)s->seed,
      .validate_every = s->validate_every,
      .keep_best = (s->keep == INGOT_KEEP_BEST || s->keep == INGOT_KEEP_BEST_AND_LAST) && s->n_validation > 0,
      .save_every_s = (double)s->save_every_s};
  b->plan->validation.window = (ingot_window_spec){.length = s->window,
                                                   .limit = s->validation_limit,
                                                   .document = document,
                                                   .separate = s->separate};
  b->plan->validation.batch = 1;
done:
  return st;
}

/* Its teacher answers for all data, and the loss is finite where it rules tokens out. */
static void check_plausibility(builder *b)
{
  const ingot_distill_plan *p = b->plan;
  if (p->plausibility <= 0.0 || p->n_teacher == 0) return;
  if (!b->settings->weights_path || b->out->ready)
    ingot_plausibility_check_weights(b->place, p->plausibility, p->reference, p->teachers[p->reference].id, p->weights,
                                     p->n_data, p->n_teacher, &b->planner->problems);
  if (p->loss.divergence == INGOT_NN_REVERSE_KL)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB,
                       "%s: loss = \"reverse_kl\" is infinite where plausibility rules tokens out", b->place);
}

static ingot_status make_title(builder *b)
{
  ingot_status              st = INGOT_OK;
  const ingot_distill_plan *p = b->plan;
  const char               *student = b->student ? b->student->id : "a new student";
  if (p->logits) b->out->title = ingot_arena_printf(b->arena, "distill %s into %s", b->settings->logits, student);
  else if (p->n_teacher == 0) b->out->title = ingot_arena_printf(b->arena, "train %s", student);
  else
    b->out->title = ingot_arena_printf(b->arena, "distill %d teacher%s into %s", p->n_teacher,
                                       p->n_teacher == 1 ? "" : "s", student);
  b->out->work =
      ingot_arena_printf(b->arena, "%lld step%s of %lld window%s of %lld tokens, %lld in a pass, in %s on the %s%s%s%s",
                         (long long)p->n_step, p->n_step == 1 ? "" : "s", (long long)p->batch, p->batch == 1 ? "" : "s",
                         (long long)p->window.length, (long long)p->micro_batch,
                         ingot_compute_name(p->validation.compute), b->body->on_device ? "GPU" : "CPU", b->held,
                         p->other ? (p->keep_best ? "; the last in " : "; the best in ") : "",
                         p->other ? p->other : "");
  INGOT_TRY_ALLOC(b->out->title && b->out->work);
done:
  return st;
}

ingot_status ingot_distill_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status st = INGOT_OK;
  builder      b;
  int          n_problem = planner->problems.count;
  plan->title = "distill";
  INGOT_TRY(start(&b, planner, step, plan));
  b.plan->validation.compute = ingot_compute_choose(planner, step, b.settings->dtype, &b.body->on_device);
  INGOT_TRY(ingot_planner_take(b.planner, b.place, add_student(&b)));
  if (b.settings->has_document && b.spec.n_vocab > 0)
    ingot_vocabulary_check_id(&planner->problems, step, "document", b.settings->document, b.spec.n_vocab);
  INGOT_TRY(add_teachers(&b));
  INGOT_TRY(add_data(&b));
  INGOT_TRY(ingot_planner_take(b.planner, b.place, add_logits(&b)));
  if (planner->problems.count == n_problem)
    INGOT_TRY(ingot_planner_take(b.planner, b.place, ingot_distill_take_weights(&b)));
  check_plausibility(&b);
  add_models_as_inputs(&b);
  if (planner->problems.count != n_problem || b.layout.n_param == 0) goto done;
  INGOT_TRY(check_amount(&b));
  INGOT_TRY(ingot_distill_name_other(&b));
  INGOT_TRY(ingot_distill_fit_memory(&b));
  INGOT_TRY(ingot_distill_make_sink(&b));
  INGOT_TRY(make_title(&b));
done:
  ingot_model_spec_release(&b.spec);
  for (int i = 0; b.specs && i < b.settings->n_teacher; i++) ingot_model_spec_release(&b.specs[i]);
  free(b.specs);
  ingot_model_layout_release(&b.layout);
  return st;
}
