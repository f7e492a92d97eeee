/*
 * Dense float64 on a GPU: cuBLAS for products, cuSOLVER for Cholesky, loaded when a handle is opened. Row-major matrices are
 * the libraries' column-major ones transposed. Everything is on the default stream of the calling thread.
 */
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <stdlib.h>

#include "kernels/device_error.cuh"
#include "kernels/library.h"
#include "kernels/linalg/linalg.h"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
static const char BLAS[] = "libcublas.so." TEXT(CUBLAS_VER_MAJOR);
static const char SOLVER[] = "libcusolver.so." TEXT(CUSOLVER_VER_MAJOR);

/* One line a function: our name, theirs. */
#define BLAS_FUNCTIONS(F) F(blas_create, cublasCreate_v2) F(blas_destroy, cublasDestroy_v2) F(gemm, cublasDgemm_v2) F(dot, cublasDdot_v2_64)
#define SOLVER_FUNCTIONS(F)                                                                                            \
  F(solver_create, cusolverDnCreate)                                                                                   \
  F(solver_destroy, cusolverDnDestroy)                                                                                 \
  F(potrf_room, cusolverDnDpotrf_bufferSize)                                                                           \
  F(potrf, cusolverDnDpotrf)                                                                                           \
  F(potrs, cusolverDnDpotrs)

namespace {

struct cuda_linalg {
  ingot_linalg head;
  int          device;
#define POINTER(ours, theirs) decltype(&theirs) ours;
  BLAS_FUNCTIONS(POINTER)
  SOLVER_FUNCTIONS(POINTER)
#undef POINTER
  cublasHandle_t     blas;
  cusolverDnHandle_t solver;
  float             *single; /* device room for values on their way in or out */
  int64_t            n_single;
  int               *info; /* device */
};

enum { THREADS = 256 };
static const int64_t BLOCKS_MAX = 65535;
static const int64_t SINGLE_MAX = INT64_C(1) << 26;

cuda_linalg *of(ingot_linalg *l)
{
  cuda_linalg *c = reinterpret_cast<cuda_linalg *>(l);
  (void)cudaSetDevice(c->device);
  return c;
}

unsigned blocks(int64_t n)
{
  int64_t b = (n + THREADS - 1) / THREADS;
  return (unsigned)(b < 1 ? 1 : b < BLOCKS_MAX ? b : BLOCKS_MAX);
}

#define EACH(i, n)                                                                                                     \
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, step_ = (int64_t)gridDim.x * blockDim.x; i < (n); i += step_)

__global__ void widen(const float *from, double *to, int64_t n)
{
  EACH(i, n) to[i] = (double)from[i];
}

__global__ void narrow(const double *from, float *to, int64_t n)
{
  EACH(i, n) to[i] = (float)from[i];
}

__global__ void scale_add(double a, const double *x, double b, double *y, int64_t n)
{
  EACH(i, n) y[i] = a * x[i] + b * y[i];
}

/* Rows first .. of the packed triangle, whose first element is packed[0]: both triangles of `to`. */
__global__ void unpack(const float *packed, int64_t first, int64_t rows, int64_t n, double alpha, double *to)
{
  int64_t start = first * n - first * (first - 1) / 2;
  EACH(e, rows * n)
  {
    int64_t i = first + e / n, j = e % n;
    if (j < i) continue;
    double value = (double)packed[i * n - i * (i - 1) / 2 + (j - i) - start];
    if (i != j) value *= alpha;
    to[i * n + j] = value;
    to[j * n + i] = value;
  }
}

__global__ void copy_up_to_down(double *s, int64_t n)
{
  EACH(e, n * n)
  {
    int64_t i = e / n, j = e % n;
    if (j < i) s[e] = s[j * n + i];
  }
}

ingot_status launched(const char *kernel)
{
  return ingot_cuda_status(cudaGetLastError(), kernel);
}

