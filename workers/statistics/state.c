#define _POSIX_C_SOURCE 200809L
/*
 * Saved states: what a rank has gathered so far, in one file beside the output.
 *
 * File, in the machine's own byte order: 64 bytes of header: "INGOTST", version u32 = 2, zero u32, fingerprint u64,
 * windows done i64, payload bytes u64, checksum u64, zeros; then the payload. The checksum is over the hashes of the
 * payload's chunks, seeded with the hash of the header before it: so threads hash, read and write chunks in any order.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "io/atomic_file.h"
#include "workers/crew.h"
#include "workers/statistics/loop.h"

enum { STATE_VERSION = 2, CHUNK_BYTES = 8 << 20, THREADS_MAX = 64 };
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

static uint64_t all_bytes(const ingot_state_part *parts, int n_part)
{
  uint64_t bytes = 0;
  for (int i = 0; i < n_part; i++) bytes += parts[i].bytes;
  return bytes;
}

/* ---- the payload: the parts one after the other, cut into chunks of CHUNK_BYTES ---- */

/* A run over the chunks, by several threads. */
typedef struct chunk_run {
  int                     fd;
  const char             *path;
  ingot_nn               *nn;
  const ingot_state_part *parts;
  int                     n_part, n_host; /* the first n_host are host memory in any case */
  uint64_t                bytes;
  int64_t                 first;   /* chunk of item 0 */
  char                  **buffers; /* of a thread; saving from a device: of an item */
  uint64_t               *hashes;  /* of the chunks */
} chunk_run;

