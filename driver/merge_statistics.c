/* Statistics as inputs of a merge: whether they fit the models, each other and the method, and which tensor holds
 * what. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "driver/input_model.h"
#include "driver/merge_plan.h"
#include "workers/statistics/regmean_plus.h"

static void problem(ingot_merge_builder *b, ingot_status st, const ingot_section_source *source, const char *what)
{
  const ingot_input *input = b->inputs[source->statistics];
  ingot_problems_add(&b->planner->problems, st, "%s: statistics of \"%s\" (%s): %s", b->place, source->input->id,
                     input->path, what);
}

/* The JSON of an input; *info is NULL for a file of others. */
static ingot_status read_info(ingot_merge_builder *b, const ingot_input *input, ingot_statistics_info **info)
{
  ingot_status st = INGOT_OK;
  ingot_text   bytes = {0};
  bool         found = false;
  *info = NULL;
  INGOT_TRY(ingot_input_side_file(input, INGOT_STATISTICS_FILE, &bytes, &found));
  if (!found) goto done;
  const char *what = ingot_arena_printf(b->arena, "%s: %s", input->path, INGOT_STATISTICS_FILE);
  INGOT_TRY_ALLOC(what);
  st = ingot_statistics_parse(what, ingot_text_string(&bytes), bytes.size, info);
done:
  ingot_text_release(&bytes);
  return st;
}

static const char *wrong_kind(const ingot_statistics_info *info)
{
  return info->kind == INGOT_STATISTICS_FISHER ? "Fisher information, and the method reads Gram matrices"
                                               : "Gram matrices, and the method reads Fisher information";
}

static void check_info(ingot_merge_builder *b, const ingot_section_source *source)
{
  const ingot_statistics_info *info = source->info;
  const ingot_source          *model = source->input->source;
  bool                         fisher = info->kind == INGOT_STATISTICS_FISHER;
  if (fisher ? info->n_example == 0 : info->n_token == 0)
    problem(b, INGOT_ERR_NUMERIC, source, fisher ? "they are of 0 examples" : "they are of 0 tokens");
  if (model && info->model_identity && b->settings->statistics_model == INGOT_STATISTICS_MODEL_CHECK &&
      ingot_source_identity(model) != info->model_identity)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: statistics of \"%s\" (%s) were made from other files (%s, identity %016llx) than %s "
                       "(%016llx); if it is a copy, statistics_model = \"ignore\" takes them",
                       b->place, source->input->id, b->inputs[source->statistics]->path, info->model_path,
                       (unsigned long long)info->model_identity, source->input->path,
                       (unsigned long long)ingot_source_identity(model));
}

/* What was gathered in different ways does not weigh the same. */
static void compare_infos(ingot_merge_builder *b, const ingot_section_source *a, const ingot_section_source *c)
{
  const ingot_input *of_a = b->inputs[a->statistics], *of_c = b->inputs[c->statistics];
  if (a->info->kind != c->info->kind)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH, "%s: %s holds %s statistics, and %s %s", b->place,
                       of_a->path, ingot_statistics_kind_name(a->info->kind), of_c->path,
                       ingot_statistics_kind_name(c->info->kind));
  if (a->info->loss != c->info->loss)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: %s has gradients of the loss's %s, and %s of its %s", b->place, of_a->path,
                       ingot_statistics_loss_name(a->info->loss), of_c->path,
                       ingot_statistics_loss_name(c->info->loss));
  if (a->info->n_window_token != c->info->n_window_token)
    ingot_log_warning("%s: %s was made with windows of %lld tokens, and %s with %lld", b->place, of_a->path,
                      (long long)a->info->n_window_token, of_c->path, (long long)c->info->n_window_token);
  if (a->info->labels != c->info->labels)
    ingot_log_warning("%s: %s was made with labels %s, and %s with %s", b->place, of_a->path,
                      ingot_statistics_labels_name(a->info->labels), of_c->path,
                      ingot_statistics_labels_name(c->info->labels));
}

/* What is wrong with the config is reported with the plan to run the models, which looks closer. */
static ingot_status find_live(ingot_merge_builder *b, const ingot_section *section, bool *good)
{
  ingot_model_spec spec = {0};
  ingot_status     st = INGOT_OK;
  if (!*good) goto done; /* reported */
  st = ingot_input_model_spec(section->sources[section->reference].input, 0, &spec);
  if (st == INGOT_OK) st = ingot_model_layout_make(&spec, &b->layout);
  *good = st == INGOT_OK;
  if (st != INGOT_OK && st != INGOT_ERR_NOMEM) {
    ingot_error_clear();
    st = INGOT_OK;
  }
done:
  ingot_model_spec_release(&spec);
  return st;
}

