/*
 * base/comm, as one program on any number of ranks: each check is worked out from rank and size. Prints nothing and
 * returns 0 when all is well.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/comm.h"

#define CHECK(cond)                                              \
  do {                                                           \
    if (!(cond)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
      ingot_comm_abort(comm, 1);                                 \
    }                                                            \
  } while (0)

static void check_collectives(ingot_comm *comm)
{
  int     rank = ingot_comm_rank(comm), size = ingot_comm_size(comm);
  int64_t value[2] = {rank, 1}, largest = rank * 10;
  CHECK(ingot_comm_sum_i64(comm, value, 2) == INGOT_OK);
  CHECK(value[0] == (int64_t)size * (size - 1) / 2 && value[1] == size);
  CHECK(ingot_comm_max_i64(comm, &largest, 1) == INGOT_OK && largest == (size - 1) * 10);

  char word[8] = "";
  if (rank == size - 1) strcpy(word, "hello");
  CHECK(ingot_comm_bcast(comm, word, sizeof word, size - 1) == INGOT_OK && strcmp(word, "hello") == 0);

  /* rank r owns r + 1 bytes, each of value r */
  int64_t *begin = calloc((size_t)size + 1, sizeof *begin);
  for (int r = 0; r < size; r++) begin[r + 1] = begin[r] + r + 1;
  char *data = calloc((size_t)begin[size], 1);
  memset(data + begin[rank], rank, (size_t)rank + 1);
  CHECK(ingot_comm_share(comm, data, begin) == INGOT_OK);
  for (int r = 0; r < size; r++)
    for (int64_t i = begin[r]; i < begin[r + 1]; i++) CHECK(data[i] == r);
  free(data);
  free(begin);

  int *all = rank == 0 ? calloc((size_t)size, sizeof *all) : NULL;
  CHECK(ingot_comm_gather(comm, &rank, sizeof rank, all) == INGOT_OK);
  for (int r = 0; all && r < size; r++) CHECK(all[r] == r);
  free(all);
  CHECK(ingot_comm_local_size(comm) <= size && ingot_comm_local_rank(comm) < ingot_comm_local_size(comm));
}

/* Sums of reals: exact where the values allow it, in rank order where they do not, the same on all ranks, in several
 * parts. */
static void check_real_sums(ingot_comm *comm)
{
  enum { N = (1 << 20) + 77 };
  int     rank = ingot_comm_rank(comm), size = ingot_comm_size(comm);
  double *d = malloc(N * sizeof *d);
  float  *f = malloc(N * sizeof *f);
  CHECK(d && f);
  for (int i = 0; i < N; i++) d[i] = i + rank * 0.5;
  for (int i = 0; i < N; i++) f[i] = (float)(i % 1000) + (float)rank * 0.25f;
  CHECK(ingot_comm_sum_f64(comm, d, N) == INGOT_OK && ingot_comm_sum_f32(comm, f, N) == INGOT_OK);
  int ranks = size * (size - 1) / 2;
  for (int i = 0; i < N; i++) CHECK(d[i] == (double)i * size + ranks * 0.5);
  for (int i = 0; i < N; i++) CHECK(f[i] == (float)(i % 1000) * (float)size + (float)ranks * 0.25f);
  /* 1e16 + 1 is 1e16: with another order of three or more ranks the sum would be another */
  double order[3] = {0, rank == 0 ? 1e16 : 1.0, rank == size - 1 ? 1e16 : 1.0};
  CHECK(ingot_comm_sum_f64(comm, order, 3) == INGOT_OK);
  CHECK(order[0] == 0.0 && order[1] == 1e16 && order[2] == (size - 1) + 1e16);
  /* but float32 sums are float64 inside */
  float small[1] = {rank == 0 ? 1e8f : 1.0f};
  CHECK(ingot_comm_sum_f32(comm, small, 1) == INGOT_OK && small[0] == (float)(1e8 + (size - 1)));
  CHECK(ingot_comm_sum_f64(comm, order, 0) == INGOT_OK);
  free(d);
  free(f);
}

