/* The optimiser's side of training: norms of gradients, AdamW, conversions. Memory bounds all of it. */
#include <math.h>

#include "kernels/nn/cuda_grid.cuh"

enum {
  BLOCK = 256,
  SUM_BLOCKS = 1024 /* of any device: a sum's bits depend on its length alone */
};

static bool aligned(const void *p)
{
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

static __global__ void __launch_bounds__(BLOCK)
    sum_squares_kernel(int64_t n, const float *__restrict__ x, double *partial, bool wide)
{
  __shared__ double warps[BLOCK / 32];
  double            sum = 0.0;
#pragma unroll 2
  for (int64_t i = ingot_nn_first<BLOCK>(); i * 8 < n; i += ingot_nn_step<BLOCK>()) {
    float v[8];
    ingot_nn_load(x + i * 8, n - i * 8, wide, v);
#pragma unroll
    for (int j = 0; j < 8; j++) sum += static_cast<double>(v[j]) * static_cast<double>(v[j]);
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < BLOCK / 32; w++) sum += warps[w];
  partial[blockIdx.x] = sum;
}

ingot_status ingot_nn_cuda_sum_squares(ingot_nn *back_end, int64_t n, const float *x, double *sum)
{
  ingot_status   st = INGOT_OK;
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  void          *memory = nullptr;
  double         partial[SUM_BLOCKS];
  *sum = 0.0;
  INGOT_TRY(ingot_nn_cuda_scratch(nn, sizeof partial, &memory));
  sum_squares_kernel<<<SUM_BLOCKS, BLOCK, 0, nn->stream>>>(n, x, static_cast<double *>(memory), aligned(x));
  INGOT_TRY(ingot_nn_cuda_launched("sum_squares_kernel"));
  INGOT_TRY(back_end->ops->copy_out(back_end, partial, memory, sizeof partial));
  for (int i = 0; i < SUM_BLOCKS; i++) *sum += partial[i];
done:
  return st;
}

/** Factors of a step, from its beta1 and beta2. */
struct adamw_factors {
  float gradient, rate, epsilon, decay;
  float keep1, keep2;     /* 1 - beta */
  float debias1, debias2; /* 1 / (1 - beta^step) */
};

/** Products are fused into sums by name, so that an element's bits do not depend on where it lies. */
static __device__ __forceinline__ void adamw_step(const adamw_factors &f, float gradient, float &master, float &m,
                                                  float &v)
{
  float g = f.gradient * gradient;
  m = fmaf(f.keep1, g - m, m);
  v = fmaf(f.keep2, fmaf(g, g, -v), v);
  float direction = fmaf(f.decay, master, __fmul_rn(m, f.debias1) / (sqrtf(__fmul_rn(v, f.debias2)) + f.epsilon));
  master = fmaf(-f.rate, direction, master);
}

/** weight may be null; or, in float32, master. */
template <typename T>
static __global__ void __launch_bounds__(BLOCK) adamw_kernel(int64_t n, adamw_factors f, const float *gradient,
                                                             float *master, float *m, float *v, T *weight, bool wide)
{
  for (int64_t i = ingot_nn_first<BLOCK>(); i * 8 < n; i += ingot_nn_step<BLOCK>()) {
    int64_t at = i * 8, left = n - at;
    float   g8[8], w8[8], m8[8], v8[8];
    ingot_nn_load(gradient + at, left, wide, g8);
    ingot_nn_load(master + at, left, wide, w8);
    ingot_nn_load(m + at, left, wide, m8);
    ingot_nn_load(v + at, left, wide, v8);
#pragma unroll
    for (int j = 0; j < 8; j++) adamw_step(f, g8[j], w8[j], m8[j], v8[j]);
    ingot_nn_store(master + at, left, wide, w8);
    ingot_nn_store(m + at, left, wide, m8);
    ingot_nn_store(v + at, left, wide, v8);
    if (weight != nullptr) ingot_nn_store(weight + at, left, wide, w8);
  }
}

ingot_status ingot_nn_cuda_adamw(ingot_nn *back_end, const ingot_nn_adamw *how, int64_t n, const float *gradient,
                                 float *master, float *m, float *v, void *weight)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  INGOT_ASSERT(how->step >= 1);
  double        power1 = pow(static_cast<double>(how->beta1), static_cast<double>(how->step));
  double        power2 = pow(static_cast<double>(how->beta2), static_cast<double>(how->step));
  adamw_factors f = {how->gradient_scale,
                     how->rate,
                     how->epsilon,
                     how->decay,
                     1.0f - how->beta1,
                     1.0f - how->beta2,
                     static_cast<float>(1.0 / (1.0 - power1)),
                     static_cast<float>(1.0 / (1.0 - power2))};
  bool          wide = aligned(gradient) && aligned(master) && aligned(m) && aligned(v) && aligned(weight);
  unsigned      grid = ingot_nn_grid<BLOCK>(nn, (n + 7) / 8);
  if (n == 0) return INGOT_OK;
  if (nn->head.dtype == INGOT_DTYPE_BF16) {
    adamw_kernel<<<grid, BLOCK, 0, nn->stream>>>(n, f, gradient, master, m, v, static_cast<__nv_bfloat16 *>(weight),
                                                 wide);
  } else {
    adamw_kernel<<<grid, BLOCK, 0, nn->stream>>>(n, f, gradient, master, m, v, static_cast<float *>(weight), wide);
  }
  return ingot_nn_cuda_launched("adamw_kernel");
}

/* ---- conversions ---- */

template <typename S, typename D>
static __global__ void convert_kernel(int64_t n, const S *__restrict__ src, D *__restrict__ dst, bool wide)
{
  for (int64_t i = ingot_nn_first<BLOCK>(); i * 8 < n; i += ingot_nn_step<BLOCK>()) {
    float v[8];
    ingot_nn_load(src + i * 8, n - i * 8, wide, v);
    ingot_nn_store(dst + i * 8, n - i * 8, wide, v);
  }
}

template <typename S, typename D> static ingot_status convert(ingot_nn_cuda *nn, int64_t n, const S *src, D *dst)
{
  if (n == 0) return INGOT_OK;
  bool wide = aligned(src) && aligned(dst);
  convert_kernel<<<ingot_nn_grid<BLOCK>(nn, (n + 7) / 8), BLOCK, 0, nn->stream>>>(n, src, dst, wide);
  return ingot_nn_cuda_launched("convert_kernel");
}

ingot_status ingot_nn_cuda_round_to(ingot_nn *back_end, int64_t n, const float *src, void *dst)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (nn->head.dtype == INGOT_DTYPE_BF16) return convert(nn, n, src, static_cast<__nv_bfloat16 *>(dst));
  if (src == dst) return INGOT_OK;
  return back_end->ops->copy(back_end, dst, src, static_cast<size_t>(n) * sizeof *src);
}

ingot_status ingot_nn_cuda_widen(ingot_nn *back_end, int64_t n, const void *src, float *dst)
{
  ingot_nn_cuda *nn = ingot_nn_cuda_of(back_end);
  if (nn->head.dtype == INGOT_DTYPE_BF16) return convert(nn, n, static_cast<const __nv_bfloat16 *>(src), dst);
  if (src == dst) return INGOT_OK;
  return back_end->ops->copy(back_end, dst, src, static_cast<size_t>(n) * sizeof *dst);
}
