#include "io/source_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

ingot_status ingot_source_new(const char *path, ingot_source_kind kind, ingot_source **out)
{
  *out = NULL;
  ingot_source *src = calloc(1, sizeof *src);
  if (src) src->path = ingot_strdup(path);
  if (!src || !src->path) {
    free(src);
    return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory to open it", path);
  }
  src->kind = kind;
  *out = src;
  return INGOT_OK;
}

void ingot_source_close(ingot_source **src_address)
{
  ingot_source *src = *src_address;
  if (!src) return;
  ingot_source_handles_close(&src->handles);
  for (int i = 0; i < src->n_file; i++) {
    free(src->files[i].path);
    free(src->files[i].name);
  }
  for (int i = 0; i < src->n_tensor; i++) free((void *)(uintptr_t)src->tensors[i].name);
  for (int i = 0; i < src->n_side; i++) free(src->side_names[i]);
  for (int i = 0; i < src->n_attribute; i++) {
    free(src->attributes[i].name);
    free(src->attributes[i].text);
  }
  free(src->files);
  free(src->tensors);
  free(src->by_name);
  free(src->side_names);
  free(src->attributes);
  free(src->path);
  free(src);
  *src_address = NULL;
}

/* Room for one more item in a growing array. */
static ingot_status grow(void *array_address, int count, int *capacity, size_t item_bytes)
{
  if (count < *capacity) return INGOT_OK;
  if (*capacity > INT32_MAX / 2) return ingot_fail(INGOT_ERR_FORMAT, "more than %d tensors", *capacity);
  int    wanted = *capacity ? 2 * *capacity : 16;
  void **array = array_address;
  void  *bigger = realloc(*array, (size_t)wanted * item_bytes);
  if (!bigger) return ingot_fail(INGOT_ERR_NOMEM, "no memory for a table of %d entries", wanted);
  *array = bigger;
  *capacity = wanted;
  return INGOT_OK;
}

static ingot_status no_memory(const ingot_source *src)
{
  return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its table of tensors", src->path);
}

ingot_status ingot_source_add_file(ingot_source *src, const char *path, const char *name, uint64_t bytes,
                                   int64_t mtime_ns)
{
  ingot_status st = grow(&src->files, src->n_file, &src->file_capacity, sizeof *src->files);
  if (st != INGOT_OK) return st;
  ingot_source_file file = {.path = ingot_strdup(path),
                            .name = ingot_strdup(name),
                            .bytes = bytes,
                            .mtime_ns = mtime_ns};
  src->files[src->n_file++] = file;
  return file.path && file.name ? INGOT_OK : no_memory(src);
}

ingot_status ingot_source_add_tensor(ingot_source *src, const ingot_tensor_info *info)
{
  char              text[INGOT_SHAPE_TEXT];
  ingot_tensor_info tensor = *info;
  uint64_t          size = ingot_dtype_size(info->dtype);
  /* Names are printed: none of them is to steer a terminal. */
  for (const char *c = info->name; *c; c++)
    if ((unsigned char)*c < 0x20 || *c == 0x7f)
      return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%.200s\": its name has the control character 0x%02x",
                        src->files[info->file].path, info->name, (unsigned)*c);
  if (!ingot_shape_count(&info->shape, &tensor.n_elem) || (uint64_t)tensor.n_elem > INT64_MAX / size)
    return ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\": shape %s of %s is too large: its bytes overflow 64 bits",
                      src->files[info->file].path, info->name, ingot_shape_text(&info->shape, text),
                      ingot_dtype_name(info->dtype));
  tensor.bytes = (uint64_t)tensor.n_elem * size;
  ingot_status st = grow(&src->tensors, src->n_tensor, &src->tensor_capacity, sizeof *src->tensors);
  if (st != INGOT_OK) return st;
  tensor.name = ingot_strdup(info->name);
  if (!tensor.name) return no_memory(src);
  src->tensors[src->n_tensor++] = tensor;
  return INGOT_OK;
}

ingot_status ingot_source_add_side_file(ingot_source *src, const char *name)
{
  ingot_status st = grow(&src->side_names, src->n_side, &src->side_capacity, sizeof *src->side_names);
  if (st != INGOT_OK) return st;
  char *copy = ingot_strdup(name);
  if (!copy) return no_memory(src);
  src->side_names[src->n_side++] = copy;
  return INGOT_OK;
}

ingot_status ingot_source_add_attribute(ingot_source *src, const char *name, const char *text)
{
  ingot_status st = grow(&src->attributes, src->n_attribute, &src->attribute_capacity, sizeof *src->attributes);
  if (st != INGOT_OK) return st;
  ingot_source_text pair = {ingot_strdup(name), ingot_strdup(text)};
  src->attributes[src->n_attribute++] = pair;
  return pair.name && pair.text ? INGOT_OK : no_memory(src);
}

