#define _POSIX_C_SOURCE 200809L
/*
 * Saved states: what a rank has gathered so far, in one file beside the output.
 *
 * File, in the machine's own byte order: 64 bytes of header: "INGOTSTA", version u32 = 1, zero u32, fingerprint u64, windows
 * done i64, payload bytes u64, checksum u64 (of all before it and the payload), zeros; then the payload.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "io/atomic_file.h"
#include "workers/statistics/loop.h"

enum { STATE_VERSION = 1, COPY_BYTES = 8 << 20 };
static const char SUFFIX[] = ".state.";

typedef struct state_header {
  char     magic[8];
  uint32_t version, zero;
  uint64_t fingerprint;
  int64_t  n_done;
  uint64_t payload_bytes;
  uint64_t checksum;
  uint64_t unused[2];
} state_header;

ingot_status ingot_state_path(const char *output, int rank, int size, ingot_text *text)
{
  size_t n = strlen(output);
  while (n > 1 && output[n - 1] == '/') n--;
  return ingot_text_printf(text, "%.*s%s%d-of-%d", (int)n, output, SUFFIX, rank, size);
}

static uint64_t start_checksum(const state_header *h)
{
  return ingot_hash(h, offsetof(state_header, checksum));
}

static uint64_t all_bytes(const ingot_state_part *parts, int n_part)
{
  uint64_t bytes = 0;
  for (int i = 0; i < n_part; i++) bytes += parts[i].bytes;
  return bytes;
}

static ingot_status copy_out(ingot_nn *nn, void *dst, const void *src, size_t bytes)
{
  if (nn) return nn->ops->copy_out(nn, dst, src, bytes);
  memcpy(dst, src, bytes);
  return INGOT_OK;
}

static ingot_status copy_in(ingot_nn *nn, void *dst, const void *src, size_t bytes)
{
  if (nn) return nn->ops->copy_in(nn, dst, src, bytes);
  memcpy(dst, src, bytes);
  return INGOT_OK;
}

static ingot_status write_parts(int fd, const char *path, state_header *header, ingot_nn *nn,
                                const ingot_state_part *parts, int n_part)
{
  ingot_status st = INGOT_OK;
  uint64_t     at = sizeof *header, hash = start_checksum(header);
  char        *buffer = malloc(COPY_BYTES);
  INGOT_CHECK(buffer, INGOT_ERR_NOMEM, "no memory to save a state");
  for (int i = 0; i < n_part; i++) {
    for (size_t offset = 0; offset < parts[i].bytes;) {
      size_t n = parts[i].bytes - offset < COPY_BYTES ? parts[i].bytes - offset : COPY_BYTES;
      INGOT_TRY(copy_out(nn, buffer, (const char *)parts[i].memory + offset, n));
      hash = ingot_hash_seeded(buffer, n, hash);
      INGOT_TRY(ingot_file_pwrite(fd, path, at, buffer, n));
      at += n;
      offset += n;
    }
  }
  header->checksum = hash;
  INGOT_TRY(ingot_file_pwrite(fd, path, 0, header, sizeof *header));
done:
  free(buffer);
  return st;
}

ingot_status ingot_state_save(const char *path, uint64_t fingerprint, int64_t n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part)
{
  ingot_status st = INGOT_OK;
  int          fd = -1;
  state_header header = {.magic = "INGOTST", .version = STATE_VERSION, .fingerprint = fingerprint, .n_done = n_done,
                         .payload_bytes = all_bytes(parts, n_part)};
  char        *temporary = ingot_file_sibling(path, ".new");
  INGOT_CHECK(temporary, INGOT_ERR_NOMEM, "%s: no memory for its name", path);
  INGOT_TRY(ingot_file_make_parents(path));
  fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot be created: %s", temporary, strerror(errno));
  INGOT_TRY(write_parts(fd, temporary, &header, nn, parts, n_part));
  INGOT_CHECK(rename(temporary, path) == 0, INGOT_ERR_IO, "%s: cannot be renamed to %s: %s", temporary, path,
              strerror(errno));
done:
  if (fd >= 0) close(fd);
  if (st != INGOT_OK && temporary) unlink(temporary);
  free(temporary);
  return st;
}

/* Run through the payload: with `load` false for its checksum alone. */
static ingot_status read_parts(int fd, const char *path, const state_header *header, ingot_nn *nn,
                               const ingot_state_part *parts, int n_part, bool load, uint64_t *hash)
{
  ingot_status st = INGOT_OK;
  uint64_t     at = sizeof *header;
  char        *buffer = malloc(COPY_BYTES);
  *hash = start_checksum(header);
  INGOT_CHECK(buffer, INGOT_ERR_NOMEM, "no memory to read a state");
  for (int i = 0; i < n_part; i++) {
    for (size_t offset = 0; offset < parts[i].bytes;) {
      size_t n = parts[i].bytes - offset < COPY_BYTES ? parts[i].bytes - offset : COPY_BYTES;
      INGOT_TRY(ingot_file_pread(fd, path, at, buffer, n));
      *hash = ingot_hash_seeded(buffer, n, *hash);
      if (load) INGOT_TRY(copy_in(nn, (char *)parts[i].memory + offset, buffer, n));
      at += n;
      offset += n;
    }
  }
done:
  free(buffer);
  return st;
}

