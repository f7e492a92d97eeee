/* Tensors with a row a token, whose numbers of rows may differ between models; and whether the tokens agree. */
#include <string.h>

#include "base/log.h"
#include "driver/layers.h"
#include "driver/merge_plan.h"
#include "driver/vocabulary.h"

static bool names_positions(const char *name)
{
  return strstr(name, "position") || strstr(name, "pos_embed") || strstr(name, "wpe") || strstr(name, "token_type");
}

static bool has_token_rows(const ingot_sink_tensor *t)
{
  ingot_layer_name layer;
  if (t->shape.n_dim != 2 || !ingot_dtype_is_float(t->dtype) || ingot_layer_parse(t->name, &layer)) return false;
  return ingot_is_head(t->name) || (ingot_layer_is_before(t->name) && !names_positions(t->name));
}

static bool differ_in_rows(const ingot_shape *a, const ingot_shape *b)
{
  return a->n_dim == 2 && b->n_dim == 2 && a->dim[1] == b->dim[1] && a->dim[0] != b->dim[0];
}

ingot_shape ingot_merge_cropped_shape(const ingot_merge_builder *b, const ingot_sink_tensor *t)
{
  ingot_shape shape = t->shape;
  if (b->settings->embeddings != INGOT_EMBEDDINGS_CROP || !has_token_rows(t)) return shape;
  for (int i = 0; i < b->n_section; i++) {
    for (int k = 0; k < b->sections[i].n_source; k++) {
      const ingot_input *input = b->sections[i].sources[k].input;
      int                at = ingot_input_find(input, t->name);
      if (at < 0 || !differ_in_rows(&input->tensors[at].shape, &shape)) continue;
      if (input->tensors[at].shape.dim[0] < shape.dim[0]) shape.dim[0] = input->tensors[at].shape.dim[0];
    }
  }
  return shape;
}

bool ingot_merge_is_cropped_to(const ingot_merge_builder *b, const ingot_sink_tensor *t, const ingot_shape *shape)
{
  return b->settings->embeddings == INGOT_EMBEDDINGS_CROP && has_token_rows(t) && differ_in_rows(&t->shape, shape) &&
         t->shape.dim[0] > shape->dim[0];
}

const char *ingot_merge_crop_hint(const ingot_merge_builder *b, const ingot_sink_tensor *t, const ingot_shape *shape)
{
  if (!has_token_rows(t) || !differ_in_rows(&t->shape, shape)) return "";
  return ingot_merge_hint(b, "embeddings", " (embeddings = \"crop\" merges the rows that all have)");
}

/* The rows of the smallest cropped tensor; -1 when none is cropped. */
static int64_t fewest_rows(const ingot_merge_builder *b)
{
  int64_t fewest = -1;
  for (int i = 0; i < b->n_section; i++) {
    for (int k = 0; k < b->sections[i].n_source; k++) {
      const ingot_input *input = b->sections[i].sources[k].input;
      for (int j = 0; j < input->n_tensor; j++) {
        ingot_shape shape = ingot_merge_cropped_shape(b, &input->tensors[j]);
        if (shape.n_dim != 2 || shape.dim[0] == input->tensors[j].shape.dim[0]) continue;
        if (fewest < 0 || shape.dim[0] < fewest) fewest = shape.dim[0];
      }
    }
  }
  return fewest;
}

ingot_status ingot_merge_check_vocabularies(ingot_merge_builder *b)
{
  ingot_status st = INGOT_OK;
  b->n_row = fewest_rows(b);
  if (b->settings->vocabulary == INGOT_VOCABULARY_IGNORE) goto done;
  for (int i = 1; i < b->n_checkpoint; i++) {
    ingot_status found = b->n_row < 0 ? ingot_vocabulary_compare(b->inputs[0], b->inputs[i])
                                      : ingot_vocabulary_compare_first(b->inputs[0], b->inputs[i], b->n_row);
    if (found == INGOT_ERR_NOMEM) INGOT_TRY(found);
    if (found == INGOT_OK) continue;
    char *message = ingot_arena_strdup(b->arena, ingot_error_message());
    INGOT_TRY_ALLOC(message);
    ingot_error_clear();
    ingot_problems_add(&b->planner->problems, found, "%s: %s%s", b->place, message,
                       found == INGOT_ERR_MISMATCH
                           ? ingot_merge_hint(b, "vocabulary", " (vocabulary = \"ignore\" merges all the same)")
                           : "");
  }
done:
  return st;
}

/* One cropped tensor: a warning, and its row of `list`. */
static void report_tensor(const ingot_merge_builder *b, const ingot_merge_tensor *t, json_t *list)
{
  json_t            *of = NULL;
  const ingot_input *larger = NULL;
  int64_t            rows = t->view.shape.dim[0], most = 0;
  for (int i = 0; i < b->n_section; i++) {
    for (int k = 0; k < b->sections[i].n_source; k++) {
      const ingot_input *input = b->sections[i].sources[k].input;
      int                at = ingot_input_find(input, t->view.name);
      if (at < 0 || !ingot_merge_is_cropped_to(b, &input->tensors[at], &t->view.shape)) continue;
      if (!of) of = json_object();
      json_object_set_new(of, input->id, json_integer(input->tensors[at].shape.dim[0]));
      if (input->tensors[at].shape.dim[0] > most) larger = input, most = input->tensors[at].shape.dim[0];
    }
  }
  if (!of) return;
  ingot_log_warning("%s: tensor %s: the first %lld rows are merged, which all models have; \"%s\" (%s) has %lld",
                    b->place, t->view.name, (long long)rows, larger->id, larger->path, (long long)most);
  json_object_set_new(list, t->view.name, json_pack("{s:I, s:o}", "rows", (json_int_t)rows, "of", of));
}

ingot_status ingot_merge_report_crops(const ingot_merge_builder *b, json_t *recipe)
{
  ingot_status       st = INGOT_OK;
  const ingot_input *lender = b->inputs[b->config_input];
  int64_t            n_token = 0;
  if (b->n_row < 0) goto done;
  json_t *list = json_object();
  INGOT_CHECK(list, INGOT_ERR_NOMEM, "no memory for the recipe");
  for (int i = 0; i < b->n_tensor; i++) report_tensor(b, &b->tensors[i], list);
  json_object_set_new(recipe, "embeddings", json_string("crop"));
  json_object_set_new(recipe, "cropped", list);
  INGOT_TRY(ingot_vocabulary_size(lender, &n_token));
  if (n_token > b->n_row)
    ingot_log_warning("%s: the tokenizer of \"%s\" (%s) has %lld tokens, and only the first %lld have embeddings",
                      b->place, lender->id, lender->path, (long long)n_token, (long long)b->n_row);
done:
  return st;
}
