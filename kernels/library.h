/**
 * Shared libraries that are loaded when they are first needed: cuBLASLt and NCCL together take 0.1 s of every start,
 * and most runs use neither.
 */
#ifndef INGOT_KERNELS_LIBRARY_H
#define INGOT_KERNELS_LIBRARY_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Load `name`, by the system's search path first, then from the folder that the build found it in (NULL: nowhere). It
 * stays loaded until the process ends. INGOT_ERR_DEVICE with the loader's own text.
 */
ingot_status ingot_library_load(const char *name, const char *folder, void **out);
/** Address of a function. INGOT_ERR_DEVICE when the library has none of this name. */
ingot_status ingot_library_function(void *library, const char *library_name, const char *function, void **out);

#ifdef __cplusplus
}
#endif
#endif