static int compare_place(const void *a, const void *b)
{
  const ingot_tensor_info *x = a, *y = b;
  if (x->file != y->file) return x->file < y->file ? -1 : 1;
  if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
  return strcmp(x->name, y->name);
}

void ingot_source_sort_by_offset(ingot_source *src, int first)
{
  if (src->n_tensor > first)
    qsort(src->tensors + first, (size_t)(src->n_tensor - first), sizeof *src->tensors, compare_place);
}

typedef struct name_entry {
  const char *name;
  int         tensor;
} name_entry;

static int compare_name(const void *a, const void *b)
{
  const name_entry *x = a, *y = b;
  int               order = strcmp(x->name, y->name);
  return order ? order : (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

ingot_status ingot_source_freeze(ingot_source *src)
{
  ingot_status st = INGOT_OK;
  size_t       n = (size_t)src->n_tensor;
  name_entry  *entries = malloc((n + 1) * sizeof *entries);
  src->by_name = malloc((n + 1) * sizeof *src->by_name);
  if (!entries || !src->by_name) {
    st = no_memory(src);
    goto done;
  }
  ingot_source_sort_by_offset(src, 0);
  for (size_t i = 0; i < n; i++) entries[i] = (name_entry){src->tensors[i].name, (int)i};
  qsort(entries, n, sizeof *entries, compare_name);
  for (size_t i = 0; i < n; i++) {
    src->by_name[i] = entries[i].tensor;
    if (i == 0 || strcmp(entries[i].name, entries[i - 1].name) != 0) continue;
    const char *one = src->files[src->tensors[entries[i - 1].tensor].file].name;
    const char *other = src->files[src->tensors[entries[i].tensor].file].name;
    st = ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\" is there twice, in %s and in %s", src->path, entries[i].name,
                    one, other);
    goto done;
  }
  INGOT_TRY(ingot_source_handles_open(src->n_file, &src->handles));
done:
  free(entries);
  return st;
}

const char *ingot_source_path(const ingot_source *src)
{
  return src->path;
}

ingot_source_kind ingot_source_kind_of(const ingot_source *src)
{
  return src->kind;
}

const char *ingot_source_kind_name(ingot_source_kind kind)
{
  static const char *const names[INGOT_SOURCE_KIND_COUNT] = {"safetensors file", "Hugging Face directory",
                                                             "ingot checkpoint", "HDF5 file"};
  return (unsigned)kind < INGOT_SOURCE_KIND_COUNT ? names[kind] : "unknown";
}

int ingot_source_count(const ingot_source *src)
{
  return src->n_tensor;
}

const ingot_tensor_info *ingot_source_tensor(const ingot_source *src, int i)
{
  return &src->tensors[i];
}

int ingot_source_find(const ingot_source *src, const char *name)
{
  int low = 0, high = src->n_tensor;
  while (low < high) {
    int middle = low + (high - low) / 2;
    int order = strcmp(name, src->tensors[src->by_name[middle]].name);
    if (order == 0) return src->by_name[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return -1;
}

int ingot_source_n_file(const ingot_source *src)
{
  return src->n_file;
}

const char *ingot_source_file_path(const ingot_source *src, int file)
{
  return src->files[file].path;
}

uint64_t ingot_source_file_bytes(const ingot_source *src, int file)
{
  return src->files[file].bytes;
}

uint64_t ingot_source_identity(const ingot_source *src)
{
  uint64_t hash = (uint64_t)src->n_file;
  for (int i = 0; i < src->n_file; i++) {
    const ingot_source_file *file = &src->files[i];
    uint64_t                 facts[3] = {file->bytes, (uint64_t)file->mtime_ns, file->header_hash};
    hash = ingot_hash_seeded(file->name, strlen(file->name), hash);
    hash = ingot_hash_seeded(facts, sizeof facts, hash);
  }
  return hash;
}

int ingot_source_n_side_file(const ingot_source *src)
{
  return src->n_side;
}

const char *ingot_source_side_file_name(const ingot_source *src, int i)
{
  return src->side_names[i];
}

int ingot_source_find_side_file(const ingot_source *src, const char *name)
{
  for (int i = 0; i < src->n_side; i++)
    if (strcmp(src->side_names[i], name) == 0) return i;
  return -1;
}

const char *ingot_source_attribute(const ingot_source *src, const char *name)
{
  for (int i = 0; i < src->n_attribute; i++)
    if (strcmp(src->attributes[i].name, name) == 0) return src->attributes[i].text;
  return NULL;
}
