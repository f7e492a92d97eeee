/*
 * Dense float64 on a GPU: cuBLAS for products, cuSOLVER for Cholesky, loaded when a handle is opened. Row-major
 * matrices are the libraries' column-major ones transposed. All work on arrays is on the handle's compute stream, so a
 * freed array can be the next one at once.
 */
#include <cublas_v2.h>
#include <cusolverDn.h>

#include <stdlib.h>

#include "kernels/library.h"
#include "kernels/linalg/cuda_linalg.cuh"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
static const char BLAS[] = "libcublas.so." TEXT(CUBLAS_VER_MAJOR);
static const char SOLVER[] = "libcusolver.so." TEXT(CUSOLVER_VER_MAJOR);

/* One line a function: our name, theirs. */
#define BLAS_FUNCTIONS(F)            \
  F(blas_create, cublasCreate_v2)    \
  F(blas_destroy, cublasDestroy_v2)  \
  F(blas_stream, cublasSetStream_v2) \
  F(gemm, cublasDgemm_v2)            \
  F(dot, cublasDdot_v2_64)
#define SOLVER_FUNCTIONS(F)                  \
  F(solver_create, cusolverDnCreate)         \
  F(solver_destroy, cusolverDnDestroy)       \
  F(solver_stream, cusolverDnSetStream)      \
  F(potrf_room, cusolverDnDpotrf_bufferSize) \
  F(potrf, cusolverDnDpotrf)                 \
  F(potrs, cusolverDnDpotrs)

namespace {

struct cuda_linalg {
  ingot_cuda_linalg common;
#define POINTER(ours, theirs) decltype(&theirs) ours;
  BLAS_FUNCTIONS(POINTER)
  SOLVER_FUNCTIONS(POINTER)
#undef POINTER
  cublasHandle_t     blas;
  cusolverDnHandle_t solver;
  void              *room; /* device: the factorisation's work space */
  size_t             n_room;
  void              *vector; /* device: a diagonal or a column on its way in or out */
  size_t             n_vector;
  int               *info; /* device */
};

cuda_linalg *of(ingot_linalg *l)
{
  return reinterpret_cast<cuda_linalg *>(ingot_cuda_linalg_of(l));
}

cudaStream_t stream_of(ingot_linalg *l)
{
  return ingot_cuda_linalg_of(l)->compute;
}

__global__ void scale_add(double a, const double *x, double b, double *y, int64_t n)
{
  INGOT_CUDA_EACH(i, n) y[i] = a * x[i] + b * y[i];
}

__global__ void gather(const double *from, int64_t stride, double *to, int64_t n)
{
  INGOT_CUDA_EACH(i, n) to[i] = from[i * stride];
}

__global__ void scatter(const double *from, double *to, int64_t stride, int64_t n)
{
  INGOT_CUDA_EACH(i, n) to[i * stride] = from[i];
}

__global__ void copy_up_to_down(double *s, int64_t n)
{
  INGOT_CUDA_EACH(e, n * n)
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
  return ingot_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? INGOT_ERR_NOMEM : INGOT_ERR_DEVICE,
                    "%s failed with cuBLAS status %d", call, (int)status);
}

ingot_status solver_status(cusolverStatus_t status, const char *call)
{
  if (status == CUSOLVER_STATUS_SUCCESS) return INGOT_OK;
  return ingot_fail(status == CUSOLVER_STATUS_ALLOC_FAILED ? INGOT_ERR_NOMEM : INGOT_ERR_DEVICE,
                    "%s failed with cuSOLVER status %d", call, (int)status);
}

/* The smallest kept block of n elements or more, or nullptr. */
ingot_cuda_block *kept_block(ingot_cuda_linalg *c, int64_t n)
{
  ingot_cuda_block *best = nullptr;
  for (ingot_cuda_block &b : c->blocks)
    if (b.at && !b.used && b.n >= n && (!best || b.n < best->n)) best = &b;
  return best;
}

/* Give kept blocks back to the device; how many there were. */
int drop_blocks(ingot_cuda_linalg *c)
{
  int n = 0;
  (void)cudaStreamSynchronize(c->compute);
  for (ingot_cuda_block &b : c->blocks) {
    if (!b.at || b.used) continue;
    (void)cudaFree(b.at);
    b = {};
    n++;
  }
  return n;
}

ingot_status new_block(ingot_cuda_linalg *c, int64_t n, ingot_cuda_block **out)
{
  ingot_status      st = INGOT_OK;
  ingot_cuda_block *empty = nullptr;
  void             *at = nullptr;
  for (ingot_cuda_block &b : c->blocks)
    if (!b.at) empty = &b;
  if (!empty && drop_blocks(c) > 0) return new_block(c, n, out);
  INGOT_CHECK(empty, INGOT_ERR_NOMEM, "more than %d matrices on the GPU", INGOT_CUDA_BLOCKS);
  INGOT_TRY(ingot_cuda_memory(c, (size_t)n * sizeof(double), &at));
  *empty = {static_cast<double *>(at), n, false};
  *out = empty;
done:
  return st;
}

