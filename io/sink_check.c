#define _XOPEN_SOURCE 700
/* Whether an output can be made as its spec says: names that the format has, and what may be replaced. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/sink_impl.h"

/* HDF5 takes "a//b" and "./a" for "a/b" and "a", and has no empty names. */
static bool storable(const char *name)
{
  for (const char *part = name;;) {
    size_t n = strcspn(part, "/");
    if (n == 0 || (n == 1 && part[0] == '.')) return false;
    if (!part[n]) return true;
    part += n + 1;
  }
}

/* By bytes, but '/' before all others: what is inside of "a" comes next to it. */
static int by_path(const void *a, const void *b)
{
  const char *x = *(const char *const *)a, *y = *(const char *const *)b;
  while (*x && *x == *y) x++, y++;
  int of_x = *x == '/' ? 1 : *x ? (unsigned char)*x + 1 : 0, of_y = *y == '/' ? 1 : *y ? (unsigned char)*y + 1 : 0;
  return of_x - of_y;
}

ingot_status ingot_sink_check_names(const ingot_sink_spec *spec)
{
  ingot_status st = INGOT_OK;
  const char **names = NULL;
  if (spec->format != INGOT_SINK_HDF5) return INGOT_OK;
  names = calloc((size_t)spec->n_tensor + 1, sizeof *names);
  INGOT_CHECK(names, INGOT_ERR_NOMEM, "%s: no memory for the names of %d tensors", spec->path, spec->n_tensor);
  for (int i = 0; i < spec->n_tensor; i++) {
    names[i] = spec->tensors[i].name;
    INGOT_CHECK(storable(names[i]), INGOT_ERR_FORMAT,
                "%s: tensor \"%s\" is not usable as a name in HDF5: a part between slashes is empty or \".\"",
                spec->path, names[i]);
  }
  qsort(names, (size_t)spec->n_tensor, sizeof *names, by_path);
  for (int i = 0; i + 1 < spec->n_tensor; i++) {
    size_t n = strlen(names[i]);
    INGOT_CHECK(
        strncmp(names[i], names[i + 1], n) != 0 || names[i + 1][n] != '/', INGOT_ERR_FORMAT,
        "%s: tensors \"%s\" and \"%s\" cannot both be in an HDF5 file, where the first would be a folder of the second",
        spec->path, names[i], names[i + 1]);
  }
done:
  free(names);
  return st;
}

/*
 * An existing directory is replaced only when it is a model directory or empty, and flat: "--force" with a wrong path
 * must not delete somebody's files.
 */
ingot_status ingot_sink_check_replaceable(const ingot_sink_spec *spec)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  DIR         *dir = NULL;
  if (stat(spec->path, &info) != 0) return INGOT_OK; /* nothing there; other errors show when it is made */
  bool is_dir = S_ISDIR(info.st_mode), want_dir = spec->format == INGOT_SINK_HF_DIR;
  INGOT_CHECK(is_dir == want_dir, INGOT_ERR_EXISTS, "%s: is a %s, cannot become a %s", spec->path,
              is_dir ? "directory" : "file", want_dir ? "directory" : "file");
  if (!is_dir) goto done;
  dir = opendir(spec->path);
  INGOT_CHECK(dir, INGOT_ERR_IO, "%s: cannot open this directory: %s", spec->path, strerror(errno));
  bool empty = true, model = false;
  for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    empty = false;
    if (ingot_sink_format_of(entry->d_name) == INGOT_SINK_SAFETENSORS) model = true;
    INGOT_CHECK(fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(info.st_mode),
                INGOT_ERR_EXISTS, "%s: will not be replaced, because it holds a directory (%s)", spec->path,
                entry->d_name);
  }
  INGOT_CHECK(empty || model, INGOT_ERR_EXISTS, "%s: will not be replaced, because it holds files but no model",
              spec->path);
done:
  if (dir) closedir(dir);
  return st;
}
