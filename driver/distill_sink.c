/* What a distill step writes: recipe, tensors, config and tokenizer of the student. */
#include <stdlib.h>
#include <string.h>

#include "driver/distill_builder.h"
#include "driver/model_config.h"
#include "driver/placement.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "io/json.h"

typedef ingot_distill_builder builder;

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other results. */
static const char OUTPUT_VERSION[] = "ingot-distill-1";

static const char *const loss_names[] = {"forward_kl", "reverse_kl", "jsd"};
static const char *const schedule_names[] = {"cosine", "linear", "constant"};

const char *ingot_distill_combine_name(ingot_distill_combine combine)
{
  static const char *const names[] = {"linear", "log_linear", "average_loss"};
  return names[combine];
}

static json_t *optimizer_json(const ingot_distill_settings *s)
{
  return json_pack("{s:f, s:f, s:I, s:s, s:f, s:f, s:f, s:f, s:f}", "rate", s->rate, "final_rate", s->final_rate,
                   "warmup", (json_int_t)s->warmup, "schedule", schedule_names[s->schedule], "beta1", s->beta1, "beta2",
                   s->beta2, "epsilon", s->epsilon, "decay", s->decay, "clip", s->clip);
}

static json_t *data_json(const builder *b, int d)
{
  json_t *row = json_pack("{s:o, s:I, s:f}", "name", ingot_json_text(b->plan->data[d].name), "windows",
                          (json_int_t)b->plan->data[d].n_window, "weight", b->plan->data[d].weight);
  json_t *weights = json_object();
  for (int i = 0; i < b->plan->n_teacher; i++)
    json_object_set_new(weights, b->plan->teachers[i].id, json_real(b->plan->weights[d * b->settings->n_teacher + i]));
  json_object_set_new(row, "teachers", weights);
  return row;
}

static json_t *recipe_json(const builder *b)
{
  const ingot_distill_settings *s = b->settings;
  json_t *r = json_pack("{s:s, s:o, s:s, s:I, s:b, s:I, s:I, s:s, s:f, s:f}", "type", "distill", "student",
                        b->student ? ingot_json_text(b->student->id) : json_null(), "combine",
                        ingot_distill_combine_name(b->plan->combine), "window", (json_int_t)s->window, "separate",
                        (int)s->separate, "steps", (json_int_t)s->steps, "batch", (json_int_t)s->batch, "loss",
                        loss_names[s->loss], "temperature", s->temperature, "alpha", s->alpha);
  json_t *data = json_array(), *checks = json_array();
  if (s->micro_batch > 0)
    json_object_set_new(r, "micro_batch", json_integer(s->micro_batch)); /* else it follows from ranks and memory */
  if (s->shift) json_object_set_new(r, "shift", json_true());
  if (s->loss == INGOT_NN_JSD) json_object_set_new(r, "beta", json_real(s->beta));
  if (b->plan->combine == INGOT_COMBINE_LOG_LINEAR) json_object_set_new(r, "floor", json_real(b->plan->floor));
  if (b->plan->plausibility > 0.0)
    ingot_plausibility_note(r, b->plan->plausibility, b->plan->teachers[b->plan->reference].id);
  if (s->has_document) json_object_set_new(r, "document", json_integer(s->document));
  if (b->plan->config) json_object_set_new(r, "config", ingot_json_text(b->plan->config));
  if (b->plan->logits) json_object_set_new(r, "logits", ingot_json_text(s->logits));
  for (int d = 0; d < s->n_data; d++) json_array_append_new(data, data_json(b, d));
  for (int d = 0; d < s->n_validation; d++)
    json_array_append_new(checks, json_pack("{s:o, s:I}", "name", ingot_json_text(s->validation[d].name), "windows",
                                            (json_int_t)b->plan->validation.data[d].n_window));
  json_object_set_new(r, "data", data);
  json_object_set_new(r, "optimizer", optimizer_json(s));
  json_object_set_new(r, "validation", checks);
  json_object_set_new(r, "validate_every", json_integer(s->validate_every));
  json_object_set_new(r, "keep",
                      json_string(b->plan->keep_best ? (b->plan->other ? "best_and_last" : "best")
                                                     : (b->plan->other ? "last_and_best" : "last")));
  json_object_set_new(r, "seed", json_integer(s->seed));
  json_object_set_new(r, "dtype", json_string(ingot_compute_name(b->plan->validation.compute)));
  json_object_set_new(r, "output_dtype", json_string(s->output_dtype));
  return r;
}

