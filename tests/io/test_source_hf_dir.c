/* Hugging Face directories: index and shards, single files, side files. */
#define _GNU_SOURCE

#include "tests/io/scratch_folder.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "io/source.h"

#define TENSOR(name, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" #begin "," #end "]}"

/* Shard 1 holds a and b, shard 2 holds c. */
static void write_shards(void)
{
  scratch_safetensors(&folder, "model-1.safetensors", "{" TENSOR("b", 4, 8) "," TENSOR("a", 0, 4) "}", "aaaabbbb", 8);
  scratch_safetensors(&folder, "model-2.safetensors", "{" TENSOR("c", 0, 4) "}", "cccc", 4);
}

static void write_index(const char *weight_map)
{
  char text[1024];
  snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":12},\"weight_map\":%s}", weight_map);
  scratch_text(&folder, "model.safetensors.index.json", text);
}

static const char good_map[] =
    "{\"c\":\"model-2.safetensors\",\"a\":\"model-1.safetensors\",\"b\":\"model-1.safetensors\"}";

static void check_open(ingot_status expected, const char *message)
{
  ingot_source *src = NULL;
  ingot_status  st = ingot_source_open(folder.dir, &src);
  if (st != expected) print_error("case \"%s\" gave %s: %s\n", message, ingot_status_name(st), ingot_error_message());
  assert_int_equal(st, expected);
  assert_null(src);
  assert_message(ingot_error_message(), message);
  assert_message(ingot_error_message(), folder.dir);
}

static void test_sharded(void **state)
{
  (void)state;
  ingot_source *src = NULL;
  char          bytes[5] = {0};
  write_shards();
  write_index(good_map);
  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_kind_of(src), INGOT_SOURCE_HF_DIR);
  assert_int_equal(ingot_source_n_file(src), 2);
  assert_int_equal(ingot_source_count(src), 3);
  for (int i = 0; i < 3; i++) {
    const char expected[] = {"abc"[i], "abc"[i], "abc"[i], "abc"[i], 0}, name[] = {"abc"[i], 0};
    assert_string_equal(ingot_source_tensor(src, i)->name, name);
    assert_int_equal(ingot_source_tensor(src, i)->file, i / 2);
    assert_int_equal(ingot_source_read(src, i, 0, 4, bytes), INGOT_OK);
    assert_string_equal(bytes, expected);
  }
  ingot_text    packed = {0};
  ingot_source *copy = NULL;
  assert_int_equal(ingot_source_pack(src, &packed), INGOT_OK);
  assert_int_equal(ingot_source_unpack(packed.bytes, packed.size, &copy), INGOT_OK);
  assert_int_equal(ingot_source_read(copy, 2, 2, 2, bytes), INGOT_OK);
  assert_memory_equal(bytes, "cc", 2);
  assert_int_equal(ingot_source_identity(copy), ingot_source_identity(src));
  ingot_source_close(&copy);
  ingot_source_close(&src);
  ingot_text_release(&packed);
}

static void test_broken_index(void **state)
{
  (void)state;
  static const struct {
    const char  *map;
    ingot_status status;
    const char  *message;
  } rows[] = {
      {"[1]", INGOT_ERR_FORMAT, "\"weight_map\" is an array, not an object"},
      {"{}", INGOT_ERR_FORMAT, "weight_map is empty"},
      {"{\"a\":1}", INGOT_ERR_FORMAT, "tensor \"a\" has an integer, not a file name"},
      {"{\"a\":\"model-1.safetensors\",\"a\":\"model-1.safetensors\"}", INGOT_ERR_FORMAT, "duplicate object key"},
      {"{\"a\":\"model-1.safetensors\"", INGOT_ERR_FORMAT, "model.safetensors.index.json: broken JSON at line 1"},
      {"{\"a\":\"../model-1.safetensors\"}", INGOT_ERR_FORMAT,
       "shard \"../model-1.safetensors\" is not the name of a file"},
      {"{\"a\":\"sub/model-1.safetensors\"}", INGOT_ERR_FORMAT, "is not the name of a file in this directory"},
      {"{\"a\":\"/etc/passwd\"}", INGOT_ERR_FORMAT, "is not the name of a file in this directory"},
      {"{\"a\":\"..\"}", INGOT_ERR_FORMAT, "is not the name of a file in this directory"},
      {"{\"a\":\"\"}", INGOT_ERR_FORMAT, "is not the name of a file in this directory"},
      {"{\"a\":\"model-1.safetensors\",\"b\":\"model-1.safetensors\",\"z\":\"model-9.safetensors\"}",
       INGOT_ERR_NOTFOUND, "shard \"model-9.safetensors\", which should hold tensor \"z\", is not in the directory"},
      {"{\"a\":\"model-1.safetensors\",\"c\":\"model-2.safetensors\"}", INGOT_ERR_FORMAT,
       "model-1.safetensors: tensor \"b\" is not in model.safetensors.index.json"},
      {"{\"a\":\"model-1.safetensors\",\"b\":\"model-1.safetensors\",\"c\":\"model-2.safetensors\","
       "\"d\":\"model-2.safetensors\"}",
       INGOT_ERR_FORMAT, "tensor \"d\" is not in its shard \"model-2.safetensors\""},
      {"{\"a\":\"model-1.safetensors\",\"b\":\"model-2.safetensors\",\"c\":\"model-2.safetensors\"}", INGOT_ERR_FORMAT,
       "tensor \"b\" belongs to shard \"model-2.safetensors\""},
  };
  write_shards();
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    write_index(rows[i].map);
    check_open(rows[i].status, rows[i].message);
  }
  scratch_text(&folder, "model.safetensors.index.json", "[]");
  check_open(INGOT_ERR_FORMAT, "\"weight_map\" is nothing");
}

