/* Reading single safetensors files: what a good one gives, and what each broken one says. */
#define _GNU_SOURCE

#include "tests/io/scratch_folder.h"

#include <fcntl.h>

#include "io/source.h"

/* Three tensors, given out of file order; the payload is 0, 1, 2, ... */
static const char good_header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                  "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                                  "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                                  "\"empty\":{\"dtype\":\"F64\",\"shape\":[4,0],\"data_offsets\":[8,8]},"
                                  "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[20,21]}}   ";
enum { GOOD_PAYLOAD = 21 };

static void write_good(const char *name)
{
  unsigned char payload[GOOD_PAYLOAD];
  for (int i = 0; i < GOOD_PAYLOAD; i++) payload[i] = (unsigned char)i;
  scratch_safetensors(&folder, name, good_header, payload, sizeof payload);
}

static ingot_source *open_good(const char *path)
{
  ingot_source *src = NULL;
  ingot_status  st = ingot_source_open(path, &src);
  if (st != INGOT_OK) print_error("%s\n", ingot_error_message());
  assert_int_equal(st, INGOT_OK);
  assert_non_null(src);
  return src;
}

static void check_good(const ingot_source *src)
{
  assert_int_equal(ingot_source_kind_of(src), INGOT_SOURCE_SAFETENSORS);
  assert_int_equal(ingot_source_count(src), 4);
  static const char *const names[] = {"a", "empty", "b", "scalar"};
  uint64_t                 at = 8 + strlen(good_header);
  for (int i = 0; i < 4; i++) {
    assert_string_equal(ingot_source_tensor(src, i)->name, names[i]);
    assert_int_equal(ingot_source_find(src, names[i]), i);
  }
  assert_int_equal(ingot_source_find(src, "c"), -1);
  assert_int_equal(ingot_source_find(src, ""), -1);
  const ingot_tensor_info *b = ingot_source_tensor(src, 2);
  assert_int_equal(b->dtype, INGOT_DTYPE_BF16);
  assert_int_equal(b->shape.n_dim, 2);
  assert_int_equal(b->shape.dim[0], 2);
  assert_int_equal(b->shape.dim[1], 3);
  assert_int_equal(b->n_elem, 6);
  assert_int_equal(b->bytes, 12);
  assert_int_equal(b->offset, at + 8);
  assert_false(b->has_checksum);
  assert_int_equal(ingot_source_tensor(src, 1)->n_elem, 0);
  assert_int_equal(ingot_source_tensor(src, 3)->n_elem, 1);
  assert_int_equal(ingot_source_n_file(src), 1);
  assert_int_equal(ingot_source_file_bytes(src, 0), at + GOOD_PAYLOAD);

  unsigned char bytes[12] = {0};
  assert_int_equal(ingot_source_read(src, 2, 0, 12, bytes), INGOT_OK);
  for (int i = 0; i < 12; i++) assert_int_equal(bytes[i], 8 + i);
  assert_int_equal(ingot_source_read(src, 2, 5, 3, bytes), INGOT_OK);
  for (int i = 0; i < 3; i++) assert_int_equal(bytes[i], 13 + i);
  assert_int_equal(ingot_source_read(src, 1, 0, 0, NULL), INGOT_OK);
  ingot_source_prefetch(src, 2, 0, 12);
  ingot_source_prefetch(src, 2, 11, 5); /* outside: nothing happens */
}

static void test_good(void **state)
{
  (void)state;
  char path[SCRATCH_PATH];
  write_good("good.safetensors");
  ingot_source *src = open_good(scratch_path(&folder, "good.safetensors", path));
  assert_string_equal(ingot_source_path(src), path);
  check_good(src);
  assert_int_equal(ingot_source_n_side_file(src), 0);
  assert_null(ingot_source_attribute(src, "format"));

  unsigned char bytes[16];
  assert_int_equal(ingot_source_read(src, 2, 8, 5, bytes), INGOT_ERR_INTERNAL);
  assert_int_equal(ingot_source_read(src, 2, UINT64_MAX, 2, bytes), INGOT_ERR_INTERNAL);
  assert_message(ingot_error_message(), "outside its 12");
  ingot_source_close(&src);
  assert_null(src);
  ingot_source_close(&src);
}

