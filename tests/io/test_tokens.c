/* io/tokens: files and data sets, windows and their labels. Expected values are worked out by hand beside each case. */
#define _XOPEN_SOURCE 700
#include "tests/check.h"

#include <hdf5.h>
#include <sys/stat.h>

#include "io/tokens.h"
#include "tests/io/scratch.h"

enum { LENGTH_MAX = 16 };

typedef struct window {
  int32_t ids[LENGTH_MAX], labels[LENGTH_MAX], positions[LENGTH_MAX], first_key[LENGTH_MAX], valid[LENGTH_MAX];
} window;

static ingot_status read_window(const ingot_tokens *t, const ingot_window_spec *spec, int64_t index, window *w)
{
  return ingot_window_read(t, spec, index, 0, w->ids, w->labels, w->positions, w->first_key, w->valid);
}

static void expect(const int32_t *found, const int32_t *expected, int n)
{
  for (int i = 0; i < n; i++) assert_int_equal(found[i], expected[i]);
}

/* A file of these ids, opened. */
static ingot_tokens *open_ids(const scratch *s, const uint16_t *ids, size_t n)
{
  char          path[SCRATCH_PATH];
  ingot_tokens *t = NULL;
  unsigned char bytes[64];
  for (size_t i = 0; i < n; i++) {
    bytes[2 * i] = (unsigned char)(ids[i] & 255);
    bytes[2 * i + 1] = (unsigned char)(ids[i] >> 8);
  }
  scratch_write(s, "ids.u16", bytes, 2 * n);
  check_ok(ingot_tokens_open(scratch_path(s, "ids.u16", path), NULL, &t));
  assert_int_equal(ingot_tokens_count(t), n);
  return t;
}

static void test_flat_files(void **state)
{
  (void)state;
  scratch       s;
  char          path[SCRATCH_PATH];
  ingot_tokens *t = NULL;
  int32_t       ids[3];
  scratch_begin(&s);
  static const unsigned char wide[12] = {1, 0, 0, 0, 0, 2, 1, 0, 255, 255, 255, 127}; /* 1, 66048, 2^31 - 1 */
  scratch_write(&s, "a.u32", wide, sizeof wide);
  check_ok(ingot_tokens_open(scratch_path(&s, "a.u32", path), NULL, &t));
  assert_int_equal(ingot_tokens_count(t), 3);
  check_ok(ingot_tokens_read(t, 0, 3, 0, ids));
  expect(ids, (const int32_t[]){1, 66048, INT32_MAX}, 3);
  check_ok(ingot_tokens_read(t, 1, 1, 66049, ids));
  check_fails(ingot_tokens_read(t, 0, 2, 66048, ids), INGOT_ERR_FORMAT,
              "a.u32: token 1 is 66048, and ids go from 0 to 66047 (the model's vocabulary)");
  ingot_tokens_close(&t);
  assert_null(t);
  /* the same bytes as u16: the type given is stronger than the name */
  check_ok(ingot_tokens_open(path, "u16", &t));
  assert_int_equal(ingot_tokens_count(t), 6);
  ingot_tokens_close(&t);
  static const unsigned char negative[4] = {0, 0, 0, 128};
  scratch_write(&s, "b.u32", negative, 4);
  check_ok(ingot_tokens_open(scratch_path(&s, "b.u32", path), NULL, &t));
  check_fails(ingot_tokens_read(t, 0, 1, 0, ids), INGOT_ERR_FORMAT,
              "token 0 is 2147483648, and ids go from 0 to 2147483647");
  ingot_tokens_close(&t);
  scratch_end(&s);
}

/* More tokens than are read at a time. */
static void test_long_read(void **state)
{
  (void)state;
  enum { N = 10000 };
  static unsigned char bytes[2 * N];
  static int32_t       ids[N];
  scratch              s;
  char                 path[SCRATCH_PATH];
  ingot_tokens        *t = NULL;
  scratch_begin(&s);
  for (int i = 0; i < N; i++) {
    bytes[2 * i] = (unsigned char)(i & 255);
    bytes[2 * i + 1] = (unsigned char)(i >> 8);
  }
  scratch_write(&s, "long.u16", bytes, sizeof bytes);
  check_ok(ingot_tokens_open(scratch_path(&s, "long.u16", path), NULL, &t));
  check_ok(ingot_tokens_read(t, 3, N - 3, N, ids));
  for (int i = 0; i < N - 3; i++) assert_int_equal(ids[i], i + 3);
  check_fails(ingot_tokens_read(t, 0, N, 9000, ids), INGOT_ERR_FORMAT, "token 9000 is 9000");
  ingot_tokens_close(&t);
  scratch_end(&s);
}

