/**
 * What readers and writers of ingot checkpoints share: names inside the file, and element types as HDF5 datatypes.
 * For the .c files of io only: nothing outside io sees HDF5. HDF5 is not thread-safe: one thread at a time.
 *
 *   F64 F32        H5T_IEEE_F64LE, H5T_IEEE_F32LE
 *   F16            16-bit little-endian float: sign 1, exponent 5 (bias 15), mantissa 10 with implied leading bit
 *   BF16           16-bit little-endian float: sign 1, exponent 8 (bias 127), mantissa 7 with implied leading bit
 *   F8_E4M3        8-bit float: sign 1, exponent 4 (bias 7), mantissa 3 with implied leading bit
 *   F8_E5M2        8-bit float: sign 1, exponent 5 (bias 15), mantissa 2 with implied leading bit
 *   I64 ... U8     H5T_STD_I64LE ... H5T_STD_U8LE
 *   BOOL           enumeration of H5T_STD_I8LE: FALSE = 0, TRUE = 1 (as h5py writes numpy.bool_)
 */
#ifndef INGOT_IO_HDF5_TYPES_H
#define INGOT_IO_HDF5_TYPES_H

#include <hdf5.h>
#include <stdbool.h>

#include "base/dtype.h"
#include "base/status.h"

#define INGOT_HDF5_TENSORS "tensors"              /* group: one dataset a tensor; '/' in a name makes groups */
#define INGOT_HDF5_FILES "files"                  /* group: one uint8 dataset a side file */
#define INGOT_HDF5_CHECKSUM "checksum"            /* attribute of a tensor's dataset: scalar uint64 */
#define INGOT_HDF5_VERSION "ingot_format_version" /* root attribute: scalar integer */
enum { INGOT_HDF5_FORMAT_VERSION = 1 };

/** What a datatype says of itself: enough to know ours, and to name others. Bit positions count from the lowest. */
typedef struct ingot_hdf5_type {
  H5T_class_t kind;
  size_t      bytes;
  bool        big_endian, has_sign; /* has_sign: of integers */
  bool        is_bool;              /* an enumeration of bytes: FALSE = 0, TRUE = 1 */
  size_t      first_bit, precision; /* bits in use */
  bool        implied;              /* floats: a leading bit that is not stored */
  size_t      sign, exponent, exponent_bits, mantissa, mantissa_bits, bias;
} ingot_hdf5_type;

/** A datatype for d; the caller closes it with H5Tclose. INGOT_ERR_INTERNAL when HDF5 refuses. */
ingot_status    ingot_hdf5_type_create(ingot_dtype d, hid_t *out);
ingot_hdf5_type ingot_hdf5_type_describe(hid_t type);
/** The dtype that a file's datatype stands for; false when it is none of ours. */
bool ingot_hdf5_type_recognise(hid_t type, ingot_dtype *out);
bool ingot_hdf5_type_dtype(const ingot_hdf5_type *type, ingot_dtype *out);
/** A few words on a datatype for messages, such as "16-bit float, big-endian". Writes into text and returns it. */
const char *ingot_hdf5_type_text(const ingot_hdf5_type *type, char text[96]);

/** HDF5's own error printing, turned off between begin and end of this thread's calls. */
typedef struct ingot_hdf5_quiet {
  H5E_auto2_t function;
  void       *data;
} ingot_hdf5_quiet;

void ingot_hdf5_quiet_begin(ingot_hdf5_quiet *quiet);
void ingot_hdf5_quiet_end(const ingot_hdf5_quiet *quiet);
/** What HDF5 said about the last failure: its innermost description. Writes into text and returns it. */
const char *ingot_hdf5_error_text(char text[256]);
/** INGOT_ERR_FORMAT with "<path>: <what>: " and that. */
ingot_status ingot_hdf5_fail(const char *path, const char *what);

#endif
