/* Means into a file, tile by tile, by one thread and by several. Sums are whole numbers, so their halves are exact. */
#define _GNU_SOURCE
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/tile.h"
#include "io/source.h"
#include "tests/io/scratch.h"
#include "workers/statistics/loop.h"

enum { N_TENSOR = 4 };

static const int64_t     sizes[N_TENSOR] = {2 * INGOT_TILE + 5, 7, INGOT_TILE, 1};
static const char *const names[N_TENSOR] = {"a", "b", "c", "d"};

typedef struct writer_case {
  scratch            s;
  char               path[SCRATCH_PATH];
  ingot_comm        *comm;
  ingot_sink_tensor  tensors[N_TENSOR];
  ingot_gather_plan  plan;
  ingot_stat_writer *writer;
  ingot_dtype        dtype;
  int                bad_tensor, refused; /* has a value that is not finite; cannot be read; -1: none */
} writer_case;

static void open_writer(writer_case *c, ingot_dtype dtype, int n_thread)
{
  *c = (writer_case){.dtype = dtype, .bad_tensor = -1, .refused = -1};
  scratch_begin(&c->s);
  scratch_path(&c->s, "out.h5", c->path);
  check_ok(ingot_comm_init(NULL, NULL, &c->comm));
  check_ok(ingot_fault_init(NULL, 0));
  for (int i = 0; i < N_TENSOR; i++) {
    c->tensors[i] = (ingot_sink_tensor){.name = names[i], .dtype = INGOT_DTYPE_F32, .shape = {.n_dim = 1}};
    c->tensors[i].shape.dim[0] = sizes[i];
  }
  c->plan = (ingot_gather_plan){.output = c->path,
                                .sink = {.path = c->path,
                                         .format = INGOT_SINK_HDF5,
                                         .tensors = c->tensors,
                                         .n_tensor = N_TENSOR},
                                .fingerprint = 77};
  check_ok(ingot_stat_writer_open(c->comm, &c->plan, n_thread, false, &c->writer));
}

static void close_writer(writer_case *c)
{
  ingot_stat_writer_close(&c->writer);
  ingot_comm_finalize(&c->comm);
  scratch_end(&c->s);
}

static double sum_of(int tensor, int64_t element)
{
  return (double)(element % 1000 + tensor);
}

static ingot_status read_sums(void *context, int tensor, int64_t first, int64_t n, void *values)
{
  const writer_case *c = context;
  if (tensor == c->refused) return ingot_fail(INGOT_ERR_DEVICE, "the GPU has gone");
  for (int64_t i = 0; i < n; i++) {
    double sum = tensor == c->bad_tensor && first + i == sizes[tensor] - 1 ? (double)NAN : sum_of(tensor, first + i);
    if (c->dtype == INGOT_DTYPE_F64) ((double *)values)[i] = sum;
    else ((float *)values)[i] = (float)sum;
  }
  return INGOT_OK;
}

static ingot_status put_all(writer_case *c)
{
  ingot_stat_values values = {.context = c, .dtype = c->dtype, .summed = true, .scale = 0.5, .read = read_sums};
  ingot_status      st = INGOT_OK;
  for (int i = 0; i < N_TENSOR && st == INGOT_OK; i++) st = ingot_stat_writer_put(c->writer, i, &values);
  return st;
}

static void check_file(const char *path, const uint64_t *checksums)
{
  ingot_source *src = NULL;
  float        *found = malloc((size_t)sizes[0] * sizeof *found), *tile = malloc(INGOT_TILE * sizeof *tile);
  check_ok(ingot_source_open(path, &src));
  assert_int_equal(ingot_source_count(src), N_TENSOR);
  for (int t = 0; t < N_TENSOR; t++) {
    uint64_t hashes[3];
    int64_t  n_tile = 0;
    int      at = ingot_source_find(src, names[t]);
    assert_true(at >= 0);
    check_ok(ingot_source_read(src, at, 0, (size_t)sizes[t] * sizeof *found, found));
    for (int64_t first = 0; first < sizes[t]; first += INGOT_TILE) {
      int64_t n = sizes[t] - first < INGOT_TILE ? sizes[t] - first : INGOT_TILE;
      for (int64_t i = 0; i < n; i++) tile[i] = (float)(0.5 * sum_of(t, first + i));
      assert_memory_equal(found + first, tile, (size_t)n * sizeof *tile);
      hashes[n_tile++] = ingot_hash(tile, (size_t)n * sizeof *tile);
    }
    assert_true(checksums[t] == ingot_tensor_checksum(hashes, n_tile));
  }
  ingot_source_close(&src);
  free(found);
  free(tile);
}

static void test_written(void **state)
{
  (void)state;
  const int threads[] = {1, 2, 5};
  for (int i = 0; i < 3; i++) {
    writer_case c;
    uint64_t    checksums[N_TENSOR];
    open_writer(&c, i == 1 ? INGOT_DTYPE_F64 : INGOT_DTYPE_F32, threads[i]);
    check_ok(put_all(&c));
    check_ok(ingot_stat_writer_flush(c.writer));
    if (i == 2) { /* flushed in the middle: helpers come back for what follows */
      bool good = false;
      check_ok(ingot_stat_writer_verify(c.writer, N_TENSOR, &good));
      assert_true(good);
      check_ok(put_all(&c));
      check_ok(ingot_stat_writer_flush(c.writer));
    }
    check_ok(ingot_stat_writer_commit(&c.writer, checksums));
    assert_null(c.writer);
    check_file(c.path, checksums);
    close_writer(&c);
  }
}

/* Failures of a tile are told by a later put or by the flush. */
static ingot_status put_and_flush(writer_case *c)
{
  ingot_status st = put_all(c);
  return st == INGOT_OK ? ingot_stat_writer_flush(c->writer) : st;
}

static void test_failures(void **state)
{
  (void)state;
  for (int n_thread = 1; n_thread <= 4; n_thread += 3) {
    writer_case c;
    open_writer(&c, INGOT_DTYPE_F32, n_thread);
    c.bad_tensor = 0;
    check_fails(put_and_flush(&c), INGOT_ERR_NUMERIC, "a: the mean of element 2097156 is not finite");
    ingot_stat_writer_discard(&c.writer);
    assert_true(access(c.path, F_OK) != 0);
    close_writer(&c);

    open_writer(&c, INGOT_DTYPE_F32, n_thread);
    check_ok(ingot_fault_init("write@0:2", 0));
    check_fails(put_and_flush(&c), INGOT_ERR_NOSPACE, "");
    check_ok(ingot_fault_init(NULL, 0));
    close_writer(&c);

    open_writer(&c, INGOT_DTYPE_F32, n_thread);
    c.refused = 2;
    check_fails(put_and_flush(&c), INGOT_ERR_DEVICE, "the GPU has gone");
    ingot_stat_writer_discard(&c.writer);
    assert_string_equal(ingot_error_message(), "the GPU has gone");
    close_writer(&c);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_written), cmocka_unit_test(test_failures)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
