/* HDF5's older format: whatever the bytes, an error or a table of tensors that lie inside the file and do not
 * overlap. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/source.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_table(const ingot_source *src, uint64_t file_bytes)
{
  uint64_t end = 0;
  for (int i = 0; i < ingot_source_count(src); i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    if (t->bytes && (t->offset < end || t->offset > file_bytes || t->bytes > file_bytes - t->offset)) abort();
    if (t->bytes != (uint64_t)t->n_elem * ingot_dtype_size(t->dtype)) abort();
    if (ingot_source_find(src, t->name) != i) abort();
    if (t->bytes) end = t->offset + t->bytes;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
  static const uint8_t signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
  ingot_source        *src = NULL;
  char                 path[64];
  /* Newer versions are HDF5's to read. */
  if (size < 9 || memcmp(bytes, signature, sizeof signature) != 0 || bytes[8] > 1) return 0;
  int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || write(fd, bytes, size) != (ssize_t)size) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (ingot_source_open(path, &src) == INGOT_OK) check_table(src, size);
  else if (ingot_error_message()[0] == '\0') abort();
  ingot_source_close(&src);
  close(fd);
  return 0;
}