ingot_status blas_status(cublasStatus_t status, const char *call)
{
  if (status == CUBLAS_STATUS_SUCCESS) return INGOT_OK;
  return ingot_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? INGOT_ERR_NOMEM : INGOT_ERR_DEVICE, "%s failed with cuBLAS status %d",
                    call, (int)status);
}

ingot_status solver_status(cusolverStatus_t status, const char *call)
{
  if (status == CUSOLVER_STATUS_SUCCESS) return INGOT_OK;
  return ingot_fail(status == CUSOLVER_STATUS_ALLOC_FAILED ? INGOT_ERR_NOMEM : INGOT_ERR_DEVICE,
                    "%s failed with cuSOLVER status %d", call, (int)status);
}

ingot_status device_memory(size_t bytes, void **out)
{
  cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    *out = nullptr;
    return ingot_fail(INGOT_ERR_NOMEM, "no GPU memory for a matrix of %zu bytes", bytes);
  }
  return ingot_cuda_status(error, "cudaMalloc");
}

ingot_status cuda_alloc(ingot_linalg *l, int64_t n, ingot_linalg_array *out)
{
  void        *at = nullptr;
  ingot_status st = INGOT_OK;
  (void)of(l);
  *out = {};
  INGOT_TRY(device_memory((size_t)n * sizeof(double), &at));
  out->at = static_cast<double *>(at);
  out->n = n;
  INGOT_TRY_CUDA(cudaMemset(at, 0, (size_t)n * sizeof(double)));
done:
  return st;
}

void cuda_free(ingot_linalg *l, ingot_linalg_array *a)
{
  (void)of(l);
  (void)cudaFree(a->at);
  *a = {};
}

/* Room for n single values, at most SINGLE_MAX at a time. */
ingot_status reserve(cuda_linalg *c, int64_t n)
{
  void        *at = nullptr;
  ingot_status st = INGOT_OK;
  if (n <= c->n_single) return INGOT_OK;
  (void)cudaFree(c->single);
  c->single = nullptr;
  c->n_single = 0;
  INGOT_TRY(device_memory((size_t)n * sizeof(float), &at));
  c->single = static_cast<float *>(at);
  c->n_single = n;
done:
  return st;
}

ingot_status cuda_load(ingot_linalg *l, const float *host, int64_t n, ingot_linalg_array *to)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  int64_t      most = n < SINGLE_MAX ? n : SINGLE_MAX;
  INGOT_TRY(reserve(c, most));
  for (int64_t at = 0; at < n; at += most) {
    int64_t m = n - at < most ? n - at : most;
    INGOT_TRY_CUDA(cudaMemcpy(c->single, host + at, (size_t)m * sizeof(float), cudaMemcpyHostToDevice));
    widen<<<blocks(m), THREADS>>>(c->single, to->at + at, m);
    INGOT_TRY(launched("widen"));
  }
done:
  return st;
}

ingot_status cuda_store(ingot_linalg *l, const ingot_linalg_array *from, int64_t n, float *host)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  int64_t      most = n < SINGLE_MAX ? n : SINGLE_MAX;
  INGOT_TRY(reserve(c, most));
  for (int64_t at = 0; at < n; at += most) {
    int64_t m = n - at < most ? n - at : most;
    narrow<<<blocks(m), THREADS>>>(from->at + at, c->single, m);
    INGOT_TRY(launched("narrow"));
    INGOT_TRY_CUDA(cudaMemcpy(host + at, c->single, (size_t)m * sizeof(float), cudaMemcpyDeviceToHost));
  }
done:
  return st;
}

ingot_status cuda_copy(ingot_linalg *l, const ingot_linalg_array *from, int64_t n, ingot_linalg_array *to)
{
  (void)of(l);
  return ingot_cuda_status(cudaMemcpy(to->at, from->at, (size_t)n * sizeof(double), cudaMemcpyDeviceToDevice), "cudaMemcpy");
}