ingot_status cuda_alloc(ingot_linalg *l, int64_t n, ingot_linalg_array *out)
{
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  ingot_status       st = INGOT_OK;
  ingot_cuda_block  *block = kept_block(c, n);
  *out = {};
  if (!block) INGOT_TRY(new_block(c, n, &block));
  INGOT_TRY_CUDA(cudaMemsetAsync(block->at, 0, (size_t)n * sizeof(double), c->compute));
  block->used = true;
  *out = {block->at, n};
done:
  return st;
}

void cuda_free(ingot_linalg *l, ingot_linalg_array *a)
{
  ingot_cuda_linalg *c = ingot_cuda_linalg_of(l);
  for (ingot_cuda_block &b : c->blocks)
    if (a->at && b.at == a->at) b.used = false;
  *a = {};
}

/* Memory of the handle that grows. What was in it is lost, and nothing waits for it any more. */
ingot_status grow(cuda_linalg *c, size_t bytes, void **at, size_t *have)
{
  ingot_status st = INGOT_OK;
  if (bytes <= *have) return INGOT_OK;
  INGOT_TRY_CUDA(cudaStreamSynchronize(c->common.compute));
  (void)cudaFree(*at);
  *at = nullptr;
  *have = 0;
  INGOT_TRY(ingot_cuda_memory(&c->common, bytes, at));
  *have = bytes;
done:
  return st;
}

ingot_status cuda_copy(ingot_linalg *l, const ingot_linalg_array *from, int64_t n, ingot_linalg_array *to)
{
  return ingot_cuda_status(cudaMemcpyAsync(to->at, from->at, (size_t)n * sizeof(double), cudaMemcpyDeviceToDevice,
                                           stream_of(l)),
                           "cudaMemcpyAsync");
}

ingot_status cuda_axpby(ingot_linalg *l, int64_t n, double a, const ingot_linalg_array *x, double b,
                        ingot_linalg_array *y)
{
  scale_add<<<ingot_cuda_blocks(n), INGOT_CUDA_THREADS, 0, stream_of(l)>>>(a, x->at, b, y->at, n);
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
  return blas_status(c->gemm(c->blas, CUBLAS_OP_N, CUBLAS_OP_N, (int)n, (int)m, (int)k, &factor, b->at, (int)n, a->at,
                             (int)k, &keep, r->at, (int)n),
                     "cublasDgemm");
}

/* count numbers that lie `stride` apart in an array, to host memory. */
ingot_status get_strided(ingot_linalg *l, const double *from, int64_t stride, double *host, int64_t count)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  cudaStream_t stream = c->common.compute;
  size_t       bytes = (size_t)count * sizeof(double);
  INGOT_TRY(grow(c, bytes, &c->vector, &c->n_vector));
  gather<<<ingot_cuda_blocks(count), INGOT_CUDA_THREADS, 0, stream>>>(from, stride, static_cast<double *>(c->vector),
                                                                      count);
  INGOT_TRY(launched("gather"));
  INGOT_TRY_CUDA(cudaMemcpyAsync(host, c->vector, bytes, cudaMemcpyDeviceToHost, stream));
  INGOT_TRY_CUDA(cudaStreamSynchronize(stream));
done:
  return st;
}

/* The other way; host may be changed when this returns. */
ingot_status set_strided(ingot_linalg *l, const double *host, double *to, int64_t stride, int64_t count)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  cudaStream_t stream = c->common.compute;
  size_t       bytes = (size_t)count * sizeof(double);
  INGOT_TRY(grow(c, bytes, &c->vector, &c->n_vector));
  INGOT_TRY_CUDA(cudaMemcpyAsync(c->vector, host, bytes, cudaMemcpyHostToDevice, stream));
  scatter<<<ingot_cuda_blocks(count), INGOT_CUDA_THREADS, 0, stream>>>(static_cast<double *>(c->vector), to, stride,
                                                                       count);
  INGOT_TRY(launched("scatter"));
  INGOT_TRY_CUDA(cudaStreamSynchronize(stream));
done:
  return st;
}

ingot_status cuda_get_diagonal(ingot_linalg *l, int64_t n, const ingot_linalg_array *s, double *host)
{
  return get_strided(l, s->at, n + 1, host, n);
}

ingot_status cuda_set_diagonal(ingot_linalg *l, int64_t n, const double *host, ingot_linalg_array *s)
{
  return set_strided(l, host, s->at, n + 1, n);
}

ingot_status cuda_get_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const ingot_linalg_array *x,
                             double *host)
{
  return get_strided(l, x->at + column, n, host, m);
}

ingot_status cuda_set_column(ingot_linalg *l, int64_t m, int64_t n, int64_t column, const double *host,
                             ingot_linalg_array *x)
{
  return set_strided(l, host, x->at + column, n, m);
}

