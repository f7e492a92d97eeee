/* What a sink writes is what a source reads, in all three formats; and the bytes that readers of others rely on. */
#define _XOPEN_SOURCE 700
#include "io/sink.h"

#include <fcntl.h>

#include "io/source.h"
#include "sink_case.h"
#include "sink_fixture.h"

typedef struct fixture {
  sink_fixture base;
  char         partial[SCRATCH_PATH + 16];
} fixture;

static int begin(void **state)
{
  return sink_fixture_begin(state, sizeof(fixture));
}

static void at(fixture *f, const char *name)
{
  scratch_path(&f->base.scratch, name, f->base.path);
  snprintf(f->partial, sizeof f->partial, "%s.partial", f->base.path);
}

static void assert_ok(ingot_status st)
{
  if (st != INGOT_OK) print_error("%s\n", ingot_error_message());
  assert_int_equal(st, INGOT_OK);
}

static void fill_and_commit(fixture *f, ingot_sink *sink, const ingot_sink_spec *spec)
{
  uint64_t *sums = calloc((size_t)spec->n_tensor + 1, sizeof *sums);
  assert_non_null(sums);
  for (int i = 0; i < spec->n_tensor; i++) {
    assert_ok(sink_case_write(sink, spec->tensors, i, 0, sink_case_bytes(&spec->tensors[i])));
    sums[i] = sink_case_checksum(&spec->tensors[i], i);
  }
  assert_int_equal(access(spec->path, F_OK), -1);
  assert_ok(ingot_sink_commit(f->base.comm, &sink, sums));
  assert_null(sink);
  free(sums);
}

static void write_all(fixture *f, const ingot_sink_spec *spec)
{
  ingot_sink *sink = NULL;
  assert_ok(ingot_sink_create(f->base.comm, spec, &sink));
  fill_and_commit(f, sink, spec);
  assert_int_equal(access(f->partial, F_OK), -1);
}

static void check_tensors(const ingot_source *src, const ingot_sink_spec *spec, bool checksums)
{
  assert_int_equal(ingot_source_count(src), spec->n_tensor);
  for (int i = 0; i < spec->n_tensor; i++) {
    const ingot_sink_tensor *t = &spec->tensors[i];
    int                      k = ingot_source_find(src, t->name);
    assert_true(k >= 0);
    const ingot_tensor_info *found = ingot_source_tensor(src, k);
    assert_int_equal(found->dtype, t->dtype);
    assert_true(ingot_shape_equal(&found->shape, &t->shape));
    size_t         size = sink_case_bytes(t);
    unsigned char *bytes = malloc(size + 1);
    assert_non_null(bytes);
    assert_ok(ingot_source_read(src, k, 0, size, bytes));
    for (size_t b = 0; b < size; b++) assert_int_equal(bytes[b], sink_case_byte(t, i, b));
    free(bytes);
    if (size) assert_int_equal(found->offset % ingot_dtype_size(t->dtype), 0);
    assert_int_equal(found->has_checksum, checksums);
    if (checksums) assert_true(found->checksum == sink_case_checksum(t, i));
    if (checksums && size) assert_int_equal(found->offset % 4096, 0);
  }
}

static void check_side_files(const ingot_source *src, const ingot_sink_file *files, int n)
{
  for (int i = 0; i < n; i++) {
    ingot_text bytes = {0};
    int        k = ingot_source_find_side_file(src, files[i].name);
    assert_true(k >= 0);
    assert_ok(ingot_source_side_file_read(src, k, &bytes));
    assert_int_equal(bytes.size, files[i].size);
    if (bytes.size) assert_memory_equal(bytes.bytes, files[i].bytes, bytes.size);
    ingot_text_release(&bytes);
  }
}

static uint64_t file_bytes(const char *path)
{
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  return (uint64_t)info.st_size;
}

static uint64_t planned_bytes(const ingot_sink_spec *spec)
{
  uint64_t bytes;
  assert_ok(ingot_sink_bytes(spec, &bytes));
  return bytes;
}

/* Large tensors, of 16 times the alignment or more, begin at multiples of it, the others on pages; nothing is left of
 * the padding. */