ingot_status cuda_load_gram(ingot_linalg *l, const float *packed, int64_t n, double alpha, ingot_linalg_array *to)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  int64_t      all = ingot_linalg_packed_count(n), most = all < SINGLE_MAX ? all : SINGLE_MAX;
  INGOT_TRY(reserve(c, most > n ? most : n));
  for (int64_t first = 0, start = 0; first < n;) {
    int64_t rows = 0, m = 0; /* as many rows as there is room for */
    while (first + rows < n && m + (n - first - rows) <= c->n_single) m += n - first - rows, rows++;
    INGOT_TRY_CUDA(cudaMemcpy(c->single, packed + start, (size_t)m * sizeof(float), cudaMemcpyHostToDevice));
    unpack<<<blocks(rows * n), THREADS>>>(c->single, first, rows, n, alpha, to->at);
    INGOT_TRY(launched("unpack"));
    first += rows;
    start += m;
  }
done:
  return st;
}

ingot_status cuda_axpby(ingot_linalg *l, int64_t n, double a, const ingot_linalg_array *x, double b, ingot_linalg_array *y)
{
  (void)of(l);
  scale_add<<<blocks(n), THREADS>>>(a, x->at, b, y->at, n);
  return launched("scale_add");
}

ingot_status cuda_dot(ingot_linalg *l, int64_t n, const ingot_linalg_array *x, const ingot_linalg_array *y, double *out)
{
  cuda_linalg *c = of(l);
  return blas_status(c->dot(c->blas, n, x->at, 1, y->at, 1, out), "cublasDdot");
}

ingot_status cuda_multiply(ingot_linalg *l, int64_t m, int64_t n, int64_t k, double factor, const ingot_linalg_array *a,
                           const ingot_linalg_array *b, double keep, ingot_linalg_array *r)
{
  cuda_linalg *c = of(l);
  return blas_status(c->gemm(c->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)n, (int)m, (int)k, &factor, b->at, (int)n, a->at, (int)k,
                             &keep, r->at, (int)n),
                     "cublasDgemm");
}

/* count numbers that lie `stride` apart in device memory. */
ingot_status strided(double *device, int64_t stride, double *host, int64_t count, bool to_host)
{
  size_t one = sizeof(double), pitch = (size_t)stride * sizeof(double);
  return ingot_cuda_status(to_host ? cudaMemcpy2D(host, one, device, pitch, one, (size_t)count, cudaMemcpyDeviceToHost)
                                   : cudaMemcpy2D(device, pitch, host, one, one, (size_t)count, cudaMemcpyHostToDevice),
                           "cudaMemcpy2D");
}

ingot_status cuda_get_diagonal(ingot_linalg *l, int64_t n, const ingot_linalg_array *s, double *host)
{
  (void)of(l);
  return strided(s->at, n + 1, host, n, true);
}

ingot_status cuda_set_diagonal(ingot_linalg *l, int64_t n, const double *host, ingot_linalg_array *s)
{
  (void)of(l);
  return strided(s->at, n + 1, const_cast<double *>(host), n, false);
}

ingot_status cuda_get_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const ingot_linalg_array *x, double *host)
{
  (void)of(l);
  return strided(x->at + column, n, host, m, true);
}

ingot_status cuda_set_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const double *host, ingot_linalg_array *x)
{
  (void)of(l);
  return strided(x->at + column, n, const_cast<double *>(host), m, false);
}

ingot_status cuda_mirror(ingot_linalg *l, int64_t n, ingot_linalg_array *s)
{
  (void)of(l);
  copy_up_to_down<<<blocks(n * n), THREADS>>>(s->at, n);
  return launched("copy_up_to_down");
}

