#include "io/hdf5_types.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Layouts of the floats: bit positions as H5Tset_fields takes them. */
static const struct {
  ingot_dtype dtype;
  size_t      bytes, sign, exponent, exponent_bits, mantissa_bits, bias;
} floats[] = {
    {INGOT_DTYPE_F64, 8, 63, 52, 11, 52, 1023}, {INGOT_DTYPE_F32, 4, 31, 23, 8, 23, 127},
    {INGOT_DTYPE_F16, 2, 15, 10, 5, 10, 15},    {INGOT_DTYPE_BF16, 2, 15, 7, 8, 7, 127},
    {INGOT_DTYPE_F8_E4M3, 1, 7, 3, 4, 3, 7},    {INGOT_DTYPE_F8_E5M2, 1, 7, 2, 5, 2, 15},
};
enum { N_FLOAT = sizeof floats / sizeof floats[0] };

static hid_t float_create(int row)
{
  hid_t type = H5Tcopy(floats[row].bytes == 8 ? H5T_IEEE_F64LE : H5T_IEEE_F32LE);
  if (type < 0) return type;
  /* Fields before size: HDF5 refuses a size that the old fields do not fit in. */
  if (H5Tset_fields(type, floats[row].sign, floats[row].exponent, floats[row].exponent_bits, 0,
                    floats[row].mantissa_bits) < 0 ||
      H5Tset_size(type, floats[row].bytes) < 0 || H5Tset_ebias(type, floats[row].bias) < 0) {
    H5Tclose(type);
    return -1;
  }
  return type;
}

static hid_t bool_create(void)
{
  int8_t no = 0, yes = 1;
  hid_t  type = H5Tenum_create(H5T_STD_I8LE);
  if (type < 0) return type;
  if (H5Tenum_insert(type, "FALSE", &no) < 0 || H5Tenum_insert(type, "TRUE", &yes) < 0) {
    H5Tclose(type);
    return -1;
  }
  return type;
}

static hid_t type_create(ingot_dtype d)
{
  for (int i = 0; i < N_FLOAT; i++)
    if (floats[i].dtype == d) return float_create(i);
  switch (d) {
  case INGOT_DTYPE_I64: return H5Tcopy(H5T_STD_I64LE);
  case INGOT_DTYPE_I32: return H5Tcopy(H5T_STD_I32LE);
  case INGOT_DTYPE_I16: return H5Tcopy(H5T_STD_I16LE);
  case INGOT_DTYPE_I8: return H5Tcopy(H5T_STD_I8LE);
  case INGOT_DTYPE_U64: return H5Tcopy(H5T_STD_U64LE);
  case INGOT_DTYPE_U32: return H5Tcopy(H5T_STD_U32LE);
  case INGOT_DTYPE_U16: return H5Tcopy(H5T_STD_U16LE);
  case INGOT_DTYPE_U8: return H5Tcopy(H5T_STD_U8LE);
  case INGOT_DTYPE_BOOL: return bool_create();
  default: return -1;
  }
}

ingot_status ingot_hdf5_type_create(ingot_dtype d, hid_t *out)
{
  char text[256];
  *out = type_create(d);
  if (*out >= 0) return INGOT_OK;
  return ingot_fail(INGOT_ERR_INTERNAL, "HDF5 made no datatype for %s: %s", ingot_dtype_name(d),
                    ingot_hdf5_error_text(text));
}

static bool is_member(hid_t type, int8_t value, const char *expected)
{
  char name[8];
  return H5Tenum_nameof(type, &value, name, sizeof name) >= 0 && strcmp(name, expected) == 0;
}

ingot_hdf5_type ingot_hdf5_type_describe(hid_t type)
{
  ingot_hdf5_type t = {.kind = H5Tget_class(type), .bytes = H5Tget_size(type)};
  if (t.kind == H5T_INTEGER || t.kind == H5T_FLOAT) {
    int first_bit = H5Tget_offset(type);
    t.big_endian = H5Tget_order(type) != H5T_ORDER_LE;
    t.precision = H5Tget_precision(type);
    t.first_bit = first_bit < 0 ? SIZE_MAX : (size_t)first_bit;
  }
  if (t.kind == H5T_INTEGER) t.has_sign = H5Tget_sign(type) == H5T_SGN_2;
  if (t.kind == H5T_FLOAT)
    t.implied = H5Tget_norm(type) == H5T_NORM_IMPLIED &&
                H5Tget_fields(type, &t.sign, &t.exponent, &t.exponent_bits, &t.mantissa, &t.mantissa_bits) >= 0;
  if (t.kind == H5T_FLOAT) t.bias = H5Tget_ebias(type);
  if (t.kind == H5T_ENUM)
    t.is_bool = t.bytes == 1 && H5Tget_nmembers(type) == 2 && is_member(type, 0, "FALSE") && is_member(type, 1, "TRUE");
  return t;
}

