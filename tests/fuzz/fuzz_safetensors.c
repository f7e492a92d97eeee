/* The safetensors header: whatever the bytes, an error or a table of tensors that lie inside the file, one after
 * another. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "io/source_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void check_table(const ingot_source *src, uint64_t file_bytes)
{
  uint64_t end = 0;
  for (int i = 0; i < src->n_tensor; i++) {
    const ingot_tensor_info *t = ingot_source_tensor(src, i);
    if (t->offset < 8 || t->offset < end || t->offset > file_bytes || t->bytes > file_bytes - t->offset) abort();
    if (t->bytes != (uint64_t)t->n_elem * ingot_dtype_size(t->dtype)) abort();
    if (ingot_source_find(src, t->name) != i) abort();
    end = t->offset + t->bytes;
  }
}

/* The whole input as a file of file_bytes bytes, which may be more than there are. */
static void parse(const uint8_t *bytes, size_t size, uint64_t file_bytes)
{
  ingot_source *src = NULL;
  if (ingot_source_new("fuzz", INGOT_SOURCE_SAFETENSORS, &src) != INGOT_OK) return;
  ingot_status st = ingot_source_add_file(src, "fuzz", "fuzz", file_bytes, 0);
  if (st == INGOT_OK) st = ingot_safetensors_parse(src, bytes, size, file_bytes);
  if (st == INGOT_OK) st = ingot_source_freeze(src);
  if (st == INGOT_OK) check_table(src, file_bytes);
  else if (ingot_error_message()[0] == '\0') abort();
  ingot_source_close(&src);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
  parse(bytes, size, size);
  parse(bytes, size, size + 4096);
  parse(bytes, size, INT64_MAX); /* the largest that a file can be */
  if (size > 8) {                /* the same with the length set right, so that JSON is reached more often */
    uint8_t *fixed = malloc(size);
    if (!fixed) return 0;
    memcpy(fixed, bytes, size);
    for (int i = 0; i < 8; i++) fixed[i] = (uint8_t)((uint64_t)(size - 8) >> (8 * i));
    parse(fixed, size, size + (bytes[0] | bytes[1] << 8));
    free(fixed);
  }
  return 0;
}
