#include "driver/merge_plan.h"

#include <stdlib.h>
#include <string.h>

#include "driver/layers.h"
#include "driver/placement.h"
#include "workers/matrix.h"

ingot_status ingot_merge_take_input(ingot_merge_builder *b, const ingot_job_reference *ref, const ingot_value *where,
                                    int *index)
{
  ingot_status st = INGOT_OK;
  ingot_input *input = NULL;
  *index = -1;
  INGOT_TRY(ingot_planner_input(b->planner, ref, where, &input));
  if (!input) goto done;
  for (int i = 0; i < b->n_input; i++)
    if (b->inputs[i] == input) *index = i;
  if (*index >= 0) goto done;
  b->inputs[b->n_input] = input;
  b->refs[b->n_input] = *ref;
  *index = b->n_input++;
done:
  return st;
}

static int most_inputs(const ingot_merge_settings *s)
{
  int n = 2 + 2 * s->n_model; /* with their statistics */
  for (int i = 0; i < s->n_slice; i++) n += s->slices[i].n_source;
  return n;
}

static bool is_base(const ingot_merge_settings *s, const ingot_merge_source *source)
{
  return s->has_base && strcmp(source->ref.path, s->base.path) == 0;
}

/* The sources of one section in the method's order. *good becomes false when an input could not be opened. */
static ingot_status make_section(ingot_merge_builder *b, const ingot_merge_source *models, int n_model,
                                 const ingot_value *value, ingot_section *section, bool *good)
{
  ingot_status                st = INGOT_OK;
  const ingot_merge_settings *s = b->settings;
  section->value = value;
  section->sources = ingot_arena_alloc(b->arena, (size_t)n_model + 1, sizeof *section->sources);
  INGOT_TRY_ALLOC(section->sources);
  if (b->has_base) {
    ingot_section_source *base = &section->sources[section->n_source++];
    *base = (ingot_section_source){.model = -1, .first = models[0].first, .statistics = -1};
    for (int i = 0; i < n_model; i++)
      if (is_base(s, &models[i])) base->first = models[i].first;
    INGOT_TRY(ingot_merge_take_input(b, &s->base, ingot_value_member(b->step->value, "base"), &base->source));
    *good = *good && base->source >= 0;
  }
  for (int i = 0; i < n_model; i++) {
    if (b->has_base && s->method->base != INGOT_BASE_START && is_base(s, &models[i])) continue;
    if (!b->has_base && is_base(s, &models[i]))
      section->reference = section->n_source; /* an ordinary input that leads */
    ingot_section_source *source = &section->sources[section->n_source++];
    *source =
        (ingot_section_source){.model = i, .first = models[i].first, .params = &models[i].params, .statistics = -1};
    INGOT_TRY(ingot_merge_take_input(b, &models[i].ref, models[i].value, &source->source));
    *good = *good && source->source >= 0;
  }
  for (int i = 0; i < section->n_source; i++)
    if (section->sources[i].source >= 0) section->sources[i].input = b->inputs[section->sources[i].source];
done:
  return st;
}

static ingot_status make_sections(ingot_merge_builder *b, bool *good)
{
  ingot_status                st = INGOT_OK;
  const ingot_merge_settings *s = b->settings;
  b->n_section = s->n_slice > 0 ? s->n_slice : 1;
  b->sections = ingot_arena_alloc(b->arena, (size_t)b->n_section, sizeof *b->sections);
  INGOT_TRY_ALLOC(b->sections);
  for (int i = 0; i < s->n_slice; i++) {
    const ingot_merge_slice *slice = &s->slices[i];
    INGOT_TRY(make_section(b, slice->sources, slice->n_source, slice->value, &b->sections[i], good));
    b->sections[i].n_layer = slice->sources[0].end - slice->sources[0].first;
    b->sections[i].params = &slice->params;
  }
  if (s->n_slice == 0) {
    INGOT_TRY(make_section(b, s->models, s->n_model, s->models_value, &b->sections[0], good));
    b->sections[0].n_layer = -1;
  }
done:
  return st;
}

