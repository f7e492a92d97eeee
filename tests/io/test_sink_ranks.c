/*
 * Sinks on several ranks: every rank writes its part of every tensor. test_sink_ranks.sh compares the outputs of runs
 * with different numbers of ranks.
 *   test_sink_ranks DIR               write out.h5, out.safetensors and the directory out
 *   test_sink_ranks DIR alone         the last rank fails alone, on purpose: all must return its error
 *   test_sink_ranks DIR full          the disk is too small: INGOT_ERR_NOSPACE everywhere, and no final file
 *   test_sink_ranks DIR speed COUNT   seconds to create and to commit COUNT tensors
 */
#define _XOPEN_SOURCE 700
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "sink_case.h"

static const char *const formats[] = {"out.h5", "out.safetensors", "out"};
enum { N_FORMAT = 3, PATH = 512 };

static ingot_status expect(bool fine, const char *what)
{
  return fine ? INGOT_OK
              : ingot_fail(INGOT_ERR_INTERNAL, "expected: %s; last message: %s", what, ingot_error_message());
}

static ingot_status write_part(ingot_comm *comm, ingot_sink *sink, const ingot_sink_spec *spec)
{
  ingot_status st = INGOT_OK;
  size_t       rank = (size_t)ingot_comm_rank(comm), size = (size_t)ingot_comm_size(comm);
  for (int i = 0; i < spec->n_tensor && st == INGOT_OK; i++) {
    size_t n = sink_case_bytes(&spec->tensors[i]);
    st = sink_case_write(sink, spec->tensors, i, n * rank / size, n * (rank + 1) / size);
  }
  return st;
}

static ingot_status write_one(ingot_comm *comm, const char *path, bool through_restart)
{
  ingot_status    st = INGOT_OK;
  ingot_sink     *sink = NULL;
  uint64_t        sums[SINK_CASE_TENSORS];
  ingot_sink_spec spec = sink_case_spec(path);
  spec.shard_bytes = 6000;
  for (int i = 0; i < spec.n_tensor; i++) sums[i] = sink_case_checksum(&spec.tensors[i], i);
  INGOT_TRY(ingot_sink_create(comm, &spec, &sink));
  if (through_restart) {
    ingot_sink_close(&sink);
    INGOT_TRY(ingot_comm_barrier(comm));
    INGOT_TRY(ingot_sink_reopen(comm, &spec, &sink));
  }
  INGOT_TRY(ingot_comm_agree(comm, write_part(comm, sink, &spec)));
  INGOT_TRY(ingot_sink_commit(comm, &sink, sums));
  INGOT_TRY(expect(!sink && access(path, F_OK) == 0, "the output in place"));
done:
  ingot_sink_close(&sink);
  return st;
}

static ingot_status run_write(ingot_comm *comm, const char *dir)
{
  char         path[PATH];
  ingot_status st = INGOT_OK;
  for (int i = 0; i < N_FORMAT && st == INGOT_OK; i++) {
    snprintf(path, sizeof path, "%s/%s", dir, formats[i]);
    st = write_one(comm, path, ingot_comm_size(comm) == 2);
  }
  return st;
}

static ingot_status run_alone(ingot_comm *comm, const char *dir)
{
  char          path[PATH];
  ingot_status  st = INGOT_OK;
  bool          last = ingot_comm_rank(comm) == ingot_comm_size(comm) - 1;
  struct rlimit before, small;
  if (getrlimit(RLIMIT_FSIZE, &before) != 0) return ingot_fail(INGOT_ERR_INTERNAL, "getrlimit");
  small = before;
  small.rlim_cur = 100;
  for (int i = 0; i < N_FORMAT && st == INGOT_OK; i++) {
    ingot_sink *sink = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, formats[i]);
    ingot_sink_spec spec = sink_case_spec(path);
    if (last) setrlimit(RLIMIT_FSIZE, &small);
    ingot_status found = ingot_sink_create(comm, &spec, &sink);
    if (last) setrlimit(RLIMIT_FSIZE, &before);
    st = expect(found == INGOT_ERR_NOSPACE && strstr(ingot_error_message(), formats[i]) && !sink,
                "no space on all ranks");
  }
  return st;
}

