/*
 * Matrix products by cuBLASLt. It counts in columns: a row-major C = A B is its C' = B' A', so that what it calls A is
 * our B, and what it calls rows is our n. Nothing is moved for that.
 *
 * The algorithm of a shape is the library's first proposal, kept with the descriptors in a plan. It is not timed: the
 * same inputs must give the same bits in every run on the same kind of GPU.
 */
#include <new>
#include <stdio.h>
#include <string.h>
#include <vector>

#include "kernels/library.h"
#include "kernels/nn/cuda_matmul.cuh"

/** What a plan is for: compared as bytes, so every field is 64 bits wide and there are no holes. */
struct plan_key {
  int64_t m, n, k, lda, ldb, ldc, transpose_a, transpose_b, c_dtype, bias;
  int64_t align_a, align_b, align_c; /* bytes, at most 256 */
  int64_t n_batch, stride_a, stride_b, stride_c, workspace_bytes;
};

struct plan {
  plan_key               key;
  cublasLtMatmulDesc_t   product;
  cublasLtMatrixLayout_t first, second, result; /* our B, A, C */
  cublasLtMatmulAlgo_t   algorithm;
};

struct ingot_nn_plans {
  std::vector<plan> list; /* some dozens a model: searched in order, from the one used last */
  size_t            last;
};

static ingot_status blas_status(const ingot_nn_cuda *nn, cublasStatus_t status, const char *call)
{
  if (status == CUBLAS_STATUS_SUCCESS) return INGOT_OK;
  return ingot_fail(INGOT_ERR_DEVICE, "GPU %d: cuBLASLt: %s (%s) in %s", nn->head.device, nn->blas.status_text(status),
                    nn->blas.status_name(status), call);
}

/* Calls function `name` of the library; on failure goes to `done` with `st` set. */
#define TRY_BLAS(name, ...) INGOT_TRY(blas_status(nn, nn->blas.name(__VA_ARGS__), #name))