static ingot_status find_config(ingot_merge_builder *b, bool *good)
{
  ingot_status         st = INGOT_OK;
  const ingot_section *first = &b->sections[0];
  b->config_input = first->sources[first->reference].source;
  if (!b->settings->has_config) goto done;
  INGOT_TRY(ingot_merge_take_input(b, &b->settings->config, ingot_value_member(b->step->value, "config_from"),
                                   &b->config_input));
  *good = *good && b->config_input >= 0;
done:
  return st;
}

static const ingot_input *reference_of(const ingot_section *section)
{
  return section->sources[section->reference].input;
}

/* The stack of an input, which must be the only one; its name is lent by a tensor. False after a problem. */
static bool only_stack(ingot_merge_builder *b, const ingot_input *input, const char **stack, size_t *length)
{
  *stack = NULL;
  for (int i = 0; i < input->n_tensor; i++) {
    ingot_layer_name layer;
    const char      *name = input->tensors[i].name;
    if (!ingot_layer_parse(name, &layer)) continue;
    if (!*stack) {
      *stack = name;
      *length = layer.stack_length;
    } else if (layer.stack_length != *length || memcmp(name, *stack, *length) != 0) {
      ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                         "%s: slices need one layer stack, and \"%s\" (%s) has %.*s and %.*s", b->place, input->id,
                         input->path, (int)*length, *stack, (int)layer.stack_length, name);
      return false;
    }
  }
  if (!*stack)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH, "%s: slices need layers, and \"%s\" (%s) has none",
                       b->place, input->id, input->path);
  return *stack != NULL;
}

/* Every source of every slice has the layers that are asked of it. */
static bool check_slices(ingot_merge_builder *b)
{
  int n_problem = b->planner->problems.count;
  for (int i = 0; i < b->n_section; i++) {
    const ingot_section *section = &b->sections[i];
    for (int k = 0; k < section->n_source; k++) {
      const ingot_section_source *source = &section->sources[k];
      const char                 *stack;
      size_t                      length = 0;
      if (!only_stack(b, source->input, &stack, &length)) continue;
      int64_t count = ingot_layer_count(source->input, stack, length);
      if (source->first + section->n_layer > count)
        ingot_problems_add(&b->planner->problems, INGOT_ERR_JOB,
                           "%s: layers [%lld, %lld] of \"%s\", which has %lld layers",
                           ingot_value_place(section->value), (long long)source->first,
                           (long long)(source->first + section->n_layer), source->input->id, (long long)count);
    }
  }
  return b->planner->problems.count == n_problem;
}

/* Tensors outside the stack: those before it, or those after it. */
static ingot_status add_outside(ingot_merge_builder *b, const ingot_section *section, bool before)
{
  ingot_status       st = INGOT_OK;
  const ingot_input *reference = reference_of(section);
  ingot_section      whole = *section;
  ingot_layer_name   layer;
  whole.n_layer = -1;
  for (int i = 0; i < reference->n_tensor; i++) {
    const char *name = reference->tensors[i].name;
    if (ingot_layer_parse(name, &layer) || ingot_layer_is_before(name) != before) continue;
    INGOT_TRY(ingot_merge_add_tensor(b, &whole, i, name, 0.0));
  }
done:
  return st;
}

/* A layer's tensors have the same shapes in every slice; a model of mixed sizes could not be loaded. */
static void check_same_sizes(ingot_merge_builder *b, const ingot_section *section, int index, const char *rest)
{
  const ingot_section *first = &b->sections[0];
  const ingot_input   *a = reference_of(first), *c = reference_of(section);
  ingot_layer_name     layer;
  char                 text_a[INGOT_SHAPE_TEXT], text_c[INGOT_SHAPE_TEXT];
  if (first == section || a == c) return;
  for (int i = 0; i < a->n_tensor; i++) {
    if (!ingot_layer_parse(a->tensors[i].name, &layer) || layer.index != first->sources[first->reference].first)
      continue;
    if (strcmp(layer.rest, rest) != 0 || ingot_shape_equal(&a->tensors[i].shape, &c->tensors[index].shape)) continue;
    ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                       "%s: %s: %s in \"%s\" (%s), but %s is %s in \"%s\" (%s)", b->place, c->tensors[index].name,
                       ingot_shape_text(&c->tensors[index].shape, text_c), c->id, c->path, a->tensors[i].name,
                       ingot_shape_text(&a->tensors[i].shape, text_a), a->id, a->path);
  }
}

