/*
 * Members that are spread over the ranks. In every exchange all ranks say what they want, in a small table: they give a
 * batch, ask for rows of logits, or have ended. Then each runs its members for all of them. Rows of logits go around
 * the ring of ranks step by step, so that in each step every rank computes for one rank, sends to it, and receives from
 * another.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/nccl.h"
#include "kernels/nn/cuda_open.h"
#include "workers/ensemble/members.h"

enum { KIND_END, KIND_RUN, KIND_ROWS };
/* A rank's row of the table. Then, for each member: KIND_RUN: its part; KIND_ROWS: whether it is wanted, and first
 * window of its part. */
enum { AT_STATUS, AT_KIND, AT_N, AT_FIRST, AT_TIME, AT_ARRAYS, AT_MEMBERS };
enum { N_ARRAY = 4 }; /* tokens, positions, first keys, valid */

struct ingot_spread {
  ingot_comm       *comm;
  ingot_device_sum *link; /* NULL: no NCCL */
  int               rank, size;
  int64_t           n_token; /* of a batch at most */
  int              *home;    /* [n] */
  char  **hidden; /* [n]: own members, back end: [size][n_token][hidden]; inputs of their heads for each rank's batch */
  float **slot;   /* [n]: others' members, back end: [rows][ld] */
  ingot_nn_logits  *own;      /* [n]: own members: logits for this rank */
  int64_t          *table;    /* [size][AT_MEMBERS + 2 n] */
  int64_t          *mine;     /* a row of it */
  int32_t          *ids;      /* arrays of all ranks' batches, one rank after the other */
  int64_t          *begin;    /* [size + 1]: bytes in ids where a rank's arrays begin */
  ingot_nccl_piece *out, *in; /* [n] */
  char             *host;     /* GPU without NCCL: two times [rows][ld] */
  bool              failed;   /* on some rank: all have left the rounds */
};

static int width(const ingot_members *m)
{
  return AT_MEMBERS + 2 * m->n;
}

static int64_t *row_of(const ingot_members *m, int rank)
{
  return m->spread->table + (int64_t)rank * width(m);
}

bool ingot_spread_is_here(const ingot_members *m, int member)
{
  return !m->spread || m->spread->home[member] == m->spread->rank;
}

/* ---- opening ---- */

ingot_status ingot_spread_open(ingot_members *m, const ingot_members_options *options)
{
  ingot_status         st = INGOT_OK;
  size_t               n = (size_t)m->n, size = (size_t)ingot_comm_size(options->spread);
  ingot_pass_options   pass = {.n_batch = options->n_batch,
                               .n_time = options->n_time,
                               .hidden = true,
                               .head_rows = options->head_rows};
  struct ingot_spread *s = calloc(1, sizeof *s);
  INGOT_CHECK(s, INGOT_ERR_NOMEM, "no memory to spread %d models", m->n);
  m->spread = s;
  s->comm = options->spread;
  s->rank = ingot_comm_rank(s->comm);
  s->size = (int)size;
  s->n_token = options->n_batch * options->n_time;
  s->home = calloc(n, sizeof *s->home);
  s->hidden = calloc(n, sizeof(char *));
  s->slot = calloc(n, sizeof(float *));
  s->own = calloc(n, sizeof *s->own);
  s->table = calloc(size * (size_t)width(m), sizeof *s->table);
  s->mine = calloc((size_t)width(m), sizeof *s->mine);
  s->ids = calloc(size * N_ARRAY * (size_t)s->n_token, sizeof *s->ids);
  s->begin = calloc(size + 1, sizeof *s->begin);
  s->out = calloc(n, sizeof *s->out);
  s->in = calloc(n, sizeof *s->in);
  INGOT_CHECK(s->home && s->hidden && s->slot && s->own && s->table && s->mine && s->ids && s->begin && s->out && s->in,
              INGOT_ERR_NOMEM, "no memory to spread %d models over %d ranks", m->n, s->size);
  INGOT_TRY(ingot_spread_homes(m->specs, m->n, m->nn->dtype, &pass, s->size, s->home));
done:
  return st;
}

ingot_status ingot_spread_open_buffers(ingot_members *m)
{
  ingot_status         st = INGOT_OK;
  struct ingot_spread *s = m->spread;
  size_t               chunk = (size_t)(m->rows * m->ld) * sizeof(float);
  for (int i = 0; i < m->n; i++) {
    size_t hidden = (size_t)(s->size * s->n_token * m->specs[i].hidden) * ingot_dtype_size(m->nn->dtype);
    bool   here = s->home[i] == s->rank;
    INGOT_TRY(m->nn->ops->alloc(m->nn, here ? hidden : chunk, here ? (void **)&s->hidden[i] : (void **)&s->slot[i]));
  }
done:
  return st;
}

