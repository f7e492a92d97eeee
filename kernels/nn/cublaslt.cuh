/** The functions of cuBLASLt that we use, from the library loaded when a CUDA back end is opened. CUDA sources only. */
#ifndef INGOT_KERNELS_NN_CUBLASLT_CUH
#define INGOT_KERNELS_NN_CUBLASLT_CUH

#include <cublasLt.h>

#include "base/status.h"

/** One line a function: our name, theirs. */
#define INGOT_CUBLASLT_FUNCTIONS(F)                      \
  F(create, cublasLtCreate)                              \
  F(destroy, cublasLtDestroy)                            \
  F(status_name, cublasLtGetStatusName)                  \
  F(status_text, cublasLtGetStatusString)                \
  F(matmul, cublasLtMatmul)                              \
  F(heuristic, cublasLtMatmulAlgoGetHeuristic)           \
  F(product_create, cublasLtMatmulDescCreate)            \
  F(product_destroy, cublasLtMatmulDescDestroy)          \
  F(product_set, cublasLtMatmulDescSetAttribute)         \
  F(layout_create, cublasLtMatrixLayoutCreate)           \
  F(layout_destroy, cublasLtMatrixLayoutDestroy)         \
  F(layout_set, cublasLtMatrixLayoutSetAttribute)        \
  F(preference_create, cublasLtMatmulPreferenceCreate)   \
  F(preference_destroy, cublasLtMatmulPreferenceDestroy) \
  F(preference_set, cublasLtMatmulPreferenceSetAttribute)

typedef struct ingot_cublaslt {
#define INGOT_CUBLASLT_POINTER(ours, theirs) decltype(&theirs) ours;
  INGOT_CUBLASLT_FUNCTIONS(INGOT_CUBLASLT_POINTER)
#undef INGOT_CUBLASLT_POINTER
} ingot_cublaslt;

/** INGOT_ERR_DEVICE: not installed, or a version that lacks a function. */
ingot_status ingot_cublaslt_load(ingot_cublaslt *out);

#endif
