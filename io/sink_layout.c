/* The layout of safetensors files and directories of them: everything follows from the list of tensors. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"
#include "io/sink_impl.h"

#define INDEX_NAME "model.safetensors.index.json"
#define CARD_NAME "README.md"
static const uint64_t default_shard_bytes = 5000000000u;

/* A JSON string in quotes. Bytes above ASCII are UTF-8 already. */
static ingot_status append_string(ingot_text *t, const char *s)
{
  ingot_status st = ingot_text_append(t, "\"", 1);
  for (size_t i = 0; st == INGOT_OK && s[i]; i++) {
    unsigned char c = (unsigned char)s[i];
    if (c == '"' || c == '\\') st = ingot_text_printf(t, "\\%c", c);
    else if (c < 0x20) st = ingot_text_printf(t, "\\u%04x", c);
    else st = ingot_text_append(t, &s[i], 1);
  }
  return st == INGOT_OK ? ingot_text_append(t, "\"", 1) : st;
}

static ingot_status append_metadata(ingot_text *t, const ingot_sink_spec *spec)
{
  ingot_status st = ingot_text_printf(t, "{\"__metadata__\":{\"format\":\"pt\"");
  if (spec->format != INGOT_SINK_SAFETENSORS) goto done;
  for (int i = 0; st == INGOT_OK && i < spec->n_attribute; i++) {
    if (strcmp(spec->attributes[i].name, "format") == 0) continue;
    INGOT_TRY(ingot_text_append(t, ",", 1));
    INGOT_TRY(append_string(t, spec->attributes[i].name));
    INGOT_TRY(ingot_text_append(t, ":", 1));
    INGOT_TRY(append_string(t, spec->attributes[i].text));
  }
done:
  return st == INGOT_OK ? ingot_text_append(t, "}", 1) : st;
}

