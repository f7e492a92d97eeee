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

/* Bytes in little-endian order, or a single byte; every bit in use. */
static bool is_plain(hid_t type)
{
  size_t bytes = H5Tget_size(type);
  return (bytes == 1 || H5Tget_order(type) == H5T_ORDER_LE) && H5Tget_precision(type) == 8 * bytes &&
         H5Tget_offset(type) == 0;
}

static bool recognise_float(hid_t type, ingot_dtype *out)
{
  size_t sign, exponent, exponent_bits, mantissa, mantissa_bits;
  if (!is_plain(type) || H5Tget_norm(type) != H5T_NORM_IMPLIED ||
      H5Tget_fields(type, &sign, &exponent, &exponent_bits, &mantissa, &mantissa_bits) < 0)
    return false;
  for (int i = 0; i < N_FLOAT; i++) {
    if (H5Tget_size(type) == floats[i].bytes && sign == floats[i].sign && exponent == floats[i].exponent &&
        exponent_bits == floats[i].exponent_bits && mantissa == 0 && mantissa_bits == floats[i].mantissa_bits &&
        H5Tget_ebias(type) == floats[i].bias) {
      *out = floats[i].dtype;
      return true;
    }
  }
  return false;
}

static bool recognise_integer(hid_t type, ingot_dtype *out)
{
  static const struct {
    size_t      bytes;
    ingot_dtype with_sign, without_sign;
  } integers[] = {{8, INGOT_DTYPE_I64, INGOT_DTYPE_U64},
                  {4, INGOT_DTYPE_I32, INGOT_DTYPE_U32},
                  {2, INGOT_DTYPE_I16, INGOT_DTYPE_U16},
                  {1, INGOT_DTYPE_I8, INGOT_DTYPE_U8}};
  H5T_sign_t sign = H5Tget_sign(type);
  if (!is_plain(type) || (sign != H5T_SGN_2 && sign != H5T_SGN_NONE)) return false;
  for (int i = 0; i < 4; i++) {
    if (H5Tget_size(type) == integers[i].bytes) {
      *out = sign == H5T_SGN_2 ? integers[i].with_sign : integers[i].without_sign;
      return true;
    }
  }
  return false;
}

static bool recognise_bool(hid_t type, ingot_dtype *out)
{
  int8_t value = 0;
  char   name[8];
  if (H5Tget_size(type) != 1 || H5Tget_nmembers(type) != 2) return false;
  value = 0;
  if (H5Tenum_nameof(type, &value, name, sizeof name) < 0 || strcmp(name, "FALSE") != 0) return false;
  value = 1;
  if (H5Tenum_nameof(type, &value, name, sizeof name) < 0 || strcmp(name, "TRUE") != 0) return false;
  *out = INGOT_DTYPE_BOOL;
  return true;
}

bool ingot_hdf5_type_recognise(hid_t type, ingot_dtype *out)
{
  switch (H5Tget_class(type)) {
  case H5T_FLOAT: return recognise_float(type, out);
  case H5T_INTEGER: return recognise_integer(type, out);
  case H5T_ENUM: return recognise_bool(type, out);
  default: return false;
  }
}

const char *ingot_hdf5_type_text(hid_t type, char text[96])
{
  static const struct {
    H5T_class_t class;
    const char *name;
  } classes[] = {{H5T_INTEGER, "integer"},  {H5T_FLOAT, "float"},         {H5T_STRING, "string"},
                 {H5T_BITFIELD, "bits"},    {H5T_OPAQUE, "opaque"},       {H5T_COMPOUND, "compound"},
                 {H5T_ENUM, "enumeration"}, {H5T_REFERENCE, "reference"}, {H5T_VLEN, "variable-length"},
                 {H5T_ARRAY, "array"}};
  H5T_class_t class = H5Tget_class(type);
  const char *name = "unknown type";
  for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
    if (classes[i].class == class) name = classes[i].name;
  bool number = class == H5T_INTEGER || class == H5T_FLOAT;
  snprintf(text, 96, "%zu-bit %s%s", 8 * H5Tget_size(type), name,
           number && H5Tget_order(type) == H5T_ORDER_BE ? ", big-endian" : "");
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
