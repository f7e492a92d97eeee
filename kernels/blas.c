#include "kernels/blas.h"

#include <string.h>

#include "kernels/library.h"

static const char library_name[] = "libopenblas.so.0";

ingot_status ingot_blas_load(ingot_blas *out)
{
  ingot_status                          st = INGOT_OK;
  void                                 *library = NULL;
  __typeof__(&openblas_set_num_threads) set_threads = NULL;
  const struct {
    const char *name;
    void       *to; /* a pointer to a function */
  } wanted[] = {{"cblas_sgemm", &out->sgemm},
                {"cblas_ssyrk", &out->ssyrk},
                {"cblas_dgemm", &out->dgemm},
                {"cblas_dsyrk", &out->dsyrk},
                {"cblas_dtrsm", &out->dtrsm},
                {"dpotrf_", &out->dpotrf},
                {"openblas_set_num_threads", &set_threads}};
  INGOT_TRY(ingot_library_load(library_name, INGOT_OPENBLAS_FOLDER, &library));
  for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
    void *address = NULL;
    INGOT_TRY(ingot_library_function(library, library_name, wanted[i].name, &address));
    memcpy(wanted[i].to, &address, sizeof address); /* C has no cast between pointers to data and to functions */
  }
  set_threads(1);
done:
  return st;
}
