/**
 * Tiles of bfloat16 attention: shared memory, asynchronous loads, and the two products of a warpgroup (four warps, 64
 * rows), by wgmma where the target has it (sm_90a) and by mma.sync elsewhere. Registers are laid out alike in both, so
 * that a kernel is written once. CUDA sources only.
 *
 * A tile [rows][D] lies in blocks of 64 columns; a block is rows of 128 bytes, whose 16-byte chunk c of row r stands at
 * chunk c ^ (r % 8). Tiles begin at multiples of 1024 bytes.
 *
 * Fragment: thread `lane` of warp w holds of accumulator [64][N] the rows 16 w + lane / 4 (elements 0, 1 of each [4])
 * and 8 further down (2, 3), columns 8 t + 2 (lane % 4) and the next.
 */
#ifndef INGOT_KERNELS_NN_CUDA_ATTENTION_TILE_CUH
#define INGOT_KERNELS_NN_CUDA_ATTENTION_TILE_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define INGOT_ATTENTION_WGMMA 1
#include "kernels/nn/cuda_attention_wgmma.cuh"
#else
#define INGOT_ATTENTION_WGMMA 0
#endif

enum {
  INGOT_TILE_GROUP = 64, /* rows of a warpgroup */
  INGOT_TILE_STEP = 64,  /* rows of the tiles that a kernel walks over */
  INGOT_GROUP_THREADS = 128
};

/** Bytes of a tile of `rows` rows. */
template <int D> static constexpr __host__ __device__ uint32_t ingot_tile_bytes(int rows)
{
  return static_cast<uint32_t>(rows) * 128u * ((D + 63) / 64);
}