static void test_all_dtypes(void **state)
{
  (void)state;
  static const struct {
    const char *name;
    int         bytes;
  } rows[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4},
              {"I16", 2}, {"I8", 1},  {"U64", 8}, {"U32", 4},  {"U16", 2},     {"U8", 1},      {"BOOL", 1}};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char header[128], path[SCRATCH_PATH], payload[24] = {0};
    snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}", rows[i].name,
             3 * rows[i].bytes);
    scratch_safetensors(&folder, "x.safetensors", header, payload, (size_t)(3 * rows[i].bytes));
    ingot_source *src = open_good(scratch_path(&folder, "x.safetensors", path));
    assert_string_equal(ingot_dtype_name(ingot_source_tensor(src, 0)->dtype), rows[i].name);
    ingot_source_close(&src);
  }
}

static void test_pack(void **state)
{
  (void)state;
  char          path[SCRATCH_PATH];
  ingot_text    bytes = {0};
  ingot_source *copy = NULL;
  write_good("pack.safetensors");
  ingot_source *src = open_good(scratch_path(&folder, "pack.safetensors", path));
  assert_int_equal(ingot_source_pack(src, &bytes), INGOT_OK);
  assert_int_equal(ingot_source_unpack(bytes.bytes, bytes.size, &copy), INGOT_OK);
  check_good(copy);
  assert_string_equal(ingot_source_path(copy), path);
  assert_int_equal(ingot_source_identity(copy), ingot_source_identity(src));
  ingot_source_close(&copy);
  for (size_t cut = 0; cut < bytes.size; cut++) { /* no prefix unpacks, and none crashes */
    assert_int_equal(ingot_source_unpack(bytes.bytes, cut, &copy), INGOT_ERR_INTERNAL);
    assert_null(copy);
  }
  ingot_text_release(&bytes);
  ingot_source_close(&src);
}

static void test_identity(void **state)
{
  (void)state;
  char            path[SCRATCH_PATH];
  struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
  write_good("id.safetensors");
  scratch_path(&folder, "id.safetensors", path);
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
  ingot_source *src = open_good(path);
  uint64_t      first = ingot_source_identity(src);
  ingot_source_close(&src);
  src = open_good(path);
  assert_int_equal(ingot_source_identity(src), first);
  ingot_source_close(&src);

  times[1].tv_nsec = 1; /* a later write */
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
  src = open_good(path);
  assert_int_not_equal(ingot_source_identity(src), first);
  ingot_source_close(&src);

  char  other[sizeof good_header]; /* the same time and size, another header */
  char *name = strcpy(other, good_header) + 32;
  name = strstr(name, "scalar");
  assert_non_null(name);
  name[0] = 'S';
  unsigned char payload[GOOD_PAYLOAD] = {0};
  scratch_safetensors(&folder, "id.safetensors", other, payload, sizeof payload);
  times[1].tv_nsec = 0;
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
  src = open_good(path);
  assert_int_not_equal(ingot_source_identity(src), first);
  ingot_source_close(&src);
}

static void test_changed_in_use(void **state)
{
  (void)state;
  char            path[SCRATCH_PATH];
  struct timespec times[2];
  struct stat     info;
  write_good("used.safetensors");
  ingot_source *src = open_good(scratch_path(&folder, "used.safetensors", path));
  assert_int_equal(ingot_source_check_unchanged(src), INGOT_OK);
  assert_int_equal(stat(path, &info), 0);
  times[0] = info.st_atim;
  times[1] = info.st_mtim;
  times[1].tv_nsec ^= 1;
  assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
  assert_int_equal(ingot_source_check_unchanged(src), INGOT_ERR_MISMATCH);
  assert_message(ingot_error_message(), "used.safetensors: has changed while it was in use: another modification time");
  assert_int_equal(truncate(path, 9), 0);
  assert_int_equal(ingot_source_check_unchanged(src), INGOT_ERR_MISMATCH);
  assert_message(ingot_error_message(), " bytes, is 9");
  assert_int_equal(unlink(path), 0);
  assert_int_equal(ingot_source_check_unchanged(src), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "used.safetensors: has gone while it was in use: No such file");
  ingot_source_close(&src);
}

static void test_became_shorter(void **state)
{
  (void)state;
  char          path[SCRATCH_PATH];
  unsigned char bytes[12];
  write_good("short.safetensors");
  ingot_source *src = open_good(scratch_path(&folder, "short.safetensors", path));
  assert_int_equal(truncate(path, (off_t)(8 + strlen(good_header) + 10)), 0);
  assert_int_equal(ingot_source_read(src, 0, 0, 8, bytes), INGOT_OK);
  assert_int_equal(ingot_source_read(src, 2, 0, 12, bytes), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "short.safetensors: tensor \"b\"");
  assert_message(ingot_error_message(), "wanted 12 bytes");
  assert_message(ingot_error_message(), "got 2");
  ingot_source_close(&src);

  write_good("gone.safetensors");
  src = open_good(scratch_path(&folder, "gone.safetensors", path));
  assert_int_equal(unlink(path), 0);
  ingot_source_prefetch(src, 0, 0, 8);
  assert_int_equal(ingot_source_read(src, 0, 0, 8, bytes), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "gone.safetensors: tensor \"a\": cannot open the file: No such file");
  ingot_source_close(&src);
}

