/*
 * The machine's own limit for a merge: read all inputs and write one output of the first input's size, with the same
 * number of threads and no arithmetic. Prints bytes, seconds and GB/s, and the CPU seconds. Files are opened, closed
 * and unmapped within that time, as a process that does this work has to: taking down the mapping of 5 GB takes 0.1 s.
 *
 *   limit [--mmap] [--sync] [--files N] [--allocate] [--map-output] THREADS OUT IN [IN ...]
 *
 * Files are cut into pieces of the merge's tile size; a thread reads a piece of every input, in reads of 128 KiB (or by
 * touching every cache line of a mapping), and writes one piece of output. How the output is written may be varied, to
 * compare: N files OUT.0, OUT.1, ... instead of one (they are removed at the end), space allocated before, a mapped
 * file.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum { PIECE = 2 << 20, READ = 128 << 10, MAX_INPUT = 64, MAX_THREAD = 256, MAX_OUTPUT = 64 };

typedef struct work {
  int           n_input, in[MAX_INPUT];
  int           n_output, out[MAX_OUTPUT];
  char         *out_map[MAX_OUTPUT];
  off_t         part; /* bytes of an output file, whole pieces */
  const char   *map[MAX_INPUT];
  off_t         size[MAX_INPUT];
  atomic_llong  next;
  atomic_ullong sum; /* keeps the compiler from leaving out the reading */
  atomic_int    failed;
} work;

static uint64_t touch(const char *p, size_t n)
{
  uint64_t sum = 0, word;
  for (size_t i = 0; i + 8 <= n; i += 64) {
    memcpy(&word, p + i, 8);
    sum += word;
  }
  return sum;
}

static void *worker(void *argument)
{
  work    *w = argument;
  char    *buffer = aligned_alloc(4096, PIECE);
  uint64_t sum = 0;
  memset(buffer, 1, PIECE);
  for (;;) {
    off_t at = (off_t)atomic_fetch_add(&w->next, 1) * PIECE;
    if (at >= w->size[0]) break;
    for (int i = 0; i < w->n_input; i++) {
      off_t end = w->size[i] - at < PIECE ? w->size[i] : at + PIECE;
      for (off_t k = at; k < end; k += READ) {
        size_t n = end - k < READ ? (size_t)(end - k) : READ;
        if (w->map[i]) sum += touch(w->map[i] + k, n);
        else if (pread(w->in[i], buffer + (k - at), n, k) != (ssize_t)n) w->failed = 1;
      }
    }
    size_t n = w->size[0] - at < PIECE ? (size_t)(w->size[0] - at) : PIECE;
    int    file = (int)(at / w->part);
    off_t  offset = at % w->part;
    if (w->out_map[file]) memcpy(w->out_map[file] + offset, buffer, n);
    else if (pwrite(w->out[file], buffer, n, offset) != (ssize_t)n) w->failed = 1;
  }
  atomic_fetch_add(&w->sum, sum);
  free(buffer);
  return NULL;
}

typedef struct options {
  int use_mmap, sync_output, n_file, allocate, map_output;
} options;

static int open_outputs(work *w, const options *o, const char *name)
{
  w->n_output = o->n_file;
  off_t pieces = (w->size[0] + PIECE - 1) / PIECE;
  w->part = (pieces + o->n_file - 1) / o->n_file * PIECE;
  for (int k = 0; k < o->n_file; k++) {
    char path[4096];
    snprintf(path, sizeof path, o->n_file > 1 ? "%s.%d" : "%s", name, k);
    unlink(path);
    w->out[k] = open(path, O_RDWR | O_CREAT, 0666);
    if (o->n_file > 1) unlink(path);
    if (w->out[k] < 0) return -1;
    if (o->allocate && posix_fallocate(w->out[k], 0, w->part) != 0) return -1;
    if (!o->map_output) continue;
    if (ftruncate(w->out[k], w->part) != 0) return -1;
    w->out_map[k] = mmap(NULL, (size_t)w->part, PROT_READ | PROT_WRITE, MAP_SHARED, w->out[k], 0);
    if (w->out_map[k] == MAP_FAILED) return -1;
  }
  return 0;
}

static int open_inputs(work *w, const options *o, char **names)
{
  for (int k = 0; k < w->n_input; k++) {
    struct stat s;
    w->in[k] = open(names[k], O_RDONLY);
    if (w->in[k] < 0 || fstat(w->in[k], &s) != 0) {
      perror(names[k]);
      return -1;
    }
    w->size[k] = s.st_size;
    if (o->use_mmap) w->map[k] = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_SHARED, w->in[k], 0);
  }
  return 0;
}

static void close_files(work *w)
{
  for (int k = 0; k < w->n_input; k++) {
    if (w->map[k] && munmap((void *)(uintptr_t)w->map[k], (size_t)w->size[k]) != 0) w->failed = 1;
    if (close(w->in[k]) != 0) w->failed = 1;
  }
  for (int k = 0; k < w->n_output; k++) {
    if (w->out_map[k] && munmap(w->out_map[k], (size_t)w->part) != 0) w->failed = 1;
    if (close(w->out[k]) != 0) w->failed = 1;
  }
}

int main(int argc, char **argv)
{
  static work w;
  options     o = {.n_file = 1};
  int         i = 1;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (strcmp(argv[i], "--mmap") == 0) o.use_mmap = 1;
    else if (strcmp(argv[i], "--sync") == 0) o.sync_output = 1;
    else if (strcmp(argv[i], "--allocate") == 0) o.allocate = 1;
    else if (strcmp(argv[i], "--map-output") == 0) o.map_output = 1;
    else if (strcmp(argv[i], "--files") == 0 && i + 1 < argc) o.n_file = atoi(argv[++i]);
  }
  if (argc - i < 3 || argc - i - 2 > MAX_INPUT || atoi(argv[i]) < 1 || atoi(argv[i]) > MAX_THREAD || o.n_file < 1 ||
      o.n_file > MAX_OUTPUT) {
    fprintf(stderr, "usage: limit [--mmap] [--sync] [--files N] [--allocate] [--map-output] THREADS OUT IN [IN ...]\n");
    return 2;
  }
  int    n_thread = atoi(argv[i]);
  double start = ingot_clock_s();
  w.n_input = argc - i - 2;
  if (open_inputs(&w, &o, argv + i + 2) != 0) return 1;
  if (open_outputs(&w, &o, argv[i + 1]) != 0) {
    perror(argv[i + 1]);
    return 1;
  }
  pthread_t threads[MAX_THREAD];
  for (int t = 0; t < n_thread; t++) pthread_create(&threads[t], NULL, worker, &w);
  for (int t = 0; t < n_thread; t++) pthread_join(threads[t], NULL);
  for (int k = 0; k < w.n_output; k++)
    if (o.sync_output && fsync(w.out[k]) != 0) w.failed = 1;
  close_files(&w);
  double seconds = ingot_clock_s() - start;
  if (w.failed) {
    fprintf(stderr, "limit: reading or writing failed\n");
    return 1;
  }
  off_t bytes = w.size[0];
  for (int k = 0; k < w.n_input; k++) bytes += w.size[k];
  printf("%lld bytes, %.3f s, %.2f GB/s, CPU %.3f s, %s, %d threads\n", (long long)bytes, seconds,
         (double)bytes / seconds / 1e9, ingot_clock_cpu_s(), o.use_mmap ? "mmap" : "pread", n_thread);
  return 0;
}
