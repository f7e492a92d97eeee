/*
 * Saved states of a training: seconds and GB/s of writing and of taking up the float32 parameters and both moments of a
 * student, beside what the machine writes of the same memory with as many threads and nothing else.
 *
 *   bench_state MILLIONS THREADS FOLDER [REPEATS]
 *
 * What was read is compared with what was written before anything is printed.
 */
#define _POSIX_C_SOURCE 200809L
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "io/atomic_file.h"
#include "workers/crew.h"
#include "workers/statistics/loop.h"

enum { N_PART = 3, PIECE = 8 << 20 };

typedef struct raw {
  int         fd;
  const char *path;
  const char *memory;
  size_t      bytes; /* of a part */
} raw;

static ingot_status write_piece(void *context, int64_t item, int thread)
{
  const raw *r = context;
  size_t     at = (size_t)item * PIECE, left = N_PART * r->bytes - at;
  (void)thread;
  return ingot_file_pwrite(r->fd, r->path, at, r->memory + at, left < PIECE ? left : PIECE);
}

/* The limit: the same bytes by pwrite. */
static ingot_status write_raw(const char *path, int n_thread, const char *memory, size_t bytes)
{
  raw r = {.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666), .path = path, .memory = memory, .bytes = bytes};
  ingot_status st = r.fd >= 0 ? INGOT_OK : ingot_fail(INGOT_ERR_IO, "%s: cannot be created", path);
  if (st == INGOT_OK) st = ingot_crew_run(n_thread, (int64_t)((N_PART * bytes + PIECE - 1) / PIECE), write_piece, &r);
  if (r.fd >= 0) close(r.fd);
  return st;
}

static void show(const char *what, double seconds, size_t bytes)
{
  printf("  %-34s %8.3f s %8.2f GB/s\n", what, seconds, (double)bytes / 1e9 / seconds);
}

static ingot_status measure(ingot_nn *nn, size_t bytes, int n_thread, const char *path)
{
  ingot_status     st = INGOT_OK;
  char            *memory = malloc(N_PART * bytes), *back = malloc(N_PART * bytes);
  ingot_state_part parts[N_PART], from[N_PART];
  int64_t          n_done = 0;
  const char      *why = NULL;
  double           start_s, limit_s, save_s, load_s;
  INGOT_CHECK(memory && back, INGOT_ERR_NOMEM, "no memory for the benchmark");
  for (size_t i = 0; i < N_PART * bytes; i += sizeof(float))
    memcpy(memory + i, &(float){(float)i * 1e-9f}, sizeof(float));
  memset(back, 0, N_PART * bytes);
  for (int i = 0; i < N_PART; i++) {
    parts[i] = (ingot_state_part){.memory = memory + i * bytes, .bytes = bytes};
    from[i] = (ingot_state_part){.memory = back + i * bytes, .bytes = bytes};
  }
  start_s = ingot_clock_s();
  INGOT_TRY(write_raw(path, n_thread, memory, bytes));
  limit_s = ingot_clock_s() - start_s;
  (void)unlink(path);
  start_s = ingot_clock_s();
  INGOT_TRY(ingot_state_save(path, 1, 1, nn, parts, N_PART));
  save_s = ingot_clock_s() - start_s;
  start_s = ingot_clock_s();
  INGOT_TRY(ingot_state_load(path, 1, &n_done, nn, from, N_PART, &why));
  load_s = ingot_clock_s() - start_s;
  INGOT_CHECK(n_done == 1 && memcmp(memory, back, N_PART * bytes) == 0, INGOT_ERR_INTERNAL, "%s: other bytes came back",
              path);
  show("pwrite alone, the limit", limit_s, N_PART * bytes);
  show("saved", save_s, N_PART * bytes);
  show("taken up", load_s, N_PART * bytes);
done:
  (void)unlink(path);
  free(memory);
  free(back);
  return st;
}

int main(int argc, char **argv)
{
  ingot_status st = INGOT_OK;
  ingot_nn    *nn = NULL;
  char         path[4096];
  if (argc < 4) {
    fprintf(stderr, "usage: bench_state MILLIONS THREADS FOLDER [REPEATS]\n");
    return 2;
  }
  size_t           bytes = (size_t)(atof(argv[1]) * 1e6) * sizeof(float);
  int              repeats = argc > 4 ? atoi(argv[4]) : 3;
  ingot_nn_options options = {.kind = INGOT_NN_CPU, .n_thread = atoi(argv[2]), .dtype = INGOT_DTYPE_F32};
  snprintf(path, sizeof path, "%s/bench_state.tmp", argv[3]);
  INGOT_TRY(ingot_nn_open(&options, &nn));
  printf("%s million parameters, %.2f GB, %d threads\n", argv[1], (double)(N_PART * bytes) / 1e9, options.n_thread);
  for (int i = 0; i < repeats; i++) INGOT_TRY(measure(nn, bytes, options.n_thread, path));
done:
  ingot_nn_close(&nn);
  if (st != INGOT_OK) fprintf(stderr, "bench_state: %s\n", ingot_error_message());
  return st == INGOT_OK ? 0 : 1;
}
