/* A Hugging Face directory: model.safetensors.index.json and its shards, or one .safetensors file; side files. */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/json.h"
#include "io/source_table.h"

#define INDEX_NAME "model.safetensors.index.json"
#define SINGLE_NAME "model.safetensors"
#define MANIFEST_NAME "ingot_manifest.json"
enum { MAX_INDEX_BYTES = 256 << 20 };

/* The regular files of the directory by name, sorted. */
typedef struct listing {
  char **name;
  int    count, capacity;
} listing;

static void listing_release(listing *list)
{
  for (int i = 0; i < list->count; i++) free(list->name[i]);
  free(list->name);
  *list = (listing){0};
}

static int compare_string(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static ingot_status listing_add(listing *list, const char *name)
{
  if (list->count == list->capacity) {
    int    capacity = list->capacity ? 2 * list->capacity : 32;
    char **bigger = realloc(list->name, (size_t)capacity * sizeof *bigger);
    if (!bigger) return ingot_fail(INGOT_ERR_NOMEM, "no memory for a list of %d file names", capacity);
    list->name = bigger;
    list->capacity = capacity;
  }
  char *copy = ingot_strdup(name);
  if (!copy) return ingot_fail(INGOT_ERR_NOMEM, "no memory for a file name");
  list->name[list->count++] = copy;
  return INGOT_OK;
}

static bool listing_has(const listing *list, const char *name)
{
  return list->count > 0 && bsearch(&name, list->name, (size_t)list->count, sizeof *list->name, compare_string) != NULL;
}

static ingot_status join(const char *folder, const char *name, ingot_text *path)
{
  size_t n = strlen(folder);
  path->size = 0;
  return ingot_text_printf(path, "%s%s%s", folder, n && folder[n - 1] == '/' ? "" : "/", name);
}

/* *there: a file, or a link to one. What cannot be looked at is no file that is not there: the output would silently
 * lack it. */
static ingot_status look(const char *path, struct stat *info, bool *there)
{
  *there = stat(path, info) == 0;
  if (*there || errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EACCES) return INGOT_OK;
  return ingot_fail(INGOT_ERR_IO, "%s: cannot look at this file: %s", path, strerror(errno));
}

/* A name in the folder that leads to no file: a model whose download is not complete, and not one without this file. */
static ingot_status refuse_broken_link(const char *path)
{
  struct stat info;
  if (lstat(path, &info) != 0 || !S_ISLNK(info.st_mode)) return INGOT_OK;
  return ingot_fail(INGOT_ERR_NOTFOUND,
                    "%s: a symbolic link to a file that is not there or cannot be reached (an incomplete download?)",
                    path);
}

static ingot_status listing_read(const char *folder, listing *list)
{
  ingot_status   st = INGOT_OK;
  ingot_text     path = {0};
  struct stat    info;
  bool           there;
  struct dirent *entry;
  DIR           *dir = opendir(folder);
  INGOT_CHECK(dir, INGOT_ERR_NOTFOUND, "%s: cannot read the directory: %s", folder, strerror(errno));
  for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
    INGOT_TRY(join(folder, entry->d_name, &path));
    /* stat, not lstat: the Hugging Face cache is made of symbolic links */
    INGOT_TRY(look(ingot_text_string(&path), &info, &there));
    if (there && S_ISREG(info.st_mode)) INGOT_TRY(listing_add(list, entry->d_name));
    if (!there && entry->d_name[0] != '.') INGOT_TRY(refuse_broken_link(ingot_text_string(&path)));
  }
  INGOT_CHECK(errno == 0, INGOT_ERR_IO, "%s: reading the directory failed: %s", folder, strerror(errno));
  if (list->count) qsort(list->name, (size_t)list->count, sizeof *list->name, compare_string);
done:
  if (dir) closedir(dir);
  ingot_text_release(&path);
  return st;
}

static bool ends_with(const char *name, const char *end)
{
  size_t n = strlen(name), n_end = strlen(end);
  return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

static bool is_weight_file(const char *name)
{
  static const char *const ends[] = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".hdf5", ".index.json"};
  for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
    if (ends_with(name, ends[i])) return true;
  return false;
}