static void hdf5_alignment(void **state)
{
  static const ingot_sink_tensor tensors[] = {{"a", INGOT_DTYPE_U8, {1, {131072}}},
                                              {"b", INGOT_DTYPE_U8, {1, {3}}},
                                              {"c", INGOT_DTYPE_U8, {1, {131071}}},
                                              {"d", INGOT_DTYPE_U8, {1, {131073}}},
                                              {"e", INGOT_DTYPE_F32, {2, {0, 3}}},
                                              {"f/g", INGOT_DTYPE_F32, {2, {1, 32768}}},
                                              {"h", INGOT_DTYPE_U8, {1, {5}}},
                                              {"i", INGOT_DTYPE_BF16, {1, {65536}}}};
  static const bool              large[] = {true, false, false, true, false, true, false, true};
  fixture                       *f = *state;
  ingot_source                  *src = NULL;
  ingot_sink                    *sink = NULL;
  for (int with_files = 0; with_files < 2; with_files++) {
    int n_off = 0;
    at(f, with_files ? "files.h5" : "plain.h5");
    ingot_sink_spec spec = {.path = f->base.path,
                            .format = INGOT_SINK_HDF5,
                            .tensors = tensors,
                            .n_tensor = 8,
                            .files = sink_case_files,
                            .n_file = with_files ? SINK_CASE_FILES : 0};
    /* the larger one of alignment and stripe */
    spec.alignment_bytes = with_files ? 4096 : 8192;
    spec.io.stripe_bytes = with_files ? 8192 : 4096;
    assert_int_equal(ingot_sink_alignment(&spec), 8192);
    assert_ok(ingot_sink_create(f->base.comm, &spec, &sink));
    ingot_sink_close(&sink);
    assert_ok(ingot_sink_reopen(f->base.comm, &spec, &sink)); /* nothing but the tensors and side files is in it */
    fill_and_commit(f, sink, &spec);
    assert_true(file_bytes(f->base.path) <= planned_bytes(&spec));
    assert_ok(ingot_source_open(f->base.path, &src));
    check_tensors(src, &spec, true);
    for (int i = 0; i < 8; i++) {
      uint64_t offset = ingot_source_tensor(src, ingot_source_find(src, tensors[i].name))->offset;
      if (large[i]) assert_int_equal(offset % 8192, 0);
      else n_off += offset % 8192 != 0;
    }
    assert_true(n_off > 0); /* else the alignment would show nothing */
    ingot_source_close(&src);
  }
}

/* Without MPI-IO there is a warning, and the output is the one that it would be with it. */
static void hdf5_hints_without_mpi(void **state)
{
  static const ingot_sink_hint hint = {"cb_nodes", "1"};
  fixture                     *f = *state;
  char                         path[SCRATCH_PATH], text[1024] = "";
  ingot_sink                  *sink = NULL;
  at(f, "out.h5");
  ingot_sink_spec spec = sink_case_spec(f->base.path);
  spec.io = (ingot_sink_io){.n_stripe = 2, .hints = &hint, .n_hint = 1};
  FILE *log = fopen(scratch_path(&f->base.scratch, "log", path), "w+");
  int   kept = dup(2);
  assert_true(log && kept >= 0);
  dup2(fileno(log), 2);
  ingot_status st = ingot_sink_create(f->base.comm, &spec, &sink);
  dup2(kept, 2);
  close(kept);
  assert_ok(st);
  rewind(log);
  assert_true(fread(text, 1, sizeof text - 1, log) > 0);
  fclose(log);
  assert_non_null(strstr(text, "out.h5: this build has no MPI-IO"));
  fill_and_commit(f, sink, &spec);
}

static void hdf5(void **state)
{
  fixture *f = *state;
  at(f, "deep/er/out.h5"); /* parents are made */
  ingot_sink_spec spec = sink_case_spec(f->base.path);
  assert_int_equal(spec.format, INGOT_SINK_HDF5);
  write_all(f, &spec);
  assert_true(file_bytes(f->base.path) <= planned_bytes(&spec));

  ingot_source *src = NULL;
  assert_ok(ingot_source_open(f->base.path, &src));
  check_tensors(src, &spec, true);
  assert_int_equal(ingot_source_n_side_file(src), SINK_CASE_FILES);
  check_side_files(src, sink_case_files, SINK_CASE_FILES);
  for (int i = 0; i < SINK_CASE_ATTRIBUTES; i++)
    assert_string_equal(ingot_source_attribute(src, sink_case_attributes[i].name), sink_case_attributes[i].text);
  /* Payload lies in the order of the list. */
  uint64_t last = 0;
  for (int i = 0; i < spec.n_tensor; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, ingot_source_find(src, spec.tensors[i].name));
    if (t->bytes == 0) continue;
    assert_true(t->offset > last);
    last = t->offset;
  }
  ingot_source_close(&src);
}

static void hdf5_long_attribute(void **state)
{
  fixture *f = *state;
  at(f, "out.hdf5");
  enum { LONG = 300000 };
  char *text = malloc(LONG + 1);
  assert_non_null(text);
  for (int i = 0; i < LONG; i++) text[i] = (char)('a' + i % 26);
  text[LONG] = '\0';
  ingot_sink_attribute attribute = {"job", text};
  ingot_sink_spec      spec = sink_case_spec(f->base.path);
  spec.attributes = &attribute;
  spec.n_attribute = 1;
  write_all(f, &spec);
  ingot_source *src = NULL;
  assert_ok(ingot_source_open(f->base.path, &src));
  assert_string_equal(ingot_source_attribute(src, "job"), text);
  check_tensors(src, &spec, true);
  ingot_source_close(&src);
  free(text);
}

