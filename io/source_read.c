/* Positional reads from a source's files, which are opened when first needed and stay open. */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/source_table.h"

struct ingot_source_handles {
  pthread_mutex_t lock; /* held while a file is opened */
  int             n_file;
  atomic_int      fd[]; /* [n_file]: -1 until the first read */
};

ingot_status ingot_source_handles_open(int n_file, ingot_source_handles **out)
{
  ingot_source_handles *handles = malloc(sizeof *handles + (size_t)n_file * sizeof handles->fd[0]);
  *out = NULL;
  if (!handles) return ingot_fail(INGOT_ERR_NOMEM, "no memory for the handles of %d files", n_file);
  if (pthread_mutex_init(&handles->lock, NULL) != 0) {
    free(handles);
    return ingot_fail(INGOT_ERR_NOMEM, "no lock for the handles of %d files", n_file);
  }
  handles->n_file = n_file;
  for (int i = 0; i < n_file; i++) atomic_init(&handles->fd[i], -1);
  *out = handles;
  return INGOT_OK;
}

void ingot_source_handles_close(ingot_source_handles **handles_address)
{
  ingot_source_handles *handles = *handles_address;
  if (!handles) return;
  for (int i = 0; i < handles->n_file; i++) {
    int fd = atomic_load(&handles->fd[i]);
    if (fd >= 0) close(fd);
  }
  pthread_mutex_destroy(&handles->lock);
  free(handles);
  *handles_address = NULL;
}

/* Many shards of many models can pass the usual soft limit of 1024 files; the hard one is ours to use. */
static bool raise_file_limit(void)
{
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

/* The descriptor of a file, or -1 with errno. */
static int file_descriptor(const ingot_source *src, int file)
{
  ingot_source_handles *handles = src->handles;
  int                   fd = atomic_load_explicit(&handles->fd[file], memory_order_acquire);
  if (fd >= 0) return fd;
  pthread_mutex_lock(&handles->lock);
  fd = atomic_load_explicit(&handles->fd[file], memory_order_relaxed);
  if (fd < 0) {
    fd = open(src->files[file].path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == EMFILE && raise_file_limit()) fd = open(src->files[file].path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) atomic_store_explicit(&handles->fd[file], fd, memory_order_release);
  }
  int error = errno;
  pthread_mutex_unlock(&handles->lock);
  errno = error;
  return fd;
}

ingot_status ingot_source_check_unchanged(const ingot_source *src)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < src->n_file; i++) {
    const ingot_source_file *file = &src->files[i];
    struct stat              now;
    INGOT_CHECK(stat(file->path, &now) == 0, INGOT_ERR_IO, "%s: has gone while it was in use: %s", file->path,
                strerror(errno));
    INGOT_CHECK((uint64_t)now.st_size == file->bytes, INGOT_ERR_MISMATCH,
                "%s: has changed while it was in use: was %" PRIu64 " bytes, is %lld", file->path, file->bytes,
                (long long)now.st_size);
    INGOT_CHECK((int64_t)now.st_mtim.tv_sec * 1000000000 + now.st_mtim.tv_nsec == file->mtime_ns, INGOT_ERR_MISMATCH,
                "%s: has changed while it was in use: another modification time", file->path);
  }
done:
  return st;
}

ingot_status ingot_source_read(const ingot_source *src, int tensor, uint64_t offset, size_t size, void *dst)
{
  const ingot_tensor_info *info = &src->tensors[tensor];
  const char              *path = src->files[info->file].path;
  if (offset > info->bytes || size > info->bytes - offset)
    return ingot_fail(INGOT_ERR_INTERNAL, "%s: tensor \"%s\": read of %zu bytes at %" PRIu64 " is outside its %" PRIu64,
                      path, info->name, size, offset, info->bytes);
  if (size == 0) return INGOT_OK;
  int fd = file_descriptor(src, info->file);
  if (fd < 0)
    return ingot_fail(INGOT_ERR_IO, "%s: tensor \"%s\": cannot open the file: %s", path, info->name, strerror(errno));

  uint64_t at = info->offset + offset;
  for (size_t have = 0; have < size;) {
    ssize_t got = pread(fd, (char *)dst + have, size - have, (off_t)(at + have));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return ingot_fail(INGOT_ERR_IO, "%s: tensor \"%s\": reading %zu bytes at %" PRIu64 " failed: %s", path,
                        info->name, size, at, strerror(errno));
    if (got == 0)
      return ingot_fail(INGOT_ERR_IO,
                        "%s: tensor \"%s\": the file has become shorter: wanted %zu bytes at %" PRIu64 ", got %zu",
                        path, info->name, size, at, have);
    have += (size_t)got;
  }
  return INGOT_OK;
}

void ingot_source_prefetch(const ingot_source *src, int tensor, uint64_t offset, size_t size)
{
  const ingot_tensor_info *info = &src->tensors[tensor];
  if (size == 0 || offset > info->bytes || size > info->bytes - offset) return;
  int fd = file_descriptor(src, info->file);
  if (fd >= 0) (void)posix_fadvise(fd, (off_t)(info->offset + offset), (off_t)size, POSIX_FADV_WILLNEED);
}