/* Bytes in little-endian order, or a single byte; every bit in use. */
static bool is_plain(const ingot_hdf5_type *t)
{
  return (t->bytes == 1 || !t->big_endian) && t->precision == 8 * t->bytes && t->first_bit == 0;
}

static bool recognise_float(const ingot_hdf5_type *t, ingot_dtype *out)
{
  if (!is_plain(t) || !t->implied) return false;
  for (int i = 0; i < N_FLOAT; i++) {
    if (t->bytes == floats[i].bytes && t->sign == floats[i].sign && t->exponent == floats[i].exponent &&
        t->exponent_bits == floats[i].exponent_bits && t->mantissa == 0 &&
        t->mantissa_bits == floats[i].mantissa_bits && t->bias == floats[i].bias) {
      *out = floats[i].dtype;
      return true;
    }
  }
  return false;
}

static bool recognise_integer(const ingot_hdf5_type *t, ingot_dtype *out)
{
  static const struct {
    size_t      bytes;
    ingot_dtype with_sign, without_sign;
  } integers[] = {{8, INGOT_DTYPE_I64, INGOT_DTYPE_U64},
                  {4, INGOT_DTYPE_I32, INGOT_DTYPE_U32},
                  {2, INGOT_DTYPE_I16, INGOT_DTYPE_U16},
                  {1, INGOT_DTYPE_I8, INGOT_DTYPE_U8}};
  if (!is_plain(t)) return false;
  for (int i = 0; i < 4; i++) {
    if (t->bytes == integers[i].bytes) {
      *out = t->has_sign ? integers[i].with_sign : integers[i].without_sign;
      return true;
    }
  }
  return false;
}

bool ingot_hdf5_type_dtype(const ingot_hdf5_type *type, ingot_dtype *out)
{
  switch (type->kind) {
  case H5T_FLOAT: return recognise_float(type, out);
  case H5T_INTEGER: return recognise_integer(type, out);
  case H5T_ENUM: *out = INGOT_DTYPE_BOOL; return type->is_bool;
  default: return false;
  }
}

bool ingot_hdf5_type_recognise(hid_t type, ingot_dtype *out)
{
  ingot_hdf5_type described = ingot_hdf5_type_describe(type);
  return ingot_hdf5_type_dtype(&described, out);
}

const char *ingot_hdf5_type_text(const ingot_hdf5_type *type, char text[96])
{
  static const struct {
    H5T_class_t kind;
    const char *name;
  } kinds[] = {{H5T_INTEGER, "integer"},  {H5T_FLOAT, "float"},         {H5T_STRING, "string"},
               {H5T_BITFIELD, "bits"},    {H5T_OPAQUE, "opaque"},       {H5T_COMPOUND, "compound"},
               {H5T_ENUM, "enumeration"}, {H5T_REFERENCE, "reference"}, {H5T_VLEN, "variable-length"},
               {H5T_ARRAY, "array"}};
  const char *name = "unknown type";
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
    if (kinds[i].kind == type->kind) name = kinds[i].name;
  snprintf(text, 96, "%zu-bit %s%s", 8 * type->bytes, name, type->big_endian && type->bytes > 1 ? ", big-endian" : "");
  return text;
}

void ingot_hdf5_quiet_begin(ingot_hdf5_quiet *quiet)
{
  *quiet = (ingot_hdf5_quiet){0};
  H5Eget_auto2(H5E_DEFAULT, &quiet->function, &quiet->data);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void ingot_hdf5_quiet_end(const ingot_hdf5_quiet *quiet)
{
  H5Eset_auto2(H5E_DEFAULT, quiet->function, quiet->data);
}

static herr_t keep_innermost(unsigned n, const H5E_error2_t *error, void *text)
{
  if (n == 0 && error->desc) snprintf(text, 256, "%s", error->desc);
  return 0;
}

const char *ingot_hdf5_error_text(char text[256])
{
  snprintf(text, 256, "no reason given");
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, text);
  return text;
}

ingot_status ingot_hdf5_fail(const char *path, const char *what)
{
  char text[256];
  return ingot_fail(INGOT_ERR_FORMAT, "%s: %s: %s", path, what, ingot_hdf5_error_text(text));
}