static void test_tensor_in_two_shards(void **state)
{
  (void)state;
  write_index(good_map);
  scratch_safetensors(&folder, "model-1.safetensors", "{" TENSOR("b", 4, 8) "," TENSOR("a", 0, 4) "}", "aaaabbbb", 8);
  scratch_safetensors(&folder, "model-2.safetensors", "{" TENSOR("c", 0, 4) "," TENSOR("a", 4, 8) "}", "ccccaaaa", 8);
  check_open(INGOT_ERR_FORMAT, "model-2.safetensors: tensor \"a\" belongs to shard \"model-1.safetensors\"");
}

static void test_broken_shard(void **state)
{
  (void)state;
  char path[SCRATCH_PATH];
  write_shards();
  write_index(good_map);
  assert_int_equal(truncate(scratch_path(&folder, "model-2.safetensors", path), 20), 0);
  check_open(INGOT_ERR_FORMAT, "model-2.safetensors: header length");
}

static void test_single(void **state)
{
  (void)state;
  ingot_source *src = NULL;
  check_open(INGOT_ERR_NOTFOUND, "no model.safetensors, model.safetensors.index.json or other .safetensors file");
  scratch_text(&folder, "pytorch_model.bin", "PK");
  check_open(INGOT_ERR_NOTFOUND, "only PyTorch files");

  scratch_safetensors(&folder, "other.safetensors", "{" TENSOR("o", 0, 4) "}", "oooo", 4);
  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_find(src, "o"), 0);
  ingot_source_close(&src);

  scratch_safetensors(&folder, "second.safetensors", "{" TENSOR("s", 0, 4) "}", "ssss", 4);
  check_open(INGOT_ERR_FORMAT, "2 .safetensors files, but no model.safetensors.index.json");

  scratch_safetensors(&folder, "model.safetensors", "{" TENSOR("m", 0, 4) "}", "mmmm", 4);
  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_find(src, "m"), 0);
  assert_int_equal(ingot_source_count(src), 1);
  ingot_source_close(&src);

  write_index("{\"o\":\"other.safetensors\"}"); /* left over: model.safetensors is what Transformers loads */
  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_find(src, "m"), 0);
  assert_int_equal(ingot_source_count(src), 1);
  ingot_source_close(&src);
}

static void test_side_files(void **state)
{
  (void)state;
  static const char *const weights[] = {".hidden",
                                        ".gitattributes",
                                        "pytorch_model.bin",
                                        "x.pt",
                                        "x.gguf",
                                        "x.h5",
                                        "pytorch_model.bin.index.json",
                                        "ingot_manifest.json"};
  static const char *const expected[] = {"README.md", "config.json", "merges.txt", "tokenizer.json"};
  ingot_source            *src = NULL;
  ingot_text               bytes = {0};
  char                     path[SCRATCH_PATH];
  scratch_safetensors(&folder, "model.safetensors", "{" TENSOR("m", 0, 4) "}", "mmmm", 4);
  for (size_t i = 0; i < sizeof weights / sizeof weights[0]; i++) scratch_text(&folder, weights[i], "w");
  for (size_t i = 4; i-- > 0;) scratch_text(&folder, expected[i], expected[i]);
  scratch_mkdir(&folder, "runs");
  scratch_text(&folder, "huge.txt", "");
  assert_int_equal(truncate(scratch_path(&folder, "huge.txt", path), INGOT_SIDE_FILE_MAX + 1), 0);
  assert_int_equal(symlink("absent", scratch_path(&folder, ".dangling.json", path)), 0);

  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_n_side_file(src), 4);
  for (int i = 0; i < 4; i++) {
    assert_string_equal(ingot_source_side_file_name(src, i), expected[i]);
    assert_int_equal(ingot_source_find_side_file(src, expected[i]), i);
    bytes.size = 0;
    assert_int_equal(ingot_source_side_file_read(src, i, &bytes), INGOT_OK);
    assert_string_equal(ingot_text_string(&bytes), expected[i]);
  }
  assert_int_equal(ingot_source_find_side_file(src, "model.safetensors"), -1);
  assert_int_equal(unlink(scratch_path(&folder, "config.json", path)), 0);
  assert_int_equal(ingot_source_side_file_read(src, 1, &bytes), INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "config.json: No such file");
  ingot_text_release(&bytes);
  ingot_source_close(&src);
}

