#define _POSIX_C_SOURCE 200809L
#include "workers/generate/records.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "io/atomic_file.h"
#include "workers/statistics/loop.h"

enum { HEAD = 4 }; /* numbers of a record before its tokens */

static size_t record_bytes(const ingot_generate_plan *plan)
{
  return (size_t)(HEAD + plan->prompt + plan->length) * sizeof(int32_t);
}

static ingot_status cut_chunks(ingot_records *r, const int64_t *per_data)
{
  ingot_status st = INGOT_OK;
  int64_t      n_chunk = 0, first = 0;
  int          n_data = r->plan->ensemble.gather.n_data;
  r->n_chunk = ingot_generate_chunks(r->plan, per_data);
  r->chunk_first = calloc((size_t)r->n_chunk + 1, sizeof *r->chunk_first);
  r->chunk_data = calloc((size_t)r->n_chunk + 1, sizeof *r->chunk_data);
  r->done = calloc((size_t)r->n_chunk + 1, sizeof *r->done);
  INGOT_CHECK(r->chunk_first && r->chunk_data && r->done, INGOT_ERR_NOMEM, "no memory for %lld chunks of sequences",
              (long long)r->n_chunk);
  for (int d = 0; d < (n_data > 0 ? n_data : 1); d++) {
    int64_t end = first + per_data[d] * r->plan->samples;
    for (; first < end; first = r->chunk_first[n_chunk]) {
      r->chunk_data[n_chunk] = d;
      r->chunk_first[++n_chunk] = end - first < r->plan->batch ? end : first + r->plan->batch;
    }
  }
  INGOT_ASSERT(n_chunk == r->n_chunk);
  r->n_sequence = first;
done:
  return st;
}

static ingot_status chunk_hash(const ingot_records *r, int64_t chunk, char *bytes, uint64_t *hash)
{
  ingot_status st = INGOT_OK;
  size_t       one = record_bytes(r->plan), size = (size_t)(r->chunk_first[chunk + 1] - r->chunk_first[chunk]) * one;
  INGOT_TRY(ingot_file_pread(r->fd, r->path, (uint64_t)r->chunk_first[chunk] * one, bytes, size));
  *hash = ingot_hash(bytes, size);
done:
  return st;
}

/* Chunks that the journal calls done are read back. Rank 0. */
static ingot_status verify(ingot_records *r, int64_t *n_done)
{
  ingot_status st = INGOT_OK;
  uint64_t    *hashes = calloc((size_t)r->n_chunk + 1, sizeof *hashes), hash = 0;
  char        *bytes = malloc((size_t)r->plan->batch * record_bytes(r->plan));
  INGOT_CHECK(hashes && bytes, INGOT_ERR_NOMEM, "no memory for a journal of %lld chunks", (long long)r->n_chunk);
  INGOT_TRY(ingot_journal_load(r->journal, r->done, hashes));
  for (int64_t i = 0; i < r->n_chunk; i++) {
    if (!r->done[i]) continue;
    r->done[i] = chunk_hash(r, i, bytes, &hash) == INGOT_OK && hash == hashes[i];
    ingot_error_clear();
    *n_done += r->done[i];
  }
done:
  free(hashes);
  free(bytes);
  return st;
}