static void test_bad_files(void **state)
{
  (void)state;
  scratch       s;
  char          path[SCRATCH_PATH];
  ingot_tokens *t = NULL;
  scratch_begin(&s);
  check_fails(ingot_tokens_open(scratch_path(&s, "none.u16", path), NULL, &t), INGOT_ERR_NOTFOUND, "none.u16");
  assert_null(t);
  check_fails(ingot_tokens_open(scratch_path(&s, "none.h5", path), NULL, &t), INGOT_ERR_NOTFOUND, "none.h5");
  check_fails(ingot_tokens_open(s.dir, "u16", &t), INGOT_ERR_NOTFOUND, "not a file");
  assert_int_equal(mkfifo(scratch_path(&s, "pipe.u16", path), 0600), 0); /* nobody writes into it */
  check_fails(ingot_tokens_open(path, NULL, &t), INGOT_ERR_NOTFOUND, "pipe.u16: not a file");
  assert_int_equal(mkfifo(scratch_path(&s, "pipe.h5", path), 0600), 0);
  check_fails(ingot_tokens_open(path, NULL, &t), INGOT_ERR_NOTFOUND, "pipe.h5: not a file");
  scratch_write(&s, "odd.u16", "abc", 3);
  check_fails(ingot_tokens_open(scratch_path(&s, "odd.u16", path), NULL, &t), INGOT_ERR_FORMAT,
              "odd.u16: 3 bytes are no whole number of 2-byte token ids");
  scratch_write(&s, "odd.u32", "abcdef", 6);
  check_fails(ingot_tokens_open(scratch_path(&s, "odd.u32", path), NULL, &t), INGOT_ERR_FORMAT,
              "6 bytes are no whole number of 4-byte token ids");
  scratch_write(&s, "ids.bin", "abcd", 4);
  check_fails(ingot_tokens_open(scratch_path(&s, "ids.bin", path), NULL, &t), INGOT_ERR_FORMAT,
              "does not say the type");
  check_fails(ingot_tokens_open(path, "u64", &t), INGOT_ERR_FORMAT, "\"u64\" is no type of token ids");
  scratch_write(&s, "no.h5", "not HDF5", 8);
  check_fails(ingot_tokens_open(scratch_path(&s, "no.h5", path), NULL, &t), INGOT_ERR_FORMAT, "not an HDF5 file");
  scratch_end(&s);
}

