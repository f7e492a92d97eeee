/*
 * The machine's own limit for a merge: read all inputs and write one output of the first input's size, with the same
 * number of threads and no arithmetic. Prints bytes, seconds and GB/s, and the CPU seconds.
 *
 *   limit [--mmap] [--sync] THREADS OUT IN [IN ...]
 *
 * Files are cut into pieces of the merge's tile size; a thread reads a piece of every input, in reads of 128 KiB (or by
 * touching every cache line of a mapping), and writes one piece of output.
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

enum { PIECE = 2 << 20, READ = 128 << 10, MAX_INPUT = 64, MAX_THREAD = 256 };

typedef struct work {
  int          n_input, in[MAX_INPUT], out;
  const char  *map[MAX_INPUT];
  off_t        size[MAX_INPUT];
  atomic_llong next;
  atomic_ullong sum; /* keeps the compiler from leaving out the reading */
  atomic_int   failed;
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
    if (pwrite(w->out, buffer, n, at) != (ssize_t)n) w->failed = 1;
  }
  atomic_fetch_add(&w->sum, sum);
  free(buffer);
  return NULL;
}

int main(int argc, char **argv)
{
  static work w;
  int         use_mmap = 0, sync_output = 0, i = 1;
  for (; i < argc && argv[i][0] == '-'; i++) {
    if (strcmp(argv[i], "--mmap") == 0) use_mmap = 1;
    else if (strcmp(argv[i], "--sync") == 0) sync_output = 1;
  }
  if (argc - i < 3 || argc - i - 2 > MAX_INPUT || atoi(argv[i]) < 1 || atoi(argv[i]) > MAX_THREAD) {
    fprintf(stderr, "usage: limit [--mmap] [--sync] THREADS OUT IN [IN ...]\n");
    return 2;
  }
  int         n_thread = atoi(argv[i]);
  const char *out = argv[i + 1];
  off_t       bytes = 0;
  double      start = ingot_clock_s();
  unlink(out);
  w.out = open(out, O_RDWR | O_CREAT, 0666);
  w.n_input = argc - i - 2;
  for (int k = 0; k < w.n_input; k++) {
    struct stat s;
    w.in[k] = open(argv[i + 2 + k], O_RDONLY);
    if (w.in[k] < 0 || fstat(w.in[k], &s) != 0) {
      perror(argv[i + 2 + k]);
      return 1;
    }
    w.size[k] = s.st_size;
    bytes += s.st_size;
    if (use_mmap) w.map[k] = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_SHARED, w.in[k], 0);
  }
  bytes += w.size[0];
  pthread_t threads[MAX_THREAD];
  for (int t = 0; t < n_thread; t++) pthread_create(&threads[t], NULL, worker, &w);
  for (int t = 0; t < n_thread; t++) pthread_join(threads[t], NULL);
  if (sync_output && fsync(w.out) != 0) w.failed = 1;
  double seconds = ingot_clock_s() - start;
  if (w.failed) {
    fprintf(stderr, "limit: reading or writing failed\n");
    return 1;
  }
  printf("%lld bytes, %.3f s, %.2f GB/s, CPU %.3f s, %s, %d threads\n", (long long)bytes, seconds,
         (double)bytes / seconds / 1e9, ingot_clock_cpu_s(), use_mmap ? "mmap" : "pread", n_thread);
  return 0;
}