/* Rank 0: take up what is there, or make it anew. */
static ingot_status prepare(ingot_records *r, bool fresh, int64_t *n_done)
{
  ingot_status             st = INGOT_OK;
  const ingot_gather_plan *g = &r->plan->ensemble.gather;
  struct stat              info;
  *n_done = 0;
  st = fresh ? INGOT_ERR_NOTFOUND : ingot_journal_open(g->output, g->fingerprint, r->n_chunk, &r->journal);
  if (st == INGOT_ERR_EXISTS)
    return ingot_wrap(st,
                      "%s: an unfinished output of another job, of other settings or of other inputs is in the way "
                      "(--fresh discards it)",
                      g->output);
  if (st == INGOT_OK && stat(r->path, &info) == 0) {
    r->fd = open(r->path, O_RDWR | O_CLOEXEC);
    INGOT_CHECK(r->fd >= 0, ingot_file_status(errno), "%s: cannot be opened: %s", r->path, strerror(errno));
    return verify(r, n_done);
  }
  INGOT_CHECK(st == INGOT_OK || st == INGOT_ERR_NOTFOUND, st, "%s", ingot_error_message());
  ingot_error_clear();
  ingot_journal_close(&r->journal);
  INGOT_TRY(ingot_file_make_parents(r->path));
  r->fd = open(r->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  INGOT_CHECK(r->fd >= 0, ingot_file_status(errno), "%s: cannot be created: %s", r->path, strerror(errno));
  INGOT_TRY(ingot_journal_create(g->output, g->fingerprint, r->n_chunk));
  INGOT_TRY(ingot_journal_open(g->output, g->fingerprint, r->n_chunk, &r->journal));
done:
  return st;
}

ingot_status ingot_records_open(ingot_records *r, ingot_comm *comm, const ingot_generate_plan *plan,
                                const int64_t *per_data, bool fresh, int64_t *n_resumed)
{
  const ingot_gather_plan *g = &plan->ensemble.gather;
  bool                     root = ingot_comm_rank(comm) == 0;
  *r = (ingot_records){.plan = plan, .fd = -1};
  r->path = ingot_file_sibling(g->output, ".state.sequences");
  ingot_status st = r->path ? cut_chunks(r, per_data) : ingot_fail(INGOT_ERR_NOMEM, "no memory for a path");
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_comm_agree(comm, root ? prepare(r, fresh, n_resumed) : INGOT_OK));
  INGOT_TRY(ingot_comm_bcast(comm, r->done, (size_t)r->n_chunk * sizeof *r->done, 0));
  INGOT_TRY(ingot_comm_bcast(comm, n_resumed, sizeof *n_resumed, 0));
  if (!root) {
    r->fd = open(r->path, O_RDWR | O_CLOEXEC);
    st = r->fd >= 0 ? ingot_journal_open(g->output, g->fingerprint, r->n_chunk, &r->journal)
                    : ingot_fail(ingot_file_status(errno), "%s: cannot be opened: %s", r->path, strerror(errno));
  }
  st = ingot_comm_agree(comm, st);
done:
  return st;
}

void ingot_records_close(ingot_records *r)
{
  if (r->plan && r->fd >= 0) close(r->fd);
  ingot_journal_close(&r->journal);
  free(r->path);
  free(r->chunk_first);
  free(r->chunk_data);
  free(r->done);
  *r = (ingot_records){.fd = -1};
}

ingot_status ingot_records_put(ingot_records *r, int64_t chunk, const ingot_sequence *sequences)
{
  ingot_status st = INGOT_OK;
  size_t       one = record_bytes(r->plan);
  int64_t      first = r->chunk_first[chunk], n = r->chunk_first[chunk + 1] - first;
  char        *bytes = calloc((size_t)n, one);
  INGOT_CHECK(bytes, INGOT_ERR_NOMEM, "no memory for %lld sequences", (long long)n);
  for (int64_t i = 0; i < n; i++) {
    const ingot_sequence *s = &sequences[i];
    memcpy(bytes + (size_t)i * one, s, HEAD * sizeof(int32_t));
    memcpy(bytes + (size_t)i * one + HEAD * sizeof(int32_t), s->tokens, (size_t)s->n_token * sizeof(int32_t));
  }
  INGOT_TRY(ingot_fault_check(INGOT_FAULT_WRITE));
  INGOT_TRY(ingot_file_pwrite(r->fd, r->path, (uint64_t)first * one, bytes, (size_t)n * one));
  INGOT_TRY(ingot_journal_record(r->journal, chunk, ingot_hash(bytes, (size_t)n * one)));
done:
  free(bytes);
  return st;
}

ingot_status ingot_records_get(const ingot_records *r, int64_t sequence, int32_t *room, ingot_sequence *out)
{
  ingot_status st = INGOT_OK;
  int32_t      head[HEAD];
  size_t       one = record_bytes(r->plan), at = (size_t)sequence * one;
  INGOT_TRY(ingot_file_pread(r->fd, r->path, at, head, sizeof head));
  INGOT_CHECK(head[1] >= 0 && (size_t)head[1] <= one / sizeof *room - HEAD && head[0] <= head[1], INGOT_ERR_FORMAT,
              "%s: sequence %lld is broken", r->path, (long long)sequence);
  INGOT_TRY(ingot_file_pread(r->fd, r->path, at + sizeof head, room, (size_t)head[1] * sizeof *room));
  *out = (ingot_sequence){head[0], head[1], head[2], 0, room};
done:
  return st;
}
