#include "driver/input.h"

#include <stdlib.h>
#include <string.h>

#include "io/json.h"

typedef struct name_row {
  const char *name;
  int         index;
} name_row;

static int compare_rows(const void *a, const void *b)
{
  return strcmp(((const name_row *)a)->name, ((const name_row *)b)->name);
}

static ingot_status index_names(ingot_input *input, ingot_arena *arena)
{
  ingot_status st = INGOT_OK;
  name_row    *rows = malloc((size_t)(input->n_tensor + 1) * sizeof *rows);
  int         *by_name = ingot_arena_alloc(arena, (size_t)input->n_tensor, sizeof *by_name);
  INGOT_CHECK(rows && by_name, INGOT_ERR_NOMEM, "no memory for the names of %d tensors", input->n_tensor);
  for (int i = 0; i < input->n_tensor; i++) rows[i] = (name_row){input->tensors[i].name, i};
  qsort(rows, (size_t)input->n_tensor, sizeof *rows, compare_rows);
  for (int i = 0; i < input->n_tensor; i++) by_name[i] = rows[i].index;
  input->by_name = by_name;
done:
  free(rows);
  return st;
}

static ingot_status read_config(ingot_input *input)
{
  ingot_status st = INGOT_OK;
  ingot_text   bytes = {0}, what = {0};
  bool         found = false;
  INGOT_TRY(ingot_input_side_file(input, "config.json", &bytes, &found));
  if (!found) goto done;
  INGOT_TRY(ingot_text_printf(&what, "%s: config.json", input->path));
  INGOT_TRY(ingot_json_parse(ingot_text_string(&what), ingot_text_string(&bytes), bytes.size, &input->config));
  INGOT_CHECK(json_is_object(input->config), INGOT_ERR_FORMAT, "%s: expected an object, found %s",
              ingot_text_string(&what), ingot_json_type_text(input->config));
done:
  ingot_text_release(&bytes);
  ingot_text_release(&what);
  return st;
}

ingot_status ingot_input_open(const char *id, const char *path, ingot_arena *arena, ingot_input *out)
{
  ingot_status st = INGOT_OK;
  *out = (ingot_input){.id = id, .path = path};
  INGOT_TRY(ingot_source_open(path, &out->source));
  out->n_tensor = ingot_source_count(out->source);
  ingot_sink_tensor *tensors = ingot_arena_alloc(arena, (size_t)out->n_tensor, sizeof *tensors);
  INGOT_TRY_ALLOC(tensors);
  for (int i = 0; i < out->n_tensor; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(out->source, i);
    tensors[i] = (ingot_sink_tensor){t->name, t->dtype, t->shape};
  }
  out->tensors = tensors;
  INGOT_TRY(index_names(out, arena));
  INGOT_TRY(read_config(out));
done:
  if (st != INGOT_OK) ingot_input_close(out);
  return st;
}

ingot_status ingot_input_promise(const char *id, const ingot_sink_spec *promise, ingot_arena *arena, ingot_input *out)
{
  ingot_status st = INGOT_OK;
  *out = (ingot_input){.id = id, .path = promise->path, .promise = promise};
  out->tensors = promise->tensors;
  out->n_tensor = promise->n_tensor;
  INGOT_TRY(index_names(out, arena));
  INGOT_TRY(read_config(out));
done:
  if (st != INGOT_OK) ingot_input_close(out);
  return st;
}

void ingot_input_close(ingot_input *input)
{
  if (input->source) ingot_source_close(&input->source);
  json_decref(input->config);
  *input = (ingot_input){0};
}

int ingot_input_find(const ingot_input *input, const char *name)
{
  int low = 0, high = input->n_tensor - 1;
  while (low <= high) {
    int middle = low + (high - low) / 2;
    int order = strcmp(name, input->tensors[input->by_name[middle]].name);
    if (order == 0) return input->by_name[middle];
    if (order < 0) high = middle - 1;
    else low = middle + 1;
  }
  return -1;
}

int ingot_input_n_side_file(const ingot_input *input)
{
  if (input->source) return ingot_source_n_side_file(input->source);
  return input->promise->format == INGOT_SINK_SAFETENSORS ? 0 : input->promise->n_file;
}

const char *ingot_input_side_file_name(const ingot_input *input, int i)
{
  return input->source ? ingot_source_side_file_name(input->source, i) : input->promise->files[i].name;
}

ingot_status ingot_input_side_file(const ingot_input *input, const char *name, ingot_text *bytes, bool *found)
{
  *found = false;
  for (int i = 0; i < ingot_input_n_side_file(input); i++) {
    if (strcmp(ingot_input_side_file_name(input, i), name) != 0) continue;
    *found = true;
    if (input->source) return ingot_source_side_file_read(input->source, i, bytes);
    return ingot_text_append(bytes, input->promise->files[i].bytes, input->promise->files[i].size);
  }
  return INGOT_OK;
}

uint64_t ingot_input_bytes(const ingot_input *input)
{
  uint64_t bytes = 0;
  for (int i = 0; i < input->n_tensor; i++) {
    int64_t n = 0;
    if (ingot_shape_count(&input->tensors[i].shape, &n))
      bytes += (uint64_t)n * ingot_dtype_size(input->tensors[i].dtype);
  }
  return bytes;
}
