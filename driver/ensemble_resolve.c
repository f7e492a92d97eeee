#define _DEFAULT_SOURCE
#include "driver/ensemble_resolve.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "driver/input_model.h"
#include "driver/mixture.h"
#include "driver/vocabulary.h"

/* ---- members ---- */

static ingot_status plan_members(ingot_ensemble_builder *b)
{
  ingot_status   st = INGOT_OK;
  ingot_job_step evaluate = *b->step;
  int            n = b->settings->gather.n_model;
  evaluate.settings = (void *)(uintptr_t)&b->settings->gather;
  b->body->members.type = ingot_step_type_find("evaluate");
  b->body->members.number = b->out->number;
  b->body->members.output = b->out->output;
  INGOT_TRY(ingot_gather_plan_make(b->planner, &evaluate, &b->body->members));
  b->gather = b->body->members.body;
  b->out->inputs = b->body->members.inputs;
  b->out->n_input = b->body->members.n_input;
  b->out->ready = b->body->members.ready;
  b->found.inputs = ingot_arena_alloc(b->arena, (size_t)n, sizeof(ingot_input *));
  INGOT_TRY_ALLOC(b->found.inputs);
  for (int i = 0; i < n; i++)
    INGOT_TRY(ingot_planner_input(b->planner, &b->settings->gather.models[i], b->step->value, &b->found.inputs[i]));
done:
  return st;
}

/* One vocabulary, by what the numbers stand for. */
static ingot_status check_vocabularies(ingot_ensemble_builder *b)
{
  ingot_status st = INGOT_OK;
  for (int i = 1; i < b->settings->gather.n_model; i++) {
    if (!b->found.inputs[0] || !b->found.inputs[i]) continue;
    INGOT_TRY(ingot_planner_take(b->planner, b->found.place,
                                 ingot_vocabulary_compare(b->found.inputs[0], b->found.inputs[i])));
  }
done:
  return st;
}

static ingot_status read_specs(ingot_ensemble_builder *b)
{
  ingot_status st = INGOT_OK;
  b->found.specs = calloc((size_t)b->settings->gather.n_model + 1, sizeof *b->found.specs);
  INGOT_CHECK(b->found.specs, INGOT_ERR_NOMEM, "no memory for %d models", b->settings->gather.n_model);
  for (int i = 0; i < b->settings->gather.n_model; i++) {
    INGOT_TRY(ingot_input_model_spec(b->found.inputs[i], b->settings->gather.window, &b->found.specs[i]));
    INGOT_CHECK(b->found.specs[i].n_vocab == b->found.specs[0].n_vocab, INGOT_ERR_MISMATCH,
                "%s: \"%s\" has a vocabulary of %lld tokens, and \"%s\" one of %lld", b->found.place,
                b->found.inputs[i]->id, (long long)b->found.specs[i].n_vocab, b->found.inputs[0]->id,
                (long long)b->found.specs[0].n_vocab);
  }
done:
  return st;
}

/* ---- weights ---- */

/* Whether the file that an earlier step makes is there and stays. */
static bool weights_ready(const ingot_ensemble_builder *b)
{
  struct stat            info;
  int                    step = b->settings->weights_step;
  const ingot_step_plan *maker = step > 0 ? &b->planner->steps[step - 1] : NULL;
  if (!maker || !maker->type) return true;
  return maker->complete && stat(b->settings->weights_path, &info) == 0;
}

/* The file among the inputs. */
static ingot_status add_weights_input(ingot_ensemble_builder *b)
{
  ingot_status      st = INGOT_OK;
  struct stat       info;
  ingot_plan_input *inputs = ingot_arena_alloc(b->arena, (size_t)b->out->n_input + 1, sizeof *inputs);
  INGOT_TRY_ALLOC(inputs);
  memcpy(inputs, b->out->inputs, (size_t)b->out->n_input * sizeof *inputs);
  uint64_t bytes = stat(b->settings->weights_path, &info) == 0 ? (uint64_t)info.st_size : 0;
  inputs[b->out->n_input++] =
      (ingot_plan_input){"weights", b->settings->weights_path, bytes, b->found.weights_identity};
  b->out->inputs = inputs;
done:
  return st;
}

