/* What a merge writes besides tensors: config, tokenizer, model card, attributes; and the plan's fingerprint. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "driver/merge_plan.h"
#include "driver/model_config.h"
#include "driver/recipe.h"
#include "driver/step_sink.h"
#include "driver/version.h"

/* Part of the fingerprint: counts up when the same settings and inputs come to mean other bytes. */
static const char OUTPUT_VERSION[] = "ingot-merge-1";

enum { ATTRIBUTES_MAX = 8 };

/* Side files that describe the input as a whole, or were made by us: the output gets its own. */
static bool is_own_business(const char *name)
{
  return strcmp(name, "README.md") == 0 || strcmp(name, "ingot_manifest.json") == 0;
}

static ingot_status make_config(ingot_merge_builder *b, const ingot_text *written, ingot_text *out)
{
  ingot_status         st = INGOT_OK;
  ingot_config_change  change = {.new_dtype = !b->settings->keep_dtype,
                                 .dtype = b->settings->dtype,
                                 .n_token = b->n_row};
  ingot_config_slice  *slices = NULL;
  const ingot_section *sections = b->sections;
  if (b->settings->n_slice > 0) {
    slices = ingot_arena_alloc(b->arena, (size_t)b->n_section, sizeof *slices);
    INGOT_TRY_ALLOC(slices);
    for (int i = 0; i < b->n_section; i++) {
      const ingot_section_source *reference = &sections[i].sources[sections[i].reference];
      slices[i] = (ingot_config_slice){reference->input->config, reference->first, sections[i].n_layer};
    }
  }
  change.slices = slices;
  change.n_slice = slices ? b->n_section : 0;
  INGOT_TRY(ingot_model_config_change(b->inputs[b->config_input]->config, &change, written, out));
done:
  return st;
}

static ingot_status add_files(ingot_merge_builder *b)
{
  ingot_status       st = INGOT_OK;
  ingot_text         bytes = {0}, changed = {0};
  const ingot_input *lender = b->inputs[b->config_input];
  int                n = ingot_input_n_side_file(lender);
  ingot_sink_file   *files = ingot_arena_alloc(b->arena, (size_t)n + 1, sizeof *files);
  INGOT_TRY_ALLOC(files);
  b->out->sink.files = files;
  for (int i = 0; i < n; i++) {
    const char *name = ingot_input_side_file_name(lender, i);
    bool        found = false;
    if (is_own_business(name)) continue;
    bytes.size = 0;
    changed.size = 0;
    INGOT_TRY(ingot_input_side_file(lender, name, &bytes, &found));
    bool              is_config = strcmp(name, "config.json") == 0;
    const ingot_text *from = is_config ? &changed : &bytes;
    if (is_config) INGOT_TRY(make_config(b, &bytes, &changed));
    ingot_sink_file *file = &files[b->out->sink.n_file++];
    file->name = ingot_arena_strdup(b->arena, name);
    file->size = from->size;
    file->bytes = ingot_arena_copy(b->arena, ingot_text_string(from), from->size);
    INGOT_TRY_ALLOC(file->name && file->bytes);
  }
done:
  ingot_text_release(&bytes);
  ingot_text_release(&changed);
  return st;
}

