#define _POSIX_C_SOURCE 200809L

#include "io/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/json.h"
#include "io/source_table.h"

static bool ends_with(const char *path, const char *end)
{
  size_t n = strlen(path), n_end = strlen(end);
  return n >= n_end && strcmp(path + n - n_end, end) == 0;
}

/* What a regular file is: HDF5 by its first bytes or its name, otherwise safetensors. */
static ingot_status file_kind(const char *path, ingot_source_kind *out)
{
  static const char signature[8] = {'\211', 'H', 'D', 'F', '\r', '\n', '\032', '\n'};
  char              start[sizeof signature] = {0};
  int               fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ingot_fail(INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  ssize_t got = pread(fd, start, sizeof start, 0);
  close(fd);
  bool is_hdf5 = got == (ssize_t)sizeof start && memcmp(start, signature, sizeof start) == 0;
  *out = is_hdf5 || ends_with(path, ".h5") || ends_with(path, ".hdf5") ? INGOT_SOURCE_HDF5 : INGOT_SOURCE_SAFETENSORS;
  return INGOT_OK;
}

static ingot_status read_file(ingot_source *src)
{
  static const char *const others[] = {".bin", ".pt", ".pth", ".gguf"};
  const char              *path = src->path, *slash = strrchr(path, '/');
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    if (ends_with(path, others[i]))
      return ingot_fail(INGOT_ERR_FORMAT,
                        "%s: a %s file cannot be read; expected .safetensors, .h5 or a Hugging Face directory", path,
                        others[i]);
  return ingot_source_read_safetensors(src, path, slash ? slash + 1 : path);
}

ingot_status ingot_source_open(const char *path, ingot_source **out)
{
  ingot_status      st = INGOT_OK;
  ingot_source_kind kind = INGOT_SOURCE_HF_DIR;
  struct stat       info;
  *out = NULL;
  INGOT_CHECK(stat(path, &info) == 0, INGOT_ERR_NOTFOUND, "%s: %s", path, strerror(errno));
  INGOT_CHECK(S_ISDIR(info.st_mode) || S_ISREG(info.st_mode), INGOT_ERR_FORMAT,
              "%s: neither a regular file nor a directory", path);
  if (S_ISREG(info.st_mode)) INGOT_TRY(file_kind(path, &kind));
  INGOT_TRY(ingot_source_new(path, kind, out));
  if (kind == INGOT_SOURCE_HF_DIR) INGOT_TRY(ingot_source_read_hf_dir(*out));
  else if (kind == INGOT_SOURCE_HDF5) INGOT_TRY(ingot_source_read_hdf5(*out));
  else INGOT_TRY(read_file(*out));
  INGOT_TRY(ingot_source_freeze(*out));
done:
  if (st != INGOT_OK) ingot_source_close(out);
  return st;
}

ingot_status ingot_source_side_file_read(const ingot_source *src, int i, ingot_text *bytes)
{
  const char *name = src->side_names[i];
  if (src->kind == INGOT_SOURCE_HDF5) return ingot_source_hdf5_side_file(src->path, name, bytes);
  ingot_text   path = {0};
  ingot_status st = ingot_text_printf(&path, "%s/%s", src->path, name);
  if (st == INGOT_OK) st = ingot_file_append(ingot_text_string(&path), INGOT_SIDE_FILE_MAX, bytes);
  ingot_text_release(&path);
  return st;
}
