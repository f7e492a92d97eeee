/* inspect, diff and verify: what they print and return. The commands are called as main calls them. */
#define _GNU_SOURCE

#include "tests/io/scratch_folder.h"

#include <fcntl.h>

#include "driver/commands.h"

static char output[1 << 16];

/* Twin of the parser's: the tests give options as a list of words. */
bool ingot_line_has(const ingot_command_line *line, const char *option)
{
  for (int i = 0; i < line->n_given; i++)
    if (strcmp(line->command->options[line->option[i]].name, option) == 0) return true;
  return false;
}

static int option_index(const ingot_command *command, const char *name)
{
  for (int i = 0; command->options && command->options[i].name; i++)
    if (strcmp(command->options[i].name, name) == 0) return i;
  fail();
  return -1;
}

/* Run a command with up to two paths and one option; its stdout goes to `output`. */
static ingot_status run(const ingot_command *command, const char *option, const char *a, const char *b)
{
  char                  path_a[SCRATCH_PATH], path_b[SCRATCH_PATH], path_out[SCRATCH_PATH];
  const char           *args[2] = {scratch_path(&folder, a, path_a), b ? scratch_path(&folder, b, path_b) : NULL};
  int                   given = option ? option_index(command, option) : 0;
  const char           *value = NULL;
  ingot_command_line    line = {.command = command,
                                .args = args,
                                .n_arg = b ? 2 : 1,
                                .option = &given,
                                .value = &value,
                                .n_given = option ? 1 : 0};
  ingot_command_context context = {0};
  fflush(stdout);
  int kept = dup(STDOUT_FILENO);
  int file = open(scratch_path(&folder, "stdout", path_out), O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_true(kept >= 0 && file >= 0);
  dup2(file, STDOUT_FILENO);
  ingot_error_clear();
  ingot_status st = command->run(&context, &line);
  fflush(stdout);
  dup2(kept, STDOUT_FILENO);
  close(kept);
  ssize_t n = pread(file, output, sizeof output - 1, 0);
  close(file);
  assert_true(n >= 0);
  output[n] = '\0';
  return st;
}

#define TENSOR(name, dtype, shape, begin, end) \
  "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const char header[] =
    "{" TENSOR("w", "F32", "[2,2]", 0, 16) "," TENSOR("n", "I32", "[3]", 16, 28) "," TENSOR("h", "BF16", "[2]", 28,
                                                                                            32) "}";

typedef struct payload {
  float    w[4];
  int32_t  n[3];
  uint16_t h[2];
} payload;

static const payload base = {{1.0f, 2.0f, 3.0f, 4.0f}, {1, 2, 3}, {0x3f80, 0x4000}};

static void test_inspect(void **state)
{
  (void)state;
  scratch_safetensors(&folder, "a.safetensors", header, &base, sizeof base);
  assert_int_equal(run(&ingot_command_inspect, NULL, "a.safetensors", NULL), INGOT_OK);
  assert_message(output, "kind:        safetensors file\n");
  assert_message(output, "files:       1 (");
  assert_message(output, "tensors:     3\nparameters:  9\nbytes:       32 (32 B)\n");
  assert_message(output, "F32 (1 tensor, 4 elements), BF16 (1 tensor, 2 elements), I32 (1 tensor, 3 elements)\n");
  assert_message(output, "\nw     F32      [2, 2]              16\nn     I32      [3]                 12\n"
                         "h     BF16     [2]                  4\n");
  assert_int_equal(run(&ingot_command_inspect, "--json", "a.safetensors", NULL), INGOT_OK);
  assert_message(output, "\"kind\": \"safetensors file\"");
  assert_message(output, "\"n_tensor\": 3,\n \"n_parameter\": 9,\n \"bytes\": 32,");
  assert_message(output, "\"dtypes\": {\"F32\": {\"n_tensor\": 1, \"n_parameter\": 4},");
  assert_message(output,
                 "{\"name\": \"n\", \"dtype\": \"I32\", \"shape\": [3], \"bytes\": 12, \"file\": 0, \"offset\": ");
  assert_int_equal(run(&ingot_command_inspect, NULL, "absent", NULL), INGOT_ERR_NOTFOUND);
  assert_string_equal(output, "");
}

static void test_diff_identical(void **state)
{
  (void)state;
  payload nan = base;
  memcpy(&nan.w[1], &(uint32_t){0x7fc00000}, 4); /* the same NaN on both sides is no difference */
  scratch_safetensors(&folder, "a.safetensors", header, &nan, sizeof nan);
  scratch_safetensors(&folder, "b.safetensors", header, &nan, sizeof nan);
  assert_int_equal(run(&ingot_command_diff, NULL, "a.safetensors", "b.safetensors"), INGOT_OK);
  assert_string_equal(output, "identical\n");
  assert_int_equal(run(&ingot_command_diff, "--quiet", "a.safetensors", "b.safetensors"), INGOT_OK);
  assert_string_equal(output, "identical\n");
  assert_int_equal(run(&ingot_command_diff, "--all", "a.safetensors", "b.safetensors"), INGOT_OK);
  assert_string_equal(output, "w: identical\nn: identical\nh: identical\nidentical\n");
  assert_int_equal(run(&ingot_command_diff, "--json", "a.safetensors", "b.safetensors"), INGOT_OK);
  assert_message(output, "\"n_differing\": 0,\n \"identical\": true}");
}

static void test_diff_values(void **state)
{
  (void)state;
  payload other = base;
  other.w[0] = 1.5f; /* 0.5 apart */
  other.w[3] = 3.0f; /* 1 apart: max 1, mean 1.5 / 4 */
  other.n[2] = 4;
  other.h[1] = 0x7f80; /* infinity: not in max and mean */
  scratch_safetensors(&folder, "a.safetensors", header, &base, sizeof base);
  scratch_safetensors(&folder, "b.safetensors", header, &other, sizeof other);
  assert_int_equal(run(&ingot_command_diff, NULL, "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_message(ingot_error_message(), "3 of 3 tensors differ");
  assert_string_equal(output, "w: 2 of 4 elements differ, max 1, mean 0.375\n"
                              "n: 1 of 3 elements differ\n"
                              "h: 1 of 2 elements differ, max 0, mean 0, 1 by NaN or infinity\n"
                              "3 of 3 tensors differ\n");
  assert_int_equal(run(&ingot_command_diff, "--quiet", "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_string_equal(output, "3 of 3 tensors differ\n");
  assert_int_equal(run(&ingot_command_diff, "--json", "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_message(output, "{\"name\": \"w\", \"difference\": \"values\", \"dtype_a\": \"F32\", \"shape_a\": [2, 2], "
                         "\"dtype_b\": \"F32\", \"shape_b\": [2, 2], \"elements\": 4, \"differing\": 2, "
                         "\"nonfinite\": 0, \"max\": 1, \"mean\": 0.375}");
  assert_message(output, "\"n_differing\": 3,\n \"identical\": false}");
}

static void test_diff_zero_signs(void **state)
{
  (void)state;
  const double a[2] = {0.0, 1.0}, b[2] = {-0.0, 1.0 + 0x1p-52}; /* below float32's resolution */
  const char   doubles[] = "{" TENSOR("d", "F64", "[2]", 0, 16) "}";
  scratch_safetensors(&folder, "a.safetensors", doubles, a, sizeof a);
  scratch_safetensors(&folder, "b.safetensors", doubles, b, sizeof b);
  assert_int_equal(run(&ingot_command_diff, NULL, "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_string_equal(output, "d: 2 of 2 elements differ, max 2.22045e-16, mean 1.11022e-16\n1 of 1 tensors differ\n");
}

static void test_diff_tables(void **state)
{
  (void)state;
  const unsigned char bytes[12] = {0};
  char                path[SCRATCH_PATH], expected[2 * SCRATCH_PATH];
  scratch_safetensors(&folder, "a.safetensors",
                      "{" TENSOR("one", "U8", "[4]", 0, 4) "," TENSOR("s", "U8", "[4]", 4,
                                                                      8) "," TENSOR("t", "U8", "[4]", 8, 12) "}",
                      bytes, 12);
  scratch_safetensors(&folder, "b.safetensors",
                      "{" TENSOR("s", "U8", "[2,2]", 0, 4) "," TENSOR("t", "I8", "[4]", 4,
                                                                      8) "," TENSOR("two", "U8", "[4]", 8, 12) "}",
                      bytes, 12);
  assert_int_equal(run(&ingot_command_diff, NULL, "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  snprintf(expected, sizeof expected, "one: only in %s\ns: shape [4] and [2, 2]\nt: dtype U8 and I8\n",
           scratch_path(&folder, "a.safetensors", path));
  assert_message(output, expected);
  snprintf(expected, sizeof expected, "two: only in %s\n4 of 4 tensors differ\n",
           scratch_path(&folder, "b.safetensors", path));
  assert_message(output, expected);
  assert_int_equal(run(&ingot_command_diff, "--json", "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_message(output, "{\"name\": \"one\", \"difference\": \"only in a\", \"dtype_a\": \"U8\", \"shape_a\": [4]}");
}

/* More than one piece: the last element of a tensor that is one element longer. */
static void test_diff_pieces(void **state)
{
  (void)state;
  enum { N = 65537 };
  int8_t *bytes = calloc(N, 1);
  assert_non_null(bytes);
  const char one[] = "{" TENSOR("x", "I8", "[65537]", 0, 65537) "}";
  scratch_safetensors(&folder, "a.safetensors", one, bytes, N);
  bytes[N - 1] = 1;
  scratch_safetensors(&folder, "b.safetensors", one, bytes, N);
  free(bytes);
  assert_int_equal(run(&ingot_command_diff, NULL, "a.safetensors", "b.safetensors"), INGOT_ERR_MISMATCH);
  assert_string_equal(output, "x: 1 of 65537 elements differ\n1 of 1 tensors differ\n");
}

/*
 * Checksums computed with Python's xxhash: XXH3-64 of the tiles' XXH3-64 (little-endian), for "aaaa", nothing, and the
 * bytes i % 251 for i < 2^20 + 1, which are two tiles.
 */
static const char sums[] = "{\"tensors\":{\"a\":{\"checksum\":\"806cfe66a8900d1e\"},"
                           "\"e\":{\"checksum\":\"2d06800538d394c2\"},\"t\":{\"checksum\":\"c3e2bdcec4a6f9ac\"}}}";
enum { TILED = (1 << 20) + 1 };

static void write_tiled(const char *name, int damaged_at)
{
  char  head[256];
  char *bytes = malloc(4 + TILED);
  assert_non_null(bytes);
  memcpy(bytes, "aaaa", 4);
  for (int i = 0; i < TILED; i++) bytes[4 + i] = (char)(i % 251);
  if (damaged_at >= 0) bytes[damaged_at] ^= 1;
  snprintf(head, sizeof head, "{%s,%s,%s}", TENSOR("a", "U8", "[4]", 0, 4), TENSOR("e", "F32", "[0]", 4, 4),
           TENSOR("t", "U8", "[1048577]", 4, 1048581));
  scratch_safetensors(&folder, name, head, bytes, 4 + TILED);
  free(bytes);
}

static void test_verify(void **state)
{
  (void)state;
  write_tiled("m.safetensors", -1);
  assert_int_equal(run(&ingot_command_verify, NULL, "m.safetensors", NULL), INGOT_OK);
  assert_message(output, "3 tensors, headers are sound; there are no checksums");
  scratch_text(&folder, "m.safetensors.manifest.json", sums);
  assert_int_equal(run(&ingot_command_verify, NULL, "m.safetensors", NULL), INGOT_OK);
  assert_message(output, "all 3 tensors match their checksums\n");

  write_tiled("m.safetensors", 4 + TILED - 1);
  assert_int_equal(run(&ingot_command_verify, NULL, "m.safetensors", NULL), INGOT_ERR_FORMAT);
  assert_message(output, "damaged: t: checksum ");
  assert_message(output, ", expected c3e2bdcec4a6f9ac\n");
  assert_message(ingot_error_message(), "1 of 3 tensors is damaged: t");
  write_tiled("m.safetensors", 0);
  assert_int_equal(run(&ingot_command_verify, NULL, "m.safetensors", NULL), INGOT_ERR_FORMAT);
  assert_message(ingot_error_message(), "m.safetensors: 1 of 3 tensors is damaged: a");
}

static void test_verify_directory(void **state)
{
  (void)state;
  scratch_mkdir(&folder, "model");
  write_tiled("model/model.safetensors", -1);
  scratch_text(&folder, "model/ingot_manifest.json", sums);
  assert_int_equal(run(&ingot_command_verify, NULL, "model", NULL), INGOT_OK);
  assert_message(output, "all 3 tensors match");
  scratch_text(&folder, "model/ingot_manifest.json", "{\"tensors\":{\"a\":{\"checksum\":\"806cfe66a8900d1e\"}}}");
  assert_int_equal(run(&ingot_command_verify, NULL, "model", NULL), INGOT_OK);
  assert_message(output, "1 of 3 tensors match their checksums, the others have none");
}

static void test_verify_broken_manifest(void **state)
{
  (void)state;
  static const struct {
    const char *manifest, *message;
  } rows[] = {
      {"{\"tensors\":", "m.safetensors.manifest.json: broken JSON"},
      {"{}", "\"tensors\" is nothing, not an object"},
      {"{\"tensors\":{\"zz\":{\"checksum\":\"806cfe66a8900d1e\"}}}", "tensor \"zz\" is not in "},
      {"{\"tensors\":{\"a\":7}}", "\"checksum\" is nothing, expected 16"},
      {"{\"tensors\":{\"a\":{\"checksum\":7}}}", "\"checksum\" is an integer, expected 16 hexadecimal digits"},
      {"{\"tensors\":{\"a\":{\"checksum\":\"806cfe66a8900d1\"}}}", "\"checksum\" is 806cfe66a8900d1, expected 16"},
      {"{\"tensors\":{\"a\":{\"checksum\":\"806cfe66a8900d1g\"}}}", "expected 16 hexadecimal digits"},
  };
  write_tiled("m.safetensors", -1);
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    scratch_text(&folder, "m.safetensors.manifest.json", rows[i].manifest);
    assert_int_equal(run(&ingot_command_verify, NULL, "m.safetensors", NULL), INGOT_ERR_FORMAT);
    assert_message(ingot_error_message(), rows[i].message);
  }
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, folder_begin, folder_end)

int main(void)
{
  const struct CMUnitTest tests[] = {
      CASE(test_inspect),         CASE(test_diff_identical),   CASE(test_diff_values),
      CASE(test_diff_zero_signs), CASE(test_diff_tables),      CASE(test_diff_pieces),
      CASE(test_verify),          CASE(test_verify_directory), CASE(test_verify_broken_manifest),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
