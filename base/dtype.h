/** Element types of tensors: the list of the safetensors format. */
#ifndef INGOT_BASE_DTYPE_H
#define INGOT_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_dtype {
#define INGOT_DTYPE(code, short_name, long_name, bytes, is_float) INGOT_DTYPE_##code,
#include "base/dtype.def"
#undef INGOT_DTYPE
  INGOT_DTYPE_COUNT
} ingot_dtype;

/** Bytes of one element. */
size_t ingot_dtype_size(ingot_dtype d);
/** True for F64 to F8_E5M2: what methods merge. Integers and booleans are copied. */
bool ingot_dtype_is_float(ingot_dtype d);
/** The safetensors name, such as "BF16". */
const char *ingot_dtype_name(ingot_dtype d);
/** The name used by job files and PyTorch, such as "bfloat16". */
const char *ingot_dtype_long_name(ingot_dtype d);
/** Look up either name; returns false and leaves *out alone when there is no such dtype. */
bool ingot_dtype_parse(const char *name, ingot_dtype *out);

#ifdef __cplusplus
}
#endif
#endif