static ingot_status add_slice_layers(ingot_merge_builder *b, const ingot_section *section, int64_t first_out)
{
  ingot_status       st = INGOT_OK;
  const ingot_input *reference = reference_of(section);
  int64_t            first = section->sources[section->reference].first;
  ingot_layer_name   layer;
  for (int64_t k = 0; k < section->n_layer; k++) {
    double t = ingot_layer_depth(k, section->n_layer);
    for (int i = 0; i < reference->n_tensor; i++) {
      const char *name = reference->tensors[i].name;
      if (!ingot_layer_parse(name, &layer) || layer.index != first + k) continue;
      const char *out_name = ingot_arena_printf(b->arena, "%.*s.%lld%s", (int)layer.stack_length, name,
                                                (long long)(first_out + k), layer.rest);
      INGOT_TRY_ALLOC(out_name);
      check_same_sizes(b, section, i, layer.rest);
      INGOT_TRY(ingot_merge_add_tensor(b, section, i, out_name, t));
    }
  }
done:
  return st;
}

static ingot_status add_slices(ingot_merge_builder *b)
{
  ingot_status st = INGOT_OK;
  int64_t      out = 0;
  if (!check_slices(b)) goto done;
  INGOT_TRY(add_outside(b, &b->sections[0], true));
  for (int i = 0; i < b->n_section; i++) {
    INGOT_TRY(add_slice_layers(b, &b->sections[i], out));
    out += b->sections[i].n_layer;
  }
  INGOT_TRY(add_outside(b, &b->sections[b->n_section - 1], false));
done:
  return st;
}

/* Tensors of the other models that the reference lacks. */
static void check_extra(ingot_merge_builder *b, const ingot_section *section)
{
  const ingot_input *reference = reference_of(section);
  for (int k = 0; k < section->n_source; k++) {
    const ingot_input *input = section->sources[k].input;
    for (int i = 0; i < input->n_tensor; i++) {
      const char *name = input->tensors[i].name;
      if (ingot_input_find(reference, name) >= 0 || (b->drop_head && ingot_is_head(name))) continue;
      ingot_problems_add(&b->planner->problems, INGOT_ERR_MISMATCH,
                         "%s: tensor %s of \"%s\" (%s) is missing in \"%s\" (%s)", b->place, name, input->id,
                         input->path, reference->id, reference->path);
    }
  }
}

static ingot_status add_models(ingot_merge_builder *b)
{
  ingot_status         st = INGOT_OK;
  const ingot_section *section = &b->sections[0];
  const ingot_input   *reference = reference_of(section);
  enum { STACKS_KEPT = 8 };
  struct {
    const char *stack;
    size_t      length;
    int64_t     count;
  } stacks[STACKS_KEPT];
  int n_stack = 0;
  for (int i = 0; i < reference->n_tensor; i++) {
    const char      *name = reference->tensors[i].name;
    ingot_layer_name layer;
    double           t = 0.0;
    if (ingot_layer_parse(name, &layer)) {
      int k = 0;
      while (k < n_stack &&
             (stacks[k].length != layer.stack_length || memcmp(stacks[k].stack, name, layer.stack_length)))
        k++;
      if (k == STACKS_KEPT) k = --n_stack; /* more stacks than that are counted again each time */
      if (k == n_stack) {
        stacks[n_stack].stack = name;
        stacks[n_stack].length = layer.stack_length;
        stacks[n_stack++].count = ingot_layer_count(reference, name, layer.stack_length);
      }
      t = ingot_layer_depth(layer.index, stacks[k].count);
    }
    INGOT_TRY(ingot_merge_add_tensor(b, section, i, name, t));
  }
  if (b->settings->missing == INGOT_MISSING_FAIL) check_extra(b, section);
done:
  return st;
}