ingot_status ingot_merge_open_statistics(ingot_merge_builder *b, bool *good)
{
  ingot_status                st = INGOT_OK;
  ingot_section              *section = &b->sections[0];
  const ingot_section_source *first = NULL;
  b->n_checkpoint = b->n_input;
  if (!b->settings->method->needs || b->settings->n_slice > 0) goto done;
  if (b->settings->live_statistics) {
    st = find_live(b, section, good);
    goto done;
  }
  for (int i = 0; i < section->n_source; i++) {
    ingot_section_source     *source = &section->sources[i];
    const ingot_merge_source *model = source->model >= 0 ? &b->settings->models[source->model] : NULL;
    ingot_statistics_info    *info = NULL;
    if (!model || !model->has_statistics) continue;
    INGOT_TRY(ingot_merge_take_input(b, &model->statistics, model->value, &source->statistics));
    *good = *good && source->statistics >= 0;
    if (source->statistics < 0) continue;
    ingot_status read = read_info(b, b->inputs[source->statistics], &info);
    if (read == INGOT_ERR_NOMEM) INGOT_TRY(read);
    ingot_problems_take(&b->planner->problems, read);
    *good = *good && read == INGOT_OK; /* what cannot be read says nothing of the tensors that it lacks */
    source->info = info;
    if (!info && source->input && read == INGOT_OK && source->statistics < b->n_checkpoint)
      problem(b, INGOT_ERR_MISMATCH, source, "this is a model of the step, and no statistics");
    if (!info || !source->input) continue;
    check_info(b, source);
    if (first) compare_infos(b, first, source);
    else first = source;
  }
done:
  return st;
}

void ingot_merge_release_statistics(ingot_merge_builder *b)
{
  for (int i = 0; b->sections && i < b->n_section; i++)
    for (int k = 0; k < b->sections[i].n_source; k++) {
      ingot_statistics_info *info = (ingot_statistics_info *)(uintptr_t)b->sections[i].sources[k].info;
      ingot_statistics_free(&info);
      b->sections[i].sources[k].info = NULL;
    }
  ingot_model_layout_release(&b->layout);
}

static int lookup(const void *context, const char *name)
{
  return ingot_input_find(context, name);
}

static bool ends_with(const char *s, const char *end)
{
  size_t n = strlen(s), n_end = strlen(end);
  return n >= n_end && strcmp(s + n - n_end, end) == 0;
}

/* GPT-2's linear layers are stored as [in, out]. */
static bool is_conv1d(const ingot_input *input, const char *name)
{
  const char *type = json_string_value(json_object_get(input->config, "model_type"));
  return type && strcmp(type, "gpt2") == 0 &&
         (ends_with(name, ".c_attn.weight") || ends_with(name, ".c_proj.weight") || ends_with(name, ".c_fc.weight"));
}

/* Whether a statistic has the shape that the parameter asks for. */
static bool fits(ingot_merge_builder *b, const ingot_section_source *source, int index, ingot_statistics_use use,
                 const ingot_merge_tensor *t)
{
  const ingot_sink_tensor *s = &b->inputs[source->statistics]->tensors[index];
  char                     found[INGOT_SHAPE_TEXT], of[INGOT_SHAPE_TEXT];
  bool                     packed;
  int64_t                  width = t->view.shape.dim[(use == INGOT_USE_GRAM) != t->view.transposed ? 1 : 0];
  bool is_cropped = ingot_merge_is_cropped_to(b, s, &t->view.shape); /* as the model's own tensor is */
  bool good = use == INGOT_USE_FISHER ? ingot_shape_equal(&s->shape, &t->view.shape) || is_cropped
                                      : ingot_gram_width(&s->shape, &packed) == width;
  if (!good && use == INGOT_USE_FISHER)
    problem(b, INGOT_ERR_MISMATCH, source,
            ingot_arena_printf(b->arena, "tensor %s is %s, and the parameter %s", s->name,
                               ingot_shape_text(&s->shape, found), ingot_shape_text(&t->view.shape, of)));
  else if (!good)
    problem(b, INGOT_ERR_MISMATCH, source,
            ingot_arena_printf(b->arena, "tensor %s is %s, not a Gram matrix of width %lld, which %s %s%s asks for",
                               s->name, ingot_shape_text(&s->shape, found), (long long)width, t->view.name,
                               ingot_shape_text(&t->view.shape, of),
                               t->view.transposed ? " (stored as [in, out])" : ""));
  if (good && !ingot_dtype_is_float(s->dtype)) {
    problem(b, INGOT_ERR_MISMATCH, source,
            ingot_arena_printf(b->arena, "tensor %s is %s", s->name, ingot_dtype_name(s->dtype)));
    good = false;
  }
  return good;
}

typedef struct finding {
  int *source, *tensor; /* [n] */
  int  n;
  int  n_missing;
  bool bad;
} finding;