ingot_status cuda_mirror(ingot_linalg *l, int64_t n, ingot_linalg_array *s)
{
  copy_up_to_down<<<ingot_cuda_blocks(n * n), INGOT_CUDA_THREADS, 0, stream_of(l)>>>(s->at, n);
  return launched("copy_up_to_down");
}

/* A row-major lower triangle is a column-major upper one. */
ingot_status cuda_factor(ingot_linalg *l, int64_t n, ingot_linalg_array *s, int64_t *pivot)
{
  cuda_linalg *c = of(l);
  ingot_status st = INGOT_OK;
  cudaStream_t stream = c->common.compute;
  int          n_room = 0, info = 0;
  *pivot = 0;
  INGOT_TRY(solver_status(c->potrf_room(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, s->at, (int)n, &n_room),
                          "cusolverDnDpotrf_bufferSize"));
  INGOT_TRY(grow(c, (size_t)n_room * sizeof(double), &c->room, &c->n_room));
  INGOT_TRY(solver_status(c->potrf(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, s->at, (int)n,
                                   static_cast<double *>(c->room), n_room, c->info),
                          "cusolverDnDpotrf"));
  INGOT_TRY_CUDA(cudaMemcpyAsync(&info, c->info, sizeof info, cudaMemcpyDeviceToHost, stream));
  INGOT_TRY_CUDA(cudaStreamSynchronize(stream));
  INGOT_CHECK(info >= 0, INGOT_ERR_INTERNAL, "cusolverDnDpotrf: argument %d is wrong", -info);
  *pivot = info;
done:
  return st;
}

ingot_status cuda_solve(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *s, ingot_linalg_array *x)
{
  cuda_linalg *c = of(l);
  return solver_status(c->potrs(c->solver, CUBLAS_FILL_MODE_UPPER, (int)n, (int)m, s->at, (int)n, x->at, (int)n,
                                c->info),
                       "cusolverDnDpotrs");
}

void cuda_close(ingot_linalg *l)
{
  cuda_linalg *c = of(l);
  if (c->common.compute) (void)cudaStreamSynchronize(c->common.compute);
  if (c->solver) (void)c->solver_destroy(c->solver);
  if (c->blas) (void)c->blas_destroy(c->blas);
  for (ingot_cuda_block &b : c->common.blocks) (void)cudaFree(b.at);
  (void)cudaFree(c->room);
  (void)cudaFree(c->vector);
  (void)cudaFree(c->info);
  ingot_cuda_transfer_close(&c->common);
  free(c);
}

ingot_linalg_ops make_ops()
{
  ingot_linalg_ops ops = {};
  ops.alloc = cuda_alloc;
  ops.free = cuda_free;
  ops.begin = ingot_cuda_begin;
  ops.room = ingot_cuda_room;
  ops.take = ingot_cuda_take;
  ops.end = ingot_cuda_end;
  ops.give = ingot_cuda_give;
  ops.copy = cuda_copy;
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

ingot_cuda_linalg *ingot_cuda_linalg_of(ingot_linalg *l)
{
  ingot_cuda_linalg *c = reinterpret_cast<ingot_cuda_linalg *>(l);
  (void)cudaSetDevice(c->device);
  return c;
}

ingot_status ingot_cuda_memory(ingot_cuda_linalg *c, size_t bytes, void **out)
{
  *out = nullptr;
  cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    if (drop_blocks(c) > 0) return ingot_cuda_memory(c, bytes, out);
    *out = nullptr;
    return ingot_fail(INGOT_ERR_NOMEM, "no GPU memory for a matrix of %zu bytes", bytes);
  }
  return ingot_cuda_status(error, "cudaMalloc");
}

ingot_status ingot_linalg_open_cuda(int device, ingot_linalg **out)
{
  ingot_status st = INGOT_OK;
  void        *info = nullptr;
  cuda_linalg *c = static_cast<cuda_linalg *>(calloc(1, sizeof *c));
  *out = nullptr;
  INGOT_CHECK(c, INGOT_ERR_NOMEM, "no memory for the linear algebra");
  c->common.head.ops = &cuda_ops;
  c->common.head.on_device = true;
  c->common.device = device;
  INGOT_TRY_CUDA(cudaSetDevice(device));
  INGOT_TRY(load_functions(c));
  INGOT_TRY(ingot_cuda_transfer_open(&c->common));
  INGOT_TRY(ingot_cuda_memory(&c->common, sizeof(int), &info));
  c->info = static_cast<int *>(info);
  INGOT_TRY(blas_status(c->blas_create(&c->blas), "cublasCreate"));
  INGOT_TRY(blas_status(c->blas_stream(c->blas, c->common.compute), "cublasSetStream"));
  INGOT_TRY(solver_status(c->solver_create(&c->solver), "cusolverDnCreate"));
  INGOT_TRY(solver_status(c->solver_stream(c->solver, c->common.compute), "cusolverDnSetStream"));
  *out = &c->common.head;
done:
  if (st != INGOT_OK && c) cuda_close(&c->common.head);
  return st;
}