/* Read a whole file; the caller frees it. */
static char *slurp(const char *path, size_t *size)
{
  FILE *in = fopen(path, "rb");
  assert_non_null(in);
  *size = file_bytes(path);
  char *bytes = malloc(*size + 1);
  assert_non_null(bytes);
  assert_int_equal(fread(bytes, 1, *size, in), *size);
  bytes[*size] = '\0';
  fclose(in);
  return bytes;
}

static void hdf5_same_bytes_twice(void **state)
{
  fixture *f = *state;
  size_t   n_one = 0, n_two = 0;
  at(f, "one.h5");
  ingot_sink_spec spec = sink_case_spec(f->base.path);
  write_all(f, &spec);
  char *one = slurp(f->base.path, &n_one);
  sleep(1); /* times in whole seconds must not show */
  at(f, "two.h5");
  spec = sink_case_spec(f->base.path);
  write_all(f, &spec);
  char *two = slurp(f->base.path, &n_two);
  assert_int_equal(n_one, n_two);
  assert_memory_equal(one, two, n_one);
  free(one);
  free(two);
}

static void safetensors(void **state)
{
  fixture *f = *state;
  at(f, "out.safetensors");
  ingot_sink_spec spec = sink_case_spec(f->base.path);
  assert_int_equal(spec.format, INGOT_SINK_SAFETENSORS);
  write_all(f, &spec);
  assert_int_equal(file_bytes(f->base.path), planned_bytes(&spec));
  ingot_source *src = NULL;
  assert_ok(ingot_source_open(f->base.path, &src));
  check_tensors(src, &spec, false);
  ingot_source_close(&src);
}

/* The whole file, byte for byte, worked out by hand: wider elements first, else in order; header of 8-byte
 * multiples. */
