/* What sinks refuse: partial outputs of other jobs, full disks, paths that cannot be made, directories not ours. */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "io/atomic_file.h"
#include "io/sink.h"
#include "sink_case.h"
#include "sink_fixture.h"

static const char *const formats[] = {"out.h5", "out.safetensors", "out"};
enum { N_FORMAT = 3 };

typedef struct fixture {
  sink_fixture    base;
  ingot_sink_spec spec;
  uint64_t        sums[SINK_CASE_TENSORS];
} fixture;

static int begin(void **state)
{
  return sink_fixture_begin(state, sizeof(fixture));
}

static void at(fixture *f, const char *name)
{
  scratch_path(&f->base.scratch, name, f->base.path);
  f->spec = sink_case_spec(f->base.path);
}

static bool exists(const fixture *f, const char *name)
{
  char path[SCRATCH_PATH];
  return access(scratch_path(&f->base.scratch, name, path), F_OK) == 0;
}

static void create_fails(fixture *f, ingot_status st, const char *message)
{
  ingot_sink *sink = NULL;
  assert_int_equal(ingot_sink_create(f->base.comm, &f->spec, &sink), st);
  assert_message(ingot_error_message(), message);
  assert_null(sink);
}

static void lay_out(fixture *f)
{
  ingot_sink *sink = NULL;
  assert_int_equal(ingot_sink_create(f->base.comm, &f->spec, &sink), INGOT_OK);
  ingot_sink_close(&sink);
}

static void reopen_gives(fixture *f, const ingot_sink_spec *spec, ingot_status st)
{
  ingot_sink  *sink = NULL;
  ingot_status found = ingot_sink_reopen(f->base.comm, spec, &sink);
  if (found != st) print_error("%s\n", ingot_error_message());
  assert_int_equal(found, st);
  ingot_sink_close(&sink);
}

static void other_jobs(void **state)
{
  fixture *f = *state;
  for (int i = 0; i < N_FORMAT; i++) {
    at(f, formats[i]);
    lay_out(f);
    reopen_gives(f, &f->spec, INGOT_OK);
    ingot_sink_tensor tensors[SINK_CASE_TENSORS];
    memcpy(tensors, sink_case_tensors, sizeof tensors);
    ingot_sink_spec other = f->spec;
    other.tensors = tensors;
    tensors[2].dtype = INGOT_DTYPE_I32;
    reopen_gives(f, &other, INGOT_ERR_NOTFOUND);
    tensors[2] = sink_case_tensors[2];
    tensors[2].shape.dim[0] = 5, tensors[2].shape.dim[1] = 33; /* as many bytes */
    reopen_gives(f, &other, INGOT_ERR_NOTFOUND);
    tensors[2] = sink_case_tensors[2];
    tensors[0].name = "embed.weigh_";
    reopen_gives(f, &other, INGOT_ERR_NOTFOUND);
    other = f->spec;
    other.n_tensor--;
    reopen_gives(f, &other, INGOT_ERR_NOTFOUND);

    ingot_sink_attribute attributes[SINK_CASE_ATTRIBUTES];
    memcpy(attributes, sink_case_attributes, sizeof attributes);
    attributes[2].text = "# Care\n";
    other = f->spec;
    other.attributes = attributes;
    reopen_gives(f, &other, INGOT_ERR_NOTFOUND);
    ingot_sink_file files[SINK_CASE_FILES];
    memcpy(files, sink_case_files, sizeof files);
    files[2].bytes = "\0\1\2\4";
    other = f->spec;
    other.files = files;
    reopen_gives(f, &other, i == 1 ? INGOT_OK : INGOT_ERR_NOTFOUND); /* one .safetensors file has no side files */
    reopen_gives(f, &f->spec, INGOT_OK);
  }
}

static void cut_or_damaged(void **state)
{
  static const char *const files[] = {"out.h5.partial", "out.safetensors.partial", "out.partial/model.safetensors"};
  fixture                 *f = *state;
  for (int i = 0; i < N_FORMAT; i++) {
    char        path[SCRATCH_PATH];
    struct stat info;
    at(f, formats[i]);
    scratch_path(&f->base.scratch, files[i], path);
    lay_out(f);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 1), 0);
    reopen_gives(f, &f->spec, INGOT_ERR_NOTFOUND);
    assert_int_equal(truncate(path, 0), 0);
    reopen_gives(f, &f->spec, INGOT_ERR_NOTFOUND);
    lay_out(f); /* creating anew replaces it */
    reopen_gives(f, &f->spec, INGOT_OK);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\xff\xff\xff\xff", 4, 9), 4);
    close(fd);
    reopen_gives(f, &f->spec, INGOT_ERR_NOTFOUND);
    assert_int_equal(ingot_sink_remove_partial(f->base.path), INGOT_OK);
    assert_int_equal(access(path, F_OK), -1);
    reopen_gives(f, &f->spec, INGOT_ERR_NOTFOUND);
    assert_int_equal(ingot_sink_remove_partial(f->base.path), INGOT_OK);
  }
}