/* One statistic of every model. */
static ingot_status find_all(ingot_merge_builder *b, const ingot_section_source *const *models,
                             const char *const *names, ingot_statistics_use use, const ingot_merge_tensor *t,
                             finding *f)
{
  ingot_status                st = INGOT_OK;
  const ingot_section_source *with = NULL, *without = NULL;
  for (int k = 0; k < t->view.n_model; k++) {
    const ingot_statistics_info *info = models[k]->info;
    int                          index = -1;
    if (info && (use == INGOT_USE_FISHER) != (info->kind == INGOT_STATISTICS_FISHER)) {
      if (!b->kind_reported) problem(b, INGOT_ERR_MISMATCH, models[k], wrong_kind(info));
      b->kind_reported = f->bad = true;
      continue;
    }
    if (models[k]->statistics >= 0)
      INGOT_TRY(ingot_statistics_find(info, lookup, b->inputs[models[k]->statistics], names[k], use, &index));
    if (index < 0) {
      without = models[k];
      f->n_missing++;
      continue;
    }
    with = models[k];
    f->bad = f->bad || !fits(b, models[k], index, use, t);
    f->source[f->n] = models[k]->statistics;
    f->tensor[f->n++] = index;
  }
  if (with && without) {
    f->bad = true;
    problem(b, INGOT_ERR_MISMATCH, without,
            ingot_arena_printf(b->arena, "none of %s, which those of \"%s\" have", t->view.name, with->input->id));
  }
done:
  return st;
}

/* Every model will have the statistic, and none is an input. */
static void add_live(const ingot_merge_builder *b, ingot_method_tensor *v)
{
  if (ingot_regmean_plus_solves(&b->layout, v->name, &v->transposed)) v->n_statistic = v->n_model;
}

ingot_status ingot_merge_add_statistics(ingot_merge_builder *b, const ingot_section_source *const *taking_part,
                                        const char *const *in_names, ingot_merge_tensor *tensor)
{
  static const struct {
    unsigned             bit;
    ingot_statistics_use use;
  } uses[] = {{INGOT_NEED_FISHER, INGOT_USE_FISHER},
              {INGOT_NEED_GRAM, INGOT_USE_GRAM},
              {INGOT_NEED_OUTPUT_GRAM, INGOT_USE_OUTPUT_GRAM}};
  ingot_status                       st = INGOT_OK;
  ingot_method_tensor               *v = &tensor->view;
  int                                base = v->has_base ? 1 : 0, n = v->n_input;
  unsigned                           wanted = b->settings->method->wants ? b->settings->method->wants(v) : 0;
  const ingot_section_source *const *models = taking_part + base;
  finding                            f = {0};
  if (!wanted) goto done;
  if (b->settings->live_statistics) {
    add_live(b, v);
    goto done;
  }
  f.source = ingot_arena_alloc(b->arena, (size_t)n + 2 * (size_t)v->n_model, sizeof *f.source);
  f.tensor = ingot_arena_alloc(b->arena, (size_t)n + 2 * (size_t)v->n_model, sizeof *f.tensor);
  INGOT_TRY_ALLOC(f.source && f.tensor);
  memcpy(f.source, tensor->source, (size_t)n * sizeof *f.source);
  memcpy(f.tensor, tensor->tensor, (size_t)n * sizeof *f.tensor);
  f.n = n;
  for (int k = 0; k < v->n_model; k++)
    v->transposed = v->transposed || ingot_statistics_is_transposed(models[k]->info, in_names[base + k]) ||
                    (!models[k]->info && is_conv1d(models[k]->input, in_names[base + k]));
  for (size_t i = 0; i < sizeof uses / sizeof *uses; i++)
    if (wanted & uses[i].bit) INGOT_TRY(find_all(b, models, in_names + base, uses[i].use, tensor, &f));
  if (f.n_missing > 0 || f.bad) {
    if (b->n_without++ == 0) b->first_without = v->name;
    goto done;
  }
  tensor->source = f.source;
  tensor->tensor = f.tensor;
  v->n_statistic = f.n - n;
  v->n_input = f.n;
  b->n_with++;
done:
  return st;
}

void ingot_merge_report_statistics(ingot_merge_builder *b)
{
  if (!b->settings->method->needs || b->n_without == 0) return;
  if (b->n_with == 0 && b->planner->problems.count == 0)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: the models' statistics hold nothing that %s wants under the tensors' names (such as %s)",
                       b->place, b->settings->method->name, b->first_without);
  else if (b->n_with > 0)
    ingot_log_info("%s: %d tensors have the statistics that %s wants; %d have none and are averaged (%s is the first)",
                   b->place, b->n_with, b->settings->method->name, b->n_without, b->first_without);
}