ingot_status ingot_cublaslt_load(ingot_cublaslt *out)
{
  ingot_status st = INGOT_OK;
  void        *library = nullptr, *address = nullptr;
  char         name[32];

  snprintf(name, sizeof name, "libcublasLt.so.%d", CUDART_VERSION / 1000);
  INGOT_TRY(ingot_library_load(name, INGOT_CUDA_FOLDER, &library));
#define LOAD(ours, theirs)                                             \
  INGOT_TRY(ingot_library_function(library, name, #theirs, &address)); \
  out->ours = reinterpret_cast<decltype(out->ours)>(address);
  INGOT_CUBLASLT_FUNCTIONS(LOAD)
#undef LOAD
done:
  return st;
}

static cudaDataType_t blas_type(ingot_dtype dtype)
{
  return dtype == INGOT_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int64_t alignment(const void *p)
{
  uintptr_t low = reinterpret_cast<uintptr_t>(p) & 255u;
  return low == 0 ? 256 : static_cast<int64_t>(low & (~low + 1));
}

static void plan_release(const ingot_nn_cuda *nn, plan *p)
{
  if (p->product != nullptr) (void)nn->blas.product_destroy(p->product);
  if (p->first != nullptr) (void)nn->blas.layout_destroy(p->first);
  if (p->second != nullptr) (void)nn->blas.layout_destroy(p->second);
  if (p->result != nullptr) (void)nn->blas.layout_destroy(p->result);
}

ingot_status ingot_nn_cuda_matmul_open(ingot_nn_cuda *nn)
{
  ingot_status st = INGOT_OK;
  nn->plans = new (std::nothrow) ingot_nn_plans();
  INGOT_CHECK(nn->plans != nullptr, INGOT_ERR_NOMEM, "out of host memory: %zu bytes wanted", sizeof *nn->plans);
  INGOT_TRY(ingot_cublaslt_load(&nn->blas));
  TRY_BLAS(create, &nn->lt);
done:
  return st;
}

void ingot_nn_cuda_matmul_close(ingot_nn_cuda *nn)
{
  if (nn->plans != nullptr) {
    for (plan &p : nn->plans->list) plan_release(nn, &p);
  }
  delete nn->plans;
  nn->plans = nullptr;
  if (nn->lt != nullptr) (void)nn->blas.destroy(nn->lt);
  nn->lt = nullptr;
}

static plan_key key_of(const ingot_nn_product *p)
{
  plan_key key;
  memset(&key, 0, sizeof key);
  key.m = p->m, key.n = p->n, key.k = p->k;
  key.lda = p->a.ld, key.ldb = p->b.ld, key.ldc = p->ldc;
  key.transpose_a = p->a.transpose, key.transpose_b = p->b.transpose;
  key.c_dtype = p->c_dtype, key.bias = p->bias != nullptr;
  key.align_a = alignment(p->a.data), key.align_b = alignment(p->b.data), key.align_c = alignment(p->c);
  key.n_batch = p->n_batch;
  key.stride_a = p->stride_a, key.stride_b = p->stride_b, key.stride_c = p->stride_c;
  key.workspace_bytes = static_cast<int64_t>(p->workspace_bytes);
  return key;
}

/** rows, columns: as cuBLASLt counts them in memory, before a transposition. */
static ingot_status make_layout(const ingot_nn_cuda *nn, ingot_dtype dtype, int64_t rows, int64_t columns, int64_t ld,
                                int64_t n_batch, int64_t stride, cublasLtMatrixLayout_t *out)
{
  ingot_status st = INGOT_OK;
  int32_t      count = static_cast<int32_t>(n_batch);
  TRY_BLAS(layout_create, out, blas_type(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), ld);
  if (n_batch == 1) goto done;
  TRY_BLAS(layout_set, *out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
  TRY_BLAS(layout_set, *out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
done:
  return st;
}

static ingot_status make_descriptors(const ingot_nn_cuda *nn, plan *p)
{
  ingot_status        st = INGOT_OK;
  const plan_key     *key = &p->key;
  ingot_dtype         dtype = nn->head.dtype, c_dtype = static_cast<ingot_dtype>(key->c_dtype);
  cublasComputeType_t compute =
      nn->tf32 && dtype == INGOT_DTYPE_F32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  cublasOperation_t  as_is = CUBLAS_OP_N, turned = CUBLAS_OP_T;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;

  TRY_BLAS(product_create, &p->product, compute, CUDA_R_32F);
  TRY_BLAS(product_set, p->product, CUBLASLT_MATMUL_DESC_TRANSA, key->transpose_b ? &turned : &as_is, sizeof as_is);
  TRY_BLAS(product_set, p->product, CUBLASLT_MATMUL_DESC_TRANSB, key->transpose_a ? &turned : &as_is, sizeof as_is);
  if (key->bias) {
    TRY_BLAS(product_set, p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  }
  INGOT_TRY(make_layout(nn, dtype, key->transpose_b ? key->k : key->n, key->transpose_b ? key->n : key->k, key->ldb,
                        key->n_batch, key->stride_b, &p->first));
  INGOT_TRY(make_layout(nn, dtype, key->transpose_a ? key->m : key->k, key->transpose_a ? key->k : key->m, key->lda,
                        key->n_batch, key->stride_a, &p->second));
  INGOT_TRY(make_layout(nn, c_dtype, key->n, key->m, key->ldc, key->n_batch, key->stride_c, &p->result));
done:
  return st;
}

static ingot_status choose_algorithm(ingot_nn_cuda *nn, plan *p)
{
  ingot_status                    st = INGOT_OK;
  cublasLtMatmulPreference_t      preference = nullptr;
  cublasLtMatmulHeuristicResult_t found;
  int                             n_found = 0;
  /* sums over k are float32 to the end: no partial sums in the dtype of the result */
  uint32_t        reduction = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const plan_key *key = &p->key;
  size_t          workspace_bytes = static_cast<size_t>(key->workspace_bytes);
  uint32_t        align_a = static_cast<uint32_t>(key->align_a), align_b = static_cast<uint32_t>(key->align_b);
  uint32_t        align_c = static_cast<uint32_t>(key->align_c);

  TRY_BLAS(preference_create, &preference);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
           sizeof workspace_bytes);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align_b, sizeof align_b);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align_a, sizeof align_a);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_c, sizeof align_c);
  TRY_BLAS(preference_set, preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_c, sizeof align_c);
  memset(&found, 0, sizeof found);
  TRY_BLAS(heuristic, nn->lt, p->product, p->first, p->second, p->result, p->result, preference, 1, &found, &n_found);
  INGOT_CHECK(n_found == 1 && found.state == CUBLAS_STATUS_SUCCESS, INGOT_ERR_DEVICE,
              "GPU %d: cuBLASLt has no algorithm for this product", nn->head.device);
  p->algorithm = found.algo;
done:
  if (preference != nullptr) (void)nn->blas.preference_destroy(preference);
  return st;
}

static ingot_status find_plan(ingot_nn_cuda *nn, const plan_key *key, plan **out)
{
  ingot_status    st = INGOT_OK;
  ingot_nn_plans *plans = nn->plans;
  size_t          n = plans->list.size();
  plan            made;

  memset(&made, 0, sizeof made);
  for (size_t i = 0; i < n; i++) {
    size_t at = (plans->last + 1 + i) % n;
    if (memcmp(&plans->list[at].key, key, sizeof *key) != 0) continue;
    plans->last = at;
    *out = &plans->list[at];
    return INGOT_OK;
  }
  made.key = *key;
  INGOT_TRY(make_descriptors(nn, &made));
  INGOT_TRY(choose_algorithm(nn, &made));
  try {
    plans->list.push_back(made);
  } catch (const std::bad_alloc &) {
    st = ingot_fail(INGOT_ERR_NOMEM, "out of host memory: %zu bytes wanted", sizeof made);
    goto done;
  }
  plans->last = n;
  *out = &plans->list[n];
done:
  if (st != INGOT_OK) plan_release(nn, &made);
  return ingot_wrap(st, "matrix product [%lld, %lld] x [%lld, %lld]", (long long)key->m, (long long)key->k,
                    (long long)key->k, (long long)key->n);
}

ingot_status ingot_nn_cuda_product(ingot_nn_cuda *nn, const ingot_nn_product *p)
{
  ingot_status st = INGOT_OK;
  plan_key     key = key_of(p);
  plan        *planned = nullptr;

  INGOT_ASSERT(p->k > 0 && p->n_batch > 0);
  if (p->m == 0 || p->n == 0) return INGOT_OK;
  INGOT_TRY(find_plan(nn, &key, &planned));
  if (p->bias != nullptr) {
    TRY_BLAS(product_set, planned->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
  }
  TRY_BLAS(matmul, nn->lt, planned->product, &p->alpha, p->b.data, planned->first, p->a.data, planned->second, &p->beta,
           p->c, planned->result, p->c, planned->result, &planned->algorithm, p->workspace, p->workspace_bytes,
           p->stream);
done:
  return st;
}

/** c += bias, for the one pair of dtypes that the library's epilogue does not have: bfloat16 added to float32. */
static __global__ void add_bias_kernel(int64_t m, int64_t n, const __nv_bfloat16 *bias, float *c, int64_t ldc)
{
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < m * n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    int64_t row = i / n, column = i - row * n;
    c[row * ldc + column] += __bfloat162float(bias[column]);
  }
}

ingot_status ingot_nn_cuda_matmul(ingot_nn *back_end, int64_t m, int64_t n, int64_t k, float alpha, ingot_nn_matrix a,
                                  ingot_nn_matrix b, float beta, void *c, int64_t ldc, ingot_dtype c_dtype,
                                  const void *bias)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  bool           bias_after = bias != nullptr && nn->head.dtype == INGOT_DTYPE_BF16 && c_dtype == INGOT_DTYPE_F32;

  ingot_nn_product product = {m,
                              n,
                              k,
                              alpha,
                              beta,
                              a,
                              b,
                              c,
                              ldc,
                              c_dtype,
                              bias_after ? nullptr : bias,
                              1,
                              0,
                              0,
                              0,
                              nn->stream,
                              nn->workspace,
                              nn->workspace_bytes};
  INGOT_TRY(ingot_nn_cuda_product(nn, &product));
  if (bias_after && m > 0 && n > 0) {
    add_bias_kernel<<<static_cast<unsigned>(8 * nn->sm_count), 256, 0, nn->stream>>>(m, n,
                                                                                     static_cast<const __nv_bfloat16 *>(
                                                                                         bias),
                                                                                     static_cast<float *>(c), ldc);
    INGOT_TRY(ingot_nn_cuda_launched("add_bias_kernel"));
  }
done:
  return st;
}