static ingot_status add_side_files(ingot_source *src, const listing *list)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  struct stat  info;
  bool         there;
  for (int i = 0; i < list->count; i++) {
    if (list->name[i][0] == '.' || is_weight_file(list->name[i])) continue;
    if (strcmp(list->name[i], MANIFEST_NAME) == 0) continue; /* it speaks of this directory's bytes alone */
    INGOT_TRY(join(src->path, list->name[i], &path));
    INGOT_TRY(look(ingot_text_string(&path), &info, &there));
    if (!there || info.st_size > INGOT_SIDE_FILE_MAX) continue;
    INGOT_TRY(ingot_source_add_side_file(src, list->name[i]));
  }
done:
  ingot_text_release(&path);
  return st;
}

/* One file: model.safetensors, or the only one where there is no index. */
static ingot_status read_single(ingot_source *src, const listing *list)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  const char  *found = NULL;
  int          n_found = 0, n_pickle = 0;
  for (int i = 0; i < list->count; i++) {
    if (ends_with(list->name[i], ".bin") || ends_with(list->name[i], ".pt") || ends_with(list->name[i], ".pth"))
      n_pickle++;
    if (!ends_with(list->name[i], ".safetensors")) continue;
    found = list->name[i];
    n_found++;
  }
  if (listing_has(list, SINGLE_NAME)) {
    found = SINGLE_NAME;
    n_found = 1;
  }
  INGOT_CHECK(n_found > 0 || n_pickle == 0, INGOT_ERR_NOTFOUND,
              "%s: no .safetensors file, only PyTorch files (.bin, .pt): convert the model to safetensors first",
              src->path);
  INGOT_CHECK(n_found > 0, INGOT_ERR_NOTFOUND, "%s: no " SINGLE_NAME ", " INDEX_NAME " or other .safetensors file",
              src->path);
  INGOT_CHECK(n_found == 1, INGOT_ERR_FORMAT,
              "%s: %d .safetensors files, but no " INDEX_NAME " that tells which belong to the model", src->path,
              n_found);
  INGOT_TRY(join(src->path, found, &path));
  INGOT_TRY(ingot_source_read_safetensors(src, ingot_text_string(&path), found));
done:
  ingot_text_release(&path);
  return st;
}

/* Shard names of the index, each once, sorted, each a plain name. */
static ingot_status collect_shards(const char *index_path, json_t *map, listing *shards)
{
  ingot_status st = INGOT_OK;
  const char  *tensor;
  json_t      *value;
  int          n = 0;
  json_object_foreach(map, tensor, value)
  {
    INGOT_CHECK(json_is_string(value), INGOT_ERR_FORMAT, "%s: weight_map: tensor \"%s\" has %s, not a file name",
                index_path, tensor, ingot_json_type_text(value));
    const char *name = json_string_value(value);
    INGOT_CHECK(name[0] && !strchr(name, '/') && !strstr(name, ".."), INGOT_ERR_FORMAT,
                "%s: weight_map: tensor \"%s\": shard \"%s\" is not the name of a file in this directory", index_path,
                tensor, name);
    if (shards->count && strcmp(shards->name[shards->count - 1], name) == 0) continue;
    INGOT_TRY(listing_add(shards, name));
  }
  INGOT_CHECK(shards->count, INGOT_ERR_FORMAT, "%s: weight_map is empty", index_path);
  qsort(shards->name, (size_t)shards->count, sizeof *shards->name, compare_string);
  for (int i = 0; i < shards->count; i++) {
    if (n && strcmp(shards->name[n - 1], shards->name[i]) == 0) free(shards->name[i]);
    else shards->name[n++] = shards->name[i];
  }
  shards->count = n;
done:
  return st;
}