/* Tensors in the order of the student's files, each with the parameter that it holds. */
static ingot_status add_tensors(builder *b)
{
  ingot_status       st = INGOT_OK;
  int                n = b->layout.n_param, n_tensor = b->student ? b->student->n_tensor : n;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, (size_t)n, sizeof *tensors);
  int               *params = ingot_arena_alloc(b->arena, (size_t)n, sizeof *params);
  ingot_dtype        dtype = INGOT_DTYPE_F32;
  bool               source = !ingot_dtype_parse(b->settings->output_dtype, &dtype);
  INGOT_TRY_ALLOC(tensors && params);
  b->out->sink.tensors = tensors;
  for (int t = 0; t < n_tensor; t++) {
    int p = 0;
    while (p < n && (b->student ? b->tensor[p] : p) != t) p++;
    if (p == n) continue; /* a buffer that nobody needs */
    const ingot_sink_tensor *from = b->student ? &b->student->tensors[t] : NULL;
    const char              *name = ingot_arena_strdup(b->arena, from ? from->name : b->layout.params[p].name);
    INGOT_TRY_ALLOC(name);
    params[b->out->sink.n_tensor] = p;
    tensors[b->out->sink.n_tensor++] =
        (ingot_sink_tensor){name, from && source ? from->dtype : dtype, b->layout.params[p].shape};
  }
  b->plan->tensor_param = params;
done:
  return st;
}

static ingot_status add_file(builder *b, ingot_sink_file *files, const char *name, const ingot_text *bytes)
{
  ingot_status     st = INGOT_OK;
  ingot_sink_file *file = &files[b->out->sink.n_file];
  file->name = ingot_arena_strdup(b->arena, name);
  file->size = bytes->size;
  file->bytes = ingot_arena_copy(b->arena, ingot_text_string(bytes), bytes->size);
  INGOT_TRY_ALLOC(file->name && file->bytes);
  b->out->sink.n_file++;
done:
  return st;
}

/* Side files that describe the student's own making: the output gets its own. */
static bool is_own_business(const char *name)
{
  return strcmp(name, "README.md") == 0 || strcmp(name, "ingot_manifest.json") == 0 ||
         strcmp(name, INGOT_TRAINING_FILE) == 0;
}

static ingot_status add_files(builder *b)
{
  ingot_status       st = INGOT_OK;
  ingot_text         bytes = {0}, changed = {0};
  const ingot_input *lender = b->student ? b->student : b->plan->n_teacher > 0 ? b->teachers[0] : NULL;
  int                n = lender ? ingot_input_n_side_file(lender) : 0;
  ingot_sink_file   *files = ingot_arena_alloc(b->arena, (size_t)n + 1, sizeof *files);
  ingot_dtype        dtype = INGOT_DTYPE_F32;
  bool               new_dtype = ingot_dtype_parse(b->settings->output_dtype, &dtype);
  INGOT_TRY_ALLOC(files);
  b->out->sink.files = files;
  for (int i = 0; i < n; i++) {
    const char *name = ingot_input_side_file_name(lender, i);
    bool        found = false, is_config = strcmp(name, "config.json") == 0;
    if (is_own_business(name) || (is_config && !b->student)) continue;
    bytes.size = changed.size = 0;
    INGOT_TRY(ingot_input_side_file(lender, name, &bytes, &found));
    ingot_config_change change = {.new_dtype = new_dtype, .dtype = dtype};
    if (is_config && lender->config) INGOT_TRY(ingot_model_config_change(lender->config, &change, &bytes, &changed));
    INGOT_TRY(add_file(b, files, name, changed.size > 0 ? &changed : &bytes));
  }
  if (!b->plan->config) goto done;
  bytes.size = 0;
  INGOT_TRY(ingot_text_printf(&bytes, "%s", b->plan->config));
  INGOT_TRY(add_file(b, files, "config.json", &bytes));
done:
  ingot_text_release(&bytes);
  ingot_text_release(&changed);
  return st;
}

ingot_status ingot_distill_name_other(builder *b)
{
  ingot_status st = INGOT_OK;
  int          keep = b->settings->keep;
  if (b->settings->n_validation == 0 || (keep != INGOT_KEEP_BEST_AND_LAST && keep != INGOT_KEEP_LAST_AND_BEST))
    goto done;
  const char *path = b->out->output, *which = keep == INGOT_KEEP_BEST_AND_LAST ? "last" : "best";
  size_t      n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--;
  const char *dot = ingot_sink_format_of(path) == INGOT_SINK_HDF5 ? strrchr(path, '.') : path + n;
  b->plan->other =
      ingot_arena_printf(b->arena, "%.*s.%s%.*s", (int)(dot - path), path, which, (int)(path + n - dot), dot);
  INGOT_TRY_ALLOC(b->plan->other);
  b->out->other = b->plan->other;
done:
  return st;
}

ingot_status ingot_distill_make_sink(ingot_distill_builder *b)
{
  ingot_status     st = INGOT_OK;
  ingot_sink_spec *sink = &b->out->sink;
  json_t          *recipe = recipe_json(b);
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
  INGOT_TRY(ingot_step_sink_begin(b->planner, b->settings->durable, b->out));
  INGOT_TRY(add_tensors(b));
  INGOT_TRY(add_files(b));
  INGOT_TRY(ingot_step_sink_attributes(b->planner->job, b->out));
  b->out->fingerprint = ingot_step_fingerprint(b->out, OUTPUT_VERSION);
  INGOT_TRY(ingot_sink_bytes(sink, &b->out->bytes_written));
  if (b->plan->other) b->out->bytes_written *= 2;
  b->plan->sink = *sink;
  b->plan->validation.output = sink->path;
  b->plan->validation.fingerprint = b->out->fingerprint;
done:
  json_decref(recipe);
  return st;
}
