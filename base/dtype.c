#include "base/dtype.h"

#include <string.h>

static const struct {
  const char *name;
  const char *long_name;
  size_t      bytes;
  bool        is_float;
} dtypes[INGOT_DTYPE_COUNT] = {
#define INGOT_DTYPE(code, short_name, long_name, bytes, is_float) {short_name, long_name, bytes, is_float},
#include "base/dtype.def"
#undef INGOT_DTYPE
};

size_t ingot_dtype_size(ingot_dtype d)
{
  return dtypes[d].bytes;
}

bool ingot_dtype_is_float(ingot_dtype d)
{
  return dtypes[d].is_float;
}

const char *ingot_dtype_name(ingot_dtype d)
{
  return dtypes[d].name;
}

const char *ingot_dtype_long_name(ingot_dtype d)
{
  return dtypes[d].long_name;
}

bool ingot_dtype_parse(const char *name, ingot_dtype *out)
{
  for (int i = 0; i < INGOT_DTYPE_COUNT; i++) {
    if (strcmp(name, dtypes[i].name) == 0 || strcmp(name, dtypes[i].long_name) == 0) {
      *out = (ingot_dtype)i;
      return true;
    }
  }
  return false;
}
