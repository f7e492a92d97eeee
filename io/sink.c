#define _GNU_SOURCE /* renameat2, fallocate */
#include "io/sink.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "io/atomic_file.h"
#include "io/sink_impl.h"

static bool ends_with(const char *s, const char *end)
{
  size_t n = strlen(s), n_end = strlen(end);
  return n >= n_end && strcmp(s + n - n_end, end) == 0;
}

ingot_sink_format ingot_sink_format_of(const char *path)
{
  if (ends_with(path, ".h5") || ends_with(path, ".hdf5")) return INGOT_SINK_HDF5;
  if (ends_with(path, ".safetensors")) return INGOT_SINK_SAFETENSORS;
  return INGOT_SINK_HF_DIR;
}

bool ingot_sink_io_given(const ingot_sink_io *io)
{
  return io->n_stripe > 0 || io->stripe_bytes > 0 || io->n_hint > 0;
}

ingot_status ingot_sink_bytes(const ingot_sink_spec *spec, uint64_t *bytes)
{
  ingot_status st = INGOT_OK;
  ingot_sink  *s = NULL;
  *bytes = 0;
  INGOT_TRY(ingot_sink_lay_out(spec, &s));
  if (spec->format == INGOT_SINK_HDF5) {
    *bytes = ingot_sink_hdf5_overhead(spec);
    for (int i = 0; i < spec->n_tensor; i++) *bytes += s->extents[i].bytes;
  }
  for (int i = 0; i < s->n_file; i++) *bytes += s->files[i].bytes;
  for (int i = 0; i < s->n_small; i++) *bytes += s->small[i].size;
done:
  ingot_sink_close(&s);
  return st;
}

/* A file-size limit would end the process by a signal in the middle of a write: look before. */
static ingot_status check_size_limit(const ingot_sink *s)
{
  ingot_status  st = INGOT_OK;
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return INGOT_OK;
  for (int i = 0; i < s->n_file; i++) {
    uint64_t bytes = s->files[i].bytes;
    if (s->spec.format == INGOT_SINK_HDF5) INGOT_TRY(ingot_sink_bytes(&s->spec, &bytes));
    INGOT_CHECK(bytes <= limit.rlim_cur, INGOT_ERR_NOSPACE,
                "%s: takes %llu bytes, the file-size limit (ulimit -f) is %llu", s->files[i].path,
                (unsigned long long)bytes, (unsigned long long)limit.rlim_cur);
  }
done:
  return st;
}

/* Rank 0, before anything is written. */
static ingot_status prepare(const ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_file_make_parents(s->path));
  INGOT_TRY(ingot_sink_check_replaceable(&s->spec));
  INGOT_TRY(ingot_file_remove(s->partial));
done:
  return st;
}

static ingot_status create_data_file(const ingot_sink_data_file *f, bool durable)
{
  ingot_status st = INGOT_OK;
  int          fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", f->path, strerror(errno));
  INGOT_TRY(ingot_file_pwrite(fd, f->path, 0, f->header.bytes, f->header.size));
  INGOT_CHECK(ftruncate(fd, (off_t)f->bytes) == 0, ingot_file_status(errno), "%s: setting its size to %llu bytes: %s",
              f->path, (unsigned long long)f->bytes, strerror(errno));
  if (durable) st = ingot_file_sync(fd, f->path);
done:
  if (fd >= 0 && close(fd) != 0 && st == INGOT_OK)
    st = ingot_fail(ingot_file_status(errno), "%s: closing: %s", f->path, strerror(errno));
  return st;
}

/* Rank 0: safetensors files with their headers, small files. */
static ingot_status create_files(const ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  if (s->spec.format == INGOT_SINK_HF_DIR)
    INGOT_CHECK(mkdir(s->partial, 0777) == 0, ingot_file_status(errno), "%s: cannot create this directory: %s",
                s->partial, strerror(errno));
  for (int i = 0; i < s->n_file; i++) INGOT_TRY(create_data_file(&s->files[i], s->spec.durable));
  for (int i = 0; i < s->n_small; i++) {
    path.size = 0;
    INGOT_TRY(ingot_text_printf(&path, "%s/%s", s->partial, s->small[i].name));
    INGOT_TRY(ingot_file_replace(path.bytes, s->small[i].bytes, s->small[i].size, s->spec.durable));
  }
done:
  ingot_text_release(&path);
  return st;
}