void ingot_spread_close(ingot_members *m)
{
  struct ingot_spread *s = m->spread;
  if (!s) return;
  for (int i = 0; i < m->n; i++) {
    if (s->hidden) m->nn->ops->free(m->nn, s->hidden[i]);
    if (s->slot) m->nn->ops->free(m->nn, s->slot[i]);
  }
  if (s->link) (void)m->nn->ops->wait(m->nn);
  ingot_device_sum_close(&s->link);
  free(s->home);
  free(s->hidden);
  free(s->slot);
  free(s->own);
  free(s->table);
  free(s->mine);
  free(s->ids);
  free(s->begin);
  free(s->out);
  free(s->in);
  free(s->host);
  free(s);
  m->spread = NULL;
}

ingot_status ingot_spread_join(ingot_members *m, ingot_gather *g)
{
  ingot_status         st = INGOT_OK;
  struct ingot_spread *s = m->spread;
  if (m->nn->kind == INGOT_NN_CPU) return INGOT_OK;
  INGOT_TRY(ingot_device_sum_open(g, &s->link));
  if (!s->link) s->host = malloc(2 * (size_t)(m->rows * m->ld) * sizeof(float));
  st = s->link || s->host
           ? INGOT_OK
           : ingot_fail(INGOT_ERR_NOMEM, "no memory on the host for %lld rows of logits", (long long)m->rows);
  st = ingot_comm_agree(s->comm, st);
done:
  return st;
}

/* ---- batches ---- */

/* A rank's batch out of the common arrays. */
static ingot_batch batch_of(const ingot_members *m, int rank)
{
  const struct ingot_spread *s = m->spread;
  const int64_t             *row = row_of(m, rank);
  const int32_t             *at = s->ids + s->begin[rank] / (int64_t)sizeof(int32_t);
  ingot_batch                batch = {.n_batch = row[AT_N], .n_time = row[AT_TIME]};
  const int32_t            **arrays[N_ARRAY] = {&batch.tokens, &batch.positions, &batch.first_key, &batch.valid};
  for (int a = 0; a < N_ARRAY; a++) {
    if (!(row[AT_ARRAYS] >> a & 1)) continue;
    *arrays[a] = at;
    at += row[AT_N] * row[AT_TIME];
  }
  return batch;
}

/* All ranks' arrays to all ranks. Collective. */
static ingot_status share_batches(ingot_members *m, const ingot_batch *batch)
{
  struct ingot_spread *s = m->spread;
  for (int r = 0; r < s->size; r++) {
    const int64_t *row = row_of(m, r);
    int64_t        n_array = 0;
    for (int a = 0; a < N_ARRAY; a++) n_array += row[AT_ARRAYS] >> a & 1;
    s->begin[r + 1] =
        s->begin[r] + (row[AT_KIND] == KIND_RUN ? n_array * row[AT_N] * row[AT_TIME] * (int64_t)sizeof(int32_t) : 0);
  }
  if (batch) {
    const int32_t *arrays[N_ARRAY] = {batch->tokens, batch->positions, batch->first_key, batch->valid};
    int64_t        n = batch->n_batch * batch->n_time;
    int32_t       *at = s->ids + s->begin[s->rank] / (int64_t)sizeof(int32_t);
    for (int a = 0; a < N_ARRAY; a++) {
      if (!arrays[a]) continue;
      memcpy(at, arrays[a], (size_t)n * sizeof *at);
      at += n;
    }
  }
  return ingot_comm_share(s->comm, s->ids, s->begin);
}

static char *hidden_of(const ingot_members *m, int member, int rank, int64_t token)
{
  const struct ingot_spread *s = m->spread;
  return s->hidden[member] +
         (size_t)((rank * s->n_token + token) * m->specs[member].hidden) * ingot_dtype_size(m->nn->dtype);
}

