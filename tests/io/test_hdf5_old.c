/* Files in HDF5's older format: written by h5py or by HDF5's calls, whole and damaged. */
#define _GNU_SOURCE

#include "tests/io/scratch_folder.h"

#include <hdf5.h>
#include <inttypes.h>

#include "io/source.h"
#include "tests/check.h"

enum { MAX_BYTES = 1 << 16 };

static char file_path[SCRATCH_PATH];

static int begin(void **state)
{
  (void)state;
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  scratch_begin(&folder);
  scratch_path(&folder, "old.h5", file_path);
  return 0;
}

typedef struct image { /* a file's bytes, to be damaged */
  unsigned char bytes[MAX_BYTES];
  size_t        size;
} image;

static image load(const char *path)
{
  static image file;
  FILE        *f = fopen(path, "rb");
  assert_non_null(f);
  file.size = fread(file.bytes, 1, sizeof file.bytes, f);
  fclose(f);
  assert_true(file.size > 100 && file.size < sizeof file.bytes);
  return file;
}

static void store(const image *file, size_t size)
{
  scratch_write(&folder, "old.h5", file->bytes, size);
}

/* The n-th place, from 0, of some bytes in a file. */
static size_t find(const image *file, const void *bytes, size_t size, int n)
{
  const unsigned char *at = file->bytes;
  for (;; at++) {
    at = memmem(at, file->size - (size_t)(at - file->bytes), bytes, size);
    assert_non_null(at);
    if (n-- == 0) return (size_t)(at - file->bytes);
  }
}

static uint64_t number(const unsigned char *at)
{
  uint64_t value = 0;
  for (int i = 7; i >= 0; i--) value = value << 8 | at[i];
  return value;
}

static void set_number(unsigned char *at, uint64_t value)
{
  for (int i = 0; i < 8; i++) at[i] = (unsigned char)(value >> (8 * i));
}

static void check_refused(const char *message)
{
  ingot_source *src = NULL;
  check_fails(ingot_source_open(file_path, &src), INGOT_ERR_FORMAT, message);
  assert_message(ingot_error_message(), file_path);
  assert_null(src);
}

static ingot_source *open_good(const char *path, int n_tensor)
{
  ingot_source *src = NULL;
  check_ok(ingot_source_open(path, &src));
  assert_int_equal(ingot_source_count(src), n_tensor);
  assert_int_equal(ingot_source_n_side_file(src), 0);
  return src;
}

static void check_tensor(const ingot_source *src, const char *name, ingot_dtype dtype, const char *shape,
                         const void *bytes, size_t size)
{
  char text[INGOT_SHAPE_TEXT], found[64];
  int  i = ingot_source_find(src, name);
  assert_true(i >= 0);
  const ingot_tensor_info *t = ingot_source_tensor(src, i);
  assert_int_equal(t->dtype, dtype);
  assert_string_equal(ingot_shape_text(&t->shape, text), shape);
  assert_int_equal(t->bytes, size);
  assert_false(t->has_checksum);
  assert_true(size <= sizeof found);
  check_ok(ingot_source_read(src, i, 0, size, found));
  assert_memory_equal(found, bytes, size);
}

/* What old_format.py wrote. */
static void test_h5py(void **state)
{
  (void)state;
  const float    embed[6] = {0, 0.5f, 1, 1.5f, 2, 2.5f};
  const uint16_t half[2] = {0x3e00, 0xc000}, ids[3] = {7, 65535, 0};
  const int64_t  step = -7;
  ingot_source  *src = open_good(INGOT_TEST_DIR "/io/old_format.h5", 6);
  check_tensor(src, "model.embed.weight", INGOT_DTYPE_F32, "[2, 3]", embed, sizeof embed);
  check_tensor(src, "layers/0/mask", INGOT_DTYPE_BOOL, "[2]", "\1\0", 2);
  check_tensor(src, "layers/0/half", INGOT_DTYPE_F16, "[2]", half, sizeof half);
  check_tensor(src, "step", INGOT_DTYPE_I64, "[]", &step, sizeof step);
  check_tensor(src, "none", INGOT_DTYPE_F64, "[0, 3]", "", 0);
  check_tensor(src, "ids", INGOT_DTYPE_U16, "[3]", ids, sizeof ids);
  ingot_source_close(&src);
}