static ingot_status read_mixture(ingot_ensemble_builder *b, ingot_mixture *mixture)
{
  ingot_status                   st = INGOT_OK;
  const ingot_ensemble_settings *s = b->settings;
  int                            n = s->gather.n_model;
  ingot_mixture_model           *models = ingot_arena_alloc(b->arena, (size_t)n, sizeof *models);
  const char                   **names = ingot_arena_alloc(b->arena, (size_t)s->n_score, sizeof *names);
  INGOT_TRY_ALLOC(models && names);
  for (int i = 0; i < n; i++) models[i] = (ingot_mixture_model){s->gather.models[i].id, b->gather->model_identity[i]};
  for (int d = 0; d < s->n_score; d++) names[d] = s->gather.data[d].name;
  INGOT_TRY(ingot_mixture_read(s->weights_path, models, n, names, s->n_score, b->arena, mixture));
  int kind = ingot_ensemble_kind_find(mixture->kind);
  INGOT_CHECK(kind >= 0, INGOT_ERR_FORMAT, "%s: unknown combination \"%s\"", s->weights_path, mixture->kind);
  INGOT_CHECK(kind == s->kind || !ingot_value_member(b->step->value, "kind"), INGOT_ERR_MISMATCH,
              "%s holds weights for kind = \"%s\", and \"%s\" is asked for", s->weights_path, mixture->kind,
              ingot_ensemble_kind_name((ingot_ensemble_kind)s->kind));
  INGOT_CHECK(kind != INGOT_ENSEMBLE_VOTE || !b->logits, INGOT_ERR_MISMATCH,
              "%s is of a vote, which gives no probabilities", s->weights_path);
done:
  return st;
}

static ingot_status set_weights(ingot_ensemble_builder *b)
{
  ingot_status                   st = INGOT_OK;
  const ingot_ensemble_settings *s = b->settings;
  ingot_mixture                  mixture;
  b->plan->kind = (ingot_ensemble_kind)s->kind;
  b->plan->n_score = s->n_score;
  b->plan->learn = s->source == INGOT_WEIGHTS_LEARNT;
  b->plan->n_row = s->n_row;
  b->plan->weights = s->weights;
  b->plan->floor = s->floor;
  b->plan->plausibility = s->plausibility.share;
  b->plan->reference = s->plausibility.reference;
  b->plan->l2 = s->l2;
  if (s->source != INGOT_WEIGHTS_FILE) goto done;
  bool ready = weights_ready(b);
  b->out->ready = b->out->ready && ready;
  if (ready) {
    st = read_mixture(b, &mixture);
    if (st != INGOT_OK) {
      st = ingot_planner_take(b->planner, b->found.place, st);
      goto done;
    }
    b->plan->kind = (ingot_ensemble_kind)ingot_ensemble_kind_find(mixture.kind);
    b->plan->n_row = mixture.n_row;
    b->plan->weights = mixture.weights;
    if (!s->has_floor) b->plan->floor = mixture.floor;
    if (!ingot_value_member(b->step->value, "plausibility")) {
      b->plan->plausibility = mixture.plausibility;
      b->plan->reference = mixture.reference;
    }
    b->found.weights_identity = mixture.identity;
  }
  INGOT_TRY(add_weights_input(b));
done:
  if (st == INGOT_OK && !b->plan->learn)
    ingot_plausibility_check_weights(b->found.place, b->plan->plausibility, b->plan->reference,
                                     s->gather.models[b->plan->reference].id, b->plan->weights, b->plan->n_row,
                                     s->gather.n_model, &b->planner->problems);
  return st;
}

ingot_status ingot_ensemble_resolve(ingot_ensemble_builder *b)
{
  ingot_status          st = INGOT_OK;
  const ingot_job_step *step = b->step;
  int                   n_problem = b->planner->problems.count;
  b->found = (ingot_ensemble_resolved){0};
  b->found.place = ingot_arena_printf(b->arena, "%s:%d: step %d (%s)", step->value->file, step->value->line,
                                      step->number, step->type->name);
  INGOT_TRY_ALLOC(b->found.place);
  INGOT_TRY(plan_members(b));
  INGOT_TRY(check_vocabularies(b));
  if (b->planner->problems.count != n_problem) goto done;
  for (int i = 0; i < b->settings->gather.n_model; i++)
    if (!b->found.inputs[i]) goto done; /* reported with an earlier step */
  st = read_specs(b);
  if (st != INGOT_OK) {
    st = ingot_planner_take(b->planner, b->found.place, st);
    goto done;
  }
  INGOT_TRY(set_weights(b));
  b->plan->gather = b->gather->plan;
  b->found.good = b->planner->problems.count == n_problem;
done:
  return st;
}

void ingot_ensemble_resolved_release(ingot_ensemble_resolved *found, int n_model)
{
  for (int i = 0; found->specs && i < n_model; i++) ingot_model_spec_release(&found->specs[i]);
  free(found->specs);
  found->specs = NULL;
}