/* This rank's members over everybody's batches. */
static ingot_status run_members(ingot_members *m)
{
  ingot_status         st = INGOT_OK;
  struct ingot_spread *s = m->spread;
  for (int r = 0; r < s->size; r++) {
    const int64_t *row = row_of(m, r);
    ingot_batch    batch = batch_of(m, r);
    if (row[AT_KIND] != KIND_RUN) continue;
    for (int i = 0; i < m->n; i++) {
      ingot_members_part part = {row[AT_MEMBERS + 2 * i], row[AT_MEMBERS + 2 * i + 1]};
      size_t n = (size_t)((part.end - part.first) * batch.n_time * m->specs[i].hidden) * ingot_dtype_size(m->nn->dtype);
      if (s->home[i] != s->rank || n == 0) continue;
      INGOT_TRY(ingot_members_run_one(m, i, &batch, part));
      INGOT_TRY(m->nn->ops->copy(m->nn, hidden_of(m, i, r, 0), ingot_pass_hidden(m->passes[i]), n));
    }
  }
done:
  return st;
}

/* ---- rows of logits ---- */

static bool wants(const ingot_members *m, int rank, int member)
{
  const int64_t *row = row_of(m, rank);
  return row[AT_KIND] == KIND_ROWS && row[AT_MEMBERS + 2 * member] != 0;
}

static size_t chunk_bytes(const ingot_members *m, int rank)
{
  return (size_t)(row_of(m, rank)[AT_N] * m->ld) * sizeof(float);
}

/* Logits of this rank's members for the rows that a rank wants: in their passes' memory, and in s->out [*n_out]. */
static ingot_status compute(ingot_members *m, int rank, int *n_out)
{
  ingot_status         st = INGOT_OK;
  struct ingot_spread *s = m->spread;
  const int64_t       *row = row_of(m, rank);
  *n_out = 0;
  for (int i = 0; i < m->n; i++) {
    ingot_nn_logits z;
    int64_t         token = row[AT_FIRST] - row[AT_MEMBERS + 2 * i + 1] * row[AT_TIME];
    if (s->home[i] != s->rank || !wants(m, rank, i)) continue;
    INGOT_TRY(ingot_pass_logits_from(m->passes[i], hidden_of(m, i, rank, token), row[AT_N], &z));
    if (rank == s->rank) s->own[i] = z;
    s->out[(*n_out)++] = (ingot_nccl_piece){(void *)(uintptr_t)z.data, chunk_bytes(m, rank)};
  }
done:
  return st;
}

/* What this rank has wanted of another one's members: room for it in s->in [returned number]. */
static int expect(ingot_members *m, int rank)
{
  struct ingot_spread *s = m->spread;
  int                  n_in = 0;
  for (int i = 0; i < m->n; i++)
    if (s->home[i] == rank && wants(m, s->rank, i))
      s->in[n_in++] = (ingot_nccl_piece){s->slot[i], chunk_bytes(m, s->rank)};
  return n_in;
}

/* The exchange itself: s->out to rank dest, s->in from rank src. */
static ingot_status move(ingot_members *m, int dest, int n_out, int src, int n_in)
{
  ingot_status         st = INGOT_OK, moved = INGOT_OK;
  struct ingot_spread *s = m->spread;
  const ingot_nn_ops  *ops = m->nn->ops;
  char *out_host = s->host, *in_host = s->host ? s->host + (size_t)(m->rows * m->ld) * sizeof(float) : NULL;
  if (s->link)
    return ingot_nccl_swap(ingot_device_sum_nccl(s->link), dest, s->out, n_out, src, s->in, n_in,
                           ingot_nn_cuda_stream(m->nn));
  for (int i = 0; (i < n_out || i < n_in) && moved == INGOT_OK;
       i++) { /* what fails here fails after the swap: the others count on it */
    ingot_nccl_piece out = i < n_out ? s->out[i] : (ingot_nccl_piece){NULL, 0},
                     in = i < n_in ? s->in[i] : (ingot_nccl_piece){NULL, 0};
    if (s->host && out.bytes > 0 && st == INGOT_OK) st = ops->copy_out(m->nn, out_host, out.data, out.bytes);
    moved = ingot_comm_swap(s->comm, dest, s->host ? out_host : out.data, out.bytes, src, s->host ? in_host : in.data,
                            in.bytes);
    if (s->host && in.bytes > 0 && st == INGOT_OK) st = ops->copy_in(m->nn, in.data, in_host, in.bytes);
  }
  return st == INGOT_OK ? moved : st;
}

/* Everybody's rows. Collective, with the status of all. A rank's own rows come last: they stay where they were
 * computed. */