static ingot_status append_tensor(ingot_text *t, const ingot_sink_tensor *tensor, uint64_t begin, uint64_t end)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_text_append(t, ",", 1));
  INGOT_TRY(append_string(t, tensor->name));
  INGOT_TRY(ingot_text_printf(t, ":{\"dtype\":\"%s\",\"shape\":[", ingot_dtype_name(tensor->dtype)));
  for (int i = 0; i < tensor->shape.n_dim; i++)
    INGOT_TRY(ingot_text_printf(t, "%s%" PRId64, i ? "," : "", tensor->shape.dim[i]));
  INGOT_TRY(ingot_text_printf(t, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", begin, end));
done:
  return st;
}

/*
 * One file's header for tensors first to end. Wider elements come first, otherwise in spec order, so that every
 * tensor is aligned to its element size without holes, which the format forbids: readers map and view the bytes.
 */
static ingot_status lay_out_file(ingot_sink *s, int file, int first, int end)
{
  ingot_status          st = INGOT_OK;
  ingot_sink_data_file *f = &s->files[file];
  uint64_t              payload = 0;
  static const char     zeros[8] = {0};
  INGOT_TRY(ingot_text_append(&f->header, zeros, 8));
  INGOT_TRY(append_metadata(&f->header, &s->spec));
  for (size_t width = 8; width > 0; width /= 2) {
    for (int i = first; i < end; i++) {
      const ingot_sink_tensor *tensor = &s->spec.tensors[i];
      if (ingot_dtype_size(tensor->dtype) != width) continue;
      s->extents[i].file = file;
      s->extents[i].offset = payload;
      payload += s->extents[i].bytes;
      INGOT_TRY(append_tensor(&f->header, tensor, s->extents[i].offset, payload));
    }
  }
  INGOT_TRY(ingot_text_append(&f->header, "}", 1));
  while (f->header.size % 8) INGOT_TRY(ingot_text_append(&f->header, " ", 1));
  for (int i = 0; i < 8; i++) f->header.bytes[i] = (char)((f->header.size - 8) >> (8 * i));
  for (int i = first; i < end; i++) s->extents[i].offset += f->header.size;
  f->bytes = f->header.size + payload;
done:
  return st;
}

/* Cut the tensors into shards in spec order: first[k] to first[k + 1]; at least one tensor each. */
static int cut_shards(const ingot_sink *s, int *first)
{
  uint64_t limit = s->spec.shard_bytes ? s->spec.shard_bytes : default_shard_bytes;
  uint64_t used = 0;
  int      n = 0;
  first[0] = 0;
  for (int i = 0; i < s->spec.n_tensor; i++) {
    uint64_t bytes = s->extents[i].bytes;
    if (i > first[n] && (used > limit || bytes > limit - used)) {
      first[++n] = i;
      used = 0;
    }
    used += bytes;
  }
  first[n + 1] = s->spec.n_tensor;
  return n + 1;
}

static ingot_status print_index(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  uint64_t     total = 0;
  for (int i = 0; i < s->spec.n_tensor; i++) total += s->extents[i].bytes;
  INGOT_TRY(ingot_text_printf(&s->index,
                              "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {",
                              total));
  for (int i = 0; i < s->spec.n_tensor; i++) {
    INGOT_TRY(ingot_text_printf(&s->index, "%s\n    ", i ? "," : ""));
    INGOT_TRY(append_string(&s->index, s->spec.tensors[i].name));
    INGOT_TRY(ingot_text_printf(&s->index, ": \"%s\"", s->files[s->extents[i].file].name));
  }
  INGOT_TRY(ingot_text_printf(&s->index, "\n  }\n}\n"));
done:
  return st;
}

static bool is_weight_name(const char *name)
{
  const char *dot = strrchr(name, '.');
  return strcmp(name, INDEX_NAME) == 0 || (dot && strcmp(dot, ".safetensors") == 0);
}

/* Side files, then what we add: the index and the model card (which replaces the inputs' README.md). */
static ingot_status list_small_files(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  const char  *card = NULL;
  for (int i = 0; i < s->spec.n_attribute; i++)
    if (strcmp(s->spec.attributes[i].name, "model_card") == 0) card = s->spec.attributes[i].text;
  s->small = calloc((size_t)s->spec.n_file + 2, sizeof *s->small);
  INGOT_CHECK(s->small, INGOT_ERR_NOMEM, "%s: no memory for the list of files", s->path);
  for (int i = 0; i < s->spec.n_file; i++) {
    const ingot_sink_file *f = &s->spec.files[i];
    INGOT_CHECK(!is_weight_name(f->name), INGOT_ERR_FORMAT, "%s: the side file %s has the name of a weight file",
                s->path, f->name);
    if (card && strcmp(f->name, CARD_NAME) == 0) continue;
    s->small[s->n_small++] = (ingot_sink_small_file){f->name, f->bytes, f->size};
  }
  if (s->index.size) s->small[s->n_small++] = (ingot_sink_small_file){INDEX_NAME, s->index.bytes, s->index.size};
  if (card) s->small[s->n_small++] = (ingot_sink_small_file){CARD_NAME, card, strlen(card)};
done:
  return st;
}

static ingot_status name_files(ingot_sink *s)
{
  for (int k = 0; k < s->n_file; k++) {
    ingot_text name = {0}, path = {0};
    if (s->spec.format == INGOT_SINK_HF_DIR) {
      ingot_status st = s->n_file == 1 ? ingot_text_printf(&name, "model.safetensors")
                                       : ingot_text_printf(&name, "model-%05d-of-%05d.safetensors", k + 1, s->n_file);
      if (st == INGOT_OK) st = ingot_text_printf(&path, "%s/%s", s->partial, name.bytes);
      s->files[k].name = name.bytes;
      s->files[k].path = path.bytes;
      if (st != INGOT_OK) return st;
    } else {
      s->files[k].path = ingot_strdup(s->partial);
      if (!s->files[k].path) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its name", s->partial);
    }
  }
  return INGOT_OK;
}

static ingot_status lay_out_files(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  int         *first = calloc((size_t)s->spec.n_tensor + 2, sizeof *first);
  INGOT_CHECK(first, INGOT_ERR_NOMEM, "%s: no memory for the list of shards", s->path);
  s->n_file = 1;
  first[1] = s->spec.n_tensor;
  if (s->spec.format == INGOT_SINK_HF_DIR) s->n_file = cut_shards(s, first);
  s->files = calloc((size_t)s->n_file, sizeof *s->files);
  if (!s->files) s->n_file = 0;
  INGOT_CHECK(s->files, INGOT_ERR_NOMEM, "%s: no memory for the list of shards", s->path);
  for (int k = 0; k < s->n_file; k++) s->files[k].fd = -1;
  INGOT_TRY(name_files(s));
  if (s->spec.format == INGOT_SINK_HDF5) goto done;
  for (int k = 0; k < s->n_file; k++) INGOT_TRY(lay_out_file(s, k, first[k], first[k + 1]));
  if (s->spec.format == INGOT_SINK_HF_DIR) {
    if (s->n_file > 1) INGOT_TRY(print_index(s));
    INGOT_TRY(list_small_files(s));
  }
done:
  free(first);
  return st;
}

static ingot_status check_spec(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  uint64_t     total = 0;
  char         shape[INGOT_SHAPE_TEXT];
  for (int i = 0; i < s->spec.n_tensor; i++) {
    const ingot_sink_tensor *t = &s->spec.tensors[i];
    int64_t                  n_elem = 0;
    bool                     fits = ingot_shape_count(&t->shape, &n_elem);
    uint64_t                 width = ingot_dtype_size(t->dtype);
    fits = fits && (uint64_t)n_elem <= ((uint64_t)INT64_MAX - total) / width;
    INGOT_CHECK(fits, INGOT_ERR_FORMAT, "%s: %s: %s of %s is more than a file can hold", s->path, t->name,
                ingot_shape_text(&t->shape, shape), ingot_dtype_name(t->dtype));
    s->extents[i].bytes = (uint64_t)n_elem * width;
    total += s->extents[i].bytes;
  }
  for (int i = 0; i < s->spec.n_file; i++) {
    const char *name = s->spec.files[i].name;
    /* Names may come from an input: one with a slash would be written somewhere else. */
    INGOT_CHECK(*name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0, INGOT_ERR_FORMAT,
                "%s: \"%s\" is not usable as the name of a side file", s->path, name);
  }
done:
  return st;
}

ingot_status ingot_sink_lay_out(const ingot_sink_spec *spec, ingot_sink **out)
{
  ingot_status st = INGOT_OK;
  ingot_sink  *s = calloc(1, sizeof *s);
  *out = NULL;
  INGOT_CHECK(s, INGOT_ERR_NOMEM, "%s: no memory for the output", spec->path);
  s->spec = *spec;
  s->path = ingot_file_sibling(spec->path, "");
  s->partial = ingot_file_sibling(spec->path, ".partial");
  s->extents = calloc((size_t)spec->n_tensor + 1, sizeof *s->extents);
  INGOT_CHECK(s->path && s->partial && s->extents, INGOT_ERR_NOMEM, "%s: no memory for %d tensors", spec->path,
              spec->n_tensor);
  INGOT_TRY(check_spec(s));
  INGOT_TRY(lay_out_files(s));
  *out = s;
  s = NULL;
done:
  ingot_sink_close(&s);
  return st;
}
