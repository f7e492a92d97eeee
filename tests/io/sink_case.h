/** A small output with every dtype and every awkward shape, and bytes to fill it with: for the tests of sinks. */
#ifndef INGOT_TESTS_IO_SINK_CASE_H
#define INGOT_TESTS_IO_SINK_CASE_H

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "io/sink.h"

static const ingot_sink_tensor sink_case_tensors[] = {
    {"embed.weight", INGOT_DTYPE_BF16, {2, {1000, 7}}},
    {"odd.u8", INGOT_DTYPE_U8, {1, {3}}},
    {"layer.0/attn/q", INGOT_DTYPE_F32, {2, {33, 5}}},
    {"layer.0/attn/k", INGOT_DTYPE_F32, {3, {2, 3, 4}}},
    {"scale", INGOT_DTYPE_F64, {0, {0}}},
    {"nothing", INGOT_DTYPE_F16, {2, {0, 3}}},
    {"half", INGOT_DTYPE_F16, {1, {2049}}},
    {"f8.e4m3", INGOT_DTYPE_F8_E4M3, {1, {256}}},
    {"f8.e5m2", INGOT_DTYPE_F8_E5M2, {1, {256}}},
    {"i64", INGOT_DTYPE_I64, {1, {5}}},
    {"i32", INGOT_DTYPE_I32, {1, {5}}},
    {"i16", INGOT_DTYPE_I16, {1, {5}}},
    {"i8", INGOT_DTYPE_I8, {1, {5}}},
    {"u64", INGOT_DTYPE_U64, {1, {5}}},
    {"u32", INGOT_DTYPE_U32, {1, {5}}},
    {"u16", INGOT_DTYPE_U16, {1, {5}}},
    {"mask", INGOT_DTYPE_BOOL, {2, {3, 3}}},
    {"quote\" back\\ \xc3\xa9", INGOT_DTYPE_F32, {1, {1}}},
};
enum { SINK_CASE_TENSORS = sizeof sink_case_tensors / sizeof sink_case_tensors[0] };

static const ingot_sink_file sink_case_files[] = {
    {"config.json", "{\"model_type\": \"test\"}\n", 23},
    {"empty.txt", "", 0},
    {"tokenizer.model", "\0\1\2\3", 4},
};
enum { SINK_CASE_FILES = 3 };

static const ingot_sink_attribute sink_case_attributes[] = {
    {"ingot_recipe", "merge \"a\"\n\tand b"},
    {"empty", ""},
    {"model_card", "# Card\n"},
};
enum { SINK_CASE_ATTRIBUTES = 3 };

static inline ingot_sink_spec sink_case_spec(const char *path)
{
  return (ingot_sink_spec){.path = path,
                           .format = ingot_sink_format_of(path),
                           .tensors = sink_case_tensors,
                           .n_tensor = SINK_CASE_TENSORS,
                           .files = sink_case_files,
                           .n_file = SINK_CASE_FILES,
                           .attributes = sink_case_attributes,
                           .n_attribute = SINK_CASE_ATTRIBUTES,
                           .durable = true};
}

static inline size_t sink_case_bytes(const ingot_sink_tensor *t)
{
  int64_t n = 0;
  return ingot_shape_count(&t->shape, &n) ? (size_t)n * ingot_dtype_size(t->dtype) : 0;
}

/** Byte `offset` of a tensor. A boolean is 0 or 1. */
static inline unsigned char sink_case_byte(const ingot_sink_tensor *t, int index, size_t offset)
{
  if (t->dtype == INGOT_DTYPE_BOOL) return offset % 2;
  if (t->dtype == INGOT_DTYPE_F8_E4M3 || t->dtype == INGOT_DTYPE_F8_E5M2) return (unsigned char)offset;
  return (unsigned char)((offset * 37 + offset / 251 + (size_t)index * 11) & 0x3f);
}

/** Write bytes [begin, end) of a tensor, in pieces of at most 1000. */
static inline ingot_status sink_case_write(ingot_sink *sink, const ingot_sink_tensor *tensors, int i, size_t begin,
                                           size_t end)
{
  unsigned char piece[1000];
  for (size_t at = begin; at < end;) {
    size_t n = end - at < sizeof piece ? end - at : sizeof piece;
    for (size_t k = 0; k < n; k++) piece[k] = sink_case_byte(&tensors[i], i, at + k);
    ingot_status st = ingot_sink_write(sink, i, at, n, piece);
    if (st != INGOT_OK) return st;
    at += n;
  }
  return INGOT_OK;
}

/** One tile a tensor (all are small): the hash of its bytes' hash. */
static inline uint64_t sink_case_checksum(const ingot_sink_tensor *t, int i)
{
  size_t         n = sink_case_bytes(t);
  unsigned char *bytes = malloc(n + 1);
  if (!bytes) abort();
  for (size_t k = 0; k < n; k++) bytes[k] = sink_case_byte(t, i, k);
  uint64_t hash = ingot_hash(bytes, n);
  free(bytes);
  return n ? ingot_hash(&hash, sizeof hash) : ingot_hash(NULL, 0);
}

#endif