/*
 * Rank 0: space for the whole of a file before its parts are written: a full disk shows now, blocks lie together, and
 * writes take a tenth less of the processor on ext4. Not every file system can; memory (tmpfs) would be cleared twice.
 */
static ingot_status allocate(const ingot_sink_data_file *f)
{
  ingot_status  st = INGOT_OK;
  struct statfs fs;
  int           fd = open(f->path, O_RDWR | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: cannot open for writing: %s", f->path, strerror(errno));
  if (f->bytes == 0 || fstatfs(fd, &fs) != 0 || fs.f_type == TMPFS_MAGIC) goto done;
  bool failed = fallocate(fd, 0, 0, (off_t)f->bytes) != 0;
  INGOT_CHECK(!failed || ingot_file_status(errno) != INGOT_ERR_NOSPACE, INGOT_ERR_NOSPACE,
              "%s: allocating %llu bytes: %s", f->path, (unsigned long long)f->bytes, strerror(errno));
done:
  if (fd >= 0) close(fd);
  return st;
}

static ingot_status allocate_files(const ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; st == INGOT_OK && i < s->n_file; i++) st = allocate(&s->files[i]);
  if (st == INGOT_OK) return st;
  ingot_error first;
  ingot_error_save(&first);
  (void)ingot_file_remove(s->partial); /* it holds nothing yet, and may fill the disk */
  ingot_error_restore(&first);
  return st;
}

/* Every rank: open what holds tensors; other nodes must see what rank 0 has made. */
static ingot_status open_files(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  for (int i = 0; i < s->n_file; i++) {
    ingot_sink_data_file *f = &s->files[i];
    f->fd = open(f->path, O_RDWR | O_CLOEXEC);
    INGOT_CHECK(f->fd >= 0, INGOT_ERR_IO, "%s: cannot open for writing: %s", f->path, strerror(errno));
    INGOT_CHECK(fstat(f->fd, &info) == 0, INGOT_ERR_IO, "%s: %s", f->path, strerror(errno));
    INGOT_CHECK((uint64_t)info.st_size == f->bytes, INGOT_ERR_IO, "%s: has %lld bytes, expected %llu", f->path,
                (long long)info.st_size, (unsigned long long)f->bytes);
  }
done:
  return st;
}

/* Rank 0: does a file start with these bytes, and is its size right? */
static ingot_status verify_file(const char *path, const void *bytes, size_t size, uint64_t file_bytes)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  char        *found = malloc(size ? size : 1);
  int          fd = open(path, O_RDONLY | O_CLOEXEC);
  INGOT_CHECK(found, INGOT_ERR_NOMEM, "%s: no memory to compare it", path);
  INGOT_CHECK(fd >= 0, INGOT_ERR_NOTFOUND, "%s: cannot open: %s", path, strerror(errno));
  INGOT_CHECK(fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: %s", path, strerror(errno));
  INGOT_CHECK((uint64_t)info.st_size == file_bytes, INGOT_ERR_NOTFOUND, "%s: has %lld bytes, expected %llu", path,
              (long long)info.st_size, (unsigned long long)file_bytes);
  INGOT_TRY(ingot_file_pread(fd, path, 0, found, size));
  INGOT_CHECK(size == 0 || memcmp(found, bytes, size) == 0, INGOT_ERR_NOTFOUND,
              "%s: was laid out for other tensors or settings", path);
done:
  if (fd >= 0) close(fd);
  free(found);
  return st;
}

static ingot_status verify_files(const ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  ingot_text   path = {0};
  for (int i = 0; i < s->n_file; i++) {
    const ingot_sink_data_file *f = &s->files[i];
    INGOT_TRY(verify_file(f->path, f->header.bytes, f->header.size, f->bytes));
  }
  for (int i = 0; i < s->n_small; i++) {
    path.size = 0;
    INGOT_TRY(ingot_text_printf(&path, "%s/%s", s->partial, s->small[i].name));
    INGOT_TRY(verify_file(path.bytes, s->small[i].bytes, s->small[i].size, s->small[i].size));
  }
done:
  ingot_text_release(&path);
  return st;
}