static void write_data(hid_t file, const char *name, hid_t type, int n_dim, const hsize_t *extent, const void *data)
{
  hid_t space = H5Screate_simple(n_dim, extent, NULL);
  hid_t dataset = H5Dcreate(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(dataset >= 0 && H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

static void test_hdf5(void **state)
{
  (void)state;
  scratch       s;
  char          path[SCRATCH_PATH], named[SCRATCH_PATH + 16];
  ingot_tokens *t = NULL;
  int32_t       ids[5];
  const int64_t data[5] = {7, 70000, 0, 3, -1};
  scratch_begin(&s);
  hid_t file = H5Fcreate(scratch_path(&s, "t.h5", path), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  hid_t group = H5Gcreate(file, "g", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  write_data(file, "square", H5T_STD_I64LE, 2, (const hsize_t[]){2, 2}, data);
  write_data(group, "ids", H5T_STD_I32BE, 1, (const hsize_t[]){5}, data);
  H5Gclose(group);
  H5Fclose(file);
  check_ok(ingot_tokens_open(path, NULL, &t)); /* the only one of one dimension */
  assert_int_equal(ingot_tokens_count(t), 5);
  check_ok(ingot_tokens_read(t, 1, 3, 0, ids));
  expect(ids, (const int32_t[]){70000, 0, 3}, 3);
  check_fails(ingot_tokens_read(t, 0, 5, 0, ids), INGOT_ERR_FORMAT, "token 4 is -1");
  ingot_tokens_close(&t);
  snprintf(named, sizeof named, "%s:/g/ids", path);
  check_ok(ingot_tokens_open(named, NULL, &t));
  ingot_tokens_close(&t);
  snprintf(named, sizeof named, "%s:/g/no", path);
  check_fails(ingot_tokens_open(named, NULL, &t), INGOT_ERR_FORMAT, "no data set \"/g/no\"");
  snprintf(named, sizeof named, "%s:/square", path);
  check_fails(ingot_tokens_open(named, NULL, &t), INGOT_ERR_FORMAT, "not a one-dimensional array of integers");
  file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
  write_data(file, "more", H5T_STD_U16LE, 1, (const hsize_t[]){1}, data);
  H5Fclose(file);
  check_fails(ingot_tokens_open(path, NULL, &t), INGOT_ERR_FORMAT, "2 one-dimensional data sets of integers");
  scratch_end(&s);
}

/* Ways to store ids in HDF5's older format: one range of a file is read as it is, the rest by HDF5. */
static void test_hdf5_older(void **state)
{
  (void)state;
  const int64_t data[5] = {7, 127, 0, 3, -1};
  const struct {
    hid_t type;
    bool  chunked;
  } cases[] = {{H5T_STD_I8LE, false},  {H5T_STD_I16LE, false}, {H5T_STD_I32LE, false},
               {H5T_STD_I64LE, false}, {H5T_STD_I16LE, true},  {H5T_STD_I64BE, false}};
  const hsize_t extent = 5, chunk = 2;
  scratch       s;
  char          path[SCRATCH_PATH];
  ingot_tokens *t = NULL;
  int32_t       ids[5];
  scratch_begin(&s);
  scratch_path(&s, "t.h5", path);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate_simple(1, &extent, NULL);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (cases[i].chunked) H5Pset_chunk(creation, 1, &chunk);
    hid_t set = H5Dcreate(file, "ids", cases[i].type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    assert_true(H5Dwrite(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(set);
    H5Pclose(creation);
    H5Sclose(space);
    H5Fclose(file);
    check_ok(ingot_tokens_open(path, NULL, &t));
    assert_int_equal(ingot_tokens_count(t), 5);
    check_ok(ingot_tokens_read(t, 1, 3, 128, ids));
    expect(ids, (const int32_t[]){127, 0, 3}, 3);
    check_fails(ingot_tokens_read(t, 0, 5, 0, ids), INGOT_ERR_FORMAT, "token 4 is -1");
    ingot_tokens_close(&t);
  }
  assert_int_equal(truncate(path, 1000), 0);
  check_fails(ingot_tokens_open(path, NULL, &t), INGOT_ERR_FORMAT, "the file has 1000 bytes");
  scratch_end(&s);
}

static void test_windows(void **state)
{
  (void)state;
  scratch           s;
  window            w;
  const uint16_t    ids[10] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  ingot_window_spec spec = {.length = 4, .document = -1};
  scratch_begin(&s);
  ingot_tokens *t = open_ids(&s, ids, 10);
  assert_int_equal(ingot_window_count(t, &spec), 2);
  check_ok(read_window(t, &spec, 1, &w));
  expect(w.ids, (const int32_t[]){14, 15, 16, 17}, 4);
  expect(w.labels, (const int32_t[]){15, 16, 17, -1}, 4);
  expect(w.positions, (const int32_t[]){0, 1, 2, 3}, 4);
  expect(w.first_key, (const int32_t[]){0, 0, 0, 0}, 4);
  expect(w.valid, (const int32_t[]){1, 1, 1, 1}, 4);
  spec.limit = 1;
  assert_int_equal(ingot_window_count(t, &spec), 1);
  spec.limit = 0;
  /* two tokens are left: a short window with one prediction */
  spec.partial = true;
  assert_int_equal(ingot_window_count(t, &spec), 3);
  check_ok(read_window(t, &spec, 2, &w));
  expect(w.ids, (const int32_t[]){18, 19, 0, 0}, 4);
  expect(w.labels, (const int32_t[]){19, -1, -1, -1}, 4);
  expect(w.valid, (const int32_t[]){1, 1, 0, 0}, 4);
  spec.length = 3; /* one token is left: nothing to predict */
  assert_int_equal(ingot_window_count(t, &spec), 3);
  spec.length = 11;
  assert_int_equal(ingot_window_count(t, &spec), 1);
  spec.partial = false;
  assert_int_equal(ingot_window_count(t, &spec), 0);
  ingot_tokens_close(&t);
  scratch_end(&s);
}

/* Stride 2 of length 4: windows at 0, 2, 4, 6; each predicts the two tokens that the one before has not seen, and all
 * of 11 .. 19 exactly once. */
static void test_overlap(void **state)
{
  (void)state;
  scratch           s;
  window            w;
  int               seen[32] = {0};
  const uint16_t    ids[11] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
  ingot_window_spec spec = {.length = 4, .stride = 2, .document = -1, .partial = true};
  scratch_begin(&s);
  ingot_tokens *t = open_ids(&s, ids, 11);
  assert_int_equal(ingot_window_count(t, &spec), 5); /* 4 full ones, and 18 19 20 for 20 */
  check_ok(read_window(t, &spec, 1, &w));
  expect(w.labels, (const int32_t[]){-1, 14, 15, -1}, 4);
  for (int i = 0; i < 5; i++) {
    check_ok(read_window(t, &spec, i, &w));
    for (int k = 0; k < 4; k++)
      if (w.labels[k] >= 0) seen[w.labels[k]]++;
  }
  for (int i = 11; i <= 20; i++) assert_int_equal(seen[i], 1);
  ingot_tokens_close(&t);
  t = open_ids(&s, ids, 10);
  assert_int_equal(ingot_window_count(t, &spec), 4); /* 18 19 alone would predict nothing new */
  spec.stride = 7;                                   /* gaps: windows at 0 and 7 (short) */
  assert_int_equal(ingot_window_count(t, &spec), 2);
  spec.partial = false;
  assert_int_equal(ingot_window_count(t, &spec), 1);
  ingot_tokens_close(&t);
  scratch_end(&s);
}

/* Windows at 0 4 of 10 tokens begin 1 or 3 later; the second has no room for 3 and ends with the file. */
static void test_shift(void **state)
{
  (void)state;
  scratch           s;
  window            w;
  const uint16_t    ids[10] = {10, 11, 12, 13, 14, 15, 16, 17, 18, 19};
  ingot_window_spec spec = {.length = 4, .document = -1, .shift = 1};
  scratch_begin(&s);
  ingot_tokens *t = open_ids(&s, ids, 10);
  assert_int_equal(ingot_window_count(t, &spec), 2);
  check_ok(read_window(t, &spec, 0, &w));
  expect(w.ids, (const int32_t[]){11, 12, 13, 14}, 4);
  spec.shift = 3;
  check_ok(read_window(t, &spec, 1, &w));
  expect(w.ids, (const int32_t[]){16, 17, 18, 19}, 4);
  expect(w.labels, (const int32_t[]){17, 18, 19, -1}, 4);
  ingot_tokens_close(&t);
  scratch_end(&s);
}

static void test_documents(void **state)
{
  (void)state;
  scratch           s;
  window            w;
  const uint16_t    ids[8] = {5, 6, 0, 7, 8, 0, 9, 4};
  ingot_window_spec spec = {.length = 8, .document = 0, .separate = true};
  scratch_begin(&s);
  ingot_tokens *t = open_ids(&s, ids, 8);
  check_ok(read_window(t, &spec, 0, &w));
  expect(w.labels, (const int32_t[]){6, -1, 7, 8, -1, 9, 4, -1}, 8);
  expect(w.positions, (const int32_t[]){0, 1, 0, 1, 2, 0, 1, 2}, 8);
  expect(w.first_key, (const int32_t[]){0, 0, 2, 2, 2, 5, 5, 5}, 8);
  spec.separate = false;
  check_ok(read_window(t, &spec, 0, &w));
  expect(w.labels, (const int32_t[]){6, 0, 7, 8, 0, 9, 4, -1}, 8);
  expect(w.first_key, (const int32_t[]){0, 0, 0, 0, 0, 0, 0, 0}, 8);
  ingot_tokens_close(&t);
  scratch_end(&s);
}

/* Every window comes once, in an order that the seed decides. */
static void test_shuffle(void **state)
{
  (void)state;
  scratch           s;
  window            w;
  uint16_t          ids[30];
  int               order[2][15], seen[15] = {0}, n_same = 0, n_in_place = 0;
  ingot_window_spec spec = {.length = 2, .document = -1, .shuffle = true};
  scratch_begin(&s);
  for (int i = 0; i < 30; i++) ids[i] = (uint16_t)i;
  ingot_tokens *t = open_ids(&s, ids, 30);
  assert_int_equal(ingot_window_count(t, &spec), 15);
  for (int k = 0; k < 2; k++) {
    spec.seed = (uint64_t)k + 5;
    for (int i = 0; i < 15; i++) {
      check_ok(read_window(t, &spec, i, &w));
      order[k][i] = w.ids[0] / 2;
      if (k == 0) seen[order[k][i]]++;
    }
  }
  for (int i = 0; i < 15; i++) {
    assert_int_equal(seen[i], 1);
    n_same += order[0][i] == order[1][i];
    n_in_place += order[0][i] == i;
  }
  assert_true(n_same < 8 && n_in_place < 8);
  ingot_tokens_close(&t);
  scratch_end(&s);
}

static void test_identity(void **state)
{
  (void)state;
  scratch        s;
  const uint16_t ids[3] = {1, 2, 3};
  scratch_begin(&s);
  ingot_tokens *t = open_ids(&s, ids, 3);
  uint64_t      first = ingot_tokens_identity(t);
  ingot_tokens_close(&t);
  t = open_ids(&s, ids, 2);
  assert_true(ingot_tokens_identity(t) != first);
  assert_non_null(strstr(ingot_tokens_path(t), "ids.u16"));
  ingot_tokens_close(&t);
  ingot_tokens_close(&t); /* NULL is fine */
  scratch_end(&s);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_flat_files), cmocka_unit_test(test_long_read),  cmocka_unit_test(test_bad_files),
      cmocka_unit_test(test_hdf5),       cmocka_unit_test(test_hdf5_older), cmocka_unit_test(test_windows),
      cmocka_unit_test(test_overlap),    cmocka_unit_test(test_shift),      cmocka_unit_test(test_documents),
      cmocka_unit_test(test_shuffle),    cmocka_unit_test(test_identity),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
