#include "driver/mixture.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "io/json.h"
#include "io/sink.h"
#include "io/source.h"

enum { BYTES_MAX = 64 << 20 };

/* The JSON text, wherever it lies. */
static ingot_status load(const char *path, json_t **tree, uint64_t *identity)
{
  ingot_status  st = INGOT_OK;
  ingot_source *source = NULL;
  ingot_text    text = {0};
  if (ingot_sink_format_of(path) == INGOT_SINK_HDF5) {
    INGOT_TRY(ingot_source_open(path, &source));
    const char *attribute = ingot_source_attribute(source, "ingot_ensemble");
    INGOT_CHECK(attribute, INGOT_ERR_FORMAT,
                "%s: no weights of an ensemble: the attribute \"ingot_ensemble\" is missing", path);
    INGOT_TRY(ingot_text_printf(&text, "%s", attribute));
  } else {
    INGOT_TRY(ingot_file_append(path, BYTES_MAX, &text));
  }
  *identity = ingot_hash(ingot_text_string(&text), text.size);
  INGOT_TRY(ingot_json_parse(path, ingot_text_string(&text), text.size, tree));
  const char *kind = json_string_value(json_object_get(*tree, "kind"));
  INGOT_CHECK(kind && strcmp(kind, "ensemble") == 0 && json_is_array(json_object_get(*tree, "models")) &&
                  json_is_object(json_object_get(*tree, "weights")) &&
                  json_is_string(json_object_get(*tree, "combination")),
              INGOT_ERR_FORMAT, "%s: not what an ensemble step writes", path);
done:
  if (source) ingot_source_close(&source);
  ingot_text_release(&text);
  return st;
}

/* Whether a model's identity is its own: that of sources alike in size, time and header is not. */
static bool is_identified(const ingot_mixture_model *models, int n_model, int m)
{
  for (int k = 0; k < n_model; k++)
    if (k != m && models[k].identity == models[m].identity) return false;
  return models[m].identity != 0;
}

/* Column of each wanted model: that of its identity, the one with its id of several, else that of its id. */
static ingot_status find_models(const char *path, const json_t *tree, const ingot_mixture_model *models, int n_model,
                                int *column)
{
  ingot_status st = INGOT_OK;
  json_t      *list = json_object_get(tree, "models"), *entry;
  size_t       i;
  for (int m = 0; m < n_model; m++) {
    char identity[24];
    int  best = 0;
    bool identified = is_identified(models, n_model, m);
    snprintf(identity, sizeof identity, "%016" PRIx64, models[m].identity);
    column[m] = -1;
    json_array_foreach(list, i, entry)
    {
      const char *id = json_string_value(json_object_get(entry, "id")),
                 *own = json_string_value(json_object_get(entry, "identity"));
      int match =
          (identified && own && strcmp(own, identity) == 0 ? 2 : 0) + (id && strcmp(id, models[m].id) == 0 ? 1 : 0);
      if (match > best) column[m] = (int)i;
      best = match > best ? match : best;
    }
    INGOT_CHECK(column[m] >= 0, INGOT_ERR_MISMATCH, "%s has no weight for model \"%s\"", path, models[m].id);
  }
  json_array_foreach(list, i, entry)
  {
    bool wanted = false;
    for (int m = 0; m < n_model; m++) wanted = wanted || column[m] == (int)i;
    const char *id = json_string_value(json_object_get(entry, "id"));
    INGOT_CHECK(wanted, INGOT_ERR_MISMATCH, "%s has a weight for model \"%s\", which is not one of the models here",
                path, id ? id : "");
  }
done:
  return st;
}

static ingot_status take_row(const char *path, const char *name, const json_t *row, size_t n_file, int n_model,
                             const int *column, double *weights)
{
  ingot_status st = INGOT_OK;
  INGOT_CHECK(json_array_size(row) == n_file, INGOT_ERR_FORMAT, "%s: weights \"%s\": %zu for %zu models", path, name,
              json_array_size(row), n_file);
  for (int m = 0; m < n_model; m++) {
    const json_t *v = json_array_get(row, (size_t)column[m]);
    INGOT_CHECK(json_is_number(v) && isfinite(json_number_value(v)), INGOT_ERR_FORMAT,
                "%s: weights \"%s\": number %d is none", path, name, column[m] + 1);
    weights[m] = json_number_value(v);
  }
done:
  return st;
}

static ingot_status take_plausibility(const char *path, const json_t *tree, int n_model, const int *column,
                                      ingot_mixture *out)
{
  ingot_status  st = INGOT_OK;
  const json_t *share = json_object_get(tree, "plausibility");
  const char   *by = json_string_value(json_object_get(tree, "reference"));
  bool          found = false;
  if (!share) goto done;
  out->plausibility = json_number_value(share);
  for (int m = 0; m < n_model && by && !found; m++) {
    const char *id =
        json_string_value(json_object_get(json_array_get(json_object_get(tree, "models"), (size_t)column[m]), "id"));
    found = id && strcmp(id, by) == 0;
    out->reference = m;
  }
  INGOT_CHECK(json_is_number(share) && out->plausibility > 0.0 && out->plausibility <= 1.0 && found, INGOT_ERR_FORMAT,
              "%s: \"plausibility\" is no number above 0 up to 1, or \"reference\" is none of the models", path);
done:
  return st;
}

ingot_status ingot_mixture_read(const char *path, const ingot_mixture_model *models, int n_model,
                                const char *const *data, int n_data, ingot_arena *arena, ingot_mixture *out)
{
  ingot_status st = INGOT_OK;
  json_t      *tree = NULL;
  *out = (ingot_mixture){.n_row = 1};
  INGOT_TRY(load(path, &tree, &out->identity));
  json_t *rows = json_object_get(tree, "weights"), *all = json_object_get(rows, "all"),
         *bound = json_object_get(tree, "floor");
  size_t n_file = json_array_size(json_object_get(tree, "models"));
  if (!all) out->n_row = n_data;
  int    *column = ingot_arena_alloc(arena, (size_t)n_model, sizeof *column);
  double *weights = ingot_arena_alloc(arena, (size_t)n_model * (size_t)out->n_row, sizeof *weights);
  out->kind = ingot_arena_strdup(arena, json_string_value(json_object_get(tree, "combination")));
  INGOT_TRY_ALLOC(column && weights && out->kind);
  out->floor = json_is_number(bound) ? json_number_value(bound) : log(1e-8);
  INGOT_TRY(find_models(path, tree, models, n_model, column));
  INGOT_TRY(take_plausibility(path, tree, n_model, column, out));
  for (int r = 0; r < out->n_row; r++) {
    const char *name = all ? "all" : data[r];
    json_t     *row = json_object_get(rows, name);
    INGOT_CHECK(row, INGOT_ERR_MISMATCH, "%s has no weights for data \"%s\"", path, name);
    INGOT_TRY(take_row(path, name, row, n_file, n_model, column, weights + r * n_model));
  }
  out->weights = weights;
done:
  json_decref(tree);
  return st;
}