ingot_status ingot_sink_create(ingot_comm *comm, const ingot_sink_spec *spec, ingot_sink **out)
{
  ingot_sink  *s = NULL;
  ingot_status st = ingot_sink_lay_out(spec, &s);
  if (st == INGOT_OK) st = check_size_limit(s);
  if (st == INGOT_OK && ingot_comm_rank(comm) == 0) st = prepare(s);
  INGOT_TRY(ingot_comm_agree(comm, st));
  if (spec->format != INGOT_SINK_HDF5 && ingot_sink_io_given(&spec->io))
    ingot_log_warning("%s: settings of `io` are for .h5 outputs: this one has the stripes of its folder", s->path);
  if (spec->format == INGOT_SINK_HDF5) st = ingot_sink_hdf5_create(comm, s);
  else if (ingot_comm_rank(comm) == 0) st = create_files(s);
  if (st == INGOT_OK && ingot_comm_rank(comm) == 0) st = allocate_files(s);
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_agree(comm, open_files(s)));
  *out = s;
  return INGOT_OK;
done:
  ingot_sink_close(&s);
  *out = NULL;
  return st;
}

ingot_status ingot_sink_reopen(ingot_comm *comm, const ingot_sink_spec *spec, ingot_sink **out)
{
  ingot_sink  *s = NULL;
  ingot_status st = ingot_sink_lay_out(spec, &s);
  if (st == INGOT_OK) st = check_size_limit(s);
  if (st == INGOT_OK && ingot_comm_rank(comm) == 0)
    st = spec->format == INGOT_SINK_HDF5 ? ingot_sink_hdf5_verify(s) : verify_files(s);
  INGOT_TRY(ingot_comm_agree(comm, st));
  if (spec->format == INGOT_SINK_HDF5) {
    st = ingot_comm_bcast(comm, s->extents, (size_t)spec->n_tensor * sizeof *s->extents, 0);
    if (st == INGOT_OK) st = ingot_comm_bcast(comm, &s->files[0].bytes, sizeof s->files[0].bytes, 0);
    INGOT_TRY(ingot_comm_agree(comm, st));
  }
  INGOT_TRY(ingot_comm_agree(comm, open_files(s)));
  *out = s;
  return INGOT_OK;
done:
  ingot_sink_close(&s);
  *out = NULL;
  return st;
}

static ingot_status check_range(const ingot_sink *sink, int tensor, uint64_t offset, size_t size)
{
  INGOT_ASSERT(tensor >= 0 && tensor < sink->spec.n_tensor);
  uint64_t bytes = sink->extents[tensor].bytes;
  if (offset <= bytes && size <= bytes - offset) return INGOT_OK;
  return ingot_fail(INGOT_ERR_INTERNAL, "%s: %s: bytes %llu to %llu lie outside the tensor's %llu", sink->path,
                    sink->spec.tensors[tensor].name, (unsigned long long)offset, (unsigned long long)(offset + size),
                    (unsigned long long)bytes);
}

ingot_status ingot_sink_write(ingot_sink *sink, int tensor, uint64_t offset, size_t size, const void *src)
{
  ingot_status st = check_range(sink, tensor, offset, size);
  if (st != INGOT_OK || size == 0) return st;
  const ingot_sink_extent *at = &sink->extents[tensor];
  ingot_sink_data_file    *f = &sink->files[at->file];
  __atomic_store_n(&f->written, 1, __ATOMIC_RELAXED);
  st = ingot_file_pwrite(f->fd, f->path, at->offset + offset, src, size);
  return ingot_wrap(st, "writing %s", sink->spec.tensors[tensor].name);
}

ingot_status ingot_sink_read(ingot_sink *sink, int tensor, uint64_t offset, size_t size, void *dst)
{
  ingot_status st = check_range(sink, tensor, offset, size);
  if (st != INGOT_OK || size == 0) return st;
  const ingot_sink_extent    *at = &sink->extents[tensor];
  const ingot_sink_data_file *f = &sink->files[at->file];
  st = ingot_file_pread(f->fd, f->path, at->offset + offset, dst, size);
  return ingot_wrap(st, "reading back %s", sink->spec.tensors[tensor].name);
}

/* Flush what this process wrote, and close: network file systems show a file's bytes to others after its close. */
static ingot_status finish_files(ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  for (int i = 0; i < s->n_file; i++) {
    ingot_sink_data_file *f = &s->files[i];
    if (f->fd < 0) continue;
    ingot_status mine = s->spec.durable && f->written ? ingot_file_sync(f->fd, f->path) : INGOT_OK;
    int          closed = close(f->fd), error = errno;
    f->fd = -1;
    if (closed != 0 && mine == INGOT_OK)
      mine = ingot_fail(ingot_file_status(error), "%s: closing: %s", f->path, strerror(error));
    if (mine != INGOT_OK) st = mine;
  }
  return st;
}