static void test_broken_link(void **state)
{
  (void)state;
  static const char *const names[] = {"config.json", "tokenizer.json", "model-00001-of-00002.safetensors"};
  ingot_source            *src = NULL;
  char                     path[SCRATCH_PATH];
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    const char *target = i == 1 ? names[i] : "../blobs/absent"; /* the second leads to itself */
    scratch_safetensors(&folder, "model.safetensors", "{" TENSOR("m", 0, 4) "}", "mmmm", 4);
    assert_int_equal(symlink(target, scratch_path(&folder, names[i], path)), 0);
    assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_ERR_NOTFOUND);
    assert_null(src);
    assert_message(ingot_error_message(), path);
    assert_message(ingot_error_message(), "a symbolic link to a file that is not there");
    assert_int_equal(unlink(path), 0);
  }
}

static void test_unreadable(void **state)
{
  (void)state;
  ingot_source *src = NULL;
  assert_int_equal(chmod(folder.dir, 0), 0);
  bool         root = geteuid() == 0; /* whom permissions do not stop */
  int          dropped = root ? seteuid(65534) : 0;
  ingot_status st = ingot_source_open(folder.dir, &src);
  if (root) assert_int_equal(seteuid(0), 0);
  assert_int_equal(chmod(folder.dir, 0700), 0);
  assert_int_equal(dropped, 0);
  assert_int_equal(st, INGOT_ERR_NOTFOUND);
  assert_message(ingot_error_message(), "Permission denied");
}

enum { N_SHARD = 60, N_THREAD = 4 };

static ingot_source *open_many(void)
{
  char          map[N_SHARD * 32] = "", text[N_SHARD * 32 + 32], name[32], header[96];
  ingot_source *src = NULL;
  for (int i = 0; i < N_SHARD; i++) {
    const char bytes[4] = {(char)i, (char)i, (char)i, (char)i};
    snprintf(name, sizeof name, "%02d.safetensors", i);
    snprintf(header, sizeof header, "{\"%02d\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", i);
    scratch_safetensors(&folder, name, header, bytes, 4);
    snprintf(map + strlen(map), sizeof map - strlen(map), "%s\"%02d\":\"%s\"", i ? "," : "", i, name);
  }
  snprintf(text, sizeof text, "{\"weight_map\":{%s}}", map);
  scratch_text(&folder, "model.safetensors.index.json", text);
  assert_int_equal(ingot_source_open(folder.dir, &src), INGOT_OK);
  assert_int_equal(ingot_source_count(src), N_SHARD);
  return src;
}

static void *read_all(void *context)
{
  const ingot_source *src = context;
  char                bytes[4];
  for (int i = 0; i < N_SHARD; i++)
    if (ingot_source_read(src, i, 0, 4, bytes) != INGOT_OK || bytes[0] != i || bytes[3] != i) return context;
  return NULL;
}

/* More shards than the soft limit of open files, read by several threads that all open them. */
static void test_many_files(void **state)
{
  (void)state;
  struct rlimit limit, low;
  pthread_t     thread[N_THREAD];
  ingot_source *src = open_many();
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  low = limit;
  low.rlim_cur = 32;
  assert_true(limit.rlim_max > 200);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
  for (int i = 0; i < N_THREAD; i++) assert_int_equal(pthread_create(&thread[i], NULL, read_all, src), 0);
  for (int i = 0; i < N_THREAD; i++) {
    void *failed = NULL;
    assert_int_equal(pthread_join(thread[i], &failed), 0);
    assert_null(failed);
  }
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ingot_source_close(&src);
}

/* The hard limit stops it, with a message. In a child, for a lowered hard limit cannot be raised again. */
static void test_too_many_files(void **state)
{
  (void)state;
  int           status = 0;
  ingot_source *src = open_many();
  fflush(NULL);
  pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    struct rlimit low = {.rlim_cur = 32, .rlim_max = 32};
    char          bytes[4];
    ingot_status  st = setrlimit(RLIMIT_NOFILE, &low) == 0 ? INGOT_OK : INGOT_ERR_INTERNAL;
    for (int i = 0; i < N_SHARD && st == INGOT_OK; i++) st = ingot_source_read(src, i, 0, 4, bytes);
    bool told = strstr(ingot_error_message(), "cannot open the file: Too many open files") != NULL;
    _exit(st == INGOT_ERR_IO && told ? 0 : 1);
  }
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  ingot_source_close(&src);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, folder_begin, folder_end)

int main(void)
{
  const struct CMUnitTest tests[] = {
      CASE(test_sharded),    CASE(test_broken_index),   CASE(test_tensor_in_two_shards), CASE(test_broken_shard),
      CASE(test_single),     CASE(test_side_files),     CASE(test_broken_link),          CASE(test_unreadable),
      CASE(test_many_files), CASE(test_too_many_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
