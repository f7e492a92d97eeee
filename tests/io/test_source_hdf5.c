/* Reading ingot checkpoints: written here with HDF5 calls, never with our own sink. */
#define _GNU_SOURCE

#include "tests/io/scratch_folder.h"

#include <hdf5.h>

#include "io/hdf5_types.h"
#include "io/source.h"

/* HDF5 loses some memory of its own when the opening of a damaged file fails. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
  return "leak:libhdf5";
}

static char file_path[SCRATCH_PATH];

static int begin(void **state)
{
  (void)state;
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  scratch_begin(&folder);
  scratch_path(&folder, "model.h5", file_path);
  return 0;
}

static void write_attribute(hid_t object, const char *name, hid_t type, const void *value)
{
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(attribute >= 0);
  assert_true(H5Awrite(attribute, type, value) >= 0);
  H5Aclose(attribute);
  H5Sclose(space);
}

/* A file with its version and its two groups. */
static hid_t create_file(int version)
{
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  assert_true(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0);
  hid_t file = H5Fcreate(file_path, H5F_ACC_TRUNC, H5P_DEFAULT, access);
  H5Pclose(access);
  assert_true(file >= 0);
  if (version) write_attribute(file, "ingot_format_version", H5T_NATIVE_INT, &version);
  H5Gclose(H5Gcreate2(file, "tensors", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Gclose(H5Gcreate2(file, "files", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  return file;
}

static hid_t contiguous(void)
{
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_layout(creation, H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
  return creation;
}

/* A dataset with bytes as they are (file type and memory type are the same); takes the creation list. */
static hid_t create_dataset(hid_t file, const char *name, hid_t type, int n_dim, const hsize_t *extent, hid_t creation,
                            const void *bytes)
{
  hid_t links = H5Pcreate(H5P_LINK_CREATE);
  hid_t space = n_dim ? H5Screate_simple(n_dim, extent, NULL) : H5Screate(H5S_SCALAR);
  H5Pset_create_intermediate_group(links, 1);
  hid_t dataset = H5Dcreate2(file, name, type, space, links, creation, H5P_DEFAULT);
  assert_true(dataset >= 0);
  if (bytes) assert_true(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes) >= 0);
  H5Pclose(creation);
  H5Pclose(links);
  H5Sclose(space);
  return dataset;
}

static void write_good(void)
{
  hid_t          file = create_file(1), type = -1;
  const hsize_t  two_by_three[] = {2, 3}, four[] = {4}, none[] = {0, 5};
  const uint16_t halves[6] = {0x3f80, 0x4000, 0x4040, 0xbf80, 0x7f80, 0x0001};
  const float    floats[4] = {1.0f, -2.0f, 0.5f, 1e30f};
  const uint64_t checksum = 0xfedcba9876543210u;
  const int64_t  scalar = -7;
  assert_int_equal(ingot_hdf5_type_create(INGOT_DTYPE_BF16, &type), INGOT_OK);
  hid_t dataset = create_dataset(file, "tensors/layer.0/q.weight", type, 2, two_by_three, contiguous(), halves);
  write_attribute(dataset, "checksum", H5T_NATIVE_UINT64, &checksum);
  H5Dclose(dataset);
  H5Tclose(type);
  H5Dclose(create_dataset(file, "tensors/bias", H5T_IEEE_F32LE, 1, four, contiguous(), floats));
  H5Dclose(create_dataset(file, "tensors/step", H5T_STD_I64LE, 0, NULL, contiguous(), &scalar));
  H5Dclose(create_dataset(file, "tensors/none", H5T_STD_U8LE, 2, none, contiguous(), NULL));
  H5Dclose(create_dataset(file, "files/config.json", H5T_STD_U8LE, 1, four, contiguous(), "{\n }"));
  H5Dclose(create_dataset(file, "files/empty", H5T_STD_U8LE, 1, none, contiguous(), NULL));

  hid_t varying = H5Tcopy(H5T_C_S1), fixed = H5Tcopy(H5T_C_S1);
  H5Tset_size(varying, H5T_VARIABLE);
  H5Tset_cset(varying, H5T_CSET_UTF8);
  H5Tset_size(fixed, 5);
  H5Tset_strpad(fixed, H5T_STR_NULLPAD);
  const char *recipe = "linear";
  write_attribute(file, "varying", varying, &recipe);
  write_attribute(file, "fixed", fixed, "12345"); /* no room for a final zero */
  H5Tset_size(fixed, 9);
  H5Tset_cset(fixed, H5T_CSET_UTF8);
  write_attribute(file, "ingot_recipe", fixed, "linear \xc3\xa9");
  H5Tclose(varying);
  H5Tclose(fixed);
  assert_true(H5Fclose(file) >= 0);
}

static void test_good(void **state)
{
  (void)state;
  ingot_source *src = NULL;
  write_good();
  ingot_status st = ingot_source_open(file_path, &src);
  if (st != INGOT_OK) print_error("%s\n", ingot_error_message());
  assert_int_equal(st, INGOT_OK);
  assert_int_equal(ingot_source_kind_of(src), INGOT_SOURCE_HDF5);
  assert_int_equal(ingot_source_count(src), 4);
  assert_int_equal(ingot_source_n_file(src), 1);

  int i = ingot_source_find(src, "layer.0/q.weight");
  assert_true(i >= 0);
  const ingot_tensor_info *q = ingot_source_tensor(src, i);
  const uint16_t           halves[6] = {0x3f80, 0x4000, 0x4040, 0xbf80, 0x7f80, 0x0001};
  uint16_t                 read_halves[6];
  assert_int_equal(q->dtype, INGOT_DTYPE_BF16);
  assert_int_equal(q->shape.n_dim, 2);
  assert_int_equal(q->shape.dim[1], 3);
  assert_true(q->has_checksum);
  assert_true(q->checksum == 0xfedcba9876543210u);
  assert_int_equal(ingot_source_read(src, i, 0, 12, read_halves), INGOT_OK);
  assert_memory_equal(read_halves, halves, 12);

  float value = 0.0f;
  i = ingot_source_find(src, "bias");
  assert_false(ingot_source_tensor(src, i)->has_checksum);
  assert_int_equal(ingot_source_read(src, i, 4, 4, &value), INGOT_OK);
  assert_true(value == -2.0f);
  int64_t scalar = 0;
  i = ingot_source_find(src, "step");
  assert_int_equal(ingot_source_tensor(src, i)->shape.n_dim, 0);
  assert_int_equal(ingot_source_read(src, i, 0, 8, &scalar), INGOT_OK);
  assert_int_equal(scalar, -7);
  assert_int_equal(ingot_source_tensor(src, ingot_source_find(src, "none"))->bytes, 0);

  ingot_text bytes = {0};
  assert_int_equal(ingot_source_n_side_file(src), 2);
  assert_string_equal(ingot_source_side_file_name(src, 0), "config.json");
  assert_int_equal(ingot_source_side_file_read(src, 0, &bytes), INGOT_OK);
  assert_string_equal(ingot_text_string(&bytes), "{\n }");
  assert_int_equal(ingot_source_side_file_read(src, 1, &bytes), INGOT_OK);
  assert_int_equal(bytes.size, 4);
  assert_string_equal(ingot_source_attribute(src, "ingot_recipe"), "linear \xc3\xa9");
  assert_string_equal(ingot_source_attribute(src, "fixed"), "12345");
  assert_null(ingot_source_attribute(src, "ingot_format_version"));
  assert_null(ingot_source_attribute(src, "varying"));

  ingot_source *copy = NULL;
  bytes.size = 0;
  assert_int_equal(ingot_source_pack(src, &bytes), INGOT_OK);
  assert_int_equal(ingot_source_unpack(bytes.bytes, bytes.size, &copy), INGOT_OK);
  i = ingot_source_find(copy, "layer.0/q.weight");
  assert_true(ingot_source_tensor(copy, i)->checksum == 0xfedcba9876543210u);
  assert_string_equal(ingot_source_attribute(copy, "ingot_recipe"), "linear \xc3\xa9");
  assert_int_equal(ingot_source_n_side_file(copy), 0);
  assert_int_equal(ingot_source_identity(copy), ingot_source_identity(src));
  ingot_source_close(&copy);
  ingot_source_close(&src);
  ingot_text_release(&bytes);
}

/* Fields as the HDF5 manual numbers them: size, precision, sign, exponent position and bits, mantissa bits, bias. */
static void test_types(void **state)
{
  (void)state;
  static const struct {
    ingot_dtype dtype;
    size_t      size, sign, exponent, exponent_bits, mantissa_bits, bias;
  } rows[] = {
      {INGOT_DTYPE_F64, 8, 63, 52, 11, 52, 1023}, {INGOT_DTYPE_F32, 4, 31, 23, 8, 23, 127},
      {INGOT_DTYPE_F16, 2, 15, 10, 5, 10, 15},    {INGOT_DTYPE_BF16, 2, 15, 7, 8, 7, 127},
      {INGOT_DTYPE_F8_E4M3, 1, 7, 3, 4, 3, 7},    {INGOT_DTYPE_F8_E5M2, 1, 7, 2, 5, 2, 15},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    hid_t  type = -1;
    size_t sign, exponent, exponent_bits, mantissa, mantissa_bits;
    assert_int_equal(ingot_hdf5_type_create(rows[i].dtype, &type), INGOT_OK);
    assert_true(H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) >= 0);
    assert_int_equal(H5Tget_size(type), rows[i].size);
    assert_int_equal(H5Tget_precision(type), 8 * rows[i].size);
    assert_int_equal(H5Tget_order(type), H5T_ORDER_LE);
    assert_int_equal(sign, rows[i].sign);
    assert_int_equal(exponent, rows[i].exponent);
    assert_int_equal(exponent_bits, rows[i].exponent_bits);
    assert_int_equal(mantissa, 0);
    assert_int_equal(mantissa_bits, rows[i].mantissa_bits);
    assert_int_equal(H5Tget_ebias(type), rows[i].bias);
    assert_int_equal(H5Tget_norm(type), H5T_NORM_IMPLIED);
    H5Tclose(type);
  }
  for (int d = 0; d < INGOT_DTYPE_COUNT; d++) {
    hid_t       type = -1;
    ingot_dtype found = INGOT_DTYPE_COUNT;
    assert_int_equal(ingot_hdf5_type_create((ingot_dtype)d, &type), INGOT_OK);
    assert_int_equal(H5Tget_size(type), ingot_dtype_size((ingot_dtype)d));
    assert_true(ingot_hdf5_type_recognise(type, &found));
    assert_int_equal(found, d);
    H5Tclose(type);
  }
  ingot_dtype none;
  char        text[96];
  assert_false(ingot_hdf5_type_recognise(H5T_IEEE_F32BE, &none));
  ingot_hdf5_type swapped = ingot_hdf5_type_describe(H5T_IEEE_F32BE);
  assert_string_equal(ingot_hdf5_type_text(&swapped, text), "32-bit float, big-endian");
  assert_false(ingot_hdf5_type_recognise(H5T_STD_I16BE, &none));
  assert_false(ingot_hdf5_type_recognise(H5T_C_S1, &none));
  assert_true(ingot_hdf5_type_recognise(H5T_STD_U8BE, &none)); /* one byte has no order */
  /* The converter of HDF5 reads our bfloat16 as numbers, which proves the fields. */
  uint16_t halves[4] = {0x3fc0, 0xc000, 0x0080, 0x7f80};
  float    wide[4];
  hid_t    type = -1;
  memcpy(wide, halves, sizeof halves);
  assert_int_equal(ingot_hdf5_type_create(INGOT_DTYPE_BF16, &type), INGOT_OK);
  assert_true(H5Tconvert(type, H5T_NATIVE_FLOAT, 4, wide, NULL, H5P_DEFAULT) >= 0);
  assert_true(wide[0] == 1.5f && wide[1] == -2.0f && wide[2] == 0x1p-126f && wide[3] > 3.4e38f);
  H5Tclose(type);
}

static void check_broken(const char *message)
{
  ingot_source *src = NULL;
  ingot_status  st = ingot_source_open(file_path, &src);
  if (st != INGOT_ERR_FORMAT) print_error("case \"%s\" gave %s\n", message, ingot_status_name(st));
  assert_int_equal(st, INGOT_ERR_FORMAT);
  assert_null(src);
  assert_message(ingot_error_message(), message);
  assert_message(ingot_error_message(), file_path);
}

/* Neither our attribute nor our group: datasets are tensors, their paths the names. */
static void test_others(void **state)
{
  static const float values[2][2] = {{1, 2}, {2, 5}};
  const hsize_t      extent[2] = {2, 2};
  ingot_source      *src = NULL;
  float              back[4];
  hid_t              file = create_file(0);
  (void)state;
  H5Ldelete(file, "tensors", H5P_DEFAULT);
  H5Ldelete(file, "files", H5P_DEFAULT);
  H5Fclose(file);
  check_broken("not an ingot checkpoint (no root attribute \"ingot_format_version\"), and it has no datasets");
  file = create_file(0);
  H5Ldelete(file, "tensors", H5P_DEFAULT);
  H5Ldelete(file, "files", H5P_DEFAULT);
  hid_t space = H5Screate_simple(2, extent, NULL),
        group = H5Gcreate2(file, "layer", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  hid_t dataset = H5Dcreate2(group, "0.q", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
  H5Dclose(dataset);
  H5Gclose(group);
  H5Sclose(space);
  H5Fclose(file);
  assert_int_equal(ingot_source_open(file_path, &src), INGOT_OK);
  assert_int_equal(ingot_source_count(src), 1);
  assert_int_equal(ingot_source_n_side_file(src), 0);
  assert_string_equal(ingot_source_tensor(src, 0)->name, "layer/0.q");
  assert_int_equal(ingot_source_tensor(src, 0)->dtype, INGOT_DTYPE_F32);
  assert_int_equal(ingot_source_read(src, 0, 0, sizeof back, back), INGOT_OK);
  assert_memory_equal(back, values, sizeof back);
  ingot_source_close(&src);
}

static void test_version(void **state)
{
  (void)state;
  H5Fclose(create_file(0));
  check_broken("not an ingot checkpoint: no root attribute \"ingot_format_version\"");
  H5Fclose(create_file(2));
  check_broken("format version 2, this program reads version 1");
  hid_t file = create_file(0);
  float version = 1.0f;
  write_attribute(file, "ingot_format_version", H5T_NATIVE_FLOAT, &version);
  H5Fclose(file);
  check_broken("attribute \"ingot_format_version\" is not one integer");
  file = create_file(1);
  H5Ldelete(file, "tensors", H5P_DEFAULT);
  H5Fclose(file);
  check_broken("no group \"/tensors\"");
}

enum broken_dataset {
  SWAPPED,
  STRING,
  CHUNKED,
  COMPACT,
  UNALLOCATED,
  EXTERNAL,
  NO_SHAPE,
  RANK_9,
  BAD_CHECKSUM,
  N_BROKEN
};

static void write_broken(enum broken_dataset what)
{
  hid_t         file = create_file(1), creation = contiguous(), type = H5T_IEEE_F32LE;
  const hsize_t four[] = {4}, many[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  const float   floats[4] = {0};
  const void   *bytes = floats;
  if (what == SWAPPED) type = H5T_IEEE_F32BE;
  if (what == STRING) type = H5T_C_S1;
  if (what == CHUNKED) {
    H5Pset_chunk(creation, 1, four);
    H5Pset_deflate(creation, 1);
  }
  if (what == COMPACT) H5Pset_layout(creation, H5D_COMPACT);
  if (what == EXTERNAL) H5Pset_external(creation, "elsewhere.raw", 0, sizeof floats);
  if (what == UNALLOCATED || what == EXTERNAL) {
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_LATE);
    bytes = NULL;
  }
  if (what == NO_SHAPE) {
    hid_t space = H5Screate(H5S_NULL);
    H5Dclose(H5Dcreate2(file, "tensors/x", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(creation);
  } else {
    hid_t dataset =
        create_dataset(file, "tensors/x", type, what == RANK_9 ? 9 : 1, what == RANK_9 ? many : four, creation, bytes);
    if (what == BAD_CHECKSUM) write_attribute(dataset, "checksum", H5T_NATIVE_FLOAT, floats);
    H5Dclose(dataset);
  }
  assert_true(H5Fclose(file) >= 0);
}

static void test_broken_datasets(void **state)
{
  (void)state;
  static const char *const messages[N_BROKEN] = {
      [SWAPPED] = "tensor \"x\": element type 32-bit float, big-endian is not one that ingot knows",
      [STRING] = "tensor \"x\": element type 8-bit string is not one",
      [CHUNKED] = "tensor \"x\": the dataset is chunked or compressed, expected a contiguous one",
      [COMPACT] = "tensor \"x\": the dataset is compact, expected a contiguous one",
      [UNALLOCATED] = "tensor \"x\": the dataset has no data",
      [EXTERNAL] = "tensor \"x\": the data is in an external file",
      [NO_SHAPE] = "tensor \"x\": the dataset has no shape",
      [RANK_9] = "tensor \"x\": shape has 9 dimensions, at most 8",
      [BAD_CHECKSUM] = "x: attribute \"checksum\" is not one integer",
  };
  for (int i = 0; i < N_BROKEN; i++) {
    write_broken((enum broken_dataset)i);
    check_broken(messages[i]);
  }
}

static void test_broken_links(void **state)
{
  (void)state;
  hid_t file = create_file(1);
  H5Lcreate_soft("/files", file, "tensors/soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  check_broken("tensor \"soft\" is a link to elsewhere");
  file = create_file(1);
  H5Lcreate_hard(file, "tensors", file, "tensors/loop", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
  check_broken("\"loop\" is there under several names");
  file = create_file(1);
  hid_t type = H5Tcopy(H5T_STD_U8LE);
  H5Tcommit2(file, "tensors/type", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  H5Tclose(type);
  H5Fclose(file);
  check_broken("\"type\" is neither a dataset nor a group");
  file = create_file(1);
  char name[128] = "tensors";
  for (int i = 0; i < 40; i++) {
    strcat(name, "/d");
    H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  }
  H5Fclose(file);
  check_broken("too many or too deep");
  file = create_file(1);
  H5Gclose(H5Gcreate2(file, "files/..", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  H5Fclose(file);
  check_broken("side file \"..\"");
}

static void test_broken_side_file(void **state)
{
  (void)state;
  ingot_source *src = NULL;
  ingot_text    bytes = {0};
  const hsize_t four[] = {4}, huge[] = {INGOT_SIDE_FILE_MAX + 1};
  const float   floats[4] = {0};
  hid_t         file = create_file(1);
  H5Dclose(create_dataset(file, "files/a", H5T_IEEE_F32LE, 1, four, contiguous(), floats));
  H5Gclose(H5Gcreate2(file, "files/b", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE); /* nothing written: no bytes on disk */
  H5Dclose(create_dataset(file, "files/c", H5T_STD_U8LE, 1, huge, creation, NULL));
  H5Fclose(file);
  assert_int_equal(ingot_source_open(file_path, &src), INGOT_OK);
  assert_int_equal(ingot_source_side_file_read(src, 0, &bytes), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "side file \"a\" is not a dataset of unsigned bytes");
  assert_int_equal(ingot_source_side_file_read(src, 1, &bytes), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "side file \"b\" is not a dataset");
  assert_int_equal(ingot_source_side_file_read(src, 2, &bytes), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "side file \"c\" has 67108865 bytes, the limit is 67108864");
  ingot_source_close(&src);
  ingot_text_release(&bytes);
}

static unsigned char *load(size_t *size)
{
  FILE *f = fopen(file_path, "rb");
  assert_non_null(f);
  assert_int_equal(fseek(f, 0, SEEK_END), 0);
  *size = (size_t)ftell(f);
  rewind(f);
  unsigned char *bytes = malloc(*size);
  assert_non_null(bytes);
  assert_int_equal(fread(bytes, 1, *size, f), *size);
  fclose(f);
  return bytes;
}

static void test_truncated(void **state)
{
  (void)state;
  size_t size = 0;
  write_good();
  unsigned char *bytes = load(&size);
  for (size_t cut = 0; cut < size; cut += cut < 64 ? 1 : 61) {
    ingot_source *src = NULL;
    scratch_write(&folder, "model.h5", bytes, cut);
    assert_int_equal(ingot_source_open(file_path, &src), INGOT_ERR_FORMAT);
    assert_message(ingot_error_message(), file_path);
    assert_null(src);
  }
  memset(bytes, 0x5a, size);
  scratch_write(&folder, "model.h5", bytes, size);
  check_broken("not an HDF5 file: it does not begin with the signature");
  memcpy(bytes, "\211HDF\r\n\032\n\2", 9);
  scratch_write(&folder, "model.h5", bytes, size);
  check_broken("not a readable HDF5 file");
  free(bytes);
}

/* One byte changed: the file opens or it does not, and whatever is read lies inside it. */
static void test_damaged(void **state)
{
  (void)state;
  size_t     size = 0;
  int        n_refused = 0;
  ingot_text text = {0};
  write_good();
  unsigned char *bytes = load(&size);
  for (size_t at = 0; at < size; at += 11) {
    ingot_source *src = NULL;
    char          first[4];
    bytes[at] ^= 0xff;
    scratch_write(&folder, "model.h5", bytes, size);
    bytes[at] ^= 0xff;
    if (ingot_source_open(file_path, &src) != INGOT_OK) {
      n_refused++;
      assert_message(ingot_error_message(), file_path);
      continue;
    }
    for (int i = 0; i < ingot_source_count(src); i++) {
      const ingot_tensor_info *t = ingot_source_tensor(src, i);
      assert_int_equal(ingot_source_read(src, i, 0, t->bytes < 4 ? t->bytes : 4, first), INGOT_OK);
    }
    for (int i = 0; i < ingot_source_n_side_file(src); i++) (void)ingot_source_side_file_read(src, i, &text);
    ingot_source_close(&src);
  }
  assert_true(n_refused > 0);
  ingot_text_release(&text);
  free(bytes);
}

/* Groups that are too large for a header have their names in trees and heaps: damage there is an error, too. */
static void test_damaged_names(void **state)
{
  static const char *const blocks[] = {"FRHP", "FHDB", "FHIB", "BTHD", "BTLF", "BTIN"};
  enum { N_TENSOR = 200, N_SIDE = 20 };
  const hsize_t one[] = {1};
  const float   value = 1;
  char          name[64];
  size_t        size = 0;
  int           n_damaged = 0;
  ingot_source *src = NULL;
  hid_t         file = create_file(1);
  (void)state;
  for (int i = 0; i < N_TENSOR; i++) {
    snprintf(name, sizeof name, "tensors/%d.weight", i * 37 % N_TENSOR);
    H5Dclose(create_dataset(file, name, H5T_IEEE_F32LE, 1, one, contiguous(), &value));
  }
  for (int i = 0; i < N_SIDE; i++) {
    snprintf(name, sizeof name, "files/%02d.json", i * 7 % N_SIDE);
    H5Dclose(create_dataset(file, name, H5T_STD_U8LE, 1, one, contiguous(), "x"));
  }
  H5Fclose(file);
  assert_int_equal(ingot_source_open(file_path, &src), INGOT_OK);
  assert_int_equal(ingot_source_count(src), N_TENSOR);
  for (int i = 0; i < N_SIDE; i++) {
    snprintf(name, sizeof name, "%02d.json", i);
    assert_string_equal(ingot_source_side_file_name(src, i), name);
  }
  ingot_source_close(&src);
  unsigned char *bytes = load(&size);
  for (size_t at = 0; at + 16 < size; at++) {
    bool is_block = false;
    for (size_t k = 0; k < sizeof blocks / sizeof blocks[0]; k++)
      is_block = is_block || memcmp(bytes + at, blocks[k], 4) == 0;
    if (!is_block) continue;
    bytes[at + 12] ^= 0xff;
    scratch_write(&folder, "model.h5", bytes, size);
    bytes[at + 12] ^= 0xff;
    assert_int_equal(ingot_source_open(file_path, &src), INGOT_ERR_FORMAT);
    assert_message(ingot_error_message(), file_path);
    n_damaged++;
  }
  assert_true(n_damaged > 4);
  free(bytes);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, begin, folder_end)

int main(void)
{
  const struct CMUnitTest tests[] = {
      CASE(test_good),    CASE(test_types),         CASE(test_version),          CASE(test_broken_datasets),
      CASE(test_others),  CASE(test_broken_links),  CASE(test_broken_side_file), CASE(test_truncated),
      CASE(test_damaged), CASE(test_damaged_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