static ingot_status fill_inputs(ingot_merge_builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *p = b->out;
  p->n_input = b->n_input;
  p->inputs = ingot_arena_alloc(b->arena, (size_t)b->n_input, sizeof *p->inputs);
  b->body->sources = ingot_arena_alloc(b->arena, (size_t)b->n_input, sizeof(ingot_source *));
  const char **names = ingot_arena_alloc(b->arena, (size_t)b->n_input, sizeof *names);
  INGOT_TRY_ALLOC(p->inputs && b->body->sources && names);
  p->ready = true;
  for (int i = 0; i < b->n_input; i++) {
    ingot_source *source = b->inputs[i]->source;
    p->inputs[i] = (ingot_plan_input){b->refs[i].id, b->refs[i].path, ingot_input_bytes(b->inputs[i]),
                                      source ? ingot_source_identity(source) : 0};
    b->body->sources[i] = source;
    p->ready = p->ready && source != NULL;
    bool by_path = strcmp(b->refs[i].id, b->refs[i].path) == 0;
    names[i] = by_path ? b->refs[i].path : ingot_arena_printf(b->arena, "%s (%s)", b->refs[i].id, b->refs[i].path);
    INGOT_TRY_ALLOC(names[i]);
  }
  b->body->plan.sources = b->body->sources;
  b->body->plan.source_names = names;
  b->body->plan.n_source = b->n_input;
done:
  return st;
}

static void add_traffic(ingot_merge_builder *b)
{
  ingot_step_plan *p = b->out;
  p->n_pass = 1;
  for (int i = 0; i < b->n_tensor; i++) {
    const ingot_merge_tensor *t = &b->tensors[i];
    bool                      once = t->grain == INGOT_GRAIN_ELEMENT || t->grain == INGOT_GRAIN_MATRIX;
    int                       n_pass = t->copy || once ? 1 : 2;
    if (t->grain == INGOT_GRAIN_MODEL && b->settings->method->tensor.next) n_pass = 3;
    if (n_pass > p->n_pass) p->n_pass = n_pass;
    p->bytes_written += (uint64_t)t->view.n_elem * ingot_dtype_size(t->dtype);
    for (int k = 0; k < t->view.n_input; k++) {
      const ingot_sink_tensor *in = &b->inputs[t->source[k]]->tensors[t->tensor[k]];
      int64_t                  n_elem = 0; /* a Gram matrix has a shape of its own */
      if (!ingot_shape_count(&in->shape, &n_elem)) continue;
      if (ingot_merge_is_cropped_to(b, in, &t->view.shape)) n_elem = t->view.n_elem;
      p->bytes_read += (uint64_t)n_pass * (uint64_t)n_elem * ingot_dtype_size(in->dtype);
    }
  }
}

/* The matrices of the largest layer against a rank's memory. They are solved on the CPU where the GPU is too small. */
static ingot_status check_matrices(ingot_merge_builder *b, bool *fit)
{
  ingot_status      st = INGOT_OK;
  ingot_rank_memory limit;
  int               largest = 0;
  char              need[32], have[32];
  uint64_t          bytes = ingot_matrix_memory_bytes(&b->body->plan, &largest);
  *fit = true;
  if (bytes == 0) goto done;
  INGOT_TRY(ingot_rank_memory_find(b->planner, false, b->settings->memory_limit_bytes, &limit));
  *fit = limit.bytes == 0 || bytes <= limit.bytes;
  if (!*fit)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: the matrices of %s need %s of a rank's memory, and %s %s", b->place,
                       b->tensors[largest].view.name, ingot_bytes_text(bytes, need), limit.what,
                       ingot_bytes_text(limit.bytes, have));
done:
  return st;
}