static void check_agreement(ingot_comm *comm)
{
  int rank = ingot_comm_rank(comm), size = ingot_comm_size(comm);
  CHECK(ingot_comm_agree(comm, INGOT_OK) == INGOT_OK);
  /* every rank but 0 fails (with one rank: that one does): the lowest of them speaks for all */
  int          lowest = size > 1 ? 1 : 0;
  ingot_status st =
      rank >= lowest ? ingot_fail(rank == lowest ? INGOT_ERR_FORMAT : INGOT_ERR_IO, "rank %d", rank) : INGOT_OK;
  CHECK(ingot_comm_agree(comm, st) == INGOT_ERR_FORMAT);
  char expected[32];
  snprintf(expected, sizeof expected, "rank %d", lowest);
  CHECK(strcmp(ingot_error_message(), expected) == 0);
  if (size == 1) return; /* nobody else could have failed */
  strcat(expected, " on ");
  CHECK(strncmp(ingot_error_origin(), expected, strlen(expected)) == 0);
  /* all of them have failed now, and still it is that rank's message, with what others put in front of it */
  st = ingot_wrap(INGOT_ERR_FORMAT, "step %d", rank);
  CHECK(ingot_comm_agree(comm, st) == INGOT_ERR_FORMAT);
  CHECK(strncmp(ingot_error_message(), "step 0: rank 1", 14) == 0);
  CHECK(strncmp(ingot_error_origin(), expected, strlen(expected)) == 0);
}

static void check_notices(ingot_comm *comm)
{
  int          rank = ingot_comm_rank(comm), size = ingot_comm_size(comm), source = -1, seen = 0;
  ingot_notice notice = {.kind = INGOT_NOTICE_PROGRESS, .value = {rank, 5}};
  bool         got = false;
  if (rank != 0) CHECK(ingot_comm_notify(comm, 0, &notice) == INGOT_OK);
  while (rank == 0 && seen < size - 1) {
    CHECK(ingot_comm_poll(comm, &notice, &source, &got) == INGOT_OK);
    if (!got) continue;
    CHECK(notice.kind == INGOT_NOTICE_PROGRESS && notice.value[0] == source && notice.value[1] == 5);
    seen++;
  }
  /* notices that nobody takes are dropped by the drain */
  for (int i = 0; i < 3; i++) CHECK(ingot_comm_notify(comm, -1, &notice) == INGOT_OK);
  CHECK(ingot_comm_drain(comm) == INGOT_OK);
  CHECK(ingot_comm_poll(comm, &notice, &source, &got) == INGOT_OK && !got);
}

/* Around the ring: rank r sends r KiB (rank 0 nothing) to the next and gets what the one before sends; then another
 * step's worth. */
static void check_swaps(ingot_comm *comm)
{
  int            rank = ingot_comm_rank(comm), size = ingot_comm_size(comm);
  unsigned char *out = malloc((size_t)size * 1024), *in = malloc((size_t)size * 1024);
  CHECK(out && in);
  for (int step = 1; step < size; step++) {
    int    dest = (rank + step) % size, src = (rank + size - step) % size;
    size_t out_bytes = (size_t)rank * 1024, in_bytes = (size_t)src * 1024;
    memset(out, rank * 16 + step, out_bytes);
    CHECK(ingot_comm_swap(comm, dest, out, out_bytes, src, in, in_bytes) == INGOT_OK);
    for (size_t i = 0; i < in_bytes; i++) CHECK(in[i] == src * 16 + step);
  }
  CHECK(ingot_comm_swap(comm, -1, NULL, 0, -1, NULL, 0) == INGOT_OK);
  free(out);
  free(in);
}

int main(int argc, char **argv)
{
  ingot_comm *comm = NULL;
  if (ingot_comm_init(&argc, &argv, &comm) != INGOT_OK) return 1;
  int expected = argc > 1 ? atoi(argv[1]) : 1;
  CHECK(ingot_comm_size(comm) == expected);
  check_collectives(comm);
  check_real_sums(comm);
  check_swaps(comm);
  check_agreement(comm);
  check_notices(comm);
  CHECK(ingot_comm_barrier(comm) == INGOT_OK);
  ingot_comm_finalize(&comm);
  return comm == NULL ? 0 : 1;
}