static int64_t count_chunks(uint64_t bytes)
{
  return (int64_t)((bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static size_t chunk_size(uint64_t bytes, int64_t chunk)
{
  uint64_t left = bytes - (uint64_t)chunk * CHUNK_BYTES;
  return left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
}

static bool on_device(const chunk_run *r, int part)
{
  return part >= r->n_host && r->nn && r->nn->kind != INGOT_NN_CPU;
}

/* Where a chunk lies in host memory in one piece, or NULL. */
static char *whole_chunk(const chunk_run *r, int64_t chunk)
{
  uint64_t at = (uint64_t)chunk * CHUNK_BYTES, size = chunk_size(r->bytes, chunk);
  for (int i = 0; i < r->n_part; at -= r->parts[i].bytes, i++) {
    if (at >= r->parts[i].bytes) continue;
    bool whole = at + size <= r->parts[i].bytes && r->parts[i].memory && !on_device(r, i);
    return whole ? (char *)r->parts[i].memory + at : NULL;
  }
  return NULL;
}

/* Between a buffer and the parts that its chunk belongs to; a part without memory is left out. */
static ingot_status move_chunk(const chunk_run *r, int64_t chunk, char *buffer, bool in)
{
  uint64_t begin = (uint64_t)chunk * CHUNK_BYTES, end = begin + chunk_size(r->bytes, chunk), first = 0;
  for (int i = 0; i < r->n_part; first += r->parts[i].bytes, i++) {
    const ingot_state_part *part = &r->parts[i];
    uint64_t a = begin > first ? begin : first, b = end < first + part->bytes ? end : first + part->bytes;
    if (a >= b || !part->memory) continue;
    char        *memory = (char *)part->memory + (a - first), *copy = buffer + (a - begin);
    size_t       n = (size_t)(b - a);
    ingot_status st = INGOT_OK;
    if (!on_device(r, i)) memcpy(in ? memory : copy, in ? copy : memory, n);
    else if (in) st = r->nn->ops->copy_in(r->nn, memory, copy, n);
    else st = r->nn->ops->copy_out(r->nn, copy, memory, n);
    if (st != INGOT_OK) return st;
  }
  return INGOT_OK;
}

static bool any_on_device(const chunk_run *r)
{
  bool any = false;
  for (int i = 0; i < r->n_part; i++) any = any || (r->parts[i].bytes > 0 && on_device(r, i));
  return any;
}

/* Hash a chunk and write it: from where it lies, or from a copy. By any thread. */
static ingot_status put_chunk(const chunk_run *r, int64_t chunk, const char *bytes)
{
  size_t n = chunk_size(r->bytes, chunk);
  r->hashes[chunk] = ingot_hash(bytes, n);
  return ingot_file_pwrite(r->fd, r->path, sizeof(state_header) + (uint64_t)chunk * CHUNK_BYTES, bytes, n);
}

static ingot_status save_chunk(void *context, int64_t item, int thread)
{
  const chunk_run *r = context;
  const char      *bytes = whole_chunk(r, item);
  if (bytes) return put_chunk(r, item, bytes);
  ingot_status st = move_chunk(r, item, r->buffers[thread], false);
  return st == INGOT_OK ? put_chunk(r, item, r->buffers[thread]) : st;
}

static ingot_status save_copied_chunk(void *context, int64_t item, int thread)
{
  const chunk_run *r = context;
  (void)thread;
  return put_chunk(r, r->first + item, r->buffers[item]);
}

/* The device belongs to the calling thread: it copies chunks out while the others write those before. buffers [2
 * n_buffer]. */
static ingot_status save_from_device(const chunk_run *r, int n_buffer)
{
  ingot_status      st = INGOT_OK, written = INGOT_OK;
  ingot_crew_flight flight = {0};
  chunk_run         half[2] = {*r, *r};
  int64_t           n_chunk = count_chunks(r->bytes);
  for (int64_t first = 0, k = 0; first < n_chunk && st == INGOT_OK; first += n_buffer, k = 1 - k) {
    int64_t n = n_chunk - first < n_buffer ? n_chunk - first : n_buffer;
    half[k].first = first;
    half[k].buffers = r->buffers + k * n_buffer;
    for (int64_t i = 0; i < n && st == INGOT_OK; i++) st = move_chunk(r, first + i, half[k].buffers[i], false);
    written = ingot_crew_wait(&flight);
    if (st == INGOT_OK) st = written;
    if (st == INGOT_OK) ingot_crew_start(&flight, n_buffer, n, save_copied_chunk, &half[k]);
  }
  written = ingot_crew_wait(&flight);
  return st == INGOT_OK ? written : st;
}

static ingot_status check_chunk(void *context, int64_t item, int thread)
{
  const chunk_run *r = context;
  size_t           n = chunk_size(r->bytes, item);
  ingot_status     st =
      ingot_file_pread(r->fd, r->path, sizeof(state_header) + (uint64_t)item * CHUNK_BYTES, r->buffers[thread], n);
  if (st == INGOT_OK) r->hashes[item] = ingot_hash(r->buffers[thread], n);
  return st;
}

/* Some part with memory has to do with the chunk. */
static bool is_wanted(const chunk_run *r, int64_t chunk)
{
  uint64_t begin = (uint64_t)chunk * CHUNK_BYTES, end = begin + chunk_size(r->bytes, chunk), first = 0;
  bool     wanted = false;
  for (int i = 0; i < r->n_part; first += r->parts[i].bytes, i++)
    wanted = wanted || (r->parts[i].memory && first < end && first + r->parts[i].bytes > begin);
  return wanted;
}

static ingot_status take_chunk(void *context, int64_t item, int thread)
{
  const chunk_run *r = context;
  size_t           n = chunk_size(r->bytes, item);
  uint64_t         at = sizeof(state_header) + (uint64_t)item * CHUNK_BYTES;
  char            *memory = whole_chunk(r, item);
  if (!is_wanted(r, item)) return INGOT_OK;
  if (memory) return ingot_file_pread(r->fd, r->path, at, memory, n);
  ingot_status st = ingot_file_pread(r->fd, r->path, at, r->buffers[thread], n);
  return st == INGOT_OK ? move_chunk(r, item, r->buffers[thread], true) : st;
}

static int run_threads(const ingot_nn *nn)
{
  int n = nn ? nn->n_thread : 1;
  return n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : n;
}

uint64_t ingot_state_buffer_bytes(uint64_t bytes, int n_thread)
{
  uint64_t most = 2 * (uint64_t)(n_thread < 1 ? 1 : n_thread > THREADS_MAX ? THREADS_MAX : n_thread) * CHUNK_BYTES;
  return bytes < most ? bytes : most;
}

static ingot_status make_run(chunk_run *r, int n_buffer)
{
  ingot_status st = INGOT_OK;
  r->hashes = calloc((size_t)count_chunks(r->bytes) + 1, sizeof *r->hashes);
  r->buffers = calloc((size_t)n_buffer, sizeof(char *));
  INGOT_CHECK(r->hashes && r->buffers, INGOT_ERR_NOMEM, "%s: no memory for a saved state", r->path);
  for (int i = 0; i < n_buffer; i++) { /* touched where they are needed alone */
    r->buffers[i] = malloc(r->bytes < CHUNK_BYTES ? (size_t)r->bytes + 1 : CHUNK_BYTES);
    INGOT_CHECK(r->buffers[i], INGOT_ERR_NOMEM, "%s: no memory for a saved state", r->path);
  }
done:
  return st;
}

static void release_run(chunk_run *r, int n_buffer)
{
  for (int i = 0; r->buffers && i < n_buffer; i++) free(r->buffers[i]);
  free(r->buffers);
  free(r->hashes);
}

/* Of the header's beginning and of the chunks' hashes. */
static uint64_t all_hashes(const chunk_run *r, const state_header *header)
{
  return ingot_hash_seeded(r->hashes, (size_t)count_chunks(r->bytes) * sizeof *r->hashes,
                           ingot_hash(header, offsetof(state_header, checksum)));
}

static ingot_status write_parts(int fd, const char *path, state_header *header, ingot_nn *nn,
                                const ingot_state_part *parts, int n_part, int n_host)
{
  ingot_status st = INGOT_OK;
  int          n_thread = run_threads(nn), n_buffer;
  chunk_run    r = {.fd = fd,
                    .path = path,
                    .nn = nn,
                    .parts = parts,
                    .n_part = n_part,
                    .n_host = n_host,
                    .bytes = header->payload_bytes};
  bool         device = any_on_device(&r);
  n_buffer = device ? 2 * n_thread : n_thread;
  INGOT_TRY(make_run(&r, n_buffer));
  if (device) INGOT_TRY(save_from_device(&r, n_thread));
  else INGOT_TRY(ingot_crew_run(n_thread, count_chunks(r.bytes), save_chunk, &r));
  header->checksum = all_hashes(&r, header);
  INGOT_TRY(ingot_file_pwrite(fd, path, 0, header, sizeof *header));
done:
  release_run(&r, n_buffer);
  return st;
}

ingot_status ingot_state_save(const char *path, uint64_t fingerprint, int64_t n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part)
{
  return ingot_state_save_mixed(path, fingerprint, n_done, nn, parts, n_part, 0);
}

ingot_status ingot_state_save_mixed(const char *path, uint64_t fingerprint, int64_t n_done, ingot_nn *nn,
                                    const ingot_state_part *parts, int n_part, int n_host)
{
  ingot_status st = INGOT_OK;
  int          fd = -1;
  state_header header = {.magic = "INGOTST",
                         .version = STATE_VERSION,
                         .fingerprint = fingerprint,
                         .n_done = n_done,
                         .payload_bytes = all_bytes(parts, n_part)};
  char        *temporary = ingot_file_sibling(path, ".new");
  INGOT_CHECK(temporary, INGOT_ERR_NOMEM, "%s: no memory for its name", path);
  INGOT_TRY(ingot_file_make_parents(path));
  fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot be created: %s", temporary, strerror(errno));
  INGOT_TRY(write_parts(fd, temporary, &header, nn, parts, n_part, n_host));
  INGOT_CHECK(rename(temporary, path) == 0, INGOT_ERR_IO, "%s: cannot be renamed to %s: %s", temporary, path,
              strerror(errno));
done:
  if (fd >= 0) close(fd);
  if (st != INGOT_OK && temporary) unlink(temporary);
  free(temporary);
  return st;
}

/* Run through the payload: with parts NULL for its checksum alone. */
static ingot_status read_parts(int fd, const char *path, const state_header *header, ingot_nn *nn,
                               const ingot_state_part *parts, int n_part, int n_host, uint64_t *hash)
{
  ingot_status st = INGOT_OK;
  chunk_run    r = {.fd = fd,
                    .path = path,
                    .nn = nn,
                    .parts = parts,
                    .n_part = n_part,
                    .n_host = n_host,
                    .bytes = header->payload_bytes};
  int          n_buffer = run_threads(nn), n_thread = parts && any_on_device(&r) ? 1 : n_buffer;
  INGOT_TRY(make_run(&r, n_buffer));
  INGOT_TRY(ingot_crew_run(n_thread, count_chunks(r.bytes), parts ? take_chunk : check_chunk, &r));
  if (!parts) *hash = all_hashes(&r, header);
done:
  release_run(&r, n_buffer);
  return st;
}

/* Open a state and look at its header and its checksum. *fd -1: there is none. */
static ingot_status open_state(const char *path, uint64_t fingerprint, ingot_nn *nn, uint64_t bytes, int *fd,
                               state_header *header, const char **why)
{
  ingot_status st = INGOT_OK;
  struct stat  info;
  uint64_t     hash = 0;
  *why = NULL;
  *fd = open(path, O_RDONLY | O_CLOEXEC);
  if (*fd < 0 && errno == ENOENT) return INGOT_OK;
  INGOT_CHECK(*fd >= 0 && fstat(*fd, &info) == 0, INGOT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
  if ((size_t)info.st_size >= sizeof *header) INGOT_TRY(ingot_file_pread(*fd, path, 0, header, sizeof *header));
  if (memcmp(header->magic, "INGOTST", 8) != 0 || header->version != STATE_VERSION)
    *why = "it is no saved state of this version";
  else if (header->fingerprint != fingerprint)
    *why = "it was made by other settings, from other inputs or by another number of ranks";
  else if (header->payload_bytes != bytes || (uint64_t)info.st_size != sizeof *header + header->payload_bytes)
    *why = "it has another size";
  if (*why) goto done;
  INGOT_TRY(read_parts(*fd, path, header, nn, NULL, 0, 0, &hash));
  if (hash != header->checksum) *why = "its checksum is wrong";
done:
  return st;
}

ingot_status ingot_state_load(const char *path, uint64_t fingerprint, int64_t *n_done, ingot_nn *nn,
                              const ingot_state_part *parts, int n_part, const char **why)
{
  return ingot_state_load_mixed(path, fingerprint, n_done, nn, parts, n_part, 0, why);
}

ingot_status ingot_state_load_mixed(const char *path, uint64_t fingerprint, int64_t *n_done, ingot_nn *nn,
                                    const ingot_state_part *parts, int n_part, int n_host, const char **why)
{
  ingot_status st = INGOT_OK;
  state_header header = {0};
  int          fd = -1;
  *n_done = 0;
  INGOT_TRY(open_state(path, fingerprint, nn, all_bytes(parts, n_part), &fd, &header, why));
  if (fd < 0 || *why) goto done;
  INGOT_TRY(read_parts(fd, path, &header, nn, parts, n_part, n_host, NULL));
  *n_done = header.n_done;
done:
  if (fd >= 0) close(fd);
  return st;
}

ingot_status ingot_state_take(const char *path, ingot_nn *nn, const ingot_state_part *parts, int n_part, int n_host)
{
  ingot_status st = INGOT_OK;
  state_header header = {.payload_bytes = all_bytes(parts, n_part)};
  int          fd = open(path, O_RDONLY | O_CLOEXEC);
  INGOT_CHECK(fd >= 0, INGOT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
  INGOT_TRY(read_parts(fd, path, &header, nn, parts, n_part, n_host, NULL));
done:
  if (fd >= 0) close(fd);
  return st;
}

typedef struct other_states {
  char ending[32]; /* of the states of as many ranks */
  bool found;
} other_states;

static ingot_status look_at_ending(void *context, int folder, const char *name, const char *tail)
{
  other_states *other = context;
  const char   *of = strstr(tail, "-of-");
  (void)folder;
  (void)name;
  other->found = other->found || (of && strcmp(of, other->ending) != 0 && !strstr(of, ".new"));
  return INGOT_OK;
}

bool ingot_state_other_ranks(const char *output, int size)
{
  other_states other = {.found = false};
  snprintf(other.ending, sizeof other.ending, "-of-%d", size);
  if (ingot_file_each_beside(output, SUFFIX, look_at_ending, &other) != INGOT_OK) ingot_error_clear();
  return other.found;
}

/* Of the output whose path is the context. */
static ingot_status remove_state(void *context, int folder, const char *name, const char *tail)
{
  (void)tail;
  if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return INGOT_OK;
  return ingot_fail(INGOT_ERR_IO, "%s beside %s: cannot be removed: %s", name, (const char *)context, strerror(errno));
}

ingot_status ingot_gather_forget(const char *output)
{
  return ingot_file_each_beside(output, SUFFIX, remove_state, (void *)(uintptr_t)output); /* only read */
}
