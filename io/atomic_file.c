#define _POSIX_C_SOURCE 200809L
#include "io/atomic_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

/* Linux moves at most 2 GiB less a page in one call. */
enum { CALL_BYTES = 1 << 30 };

ingot_status ingot_file_status(int error)
{
  return error == ENOSPC || error == EDQUOT || error == EFBIG ? INGOT_ERR_NOSPACE : INGOT_ERR_IO;
}

ingot_status ingot_file_pwrite(int fd, const char *path, uint64_t offset, const void *bytes, size_t size)
{
  const char *from = bytes;
  size_t      done = 0;
  while (done < size) {
    size_t  part = size - done < CALL_BYTES ? size - done : CALL_BYTES;
    ssize_t n = pwrite(fd, from + done, part, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      int error = n < 0 ? errno : EIO;
      return ingot_fail(ingot_file_status(error), "%s: writing %zu bytes at %llu: %s", path, size - done,
                        (unsigned long long)(offset + done), strerror(error));
    }
    done += (size_t)n;
  }
  return INGOT_OK;
}

ingot_status ingot_file_pread(int fd, const char *path, uint64_t offset, void *bytes, size_t size)
{
  char  *to = bytes;
  size_t done = 0;
  while (done < size) {
    size_t  part = size - done < CALL_BYTES ? size - done : CALL_BYTES;
    ssize_t n = pread(fd, to + done, part, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return ingot_fail(INGOT_ERR_IO, "%s: reading %zu bytes at %llu: %s", path, size - done,
                        (unsigned long long)(offset + done), strerror(errno));
    if (n == 0)
      return ingot_fail(INGOT_ERR_IO, "%s: ends at byte %llu, expected %zu more", path,
                        (unsigned long long)(offset + done), size - done);
    done += (size_t)n;
  }
  return INGOT_OK;
}

char *ingot_file_sibling(const char *path, const char *suffix)
{
  size_t n = strlen(path), n_suffix = strlen(suffix);
  while (n > 1 && path[n - 1] == '/') n--;
  char *out = malloc(n + n_suffix + 1);
  if (!out) return NULL;
  memcpy(out, path, n);
  memcpy(out + n, suffix, n_suffix + 1);
  return out;
}

/* The directory part of a path, on the heap: "." when there is none. */
static char *parent_of(const char *path)
{
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--;
  while (n > 0 && path[n - 1] != '/') n--;
  while (n > 1 && path[n - 1] == '/') n--;
  return n ? ingot_strndup(path, n) : ingot_strdup(".");
}

ingot_status ingot_file_each_beside(const char *path, const char *suffix, ingot_file_visit visit, void *context)
{
  ingot_status st = INGOT_OK;
  DIR         *listing = NULL;
  char        *dir = parent_of(path), *beside = ingot_file_sibling(path, suffix);
  INGOT_CHECK(dir && beside, INGOT_ERR_NOMEM, "%s: no memory for its parent's name", path);
  const char *slash = strrchr(beside, '/'), *prefix = slash ? slash + 1 : beside;
  size_t      n = strlen(prefix);
  listing = opendir(dir);
  for (struct dirent *entry = listing ? readdir(listing) : NULL; entry; entry = readdir(listing))
    if (strncmp(entry->d_name, prefix, n) == 0)
      INGOT_TRY(visit(context, dirfd(listing), entry->d_name, entry->d_name + n));
done:
  if (listing) closedir(listing);
  free(beside);
  free(dir);
  return st;
}

ingot_status ingot_file_make_parents(const char *path)
{
  ingot_status st = INGOT_OK;
  char        *dir = parent_of(path);
  INGOT_CHECK(dir, INGOT_ERR_NOMEM, "%s: no memory for its parent's name", path);
  for (char *end = dir + 1; *dir; end++) {
    char kept = *end;
    if (kept != '/' && kept != '\0') continue;
    *end = '\0';
    struct stat info;
    if (mkdir(dir, 0777) != 0) {
      int error = errno; /* other ranks may make it at the same time; a read-only parent may hold it already */
      INGOT_CHECK(stat(dir, &info) == 0, ingot_file_status(error), "%s: cannot create this directory: %s", dir,
                  strerror(error));
      INGOT_CHECK(S_ISDIR(info.st_mode), INGOT_ERR_IO, "%s: expected a directory, found a file", dir);
    }
    *end = kept;
    if (!kept) break;
  }
done:
  free(dir);
  return st;
}

ingot_status ingot_file_sync(int fd, const char *path)
{
  if (fsync(fd) == 0 || errno == EINVAL || errno == ENOTSUP) return INGOT_OK;
  return ingot_fail(ingot_file_status(errno), "%s: flushing to disk: %s", path, strerror(errno));
}

ingot_status ingot_file_sync_parent(const char *path)
{
  ingot_status st = INGOT_OK;
  int          fd = -1;
  char        *dir = parent_of(path);
  INGOT_CHECK(dir, INGOT_ERR_NOMEM, "%s: no memory for its parent's name", path);
  fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: cannot open this directory: %s", dir, strerror(errno));
  st = ingot_file_sync(fd, dir);
done:
  if (fd >= 0) close(fd);
  free(dir);
  return st;
}

ingot_status ingot_file_replace(const char *path, const void *bytes, size_t size, bool durable)
{
  ingot_status st = INGOT_OK;
  int          fd = -1;
  char        *fresh = ingot_file_sibling(path, ".new");
  INGOT_CHECK(fresh, INGOT_ERR_NOMEM, "%s: no memory for its temporary name", path);
  fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", fresh, strerror(errno));
  INGOT_TRY(ingot_file_pwrite(fd, fresh, 0, bytes, size));
  if (durable) INGOT_TRY(ingot_file_sync(fd, fresh));
  int closed = close(fd);
  fd = -1;
  INGOT_CHECK(closed == 0, ingot_file_status(errno), "%s: closing: %s", fresh, strerror(errno));
  INGOT_CHECK(rename(fresh, path) == 0, ingot_file_status(errno), "%s: cannot rename to %s: %s", fresh, path,
              strerror(errno));
  if (durable) st = ingot_file_sync_parent(path);
done:
  if (fd >= 0) close(fd);
  if (st != INGOT_OK && fresh) unlink(fresh);
  free(fresh);
  return st;
}

/* One pass over a directory: look for subdirectories, or remove the files. */
static ingot_status each_entry(const char *path, bool remove)
{
  ingot_status st = INGOT_OK;
  DIR         *dir = opendir(path);
  INGOT_CHECK(dir, INGOT_ERR_IO, "%s: cannot open this directory: %s", path, strerror(errno));
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(dir);
    if (!entry) {
      INGOT_CHECK(errno == 0, INGOT_ERR_IO, "%s: cannot list this directory: %s", path, strerror(errno));
      break;
    }
    const char *name = entry->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
    if (remove) {
      INGOT_CHECK(unlinkat(dirfd(dir), name, 0) == 0 || errno == ENOENT, INGOT_ERR_IO, "%s/%s: cannot remove: %s", path,
                  name, strerror(errno));
      continue;
    }
    struct stat info;
    INGOT_CHECK(fstatat(dirfd(dir), name, &info, AT_SYMLINK_NOFOLLOW) == 0, INGOT_ERR_IO, "%s/%s: %s", path, name,
                strerror(errno));
    INGOT_CHECK(!S_ISDIR(info.st_mode), INGOT_ERR_EXISTS,
                "%s: not removed, because it holds a directory (%s), which no output of this program does", path, name);
  }
done:
  if (dir) closedir(dir);
  return st;
}

ingot_status ingot_file_remove(const char *path)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  char        *name = ingot_file_sibling(path, ""); /* "link/" would mean what the link points to */
  INGOT_CHECK(name, INGOT_ERR_NOMEM, "%s: no memory for its name", path);
  if (lstat(name, &info) != 0) {
    INGOT_CHECK(errno == ENOENT || errno == ENOTDIR, INGOT_ERR_IO, "%s: %s", name, strerror(errno));
    goto done;
  }
  if (!S_ISDIR(info.st_mode)) {
    INGOT_CHECK(unlink(name) == 0 || errno == ENOENT, INGOT_ERR_IO, "%s: cannot remove: %s", name, strerror(errno));
    goto done;
  }
  INGOT_TRY(each_entry(name, false));
  INGOT_TRY(each_entry(name, true));
  INGOT_CHECK(rmdir(name) == 0 || errno == ENOENT, INGOT_ERR_IO, "%s: cannot remove this directory: %s", name,
              strerror(errno));
done:
  free(name);
  return st;
}
