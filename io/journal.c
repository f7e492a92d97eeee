#define _POSIX_C_SOURCE 200809L
#include "io/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/text.h"
#include "io/atomic_file.h"

enum { HEADER_BYTES = 64, RECORD_BYTES = 16, VERSION = 1, RECORDS_AT_ONCE = 4096 };
static const char magic[8] = {'I', 'N', 'G', 'O', 'T', 'J', 'N', 'L'};

struct ingot_journal {
  int      fd;
  char    *path;
  uint64_t fingerprint;
  int64_t  n_tile;
};

static void put_u64(unsigned char *to, uint64_t value)
{
  for (int i = 0; i < 8; i++) to[i] = (unsigned char)(value >> (8 * i));
}

static uint64_t get_u64(const unsigned char *from)
{
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) value |= (uint64_t)from[i] << (8 * i);
  return value;
}

/* The two 32-bit fields after the magic, version and zero, are one little-endian 64-bit number. */
static void put_header(unsigned char header[HEADER_BYTES], uint64_t fingerprint, int64_t n_tile)
{
  memset(header, 0, HEADER_BYTES);
  memcpy(header, magic, sizeof magic);
  put_u64(header + 8, VERSION);
  put_u64(header + 16, fingerprint);
  put_u64(header + 24, (uint64_t)n_tile);
}

static uint64_t seal_of(uint64_t fingerprint, int64_t tile, uint64_t checksum)
{
  unsigned char bytes[24];
  put_u64(bytes, fingerprint);
  put_u64(bytes + 8, (uint64_t)tile);
  put_u64(bytes + 16, checksum);
  return ingot_hash(bytes, sizeof bytes);
}

ingot_status ingot_journal_create(const char *output_path, uint64_t fingerprint, int64_t n_tile)
{
  ingot_status  st = INGOT_OK;
  int           fd = -1;
  unsigned char header[HEADER_BYTES];
  char         *path = ingot_file_sibling(output_path, ".journal");
  char         *fresh = ingot_file_sibling(output_path, ".journal.new");
  INGOT_CHECK(path && fresh, INGOT_ERR_NOMEM, "%s: no memory for its journal's name", output_path);

  fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(fd >= 0, ingot_file_status(errno), "%s: cannot create: %s", fresh, strerror(errno));
  put_header(header, fingerprint, n_tile);
  INGOT_TRY(ingot_file_pwrite(fd, fresh, 0, header, sizeof header));
  INGOT_CHECK(ftruncate(fd, (off_t)(HEADER_BYTES + RECORD_BYTES * n_tile)) == 0, ingot_file_status(errno),
              "%s: making room for %lld records: %s", fresh, (long long)n_tile, strerror(errno));
  INGOT_TRY(ingot_file_sync(fd, fresh));
  INGOT_CHECK(rename(fresh, path) == 0, ingot_file_status(errno), "%s: cannot rename to %s: %s", fresh, path,
              strerror(errno));
done:
  if (fd >= 0) close(fd);
  if (st != INGOT_OK && fresh) unlink(fresh);
  free(fresh);
  free(path);
  return st;
}

static ingot_status check_header(const ingot_journal *j, const unsigned char *header)
{
  if (memcmp(header, magic, sizeof magic) != 0)
    return ingot_fail(INGOT_ERR_NOTFOUND, "%s: is not a journal: it starts with other bytes", j->path);
  unsigned long long version = get_u64(header + 8) & 0xffffffffu;
  if (version != VERSION)
    return ingot_fail(INGOT_ERR_EXISTS, "%s: is of version %llu, expected %d", j->path, version, (int)VERSION);
  unsigned long long fingerprint = get_u64(header + 16);
  if (fingerprint != j->fingerprint)
    return ingot_fail(INGOT_ERR_EXISTS,
                      "%s: belongs to a job with other settings or inputs (fingerprint %016llx, expected %016llx)",
                      j->path, fingerprint, (unsigned long long)j->fingerprint);
  long long n_tile = (long long)get_u64(header + 24);
  if (n_tile != j->n_tile)
    return ingot_fail(INGOT_ERR_EXISTS, "%s: belongs to an output of %lld tiles, expected %lld", j->path, n_tile,
                      (long long)j->n_tile);
  return INGOT_OK;
}