/* Put a finished directory in the place of an existing one. */
static ingot_status replace_directory(const ingot_sink *s)
{
  ingot_status st = INGOT_OK;
  char        *old = ingot_file_sibling(s->path, ".old");
  INGOT_CHECK(old, INGOT_ERR_NOMEM, "%s: no memory for its name", s->path);
  INGOT_TRY(ingot_file_remove(old)); /* of a run that died here */
#ifdef RENAME_EXCHANGE
  /* Both names change at once, so that there is never a moment without an output. */
  if (renameat2(AT_FDCWD, s->partial, AT_FDCWD, s->path, RENAME_EXCHANGE) == 0) {
    INGOT_TRY(ingot_file_remove(s->partial));
    goto done;
  }
#endif
  INGOT_CHECK(rename(s->path, old) == 0, INGOT_ERR_IO, "%s: cannot move aside to %s: %s", s->path, old,
              strerror(errno));
  if (rename(s->partial, s->path) != 0) {
    int error = errno;
    (void)rename(old, s->path); /* as it was */
    INGOT_CHECK(false, INGOT_ERR_IO, "%s: cannot rename to %s: %s", s->partial, s->path, strerror(error));
  }
  INGOT_TRY(ingot_file_remove(old));
done:
  free(old);
  return st;
}

/* Rank 0, after all ranks have written and closed. */
static ingot_status put_in_place(ingot_sink *s, const uint64_t *checksums)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  if (s->spec.format == INGOT_SINK_HDF5) INGOT_TRY(ingot_sink_hdf5_finish(s, checksums));
  if (s->spec.durable && s->spec.format == INGOT_SINK_HF_DIR) INGOT_TRY(ingot_file_sync_parent(s->files[0].path));
  if (s->spec.lock) INGOT_TRY(ingot_lock_check(s->spec.lock));
  bool replace = s->spec.format == INGOT_SINK_HF_DIR && lstat(s->path, &info) == 0;
  if (replace) INGOT_TRY(replace_directory(s));
  else
    INGOT_CHECK(rename(s->partial, s->path) == 0, ingot_file_status(errno), "%s: cannot rename to %s: %s", s->partial,
                s->path, strerror(errno));
  if (s->spec.durable) st = ingot_file_sync_parent(s->path);
  if (st != INGOT_OK) (void)rename(s->path, s->partial); /* a failure leaves no output */
done:
  return st;
}

ingot_status ingot_sink_commit(ingot_comm *comm, ingot_sink **sink, const uint64_t *checksums)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(ingot_comm_agree(comm, finish_files(*sink)));
  if (ingot_comm_rank(comm) == 0) st = put_in_place(*sink, checksums);
  st = ingot_comm_agree(comm, st);
done:
  ingot_sink_close(sink);
  return st;
}

void ingot_sink_close(ingot_sink **sink)
{
  if (!sink || !*sink) return;
  ingot_sink *s = *sink;
  for (int i = 0; i < s->n_file; i++) {
    if (s->files[i].fd >= 0) close(s->files[i].fd);
    free(s->files[i].name);
    free(s->files[i].path);
    ingot_text_release(&s->files[i].header);
  }
  ingot_text_release(&s->index);
  free(s->files);
  free(s->small);
  free(s->extents);
  free(s->partial);
  free(s->path);
  free(s);
  *sink = NULL;
}

ingot_status ingot_sink_remove_partial(const char *path)
{
  static const char *const suffixes[] = {".partial", ".journal", ".journal.new"};
  ingot_status             st = INGOT_OK;
  for (int i = 0; i < 3; i++) {
    char *name = ingot_file_sibling(path, suffixes[i]);
    if (!name) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its name", path);
    ingot_status one = ingot_file_remove(name);
    free(name);
    if (one != INGOT_OK) st = one;
  }
  return st;
}

ingot_status ingot_sink_withdraw(const char *path)
{
  ingot_status st = INGOT_OK;
  char        *partial = ingot_file_sibling(path, ".partial");
  if (!partial) return ingot_fail(INGOT_ERR_NOMEM, "%s: no memory for its name", path);
  if (access(partial, F_OK) != 0 && rename(path, partial) != 0 && errno != ENOENT)
    st = ingot_fail(INGOT_ERR_IO, "%s: cannot be renamed to %s: %s", path, partial, strerror(errno));
  free(partial);
  return st;
}