/* A file-size limit stands in for a full disk, where no small file system can be mounted. */
static void file_size_limit(void **state)
{
  fixture      *f = *state;
  struct rlimit before, small;
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 10000;
  for (int i = 0; i < N_FORMAT; i++) {
    at(f, formats[i]);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    create_fails(f, INGOT_ERR_NOSPACE, "the file-size limit (ulimit -f) is 10000");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_message(ingot_error_message(), formats[i]);
    assert_false(exists(f, formats[i]));
  }
}

static void full_disk_codes(void **state)
{
  (void)state;
  assert_int_equal(ingot_file_status(ENOSPC), INGOT_ERR_NOSPACE);
  assert_int_equal(ingot_file_status(EDQUOT), INGOT_ERR_NOSPACE);
  assert_int_equal(ingot_file_status(EFBIG), INGOT_ERR_NOSPACE);
  assert_int_equal(ingot_file_status(EIO), INGOT_ERR_IO);
  int fd = open("/dev/full", O_WRONLY);
  assert_true(fd >= 0);
  assert_int_equal(ingot_file_pwrite(fd, "/dev/full", 7, "abc", 3), INGOT_ERR_NOSPACE);
  assert_message(ingot_error_message(), "/dev/full: writing 3 bytes at 7: No space left on device");
  close(fd);
}

static void parent_is_a_file(void **state)
{
  fixture *f = *state;
  scratch_text(&f->base.scratch, "file", "x");
  for (int i = 0; i < N_FORMAT; i++) {
    char name[64];
    snprintf(name, sizeof name, "file/below/%s", formats[i]);
    at(f, name);
    create_fails(f, INGOT_ERR_IO, "/file: expected a directory, found a file");
  }
}

static void bad_side_file_names(void **state)
{
  static const char *const names[] = {"", ".", "..", "../escape", "/etc/x"};
  fixture                 *f = *state;
  for (int i = 0; i < 5; i++) {
    at(f, "out");
    const ingot_sink_file file = {names[i], "x", 1};
    f->spec.files = &file;
    f->spec.n_file = 1;
    create_fails(f, INGOT_ERR_FORMAT, "is not usable as the name of a side file");
  }
  static const char *const weights[] = {"model.safetensors", "model.safetensors.index.json"};
  for (int i = 0; i < 2; i++) {
    const ingot_sink_file file = {weights[i], "x", 1};
    f->spec.files = &file;
    create_fails(f, INGOT_ERR_FORMAT, "has the name of a weight file");
  }
}

static void bad_tensors(void **state)
{
  static const char *const names[] = {"", "/a", "a/", "a//b", "./a", "a/./b"};
  fixture                 *f = *state;
  at(f, "out.h5");
  f->spec.n_tensor = 1;
  for (int i = 0; i < 6; i++) {
    const ingot_sink_tensor t = {names[i], INGOT_DTYPE_F32, {1, {2}}};
    f->spec.tensors = &t;
    create_fails(f, INGOT_ERR_FORMAT, "is not usable as a name in HDF5");
  }
  const ingot_sink_tensor both[3] = {{"a-b", INGOT_DTYPE_F32, {1, {2}}},
                                     {"a/b", INGOT_DTYPE_F32, {1, {2}}},
                                     {"a", INGOT_DTYPE_F32, {1, {2}}}};
  f->spec.tensors = both;
  f->spec.n_tensor = 2;
  assert_int_equal(ingot_sink_check_names(&f->spec), INGOT_OK);
  f->spec.n_tensor = 3;
  create_fails(f, INGOT_ERR_FORMAT, "tensors \"a\" and \"a/b\" cannot both be in an HDF5 file");
  const ingot_sink_tensor huge = {"huge", INGOT_DTYPE_F64, {2, {INT64_MAX, 2}}};
  f->spec.tensors = &huge;
  f->spec.n_tensor = 1;
  create_fails(f, INGOT_ERR_FORMAT, "huge: [9223372036854775807, 2] of F64 is more than a file can hold");
  uint64_t bytes;
  assert_int_equal(ingot_sink_bytes(&f->spec, &bytes), INGOT_ERR_FORMAT);
}