static void safetensors_bytes(void **state)
{
  fixture *f = *state;
  at(f, "small.safetensors");
  const ingot_sink_tensor tensors[] = {{"c", INGOT_DTYPE_U8, {1, {3}}},
                                       {"b", INGOT_DTYPE_F32, {2, {1, 2}}},
                                       {"a", INGOT_DTYPE_U8, {0, {0}}}};
  ingot_sink_spec spec = {.path = f->base.path, .format = INGOT_SINK_SAFETENSORS, .tensors = tensors, .n_tensor = 3};
  const ingot_sink_attribute note = {"note", "say \"hi\"\n"};
  spec.attributes = &note;
  spec.n_attribute = 1;
  ingot_sink *sink = NULL;
  assert_ok(ingot_sink_create(f->base.comm, &spec, &sink));
  assert_ok(ingot_sink_write(sink, 0, 0, 3, "CCC"));
  assert_ok(ingot_sink_write(sink, 1, 4, 4, "5678"));
  assert_ok(ingot_sink_write(sink, 1, 0, 4, "1234"));
  assert_ok(ingot_sink_write(sink, 2, 0, 1, "A"));
  char back[8];
  assert_ok(ingot_sink_read(sink, 1, 2, 4, back));
  assert_memory_equal(back, "3456", 4);
  assert_ok(ingot_sink_commit(f->base.comm, &sink, NULL));
  static const char header[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"say \\\"hi\\\"\\u000a\"},"
                               "\"b\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                               "\"c\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]},"
                               "\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[11,12]}}";
  size_t            size = 0, length = (sizeof header - 1 + 7) / 8 * 8;
  char             *bytes = slurp(f->base.path, &size);
  assert_int_equal(size, 8 + length + 12);
  assert_int_equal((unsigned char)bytes[0] + 256 * (unsigned char)bytes[1], length);
  assert_memory_equal(bytes + 2, "\0\0\0\0\0\0", 6);
  assert_memory_equal(bytes + 8, header, sizeof header - 1);
  for (size_t i = sizeof header - 1; i < length; i++) assert_int_equal(bytes[8 + i], ' ');
  assert_memory_equal(bytes + 8 + length, "12345678CCCA", 12);
  free(bytes);
}

static bool exists(const fixture *f, const char *name)
{
  char path[2 * SCRATCH_PATH];
  snprintf(path, sizeof path, "%s/%s", f->base.path, name);
  return access(path, F_OK) == 0;
}

static void hf_dir_one_file(void **state)
{
  fixture *f = *state;
  at(f, "model/");
  ingot_sink_spec spec = sink_case_spec(f->base.path);
  assert_int_equal(spec.format, INGOT_SINK_HF_DIR);
  ingot_sink *sink = NULL;
  assert_ok(ingot_sink_create(f->base.comm, &spec, &sink));
  fill_and_commit(f, sink, &spec);
  assert_true(exists(f, "model.safetensors"));
  assert_false(exists(f, "model.safetensors.index.json"));
  ingot_source *src = NULL;
  assert_ok(ingot_source_open(f->base.path, &src));
  check_tensors(src, &spec, false);
  check_side_files(src, sink_case_files, SINK_CASE_FILES);
  const ingot_sink_file card = {"README.md", "# Card\n", 7};
  check_side_files(src, &card, 1);
  assert_int_equal(ingot_source_n_side_file(src), SINK_CASE_FILES + 1);
  ingot_source_close(&src);
}

static void hf_dir_shards(void **state)
{
  fixture *f = *state;
  at(f, "model");
  ingot_sink_tensor        tensors[5];
  static const char *const names[5] = {"a", "b", "c", "d", "e"};
  static const int64_t     counts[5] = {60, 40, 1, 300, 7};
  for (int i = 0; i < 5; i++) tensors[i] = (ingot_sink_tensor){names[i], INGOT_DTYPE_U8, {1, {counts[i]}}};
  ingot_sink_spec spec = {.path = f->base.path,
                          .format = INGOT_SINK_HF_DIR,
                          .tensors = tensors,
                          .n_tensor = 5,
                          .shard_bytes = 100};
  write_all(f, &spec);
  /* 60 + 40 fill a shard; 1 starts the next; 300 is above the limit and stands alone. */
  static const char *const shard[5] = {"model-00001-of-00004.safetensors", "model-00001-of-00004.safetensors",
                                       "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
                                       "model-00004-of-00004.safetensors"};
  assert_false(exists(f, "model.safetensors"));
  char path[2 * SCRATCH_PATH];
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", f->base.path);
  size_t size = 0;
  char  *index = slurp(path, &size);
  assert_non_null(strstr(index, "\"total_size\": 408"));
  for (int i = 0; i < 5; i++) {
    char line[128];
    snprintf(line, sizeof line, "\"%s\": \"%s\"", names[i], shard[i]);
    assert_non_null(strstr(index, line));
    assert_true(exists(f, shard[i]));
  }
  free(index);
  ingot_source *src = NULL;
  assert_ok(ingot_source_open(f->base.path, &src));
  assert_int_equal(ingot_source_n_file(src), 4);
  check_tensors(src, &spec, false);
  ingot_source_close(&src);
}

static void no_tensors(void **state)
{
  static const char *const names[] = {"none.h5", "none.safetensors", "none"};
  fixture                 *f = *state;
  for (int i = 0; i < 3; i++) {
    at(f, names[i]);
    ingot_sink_spec spec = {.path = f->base.path, .format = ingot_sink_format_of(f->base.path)};
    write_all(f, &spec);
    assert_int_equal(access(f->base.path, F_OK), 0);
  }
}

static void reopen_and_go_on(void **state)
{
  static const char *const names[] = {"out.h5", "out.safetensors", "out"};
  fixture                 *f = *state;
  for (int i = 0; i < 3; i++) {
    at(f, names[i]);
    ingot_sink_spec spec = sink_case_spec(f->base.path);
    spec.shard_bytes = 5000;
    ingot_sink   *sink = NULL;
    unsigned char back[100];
    assert_int_equal(ingot_sink_reopen(f->base.comm, &spec, &sink), INGOT_ERR_NOTFOUND);
    assert_null(sink);
    assert_ok(ingot_sink_create(f->base.comm, &spec, &sink));
    assert_ok(sink_case_write(sink, spec.tensors, 0, 0, 9000));
    ingot_sink_close(&sink);
    assert_ok(ingot_sink_reopen(f->base.comm, &spec, &sink));
    assert_ok(ingot_sink_read(sink, 0, 8900, 100, back));
    for (size_t b = 0; b < 100; b++) assert_int_equal(back[b], sink_case_byte(&spec.tensors[0], 0, 8900 + b));
    fill_and_commit(f, sink, &spec);
    ingot_source *src = NULL;
    assert_ok(ingot_source_open(f->base.path, &src));
    check_tensors(src, &spec, i == 0);
    ingot_source_close(&src);
  }
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(hdf5, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hdf5_alignment, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hdf5_hints_without_mpi, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hdf5_long_attribute, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hdf5_same_bytes_twice, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(safetensors, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(safetensors_bytes, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hf_dir_one_file, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(hf_dir_shards, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(no_tensors, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(reopen_and_go_on, begin, sink_fixture_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