/* Names the first tensor that the index puts into a shard: for the message on an absent one. */
static const char *tensor_of_shard(json_t *map, const char *shard)
{
  const char *tensor;
  json_t     *value;
  json_object_foreach(map, tensor, value) if (strcmp(json_string_value(value), shard) == 0) return tensor;
  return "";
}

static ingot_status read_shards(ingot_source *src, const char *index_path, json_t *map, const listing *list,
                                const listing *shards)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  for (int i = 0; i < shards->count; i++) {
    INGOT_CHECK(listing_has(list, shards->name[i]), INGOT_ERR_NOTFOUND,
                "%s: shard \"%s\", which should hold tensor \"%s\", is not in the directory", index_path,
                shards->name[i], tensor_of_shard(map, shards->name[i]));
    INGOT_TRY(join(src->path, shards->name[i], &path));
    int first = src->n_tensor;
    INGOT_TRY(ingot_source_read_safetensors(src, ingot_text_string(&path), shards->name[i]));
    for (int t = first; t < src->n_tensor; t++) {
      const char   *name = src->tensors[t].name;
      const json_t *where = json_object_get(map, name);
      INGOT_CHECK(where, INGOT_ERR_FORMAT, "%s: tensor \"%s\" is not in " INDEX_NAME, ingot_text_string(&path), name);
      INGOT_CHECK(strcmp(json_string_value(where), shards->name[i]) == 0, INGOT_ERR_FORMAT,
                  "%s: tensor \"%s\" belongs to shard \"%s\" by " INDEX_NAME, ingot_text_string(&path), name,
                  json_string_value(where));
    }
  }
done:
  ingot_text_release(&path);
  return st;
}

/* Every tensor in a shard is in the index by now; equal counts then mean that none is missing. */
static ingot_status check_all_found(const ingot_source *src, const char *index_path, json_t *map)
{
  const char *tensor;
  json_t     *value;
  if (json_object_size(map) == (size_t)src->n_tensor) return INGOT_OK;
  json_t *found = json_object();
  for (int i = 0; found && i < src->n_tensor; i++)
    if (json_object_set_new(found, src->tensors[i].name, json_null()) != 0) break;
  ingot_status st = ingot_fail(INGOT_ERR_NOMEM, "%s: no memory to compare it with its shards", index_path);
  if (found && json_object_size(found) == (size_t)src->n_tensor) {
    json_object_foreach(map, tensor, value)
    {
      if (json_object_get(found, tensor)) continue;
      st = ingot_fail(INGOT_ERR_FORMAT, "%s: tensor \"%s\" is not in its shard \"%s\"", index_path, tensor,
                      json_string_value(value));
      break;
    }
  }
  json_decref(found);
  return st;
}

static ingot_status read_indexed(ingot_source *src, const listing *list)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  listing      shards = {0};
  json_t      *index = NULL;
  INGOT_TRY(join(src->path, INDEX_NAME, &path));
  const char *index_path = ingot_text_string(&path);
  INGOT_TRY(ingot_json_read(index_path, MAX_INDEX_BYTES, &index));
  json_t *map = json_object_get(index, "weight_map"); /* NULL when the index is no object */
  INGOT_CHECK(json_is_object(map), INGOT_ERR_FORMAT, "%s: \"weight_map\" is %s, not an object", index_path,
              ingot_json_type_text(map));
  INGOT_TRY(collect_shards(index_path, map, &shards));
  INGOT_TRY(read_shards(src, index_path, map, list, &shards));
  INGOT_TRY(check_all_found(src, index_path, map));
done:
  json_decref(index);
  listing_release(&shards);
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_source_read_hf_dir(ingot_source *src)
{
  ingot_status st = INGOT_OK;
  listing      list = {0};
  INGOT_TRY(listing_read(src->path, &list));
  /* as Transformers: an index beside the single file is of shards that were there before */
  if (listing_has(&list, INDEX_NAME) && !listing_has(&list, SINGLE_NAME)) INGOT_TRY(read_indexed(src, &list));
  else INGOT_TRY(read_single(src, &list));
  INGOT_TRY(add_side_files(src, &list));
done:
  listing_release(&list);
  return st;
}