static void outside_the_tensor(void **state)
{
  fixture    *f = *state;
  ingot_sink *sink = NULL;
  char        byte = 0;
  at(f, "out.h5");
  assert_int_equal(ingot_sink_create(f->base.comm, &f->spec, &sink), INGOT_OK);
  assert_int_equal(ingot_sink_write(sink, 1, 3, 1, &byte), INGOT_ERR_INTERNAL);
  assert_message(ingot_error_message(), "odd.u8: bytes 3 to 4 lie outside the tensor's 3");
  assert_int_equal(ingot_sink_write(sink, 1, UINT64_MAX, 2, &byte), INGOT_ERR_INTERNAL);
  assert_int_equal(ingot_sink_write(sink, 1, 3, 0, &byte), INGOT_OK);
  assert_int_equal(ingot_sink_read(sink, 5, 0, 1, &byte), INGOT_ERR_INTERNAL); /* an empty tensor */
  ingot_sink_close(&sink);
  ingot_sink_close(&sink);
}

static void commit_new(fixture *f)
{
  ingot_sink *sink = NULL;
  assert_int_equal(ingot_sink_create(f->base.comm, &f->spec, &sink), INGOT_OK);
  ingot_status st = ingot_sink_commit(f->base.comm, &sink, f->sums);
  if (st != INGOT_OK) print_error("%s\n", ingot_error_message());
  assert_int_equal(st, INGOT_OK);
}

static void existing_outputs(void **state)
{
  fixture *f = *state;
  for (int i = 0; i < N_FORMAT; i++) {
    at(f, formats[i]);
    commit_new(f);
    commit_new(f); /* replaces */
  }
  assert_false(exists(f, "out.partial"));
  assert_false(exists(f, "out.old"));
  assert_true(exists(f, "out/config.json"));

  /* The new directory has none of the old one's files. */
  scratch_text(&f->base.scratch, "out/extra.json", "{}");
  commit_new(f);
  assert_false(exists(f, "out/extra.json"));
  assert_true(exists(f, "out/model.safetensors"));
}

static void directories_not_ours(void **state)
{
  fixture *f = *state;
  scratch_mkdir(&f->base.scratch, "home");
  at(f, "home");
  commit_new(f); /* an empty directory becomes the output */

  scratch_mkdir(&f->base.scratch, "photos");
  scratch_text(&f->base.scratch, "photos/cat.jpg", "x");
  at(f, "photos");
  create_fails(f, INGOT_ERR_EXISTS, "holds files but no model");
  assert_true(exists(f, "photos/cat.jpg"));

  scratch_mkdir(&f->base.scratch, "home/.git");
  at(f, "home");
  create_fails(f, INGOT_ERR_EXISTS, "holds a directory (.git)");

  scratch_mkdir(&f->base.scratch, "dir.h5");
  at(f, "dir.h5");
  create_fails(f, INGOT_ERR_EXISTS, "is a directory, cannot become a file");
  scratch_text(&f->base.scratch, "plain", "x");
  at(f, "plain");
  create_fails(f, INGOT_ERR_EXISTS, "is a file, cannot become a directory");

  /* A directory under our temporary name that holds directories was not made by us. */
  scratch_mkdir(&f->base.scratch, "z.partial");
  scratch_mkdir(&f->base.scratch, "z.partial/sub");
  at(f, "z");
  create_fails(f, INGOT_ERR_EXISTS, "z.partial: not removed, because it holds a directory (sub)");
}

static void small_files(void **state)
{
  fixture *f = *state;
  char     path[SCRATCH_PATH], found[8] = "";
  scratch_path(&f->base.scratch, "a.json", path);
  assert_int_equal(ingot_file_replace(path, "first", 5, true), INGOT_OK);
  assert_int_equal(ingot_file_replace(path, "2nd", 3, true), INGOT_OK);
  int fd = open(path, O_RDONLY);
  assert_int_equal(read(fd, found, sizeof found), 3);
  assert_memory_equal(found, "2nd", 3);
  assert_int_equal(ingot_file_pread(fd, path, 1, found, 5), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "ends at byte 3, expected 3 more");
  close(fd);
  scratch_mkdir(&f->base.scratch, "dir");
  scratch_path(&f->base.scratch, "dir", path);
  assert_int_equal(ingot_file_replace(path, "x", 1, false), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "dir.new: cannot rename");
  assert_false(exists(f, "dir.new"));
  scratch_path(&f->base.scratch, "none/a.json", path);
  assert_int_equal(ingot_file_replace(path, "x", 1, false), INGOT_ERR_IO);
  assert_message(ingot_error_message(), "none/a.json.new: cannot create");
}

int main(void)
{
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(other_jobs, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(cut_or_damaged, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(file_size_limit, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(full_disk_codes, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(parent_is_a_file, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(bad_side_file_names, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(bad_tensors, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(outside_the_tensor, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(existing_outputs, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(directories_not_ours, begin, sink_fixture_end),
      cmocka_unit_test_setup_teardown(small_files, begin, sink_fixture_end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