static __device__ __forceinline__ uint32_t ingot_shared_address(const void *p)
{
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

static __device__ __forceinline__ void ingot_copy_async_16(uint32_t shared, const void *global, bool wanted)
{
  int bytes = wanted ? 16 : 0; /* what is not copied is zero */
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void ingot_copy_async_8(uint32_t shared, const void *global, bool wanted)
{
  int bytes = wanted ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void ingot_copy_async_commit(void)
{
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/** Waits for this thread's copies, and makes them visible to wgmma; a barrier must follow. */
static __device__ __forceinline__ void ingot_copy_async_wait(void)
{
  asm volatile("cp.async.wait_all;" ::: "memory");
#if INGOT_ATTENTION_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/** Start to load rows first .. first + ROWS - 1 of [n_row][head_dim], rows ld apart; zeros outside. */
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void ingot_tile_load(uint32_t tile, const __nv_bfloat16 *x, int64_t ld, int first,
                                                       int n_row, int head_dim)
{
  constexpr int CHUNKS = D / 8, TOTAL = ROWS * CHUNKS;
#pragma unroll
  for (int i = 0; i < (TOTAL + THREADS - 1) / THREADS; i++) {
    int at = i * THREADS + static_cast<int>(threadIdx.x), row = at / CHUNKS, chunk = at % CHUNKS;
    if (TOTAL % THREADS != 0 && at >= TOTAL) break;
    bool                 wanted = first + row < n_row && chunk * 8 < head_dim;
    const __nv_bfloat16 *from = wanted ? x + static_cast<int64_t>(first + row) * ld + chunk * 8 : x;
    uint32_t to = tile + static_cast<uint32_t>((chunk / 8) * ROWS * 128 + row * 128 + ((chunk % 8 ^ row % 8) << 4));
    ingot_copy_async_16(to, from, wanted);
  }
}

static __device__ __forceinline__ uint32_t ingot_pack_bf16(float low, float high)
{
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t *>(&v);
}

/** 2^x, within 2 units in the last place; 0 for -inf. */
static __device__ __forceinline__ float ingot_exp2(float x)
{
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

static __device__ __forceinline__ void ingot_ldmatrix(uint32_t (&r)[4], uint32_t address)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

static __device__ __forceinline__ void ingot_ldmatrix_transposed(uint32_t (&r)[4], uint32_t address)
{
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

static __device__ __forceinline__ void ingot_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/** Address of a chunk of a tile of ROWS rows. */
template <int ROWS> static __device__ __forceinline__ uint32_t ingot_chunk(uint32_t tile, int row, int chunk)
{
  return tile + static_cast<uint32_t>((chunk / 8) * ROWS * 128 + row * 128 + ((chunk % 8 ^ row % 8) << 4));
}

/** Two neighbouring accumulator tiles as a left operand. */
static __device__ __forceinline__ void ingot_fragment(uint32_t (&a)[4], const float (&x)[4], const float (&y)[4])
{
  a[0] = ingot_pack_bf16(x[0], x[1]);
  a[1] = ingot_pack_bf16(x[2], x[3]);
  a[2] = ingot_pack_bf16(y[0], y[1]);
  a[3] = ingot_pack_bf16(y[2], y[3]);
}

#if INGOT_ATTENTION_WGMMA
static __device__ __forceinline__ void ingot_product_begin(void)
{
  ingot_wgmma_fence();
}
static __device__ __forceinline__ void ingot_product_commit(void)
{
  ingot_wgmma_commit();
}
template <int N_LEFT> static __device__ __forceinline__ void ingot_product_wait(void)
{
  ingot_wgmma_wait<N_LEFT>();
}
#else
static __device__ __forceinline__ void ingot_product_begin(void)
{
}
static __device__ __forceinline__ void ingot_product_commit(void)
{
}
template <int N_LEFT> static __device__ __forceinline__ void ingot_product_wait(void)
{
}
#endif

/**
 * s [64][64] = A B^T: A the group's rows (from row `first`) of a tile of ROWS rows, B a tile of 64 rows. Between begin
 * and commit; read after wait. A comes from shared memory always: with rows kept in registers over a loop, ptxas 13.0
 * gives the registers away after their first use in a wgmma.
 */
template <int D, int ROWS>
static __device__ __forceinline__ void ingot_product_tiles(float (&s)[8][4], uint32_t a, int first, uint32_t b)
{
#if INGOT_ATTENTION_WGMMA
  const uint64_t left = ingot_wgmma_operand(a + static_cast<uint32_t>(first * 128), 16),
                 right = ingot_wgmma_operand(b, 16);
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    const uint64_t a_step = left + static_cast<uint64_t>((k / 4 * ROWS * 128 + k % 4 * 32) / 16);
    const uint64_t b_step = right + static_cast<uint64_t>((k / 4 * INGOT_TILE_STEP * 128 + k % 4 * 32) / 16);
    if (k == 0) ingot_wgmma_ss_n64_first(s, a_step, b_step);
    else ingot_wgmma_ss_n64(s, a_step, b_step);
  }
#else
  int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
#pragma unroll
  for (int t = 0; t < 8; t++) s[t][0] = s[t][1] = s[t][2] = s[t][3] = 0.0f;
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32_t left[4];
    ingot_ldmatrix(left, ingot_chunk<ROWS>(a, first + 16 * warp + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int t = 0; t < 4; t++) {
      uint32_t r[4];
      ingot_ldmatrix(r, ingot_chunk<INGOT_TILE_STEP>(b, 16 * t + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      ingot_mma(s[2 * t], left, r[0], r[1]);
      ingot_mma(s[2 * t + 1], left, r[2], r[3]);
    }
  }
#endif
}

/** o [64][D] += P B: P [64][64] in registers as left operands, B a tile of 64 rows. */
template <int D>
static __device__ __forceinline__ void ingot_product_columns(float (&o)[D / 8][4], const uint32_t (&p)[4][4],
                                                             uint32_t b)
{
#if INGOT_ATTENTION_WGMMA
  const uint64_t first = ingot_wgmma_operand(b, INGOT_TILE_STEP * 128);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const uint64_t right = first + static_cast<uint64_t>(k * 16 * 128 / 16);
    if constexpr (D == 32) ingot_wgmma_rs_n32(o, p[k], right);
    else if constexpr (D == 64) ingot_wgmma_rs_n64(o, p[k], right);
    else if constexpr (D == 96) ingot_wgmma_rs_n96(o, p[k], right);
    else ingot_wgmma_rs_n128(o, p[k], right);
  }
#else
  int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int k = 0; k < 4; k++) {
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
      uint32_t r[4];
      ingot_ldmatrix_transposed(r, ingot_chunk<INGOT_TILE_STEP>(b, 16 * k + lane % 16, 2 * t + lane / 16));
      ingot_mma(o[2 * t], p[k], r[0], r[1]);
      ingot_mma(o[2 * t + 1], p[k], r[2], r[3]);
    }
  }
#endif
}

/** Scores outside the keys of the thread's rows (row, row + 8) become -inf; `key` is that of its first element. */
static __device__ __forceinline__ void ingot_mask_scores(float (&s)[8][4], int key, int row, const int (&first)[2])
{
#pragma unroll
  for (int t = 0; t < 8; t++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int at = key + 8 * t + i % 2;
      if (at > row + i / 2 * 8 || at < first[i / 2]) s[t][i] = -INFINITY;
    }
  }
}

static __device__ __forceinline__ float4 ingot_shared_float4(uint32_t address)
{
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
#endif