/* The buffers of a rank, with fewer threads where memory_limit asks for it. */
static ingot_status fit_memory(ingot_merge_builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_step_plan *p = b->out;
  uint64_t         limit = b->settings->memory_limit_bytes;
  bool             fit = true;
  char             need[32], have[32];
  if (!p->ready) return INGOT_OK;
  INGOT_TRY(check_matrices(b, &fit));
  for (p->n_thread = b->planner->options.n_thread; p->n_thread >= 1; p->n_thread--) {
    p->memory_bytes = ingot_merge_memory_bytes(&b->body->plan, p->n_thread, b->planner->options.on_device);
    if (limit == 0 || p->memory_bytes <= limit) goto done;
  }
  if (fit)
    ingot_problems_add(&b->planner->problems, INGOT_ERR_TOO_LARGE,
                       "%s: one thread needs %s of memory, and memory_limit is %s", b->place,
                       ingot_bytes_text(p->memory_bytes, need), ingot_bytes_text(limit, have));
done:
  return st;
}

const char *ingot_merge_hint(const ingot_merge_builder *b, const char *key, const char *hint)
{
  for (const ingot_key *k = b->step->type->keys; k->name; k++)
    if (strcmp(k->name, key) == 0) return hint;
  return "";
}

static ingot_status start(ingot_merge_builder *b, ingot_planner *planner, const ingot_job_step *step,
                          ingot_step_plan *plan)
{
  ingot_status                st = INGOT_OK;
  const ingot_merge_settings *s = step->settings;
  *b = (ingot_merge_builder){.planner = planner, .step = step, .settings = s, .out = plan, .arena = &plan->arena};
  b->has_base = s->method->base == INGOT_BASE_START ? s->has_base : s->method->base != INGOT_BASE_UNUSED;
  b->body = ingot_arena_alloc(b->arena, 1, sizeof *b->body);
  b->inputs = ingot_arena_alloc(b->arena, (size_t)most_inputs(s), sizeof(ingot_input *));
  b->refs = ingot_arena_alloc(b->arena, (size_t)most_inputs(s), sizeof *b->refs);
  b->param_missing = ingot_arena_alloc(b->arena, (size_t)s->method->n_param + 1, sizeof *b->param_missing);
  b->place = ingot_arena_printf(b->arena, "%s:%d: step %d (%s)", step->value->file, step->value->line, step->number,
                                strcmp(step->type->name, "merge") == 0 ? s->method->name : step->type->name);
  plan->title = s->is_export ? "export" : ingot_arena_printf(b->arena, "merge by %s", s->method->name);
  INGOT_TRY_ALLOC(b->body && b->inputs && b->refs && b->param_missing && b->place && plan->title);
  plan->body = b->body;
done:
  return st;
}

ingot_status ingot_merge_plan_make(ingot_planner *planner, const ingot_job_step *step, ingot_step_plan *plan)
{
  ingot_status        st = INGOT_OK;
  ingot_merge_builder b = {0};
  int                 n_problem = planner->problems.count;
  bool                good = true;
  INGOT_TRY(start(&b, planner, step, plan));
  INGOT_TRY(make_sections(&b, &good));
  INGOT_TRY(find_config(&b, &good));
  INGOT_TRY(ingot_merge_open_statistics(&b, &good));
  INGOT_TRY(fill_inputs(&b));
  if (!good) goto done;
  ingot_merge_check_heads(&b);
  INGOT_TRY(ingot_merge_check_vocabularies(&b));
  INGOT_TRY(b.settings->n_slice > 0 ? add_slices(&b) : add_models(&b));
  INGOT_TRY(ingot_merge_check_scales(&b));
  ingot_merge_report_statistics(&b);
  if (planner->problems.count != n_problem) goto done;
  if (b.n_tensor == 0)
    ingot_problems_add(&planner->problems, INGOT_ERR_MISMATCH, "%s: no tensor is left to write", b.place);
  b.body->plan.method = b.settings->method;
  b.body->plan.tensors = b.tensors;
  b.body->plan.n_tensor = b.n_tensor;
  b.body->plan.n_tile = plan->n_tile = b.n_tile;
  b.body->plan.nonfinite = (ingot_nonfinite)b.settings->nonfinite;
  add_traffic(&b);
  INGOT_TRY(ingot_merge_make_sink(&b));
  INGOT_TRY(fit_memory(&b));
done:
  ingot_merge_release_statistics(&b);
  return st;
}