#define ONE(dtype, shape, offsets) "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define X8 "\"x\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}"

/* header, bytes of payload, words of the message: all are INGOT_ERR_FORMAT and name the file */
static const struct {
  const char *header;
  size_t      payload;
  const char *message;
} broken[] = {
    {"", 0, "broken JSON"},
    {"{\"x\"", 0, "broken JSON at line 1, column 4"},
    {"{\"x\":{\"dtype\":\"U8\",}}", 0, "broken JSON at line 1"},
    {"{} {}", 0, "broken JSON at line 1, column 4"},
    {"{\"\xff\":1}", 0, "broken JSON"},
    {"[1,2]", 0, "the header is an array, not an object"},
    {"{" X8 "," X8 "}", 8, "duplicate object key"},
    {"{\"__metadata__\":3}", 0, "\"__metadata__\" is an integer, not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "\"__metadata__\": \"k\" is an integer, not a string"},
    {"{\"x\":[]}", 0, "tensor \"x\" is an array, not an object"},
    {"{\"\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "name is empty"},
    {"{\"a\\u001b[31m\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "its name has the control character 0x1b"},
    {"{\"a\\u007f\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1,
     "its name has the control character 0x7f"},
    {"{\"x\":{\"shape\":[8],\"data_offsets\":[0,8]}}", 8, "tensor \"x\": \"dtype\" is nothing"},
    {"{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,8]}}", 8, "tensor \"x\": \"shape\" is nothing"},
    {"{\"x\":{\"dtype\":\"U8\",\"shape\":[8]}}", 8, "tensor \"x\": \"data_offsets\" is nothing"},
    {ONE("7", "[8]", "[0,8]"), 8, "tensor \"x\": \"dtype\" is an integer, not a string"},
    {ONE("\"Q4\"", "[8]", "[0,8]"), 8, "tensor \"x\": unknown dtype \"Q4\""},
    {ONE("\"float32\"", "[2]", "[0,8]"), 8, "unknown dtype \"float32\""},
    {ONE("\"U8\"", "8", "[0,8]"), 8, "\"shape\" is an integer, not an array"},
    {ONE("\"U8\"", "[-8]", "[0,8]"), 8, "shape[0] is negative: -8"},
    {ONE("\"U8\"", "[8.0]", "[0,8]"), 8, "shape[0] is a number with a fraction"},
    {ONE("\"U8\"", "[8,\"1\"]", "[0,8]"), 8, "shape[1] is a string, not an integer"},
    {ONE("\"U8\"", "[99999999999999999999]", "[0,8]"), 8, "broken JSON"},
    {ONE("\"U8\"", "[4294967296,4294967296]", "[0,8]"), 8, "shape [4294967296, 4294967296] of U8 is too large"},
    {ONE("\"F64\"", "[4611686018427387904]", "[0,8]"), 8, "is too large"},
    {ONE("\"U8\"", "[1,1,1,1,1,1,1,1,8]", "[0,8]"), 8, "shape has 9 dimensions, at most 8"},
    {ONE("\"U8\"", "[8]", "8"), 8, "\"data_offsets\" is an integer, not an array of two"},
    {ONE("\"U8\"", "[8]", "[0]"), 8, "\"data_offsets\" is an array of another length"},
    {ONE("\"U8\"", "[8]", "[0,8,9]"), 8, "\"data_offsets\" is an array of another length"},
    {ONE("\"U8\"", "[8]", "[0,8.5]"), 8, "data_offsets[1] is a number with a fraction"},
    {ONE("\"U8\"", "[8]", "[-1,7]"), 8, "data_offsets[0] is negative: -1"},
    {ONE("\"U8\"", "[8]", "[8,0]"), 8, "data_offsets [8, 0] end before they begin"},
    {ONE("\"U8\"", "[8]", "[0,8]"), 7, "data_offsets [0, 8] reach beyond the file, which has 7 bytes"},
    {ONE("\"U8\"", "[8]", "[9223372036854775800,9223372036854775807]"), 8, "reach beyond the file"},
    {ONE("\"U8\"", "[7]", "[0,8]"), 8, "shape [7] of U8 takes 7 bytes, data_offsets [0, 8] give 8"},
    {ONE("\"F32\"", "[8]", "[0,8]"), 8, "shape [8] of F32 takes 32 bytes, data_offsets [0, 8] give 8"},
    {ONE("\"U8\"", "[8]", "[0,8]"), 12, "4 bytes after the last tensor"},
    {"{}", 5, "5 bytes after the last tensor"},
    {ONE("\"U8\"", "[4]", "[4,8]"), 8, "hole of 4 bytes before tensor \"x\": expected at 0, found at 4"},
    {"{" X8 ",\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[10,12]}}", 12,
     "hole of 2 bytes before tensor \"y\""},
    {"{" X8 ",\"y\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[4,12]}}", 12,
     "tensors \"x\" and \"y\" overlap: the first ends at 8, the second begins at 4"},
    {"{" X8 ",\"y\":{\"dtype\":\"I8\",\"shape\":[8],\"data_offsets\":[0,8]}}", 8, "overlap"},
    {"{" X8 ",\"y\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[4,4]}}", 8, "overlap"},
};

static void check_broken(const char *name, const char *message)
{
  char          path[SCRATCH_PATH];
  ingot_source *src = NULL;
  ingot_status  st = ingot_source_open(scratch_path(&folder, name, path), &src);
  if (st != INGOT_ERR_FORMAT) print_error("case \"%s\" gave %s\n", message, ingot_status_name(st));
  assert_int_equal(st, INGOT_ERR_FORMAT);
  assert_null(src);
  assert_message(ingot_error_message(), message);
  assert_message(ingot_error_message(), path);
}

static void test_broken(void **state)
{
  (void)state;
  char payload[64] = {0};
  for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
    scratch_safetensors(&folder, "broken.safetensors", broken[i].header, payload, broken[i].payload);
    check_broken("broken.safetensors", broken[i].message);
  }
}

static void test_broken_length(void **state)
{
  (void)state;
  scratch_write(&folder, "broken.safetensors", "", 0);
  check_broken("broken.safetensors", "0 bytes are too few");
  scratch_write(&folder, "broken.safetensors", "1234567", 7);
  check_broken("broken.safetensors", "7 bytes are too few");
  scratch_write(&folder, "broken.safetensors", "\x03\0\0\0\0\0\0\0{}", 10);
  check_broken("broken.safetensors", "header length 3 is beyond the end of the file, which has 10 bytes");
  scratch_write(&folder, "broken.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
  check_broken("broken.safetensors", "header length 18446744073709551615 is above the limit of 100000000 bytes");
  scratch_write(&folder, "broken.safetensors", "\x01\xe1\xf5\x05\0\0\0\0{}", 10); /* 100000001 */
  check_broken("broken.safetensors", "header length 100000001 is above the limit");
}

static void test_truncated(void **state)
{
  (void)state;
  size_t size = 8 + strlen(good_header) + GOOD_PAYLOAD;
  for (size_t cut = 0; cut < size; cut++) {
    char path[SCRATCH_PATH];
    write_good("broken.safetensors");
    assert_int_equal(truncate(scratch_path(&folder, "broken.safetensors", path), (off_t)cut), 0);
    check_broken("broken.safetensors", cut < 8                     ? "too few"
                                       : cut < size - GOOD_PAYLOAD ? "beyond the end"
                                                                   : "reach beyond");
  }
}

static void test_not_found(void **state)
{
  (void)state;
  char          path[SCRATCH_PATH];
  ingot_source *src = NULL;
  assert_int_equal(ingot_source_open(scratch_path(&folder, "absent.safetensors", path), &src), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "absent.safetensors: No such file or directory");
  write_good("plain.safetensors");
  assert_int_equal(ingot_source_open(scratch_path(&folder, "plain.safetensors/x", path), &src), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "Not a directory");
  assert_int_equal(mkfifo(scratch_path(&folder, "pipe.safetensors", path), 0600), 0);
  check_broken("pipe.safetensors", "neither a regular file nor a directory");
  scratch_text(&folder, "pytorch_model.bin", "PK\3\4..............");
  check_broken("pytorch_model.bin", "a .bin file cannot be read");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_good),      cmocka_unit_test(test_all_dtypes),     cmocka_unit_test(test_pack),
      cmocka_unit_test(test_identity),  cmocka_unit_test(test_changed_in_use), cmocka_unit_test(test_became_shorter),
      cmocka_unit_test(test_broken),    cmocka_unit_test(test_broken_length),  cmocka_unit_test(test_truncated),
      cmocka_unit_test(test_not_found),
  };
  return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