static ingot_status run_full(ingot_comm *comm, const char *dir)
{
  static const ingot_sink_tensor big[] = {{"a", INGOT_DTYPE_F32, {1, {1 << 18}}},
                                          {"b", INGOT_DTYPE_F32, {1, {1 << 18}}}};
  char                           path[PATH];
  ingot_status                   st = INGOT_OK;
  for (int i = 0; i < N_FORMAT && st == INGOT_OK; i++) {
    ingot_sink *sink = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, formats[i]);
    ingot_sink_spec spec = {.path = path, .format = ingot_sink_format_of(path), .tensors = big, .n_tensor = 2};
    ingot_status    found = ingot_sink_create(comm, &spec, &sink);
    if (found == INGOT_OK) found = ingot_comm_agree(comm, write_part(comm, sink, &spec));
    ingot_sink_close(&sink);
    st = expect(found == INGOT_ERR_NOSPACE && strstr(ingot_error_message(), formats[i]), "no space on all ranks");
    if (st == INGOT_OK) st = expect(access(path, F_OK) != 0, "no final file");
    if (st == INGOT_OK && ingot_comm_rank(comm) == 0) st = ingot_sink_remove_partial(path);
    st = ingot_comm_agree(comm, st);
  }
  return st;
}

static ingot_status run_speed(ingot_comm *comm, const char *dir, int count)
{
  ingot_status       st = INGOT_OK;
  char               path[PATH];
  ingot_sink_tensor *tensors = calloc((size_t)count, sizeof *tensors);
  uint64_t          *sums = calloc((size_t)count, sizeof *sums);
  char(*names)[64] = calloc((size_t)count, sizeof *names);
  INGOT_CHECK(tensors && sums && names, INGOT_ERR_NOMEM, "no memory");
  for (int i = 0; i < count; i++) {
    snprintf(names[i], sizeof names[i], "model.layers.%d.mlp.experts.%d.down_proj.weight", i / 100, i % 100);
    tensors[i] = (ingot_sink_tensor){names[i], INGOT_DTYPE_BF16, {2, {64, 64 + i % 5}}};
  }
  for (int i = 0; i < N_FORMAT; i++) {
    ingot_sink *sink = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, formats[i]);
    ingot_sink_spec spec = {.path = path, .format = ingot_sink_format_of(path), .tensors = tensors, .n_tensor = count};
    double          start = ingot_clock_s();
    INGOT_TRY(ingot_sink_create(comm, &spec, &sink));
    double created = ingot_clock_s();
    ingot_sink_close(&sink);
    INGOT_TRY(ingot_comm_barrier(comm));
    double closed = ingot_clock_s();
    INGOT_TRY(ingot_sink_reopen(comm, &spec, &sink));
    double reopened = ingot_clock_s();
    INGOT_TRY(ingot_sink_commit(comm, &sink, sums));
    if (ingot_comm_rank(comm) == 0)
      printf("%-16s %d tensors, %d ranks: create %.3f s, reopen %.3f s, commit %.3f s\n", formats[i], count,
             ingot_comm_size(comm), created - start, reopened - closed, ingot_clock_s() - reopened);
  }
done:
  free(tensors);
  free(sums);
  free(names);
  return st;
}

int main(int argc, char **argv)
{
  ingot_comm  *comm = NULL;
  ingot_status st = ingot_comm_init(&argc, &argv, &comm);
  if (st != INGOT_OK || argc < 2) return 2;
  const char *mode = argc > 2 ? argv[2] : "write";
  if (strcmp(mode, "write") == 0) st = run_write(comm, argv[1]);
  else if (strcmp(mode, "alone") == 0) st = run_alone(comm, argv[1]);
  else if (strcmp(mode, "full") == 0) st = run_full(comm, argv[1]);
  else if (strcmp(mode, "speed") == 0 && argc > 3) st = run_speed(comm, argv[1], atoi(argv[3]));
  else st = INGOT_ERR_USAGE;
  if (st != INGOT_OK) fprintf(stderr, "rank %d: %s\n", ingot_comm_rank(comm), ingot_error_message());
  ingot_comm_finalize(&comm);
  return st != INGOT_OK;
}