ingot_status ingot_journal_open(const char *output_path, uint64_t fingerprint, int64_t n_tile, ingot_journal **out)
{
  ingot_status   st = INGOT_OK;
  ingot_journal *j = calloc(1, sizeof *j);
  *out = NULL;
  INGOT_CHECK(j, INGOT_ERR_NOMEM, "%s: no memory for its journal", output_path);
  j->fd = -1;
  j->fingerprint = fingerprint;
  j->n_tile = n_tile;
  j->path = ingot_file_sibling(output_path, ".journal");
  INGOT_CHECK(j->path, INGOT_ERR_NOMEM, "%s: no memory for its journal's name", output_path);

  j->fd = open(j->path, O_RDWR | O_CLOEXEC);
  INGOT_CHECK(j->fd >= 0, errno == ENOENT ? INGOT_ERR_NOTFOUND : INGOT_ERR_IO, "%s: cannot open: %s", j->path,
              strerror(errno));
  struct stat info;
  INGOT_CHECK(fstat(j->fd, &info) == 0, INGOT_ERR_IO, "%s: %s", j->path, strerror(errno));
  INGOT_CHECK(info.st_size >= HEADER_BYTES, INGOT_ERR_NOTFOUND,
              "%s: is not a journal: %lld bytes, expected at least %d", j->path, (long long)info.st_size,
              (int)HEADER_BYTES);
  unsigned char header[HEADER_BYTES];
  INGOT_TRY(ingot_file_pread(j->fd, j->path, 0, header, sizeof header));
  INGOT_TRY(check_header(j, header));
  *out = j;
  j = NULL;
done:
  ingot_journal_close(&j);
  return st;
}

void ingot_journal_close(ingot_journal **journal)
{
  if (!journal || !*journal) return;
  if ((*journal)->fd >= 0) close((*journal)->fd);
  free((*journal)->path);
  free(*journal);
  *journal = NULL;
}

ingot_status ingot_journal_load(ingot_journal *journal, bool *done_flags, uint64_t *checksum)
{
  ingot_status   st = INGOT_OK;
  unsigned char *records = malloc((size_t)RECORDS_AT_ONCE * RECORD_BYTES);
  INGOT_CHECK(records, INGOT_ERR_NOMEM, "%s: no memory to read it", journal->path);
  struct stat info;
  INGOT_CHECK(fstat(journal->fd, &info) == 0, INGOT_ERR_IO, "%s: %s", journal->path, strerror(errno));
  /* A journal that became shorter has lost records: their tiles are not done. */
  int64_t n_stored = (info.st_size - HEADER_BYTES) / RECORD_BYTES;
  for (int64_t first = 0; first < journal->n_tile; first += RECORDS_AT_ONCE) {
    int64_t n = journal->n_tile - first < RECORDS_AT_ONCE ? journal->n_tile - first : RECORDS_AT_ONCE;
    int64_t there = n_stored - first < 0 ? 0 : n_stored - first < n ? n_stored - first : n;
    memset(records, 0, (size_t)n * RECORD_BYTES);
    INGOT_TRY(ingot_file_pread(journal->fd, journal->path, (uint64_t)(HEADER_BYTES + RECORD_BYTES * first), records,
                               (size_t)there * RECORD_BYTES));
    for (int64_t i = 0; i < n; i++) {
      checksum[first + i] = get_u64(records + RECORD_BYTES * i);
      uint64_t seal = get_u64(records + RECORD_BYTES * i + 8);
      done_flags[first + i] = i < there && seal == seal_of(journal->fingerprint, first + i, checksum[first + i]);
    }
  }
done:
  free(records);
  return st;
}

ingot_status ingot_journal_record(ingot_journal *journal, int64_t tile, uint64_t checksum)
{
  INGOT_ASSERT(tile >= 0 && tile < journal->n_tile);
  unsigned char record[RECORD_BYTES];
  put_u64(record, checksum);
  put_u64(record + 8, seal_of(journal->fingerprint, tile, checksum));
  return ingot_file_pwrite(journal->fd, journal->path, (uint64_t)(HEADER_BYTES + RECORD_BYTES * tile), record,
                           sizeof record);
}