ingot_status ingot_state_load(const char *path, uint64_t fingerprint, int64_t *n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part, const char **why)
{
  ingot_status st = INGOT_OK;
  state_header header = {0};
  struct stat  info;
  uint64_t     hash = 0;
  *n_done = 0;
  *why = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return INGOT_OK;
  INGOT_CHECK(fd >= 0 && fstat(fd, &info) == 0, INGOT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
  if ((size_t)info.st_size >= sizeof header) INGOT_TRY(ingot_file_pread(fd, path, 0, &header, sizeof header));
  if (memcmp(header.magic, "INGOTST", 8) != 0 || header.version != STATE_VERSION) *why = "it is no saved state of this version";
  else if (header.fingerprint != fingerprint) *why = "it was made by other settings, from other inputs or by another number of ranks";
  else if (header.payload_bytes != all_bytes(parts, n_part) ||
           (uint64_t)info.st_size != sizeof header + header.payload_bytes)
    *why = "it has another size";
  if (*why) goto done;
  INGOT_TRY(read_parts(fd, path, &header, nn, parts, n_part, false, &hash));
  if (hash != header.checksum) {
    *why = "its checksum is wrong";
    goto done;
  }
  INGOT_TRY(read_parts(fd, path, &header, nn, parts, n_part, true, &hash));
  *n_done = header.n_done;
done:
  if (fd >= 0) close(fd);
  return st;
}

/* The folder of an output, open, and how the names of its states begin. *listing NULL: no folder, so no states. */
static ingot_status list_states(const char *output, DIR **listing, ingot_text *prefix)
{
  ingot_status st = INGOT_OK;
  ingot_text   folder = {0};
  size_t       n = strlen(output);
  *listing = NULL;
  while (n > 1 && output[n - 1] == '/') n--;
  size_t cut = n;
  while (cut > 0 && output[cut - 1] != '/') cut--;
  INGOT_TRY(ingot_text_printf(&folder, "%.*s", (int)(cut ? cut : 1), cut ? output : "."));
  INGOT_TRY(ingot_text_printf(prefix, "%.*s%s", (int)(n - cut), output + cut, SUFFIX));
  *listing = opendir(ingot_text_string(&folder));
done:
  ingot_text_release(&folder);
  return st;
}

bool ingot_state_other_ranks(const char *output, int size)
{
  ingot_text prefix = {0};
  DIR       *listing = NULL;
  bool       found = false;
  char       ending[32];
  snprintf(ending, sizeof ending, "-of-%d", size);
  if (list_states(output, &listing, &prefix) != INGOT_OK) ingot_error_clear();
  for (struct dirent *entry = listing ? readdir(listing) : NULL; entry; entry = readdir(listing)) {
    if (strncmp(entry->d_name, ingot_text_string(&prefix), prefix.size) != 0) continue;
    const char *of = strstr(entry->d_name + prefix.size, "-of-");
    found = found || (of && strcmp(of, ending) != 0 && !strstr(of, ".new"));
  }
  if (listing) closedir(listing);
  ingot_text_release(&prefix);
  return found;
}

ingot_status ingot_gather_forget(const char *output)
{
  ingot_status st = INGOT_OK;
  ingot_text   prefix = {0};
  DIR         *listing = NULL;
  INGOT_TRY(list_states(output, &listing, &prefix));
  for (struct dirent *entry = listing ? readdir(listing) : NULL; entry; entry = readdir(listing)) {
    if (strncmp(entry->d_name, ingot_text_string(&prefix), prefix.size) != 0) continue;
    if (unlinkat(dirfd(listing), entry->d_name, 0) != 0 && errno != ENOENT)
      st = ingot_fail(INGOT_ERR_IO, "%s beside %s: cannot be removed: %s", entry->d_name, output, strerror(errno));
  }
done:
  if (listing) closedir(listing);
  ingot_text_release(&prefix);
  return st;
}
