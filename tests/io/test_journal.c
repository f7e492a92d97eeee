/* Records survive, damage is noticed, and a journal of another job is refused. */
#define _XOPEN_SOURCE 700
#include "io/journal.h"
#include "scratch.h"

#include <fcntl.h>

enum { N_TILE = 5000 };
static const uint64_t fingerprint = 0x1122334455667788u;

typedef struct fixture {
  scratch scratch;
  char    output[SCRATCH_PATH], path[SCRATCH_PATH];
} fixture;

static int begin(void **state)
{
  fixture *f = calloc(1, sizeof *f);
  assert_non_null(f);
  scratch_begin(&f->scratch);
  scratch_path(&f->scratch, "out.h5", f->output);
  scratch_path(&f->scratch, "out.h5.journal", f->path);
  *state = f;
  return 0;
}

static int end(void **state)
{
  fixture *f = *state;
  scratch_end(&f->scratch);
  free(f);
  return 0;
}

static uint64_t sum_of(int64_t tile)
{
  return (uint64_t)tile * 0x9E3779B97F4A7C15u + 1;
}

static ingot_journal *start(const fixture *f, int64_t step)
{
  ingot_journal *j = NULL;
  assert_int_equal(ingot_journal_create(f->output, fingerprint, N_TILE), INGOT_OK);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_OK);
  for (int64_t t = 0; t < N_TILE; t += step) assert_int_equal(ingot_journal_record(j, t, sum_of(t)), INGOT_OK);
  return j;
}

static int count_done(ingot_journal *j, bool *done)
{
  static uint64_t sums[N_TILE];
  int             n = 0;
  assert_int_equal(ingot_journal_load(j, done, sums), INGOT_OK);
  for (int64_t t = 0; t < N_TILE; t++) {
    if (!done[t]) continue;
    assert_true(sums[t] == sum_of(t));
    n++;
  }
  return n;
}

static void write_at(const char *path, off_t offset, const void *bytes, size_t size)
{
  int fd = open(path, O_WRONLY);
  assert_true(fd >= 0);
  assert_int_equal(pwrite(fd, bytes, size, offset), size);
  close(fd);
}

static void records(void **state)
{
  fixture       *f = *state;
  bool           done[N_TILE];
  ingot_journal *j = start(f, 3);
  assert_int_equal(count_done(j, done), (N_TILE + 2) / 3);
  for (int64_t t = 0; t < N_TILE; t++) assert_int_equal(done[t], t % 3 == 0);
  ingot_journal_close(&j);
  assert_null(j);
  ingot_journal_close(&j);

  /* Another process adds some, then a new journal forgets all. */
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_OK);
  assert_int_equal(ingot_journal_record(j, N_TILE - 1, sum_of(N_TILE - 1)), INGOT_OK);
  assert_int_equal(count_done(j, done), (N_TILE + 2) / 3 + 1);
  ingot_journal_close(&j);
  j = start(f, N_TILE);
  assert_int_equal(count_done(j, done), 1);
  ingot_journal_close(&j);
  assert_int_equal(access(f->path, F_OK), 0);
}

static void bytes_on_disk(void **state)
{
  fixture       *f = *state;
  unsigned char  found[64 + 16];
  ingot_journal *j = start(f, N_TILE);
  int            fd = open(f->path, O_RDONLY);
  assert_true(fd >= 0);
  assert_int_equal(pread(fd, found, sizeof found, 0), sizeof found);
  assert_int_equal(lseek(fd, 0, SEEK_END), 64 + 16 * N_TILE);
  close(fd);
  ingot_journal_close(&j);
  static const unsigned char header[64] =
      {'I', 'N', 'G', 'O',  'T',  'J',  'N',  'L',  1,    0,    0,    0,    0,
       0,   0,   0,   0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x88, 0x13}; /* 5000 = 0x1388 */
  assert_memory_equal(found, header, 64);
  static const unsigned char one[8] = {1};
  assert_memory_equal(found + 64, one, 8); /* sum_of(0) */
}

static void damaged_records(void **state)
{
  fixture       *f = *state;
  bool           done[N_TILE];
  ingot_journal *j = start(f, 1);
  unsigned char  junk[24];
  memset(junk, 0xA5, sizeof junk);
  write_at(f->path, 64 + 16 * 10, junk, 1);      /* checksum of tile 10 */
  write_at(f->path, 64 + 16 * 20 + 15, junk, 1); /* seal of tile 20 */
  write_at(f->path, 64 + 16 * 30 + 8, junk, 16); /* seal of 30, checksum of 31 */
  assert_int_equal(count_done(j, done), N_TILE - 4);
  assert_false(done[10] || done[20] || done[30] || done[31]);

  /* A record copied to another place is not that tile's. */
  unsigned char record[16];
  int           fd = open(f->path, O_RDONLY);
  assert_int_equal(pread(fd, record, 16, 64 + 16 * 40), 16);
  close(fd);
  write_at(f->path, 64 + 16 * 41, record, 16);
  assert_int_equal(count_done(j, done), N_TILE - 5);
  assert_false(done[41]);

  /* Zeros are what a lost page looks like. */
  static const unsigned char zeros[16];
  write_at(f->path, 64 + 16 * 50, zeros, 16);
  assert_int_equal(count_done(j, done), N_TILE - 6);
  assert_int_equal(truncate(f->path, 64 + 16 * 4500 + 7), 0);
  assert_int_equal(count_done(j, done), 4500 - 6);
  assert_false(done[4500]);
  ingot_journal_close(&j);
}

static void refused(void **state)
{
  fixture       *f = *state;
  ingot_journal *j = NULL;
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "out.h5.journal: cannot open: No such file");
  j = start(f, 1);
  ingot_journal_close(&j);
  assert_int_equal(ingot_journal_open(f->output, fingerprint + 1, N_TILE, &j), INGOT_ERR_EXISTS);
  assert_message(ingot_error_message(), "fingerprint 1122334455667788, expected 1122334455667789");
  assert_null(j);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE + 1, &j), INGOT_ERR_EXISTS);
  assert_message(ingot_error_message(), "an output of 5000 tiles, expected 5001");
  write_at(f->path, 8, "\2", 1);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_ERR_EXISTS);
  assert_message(ingot_error_message(), "version 2, expected 1");
  write_at(f->path, 0, "x", 1);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "is not a journal");
  assert_int_equal(truncate(f->path, 63), 0);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, N_TILE, &j), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "63 bytes, expected at least 64");
}

static void cannot_create(void **state)
{
  fixture *f = *state;
  char     path[SCRATCH_PATH];
  scratch_path(&f->scratch, "no/such/folder/out.h5", path);
  assert_int_equal(ingot_journal_create(path, fingerprint, N_TILE), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "no/such/folder/out.h5.journal.new: cannot create");
}

static void no_tiles(void **state)
{
  fixture       *f = *state;
  ingot_journal *j = NULL;
  assert_int_equal(ingot_journal_create(f->output, fingerprint, 0), INGOT_OK);
  assert_int_equal(ingot_journal_open(f->output, fingerprint, 0, &j), INGOT_OK);
  assert_int_equal(ingot_journal_load(j, NULL, NULL), INGOT_OK);
  ingot_journal_close(&j);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(records, begin, end),
      cmocka_unit_test_setup_teardown(bytes_on_disk, begin, end),
      cmocka_unit_test_setup_teardown(damaged_records, begin, end),
      cmocka_unit_test_setup_teardown(refused, begin, end),
      cmocka_unit_test_setup_teardown(cannot_create, begin, end),
      cmocka_unit_test_setup_teardown(no_tiles, begin, end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