static ingot_status add_tensors(ingot_merge_builder *b)
{
  ingot_status       st = INGOT_OK;
  ingot_sink_tensor *tensors = ingot_arena_alloc(b->arena, (size_t)b->n_tensor, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  for (int i = 0; i < b->n_tensor; i++)
    tensors[i] = (ingot_sink_tensor){b->tensors[i].view.name, b->tensors[i].dtype, b->tensors[i].view.shape};
  b->out->sink.tensors = tensors;
  b->out->sink.n_tensor = b->n_tensor;
done:
  return st;
}

static ingot_status add_attributes(ingot_merge_builder *b, const json_t *recipe)
{
  ingot_status          st = INGOT_OK;
  ingot_text            inputs = {0}, card = {0};
  ingot_sink_attribute *list = ingot_arena_alloc(b->arena, ATTRIBUTES_MAX, sizeof *list);
  ingot_sink_spec      *sink = &b->out->sink;
  INGOT_TRY_ALLOC(list);
  INGOT_TRY(ingot_inputs_json(b->refs, b->out->inputs, b->n_input, &inputs));
  INGOT_TRY(ingot_model_card(b->planner->job, b->settings, recipe, b->out, &card));
  char *inputs_text = ingot_arena_strdup(b->arena, ingot_text_string(&inputs));
  char *card_text = ingot_arena_strdup(b->arena, ingot_text_string(&card));
  char *job_text = ingot_arena_strdup(b->arena, b->planner->job->text);
  INGOT_TRY_ALLOC(inputs_text && card_text && job_text);
  int n = 0;
  list[n++] = (ingot_sink_attribute){"ingot_job", job_text};
  list[n++] = (ingot_sink_attribute){"ingot_recipe", b->out->recipe};
  list[n++] = (ingot_sink_attribute){"ingot_version", ingot_version_text()};
  list[n++] = (ingot_sink_attribute){"ingot_inputs", inputs_text};
  if (sink->format == INGOT_SINK_HF_DIR) list[n++] = (ingot_sink_attribute){"model_card", card_text};
  sink->attributes = list;
  sink->n_attribute = n;
done:
  ingot_text_release(&inputs);
  ingot_text_release(&card);
  return st;
}

static uint64_t chain(uint64_t h, const void *bytes, size_t size)
{
  return ingot_hash_seeded(bytes, size, h);
}

static uint64_t chain_string(uint64_t h, const char *s)
{
  return chain(h, s, strlen(s) + 1);
}

/* Settings, inputs and layout; not paths, ranks, threads or limits, which the result does not depend on. */
static void set_fingerprint(ingot_merge_builder *b)
{
  ingot_step_plan       *p = b->out;
  const ingot_sink_spec *sink = &p->sink;
  uint64_t               h = ingot_hash_string(OUTPUT_VERSION);
  int64_t                layout[2] = {(int64_t)sink->format, (int64_t)sink->shard_bytes};
  h = chain_string(h, p->recipe);
  h = chain(h, layout, sizeof layout);
  uint64_t alignment = ingot_sink_alignment(sink);
  if (sink->format == INGOT_SINK_HDF5 && alignment != INGOT_SINK_ALIGNMENT) h = chain(h, &alignment, sizeof alignment);
  for (int i = 0; i < p->n_input; i++) {
    h = chain_string(h, p->inputs[i].id);
    h = chain(h, &p->inputs[i].identity, sizeof p->inputs[i].identity);
  }
  for (int i = 0; i < sink->n_tensor; i++) {
    const ingot_sink_tensor *t = &sink->tensors[i];
    int64_t                  dtype = (int64_t)t->dtype;
    h = chain_string(h, t->name);
    h = chain(h, &dtype, sizeof dtype);
    h = chain(h, t->shape.dim, (size_t)t->shape.n_dim * sizeof t->shape.dim[0]);
  }
  for (int i = 0; i < sink->n_file; i++) {
    h = chain_string(h, sink->files[i].name);
    h = chain(h, sink->files[i].bytes, sink->files[i].size);
  }
  p->fingerprint = h;
}

ingot_status ingot_merge_make_sink(ingot_merge_builder *b)
{
  ingot_status     st = INGOT_OK;
  json_t          *recipe = NULL;
  ingot_sink_spec *sink = &b->out->sink;
  INGOT_TRY(ingot_step_sink_begin(b->planner, b->settings->durable, b->out));
  sink->shard_bytes = b->settings->shard_bytes;
  sink->alignment_bytes = b->settings->alignment_bytes;
  INGOT_TRY(b->settings->is_export ? ingot_recipe_of_export(b->settings, b->inputs[0], &recipe)
                                   : ingot_recipe_json(b->settings, &recipe));
  if (!b->settings->is_export) INGOT_TRY(ingot_merge_report_crops(b, recipe));
  if (b->settings->scales == INGOT_SCALES_IGNORE) json_object_set_new(recipe, "scales", json_string("ignore"));
  INGOT_TRY(ingot_recipe_keep(recipe, b->arena, &b->out->recipe));
  INGOT_TRY(add_tensors(b));
  INGOT_TRY(add_files(b));
  INGOT_TRY(add_attributes(b, recipe));
  set_fingerprint(b);
  b->body->plan.sink = *sink;
  b->body->plan.fingerprint = b->out->fingerprint;
done:
  json_decref(recipe);
  return st;
}