static hid_t create_file(hid_t creation)
{
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  assert_true(H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_LATEST) >= 0);
  hid_t file = H5Fcreate(file_path, H5F_ACC_TRUNC, creation, access);
  assert_true(file >= 0);
  H5Pclose(access);
  return file;
}

static void write_data(hid_t file, const char *name, hid_t type, int n_dim, hid_t creation, const void *data)
{
  const hsize_t extent[9] = {2, 2, 1, 1, 1, 1, 1, 1, 1};
  hid_t         space = n_dim ? H5Screate_simple(n_dim, extent, NULL) : H5Screate(H5S_SCALAR);
  hid_t         dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  assert_true(dataset >= 0);
  if (data) assert_true(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

static const float four[4] = {1, -2, 0.5f, 4};

/* A file with "a" and "b", each [2, 2]. */
static void write_two(void)
{
  hid_t file = create_file(H5P_DEFAULT);
  write_data(file, "a", H5T_IEEE_F32LE, 2, H5P_DEFAULT, four);
  write_data(file, "b", H5T_IEEE_F32LE, 2, H5P_DEFAULT, four);
  assert_true(H5Fclose(file) >= 0);
}

/* More names than one node of the B-tree holds: nodes over nodes. Superblock 1, which other sizes of nodes ask for. */
static void test_many_names(void **state)
{
  (void)state;
  enum { N = 400 };
  char  name[32];
  hid_t creation = H5Pcreate(H5P_FILE_CREATE);
  assert_true(H5Pset_sym_k(creation, 4, 2) >= 0 && H5Pset_istore_k(creation, 16) >= 0);
  hid_t file = create_file(creation);
  H5Pclose(creation);
  for (int i = 0; i < N; i++) {
    int64_t value = i * i;
    snprintf(name, sizeof name, "tensor.%03d", i);
    write_data(file, name, H5T_STD_I64LE, 0, H5P_DEFAULT, &value);
  }
  assert_true(H5Fclose(file) >= 0);
  FILE *f = fopen(file_path, "rb");
  assert_true(f && fseek(f, 8, SEEK_SET) == 0);
  assert_int_equal(fgetc(f), 1);
  fclose(f);
  ingot_source *src = open_good(file_path, N);
  for (int i = 0; i < N; i++) {
    int64_t value = i * i;
    snprintf(name, sizeof name, "tensor.%03d", i);
    check_tensor(src, name, INGOT_DTYPE_I64, "[]", &value, sizeof value);
  }
  ingot_source_close(&src);
}

/* The older layout messages, in the place of the one that HDF5 writes: version 3, kind 1, address, size. */
static void test_layout_versions(void **state)
{
  (void)state;
  write_two();
  ingot_source *src = open_good(file_path, 2);
  uint64_t      place = ingot_source_tensor(src, ingot_source_find(src, "a"))->offset;
  ingot_source_close(&src);
  unsigned char message[10] = {3, 1};
  set_number(message + 2, place);
  image          file = load(file_path);
  unsigned char *at = file.bytes + find(&file, message, sizeof message, 0);
  for (unsigned char version = 1; version <= 2; version++) {
    const unsigned char older[8] = {version, 3, 1}; /* two extents and the bytes of an element follow the address */
    memcpy(at, older, sizeof older);
    set_number(at + 8, place);
    set_number(at + 16, (uint64_t)2 << 32 | 2);
    store(&file, file.size);
    src = open_good(file_path, 2);
    check_tensor(src, "a", INGOT_DTYPE_F32, "[2, 2]", four, sizeof four);
    ingot_source_close(&src);
  }
  at[0] = 6;
  store(&file, file.size);
  check_refused("\"a\": the layout is of an unknown version");
}

enum refused {
  CHUNKED,
  COMPACT,
  EXTERNAL,
  UNWRITTEN,
  SWAPPED,
  STRING,
  RANK_9,
  SHARED_TYPE,
  NAMED_TYPE,
  TWICE,
  SOFT,
  TENSORS,
  NEWER,
  EMPTY,
  N_REFUSED
};

static void write_refused(enum refused what)
{
  const hsize_t two[2] = {2, 2};
  hid_t       file = create_file(H5P_DEFAULT), creation = H5Pcreate(H5P_DATASET_CREATE), type = H5Tcopy(H5T_IEEE_F32LE);
  hid_t       groups = H5Pcreate(H5P_GROUP_CREATE);
  const void *data = four;
  if (what == CHUNKED) H5Pset_chunk(creation, 2, two);
  if (what == COMPACT) H5Pset_layout(creation, H5D_COMPACT);
  if (what == EXTERNAL) H5Pset_external(creation, "elsewhere.raw", 0, sizeof four);
  if (what == EXTERNAL || what == UNWRITTEN) data = NULL;
  if (what == SWAPPED) assert_true(H5Tset_order(type, H5T_ORDER_BE) >= 0);
  if (what == STRING) {
    H5Tclose(type);
    type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 4);
  }
  if (what == SHARED_TYPE || what == NAMED_TYPE) {
    hid_t named = what == SHARED_TYPE ? type : H5Tcopy(type);
    assert_true(H5Tcommit2(file, what == SHARED_TYPE ? "z" : "a", named, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT) >= 0);
    if (what == NAMED_TYPE) H5Tclose(named);
  }
  if (what != EMPTY) write_data(file, "x", type, what == RANK_9 ? 9 : 2, creation, data);
  if (what == TWICE) assert_true(H5Lcreate_hard(file, "x", file, "y", H5P_DEFAULT, H5P_DEFAULT) >= 0);
  if (what == SOFT) assert_true(H5Lcreate_soft("/x", file, "y", H5P_DEFAULT, H5P_DEFAULT) >= 0);
  if (what == NEWER) H5Pset_link_creation_order(groups, H5P_CRT_ORDER_TRACKED);
  if (what == TENSORS || what == NEWER)
    H5Gclose(H5Gcreate2(file, what == TENSORS ? "tensors" : "g", H5P_DEFAULT, groups, H5P_DEFAULT));
  H5Pclose(groups);
  H5Pclose(creation);
  H5Tclose(type);
  assert_true(H5Fclose(file) >= 0);
}

static void test_refused(void **state)
{
  (void)state;
  static const char *const messages[N_REFUSED] = {
      [CHUNKED] = "tensor \"x\": the dataset is chunked or compressed, expected a contiguous one",
      [COMPACT] = "tensor \"x\": the dataset is compact, expected a contiguous one",
      [EXTERNAL] = "tensor \"x\": the data is in an external file",
      [UNWRITTEN] = "tensor \"x\": the dataset has no data (never written)",
      [SWAPPED] = "tensor \"x\": element type 32-bit float, big-endian is not one that ingot knows",
      [STRING] = "tensor \"x\": element type 32-bit string is not one that ingot knows",
      [RANK_9] = "tensor \"x\": shape has 9 dimensions, at most 8 are supported",
      [SHARED_TYPE] = "\"x\": its type or shape is shared with other objects, expected its own",
      [NAMED_TYPE] = "\"a\" is neither a dataset nor a group",
      [TWICE] = "\"x\" is there under several names, expected one",
      [SOFT] = "tensor \"y\" is a link to elsewhere, expected a dataset",
      [TENSORS] = "group \"/tensors\" in a file of HDF5's older format",
      [NEWER] = "\"g\" is of HDF5's newer format, in a file of the older one",
      [EMPTY] = "it has no datasets",
  };
  for (int what = 0; what < N_REFUSED; what++) {
    write_refused((enum refused)what);
    check_refused(messages[what]);
  }
}

/* One change to a sound file for each thing that is looked at. */
static void test_damage(void **state)
{
  (void)state;
  write_two();
  const image  sound = load(file_path);
  const size_t tree = find(&sound, "TREE", 4, 0), heap = find(&sound, "HEAP", 4, 0), node = find(&sound, "SNOD", 4, 0);
  const size_t names = (size_t)number(sound.bytes + heap + 24), root = (size_t)number(sound.bytes + 64);
  const size_t a = (size_t)number(sound.bytes + node + 16), b = (size_t)number(sound.bytes + node + 56);
  assert_string_equal(sound.bytes + names + number(sound.bytes + node + 8), "a");
  const struct {
    size_t      at;
    int         bytes; /* written, of the value */
    uint64_t    value;
    const char *message;
  } cases[] = {
      {10, 1, 1, "the superblock names versions that are not known"},
      {13, 1, 4, "addresses of 4 bytes and lengths of 8, expected 8 and 8"},
      {24, 8, 512, "the superblock shifts addresses or names a driver"},
      {40, 8, sound.size + 1, "and its superblock says"},
      {48, 8, 96, "the superblock shifts addresses or names a driver"},
      {64, 8, sound.size, "\"/\": object header: 16 bytes at"},
      {64, 8, tree, "\"/\": no object header where one is expected"},
      {64, 8, a, "the root is not a group"},
      {64, 8, UINT64_MAX, "reach beyond the file"},
      {root + 8, 4, 1 << 20, "\"/\": object header: 1048576 bytes at"},
      {root + 18, 2, 1000, "\"/\": a message reaches beyond its header"},
      {tree, 1, 'S', "no node of the group's B-tree where one is expected"},
      {tree + 4, 1, 1, "no node of the group's B-tree where one is expected"},
      {tree + 5, 1, 1, "no node of the group's B-tree where one is expected"}, /* the node under it is none */
      {tree + 6, 2, 60000, "\"/\": B-tree: 960008 bytes at"},
      {tree + 6, 2, 0, "it has no datasets"},
      {tree + 32, 8, tree, "no symbol node where the B-tree says"},
      {heap, 1, 'h', "no local heap where the group says"},
      {heap + 8, 8, UINT64_MAX, "\"/\": local heap: 18446744073709551615 bytes at"},
      {heap + 8, 8, 1, "a name is not inside the group's heap"},
      {node + 4, 1, 2, "no symbol node where the B-tree says"},
      {node + 6, 2, 60000, "\"/\": symbol node: 2400000 bytes at"},
      {node + 8, 8, 0, "a name is empty, or has a slash"},
      {node + 8, 8, UINT64_MAX, "a name is not inside the group's heap"},
      {node + 56, 8, a, "two parts of the file overlap at byte"},
      {node + 48, 8, number(sound.bytes + node + 8), "tensor \"a\" is there twice"},
      {names + number(sound.bytes + node + 8), 1, '/', "a name is empty, or has a slash"},
      {a, 1, 2, "\"a\": no object header where one is expected"},
      {a + 4, 4, 2, "\"a\" is there under several names, expected one"},
      {b + 8, 4, 0, "\"b\": its header describes neither a group nor a dataset"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    image file = sound;
    for (int k = 0; k < cases[i].bytes; k++)
      file.bytes[cases[i].at + (size_t)k] = (unsigned char)(cases[i].value >> (8 * k));
    store(&file, file.size);
    check_refused(cases[i].message);
  }
  image circle = sound; /* the symbol table as a continuation of the header, at itself */
  circle.bytes[root + 16] = 0x10;
  set_number(circle.bytes + root + 24, root + 16);
  set_number(circle.bytes + root + 32, 24);
  store(&circle, circle.size);
  check_refused("\"/\": parts of the file refer to each other in circles");
}

/* Wherever a file ends: an error, and no crash. */
static void test_truncated(void **state)
{
  (void)state;
  write_two();
  image file = load(file_path);
  for (size_t size = 9; size < file.size; size += 13) {
    ingot_source *src = NULL;
    store(&file, size);
    assert_int_equal(ingot_source_open(file_path, &src), INGOT_ERR_FORMAT);
    assert_message(ingot_error_message(), "(truncated?)");
    assert_null(src);
  }
}

/* Whatever bit is wrong: an error that names the file, or tensors that lie in it. */
static void test_flipped_bits(void **state)
{
  (void)state;
  int n_refused = 0;
  write_two();
  image file = load(file_path);
  for (size_t bit = 0; bit < 8 * file.size; bit += 23) {
    ingot_source *src = NULL;
    if (bit / 8 == 8) continue; /* the version of the superblock */
    file.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    store(&file, file.size);
    file.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    ingot_status st = ingot_source_open(file_path, &src);
    if (st != INGOT_OK) {
      n_refused++;
      assert_int_equal(st, INGOT_ERR_FORMAT);
      assert_message(ingot_error_message(), file_path);
      continue;
    }
    for (int i = 0; i < ingot_source_count(src); i++) {
      const ingot_tensor_info *t = ingot_source_tensor(src, i);
      assert_true(t->offset <= file.size && t->bytes <= file.size - t->offset);
    }
    ingot_source_close(&src);
  }
  assert_true(n_refused > 50);
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_h5py, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_many_names, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_layout_versions, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_refused, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_damage, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_truncated, begin, folder_end),
      cmocka_unit_test_setup_teardown(test_flipped_bits, begin, folder_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