static ingot_status send_rows(ingot_members *m)
{
  ingot_status         st = INGOT_OK, mine = INGOT_OK;
  struct ingot_spread *s = m->spread;
  for (int step = 1; step <= s->size; step++) {
    int dest = (s->rank + step) % s->size, src = (s->rank + s->size - step) % s->size, n_out = 0;
    if (mine == INGOT_OK) mine = compute(m, dest, &n_out);
    INGOT_TRY(ingot_comm_agree(s->comm, mine));
    if (step < s->size) mine = move(m, dest, n_out, src, expect(m, src));
  }
done:
  return st;
}

/* ---- exchanges ---- */

/* One exchange. *open: ranks that have not ended. The status is that of all ranks. */
static ingot_status exchange(ingot_members *m, ingot_status mine, int kind, const ingot_batch *batch, int *open)
{
  ingot_status         st = INGOT_OK;
  struct ingot_spread *s = m->spread;
  int                  count[3] = {0, 0, 0}, n_failed = 0;
  memset(s->table, 0, (size_t)(s->size * width(m)) * sizeof *s->table);
  s->mine[AT_STATUS] = mine;
  s->mine[AT_KIND] = kind;
  memcpy(row_of(m, s->rank), s->mine, (size_t)width(m) * sizeof *s->mine);
  INGOT_TRY(ingot_comm_sum_i64(s->comm, s->table, (int64_t)s->size * width(m)));
  for (int r = 0; r < s->size; r++) {
    count[row_of(m, r)[AT_KIND]]++;
    n_failed += row_of(m, r)[AT_STATUS] != INGOT_OK;
  }
  INGOT_ASSERT(count[KIND_RUN] == 0 || count[KIND_ROWS] == 0);
  *open = count[KIND_RUN] + count[KIND_ROWS];
  if (n_failed > 0) {
    st = ingot_comm_agree(s->comm, mine);
  } else if (count[KIND_RUN] > 0) {
    st = share_batches(m, batch);
    if (st == INGOT_OK) st = run_members(m);
    st = ingot_comm_agree(s->comm, st);
  } else if (count[KIND_ROWS] > 0) {
    st = send_rows(m);
  }
done:
  s->failed = st != INGOT_OK;
  return st;
}

ingot_status ingot_spread_run(ingot_members *m, const ingot_batch *batch)
{
  struct ingot_spread *s = m->spread;
  const int32_t       *arrays[N_ARRAY] = {batch->tokens, batch->positions, batch->first_key, batch->valid};
  int                  open;
  memset(s->mine, 0, (size_t)width(m) * sizeof *s->mine);
  s->mine[AT_N] = batch->n_batch;
  s->mine[AT_TIME] = batch->n_time;
  for (int a = 0; a < N_ARRAY; a++) s->mine[AT_ARRAYS] |= (int64_t)(arrays[a] != NULL) << a;
  for (int i = 0; i < m->n; i++) {
    s->mine[AT_MEMBERS + 2 * i] = m->parts[i].first;
    s->mine[AT_MEMBERS + 2 * i + 1] = m->parts[i].end;
  }
  return exchange(m, INGOT_OK, KIND_RUN, batch, &open);
}

ingot_status ingot_spread_rows(ingot_members *m, int64_t first_row, int64_t n_row, const bool *wanted)
{
  struct ingot_spread *s = m->spread;
  int                  open;
  memset(s->mine, 0, (size_t)width(m) * sizeof *s->mine);
  s->mine[AT_N] = n_row;
  s->mine[AT_FIRST] = first_row;
  s->mine[AT_TIME] = m->n_time;
  for (int i = 0; i < m->n; i++) {
    s->mine[AT_MEMBERS + 2 * i] = !wanted || wanted[i];
    s->mine[AT_MEMBERS + 2 * i + 1] = m->parts[i].first;
  }
  return exchange(m, INGOT_OK, KIND_ROWS, NULL, &open);
}

ingot_status ingot_spread_logits(ingot_members *m, int member, int64_t n_row, ingot_nn_logits *z)
{
  struct ingot_spread *s = m->spread;
  *z = s->home[member] == s->rank ? s->own[member] : (ingot_nn_logits){s->slot[member], n_row, m->n_vocab, m->ld};
  INGOT_ASSERT(z->n_row == n_row && wants(m, s->rank, member));
  return INGOT_OK;
}

ingot_status ingot_spread_end(ingot_members *m, ingot_status mine)
{
  struct ingot_spread *s = m->spread;
  ingot_status         st;
  int                  open = 0;
  memset(s->mine, 0, (size_t)width(m) * sizeof *s->mine);
  if (s->failed) return mine; /* which is the status of all */
  do st = exchange(m, mine, KIND_END, NULL, &open);
  while (st == INGOT_OK && open > 0);
  return st;
}