/* A row-major lower triangle is a column-major upper one. */
ingot_status cuda_factor(ingot_linalg *l, int64_t n, ingot_linalg_array *s, int64_t *pivot)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  int          n_room = 0, info = 0;
  void        *room = nullptr;
  *pivot = 0;
  INGOT_TRY(solver_status(c->potrf_room(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, s->at, (int)n, &n_room),
                          "cusolverDnDpotrf_bufferSize"));
  INGOT_TRY(device_memory((size_t)n_room * sizeof(double), &room));
  INGOT_TRY(solver_status(c->potrf(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, s->at, (int)n, static_cast<double *>(room),
                                   n_room, c->info),
                          "cusolverDnDpotrf"));
  INGOT_TRY_CUDA(cudaMemcpy(&info, c->info, sizeof info, cudaMemcpyDeviceToHost));
  INGOT_CHECK(info >= 0, INGOT_ERR_INTERNAL, "cusolverDnDpotrf: argument %d is wrong", -info);
  *pivot = info;
done:
  (void)cudaFree(room);
  return st;
}

ingot_status cuda_solve(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *s, ingot_linalg_array *x)
{
  cuda_linalg *c = of(l);
  return solver_status(c->potrs(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, (int)m, s->at, (int)n, x->at, (int)n, c->info),
                       "cusolverDnDpotrs");
}

void cuda_close(ingot_linalg *l)
{
  cuda_linalg *c = of(l);
  if (c->solver) (void)c->solver_destroy(c->solver);
  if (c->blas) (void)c->blas_destroy(c->blas);
  (void)cudaFree(c->single);
  (void)cudaFree(c->info);
  free(c);
}

ingot_linalg_ops make_ops()
{
  ingot_linalg_ops ops = {};
  ops.alloc = cuda_alloc;
  ops.free = cuda_free;
  ops.load = cuda_load;
  ops.store = cuda_store;
  ops.copy = cuda_copy;
  ops.load_gram = cuda_load_gram;
  ops.axpby = cuda_axpby;
  ops.dot = cuda_dot;
  ops.multiply = cuda_multiply;
  ops.get_diagonal = cuda_get_diagonal;
  ops.set_diagonal = cuda_set_diagonal;
  ops.mirror = cuda_mirror;
  ops.factor = cuda_factor;
  ops.solve = cuda_solve;
  ops.get_column = cuda_get_column;
  ops.set_column = cuda_set_column;
  ops.close = cuda_close;
  return ops;
}

const ingot_linalg_ops cuda_ops = make_ops();

ingot_status load_functions(cuda_linalg *c)
{
  ingot_status st = INGOT_OK;
  void        *blas = nullptr, *solver = nullptr;
  INGOT_TRY(ingot_library_load(BLAS, INGOT_CUDA_FOLDER, &blas));
  INGOT_TRY(ingot_library_load(SOLVER, INGOT_CUDA_FOLDER, &solver));
#define FROM_BLAS(ours, theirs) \
  INGOT_TRY(ingot_library_function(blas, BLAS, #theirs, reinterpret_cast<void **>(&c->ours)));
#define FROM_SOLVER(ours, theirs) \
  INGOT_TRY(ingot_library_function(solver, SOLVER, #theirs, reinterpret_cast<void **>(&c->ours)));
  BLAS_FUNCTIONS(FROM_BLAS)
  SOLVER_FUNCTIONS(FROM_SOLVER)
done:
  return st;
}

} // namespace

ingot_status ingot_linalg_open_cuda(int device, ingot_linalg **out)
{
  ingot_status st = INGOT_OK;
  void        *info = nullptr;
  cuda_linalg *c = static_cast<cuda_linalg *>(calloc(1, sizeof *c));
  *out = nullptr;
  INGOT_CHECK(c, INGOT_ERR_NOMEM, "no memory for the linear algebra");
  c->head.ops = &cuda_ops;
  c->head.on_device = true;
  c->device = device;
  INGOT_TRY_CUDA(cudaSetDevice(device));
  INGOT_TRY(load_functions(c));
  INGOT_TRY(device_memory(sizeof(int), &info));
  c->info = static_cast<int *>(info);
  INGOT_TRY(blas_status(c->blas_create(&c->blas), "cublasCreate"));
  INGOT_TRY(solver_status(c->solver_create(&c->solver), "cusolverDnCreate"));
  *out = &c->head;
done:
  if (st != INGOT_OK && c) cuda_close(&c->head);
  return st;
}
