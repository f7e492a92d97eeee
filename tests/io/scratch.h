/** A temporary folder for a test, and the files in it. */
#ifndef INGOT_TESTS_IO_SCRATCH_H
#define INGOT_TESTS_IO_SCRATCH_H

/* cmocka.h wants these first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCRATCH_PATH = 512 };

typedef struct scratch {
  char dir[SCRATCH_PATH / 2];
} scratch;

static inline void scratch_begin(scratch *s)
{
  const char *base = getenv("TMPDIR");
  snprintf(s->dir, sizeof s->dir, "%s/ingot-test-XXXXXX", base && base[0] ? base : "/tmp");
  assert_non_null(mkdtemp(s->dir));
}

static inline int scratch_unlink(const char *path, const struct stat *info, int flag, struct FTW *where)
{
  (void)info, (void)flag, (void)where;
  return remove(path);
}

static inline void scratch_end(scratch *s)
{
  assert_int_equal(nftw(s->dir, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/** The path of a name in the folder, in the caller's buffer. */
static inline const char *scratch_path(const scratch *s, const char *name, char path[SCRATCH_PATH])
{
  snprintf(path, SCRATCH_PATH, "%s/%s", s->dir, name);
  return path;
}

static inline void scratch_write(const scratch *s, const char *name, const void *bytes, size_t size)
{
  char  path[SCRATCH_PATH];
  FILE *f = fopen(scratch_path(s, name, path), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, size, f), size);
  assert_int_equal(fclose(f), 0);
}

static inline void scratch_text(const scratch *s, const char *name, const char *text)
{
  scratch_write(s, name, text, strlen(text));
}

/** A folder, which may be there already. */
static inline void scratch_mkdir(const scratch *s, const char *name)
{
  char path[SCRATCH_PATH];
  assert_true(mkdir(scratch_path(s, name, path), 0777) == 0 || errno == EEXIST);
}

/** A safetensors file: length, header, payload. */
static inline void scratch_safetensors(const scratch *s, const char *name, const char *header, const void *payload,
                                       size_t payload_bytes)
{
  size_t         length = strlen(header), size = 8 + length + payload_bytes;
  unsigned char *bytes = malloc(size);
  assert_non_null(bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
  memcpy(bytes + 8, header, length);
  if (payload_bytes) memcpy(bytes + 8 + length, payload, payload_bytes);
  scratch_write(s, name, bytes, size);
  free(bytes);
}

/** The thread's error message must hold a text; prints both otherwise. */
static inline void assert_message(const char *message, const char *expected)
{
  if (strstr(message, expected)) return;
  print_error("message:  %s\nexpected: %s\n", message, expected);
  fail();
}

#endif
