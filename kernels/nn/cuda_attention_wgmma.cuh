/**
 * The warpgroup matrix products of Hopper that attention uses: 64 rows, n columns, 16 terms. The accumulator of a
 * thread and the operand in registers are laid out as those of mma.m16n8k16, warp w of the group holding rows 16 w ..
 * 16 w + 15. Asynchronous: results may be read after ingot_wgmma_wait, and neither operand may change before it.
 */
#ifndef INGOT_KERNELS_NN_CUDA_ATTENTION_WGMMA_CUH
#define INGOT_KERNELS_NN_CUDA_ATTENTION_WGMMA_CUH

#include <stdint.h>

static __device__ __forceinline__ void ingot_wgmma_fence(void)
{
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void ingot_wgmma_commit(void)
{
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N_LEFT> static __device__ __forceinline__ void ingot_wgmma_wait(void)
{
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N_LEFT) : "memory");
}

/**
 * Descriptor of an operand in shared memory, 128-byte swizzle, rows of 128 bytes in groups of eight (1024 bytes apart).
 * block_bytes: from one block of 64 columns to the next, when the columns are not the summed dimension.
 */
static __device__ __forceinline__ uint64_t ingot_wgmma_operand(uint32_t address, uint32_t block_bytes)
{
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | static_cast<uint64_t>(block_bytes >> 4) << 16 |
         static_cast<uint64_t>(1024 >> 4) << 32 | static_cast<uint64_t>(1) << 62;
}

#define INGOT_NEW4(i) "=f"(d[i][0]), "=f"(d[i][1]), "=f"(d[i][2]), "=f"(d[i][3])
#define INGOT_D4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])

/* d = A B^T, both in shared memory, the summed dimension along their rows. */
static __device__ __forceinline__ void ingot_wgmma_ss_n64_first(float (&d)[8][4], uint64_t a, uint64_t b)
{
  asm volatile("{\n.reg .pred p;\n"
               "setp.ne.b32 p, 0, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
               "%32, %33, p, 1, 1, 0, 0;\n}\n"
               : INGOT_NEW4(0), INGOT_NEW4(1), INGOT_NEW4(2), INGOT_NEW4(3), INGOT_NEW4(4), INGOT_NEW4(5),
                 INGOT_NEW4(6), INGOT_NEW4(7)
               : "l"(a), "l"(b));
}

/* d += A B^T */
static __device__ __forceinline__ void ingot_wgmma_ss_n64(float (&d)[8][4], uint64_t a, uint64_t b)
{
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
               "%32, %33, 1, 1, 1, 0, 0;"
               : INGOT_D4(0), INGOT_D4(1), INGOT_D4(2), INGOT_D4(3), INGOT_D4(4), INGOT_D4(5), INGOT_D4(6), INGOT_D4(7)
               : "l"(a), "l"(b));
}

/* d += A B: A in registers, B in shared memory, the summed dimension across its rows. */
static __device__ __forceinline__ void ingot_wgmma_rs_n32(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b)
{
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
               "{%16, %17, %18, %19}, %20, 1, 1, 1, 1;"
               : INGOT_D4(0), INGOT_D4(1), INGOT_D4(2), INGOT_D4(3)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

static __device__ __forceinline__ void ingot_wgmma_rs_n64(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b)
{
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
               "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : INGOT_D4(0), INGOT_D4(1), INGOT_D4(2), INGOT_D4(3), INGOT_D4(4), INGOT_D4(5), INGOT_D4(6), INGOT_D4(7)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

static __device__ __forceinline__ void ingot_wgmma_rs_n96(float (&d)[12][4], const uint32_t (&a)[4], uint64_t b)
{
  asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
               "{%48, %49, %50, %51}, %52, 1, 1, 1, 1;"
               : INGOT_D4(0), INGOT_D4(1), INGOT_D4(2), INGOT_D4(3), INGOT_D4(4), INGOT_D4(5), INGOT_D4(6), INGOT_D4(7),
                 INGOT_D4(8), INGOT_D4(9), INGOT_D4(10), INGOT_D4(11)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

static __device__ __forceinline__ void ingot_wgmma_rs_n128(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
{
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
               "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
               "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : INGOT_D4(0), INGOT_D4(1), INGOT_D4(2), INGOT_D4(3), INGOT_D4(4), INGOT_D4(5), INGOT_D4(6), INGOT_D4(7),
                 INGOT_D4(8), INGOT_D4(9), INGOT_D4(10), INGOT_D4(11), INGOT_D4(12), INGOT_D4(13), INGOT_D4(14),
                 INGOT_D4(15)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef INGOT_D4
#undef INGOT_NEW4
#endif
