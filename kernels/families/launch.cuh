/**
 * What the kernels of all families share: their view of the inputs, and launching. CUDA sources only.
 *
 * A kernel's parameters travel by value with the launch. Few inputs are the normal case; SMALL keeps their launches
 * short, LARGE is the most that fits the 32 KiB that a launch may carry with room to spare.
 */
#ifndef INGOT_KERNELS_FAMILIES_LAUNCH_CUH
#define INGOT_KERNELS_FAMILIES_LAUNCH_CUH

#include "kernels/device_error.cuh"
#include "kernels/vector.cuh"

enum {
  INGOT_SMALL_INPUTS = 16,
  INGOT_LARGE_INPUTS = 320,
  INGOT_THREADS = 256, /* of a block in element-wise kernels */
  INGOT_GROUP = 4,     /* inputs whose loads are in flight together */
  INGOT_MAX_GRID = 1 << 20
};

template <int CAPACITY> struct ingot_inputs {
  const void       *in[CAPACITY];
  uint8_t           dtype[CAPACITY]; /* ingot_dtype */
  int               n_input;
  bool              has_base; /* input 0 stands in for bad values of the others */
  int64_t           first, n;
  ingot_finite_rule finite;
  bool              look; /* at whether values are finite */

  __device__ __forceinline__ ingot_dtype dtype_of(int i) const
  {
    return static_cast<ingot_dtype>(dtype[i]);
  }
  /** Widen a loaded vector; i is the index in the chunk. `again`: bad values were counted before. */
  template <bool BF16>
  __device__ __forceinline__ void take(const ingot_raw_vector<BF16> &raw, int input, int64_t i, float v[INGOT_VECTOR],
                                       bool again = false) const
  {
    raw.widen(v);
    if (look && raw.any_nonfinite()) {
      ingot_finite_rule rule = finite;
      if (again) rule.count = nullptr;
      ingot_fix_nonfinite(rule, input, has_base && input > 0 ? in[0] : nullptr, dtype_of(0), i, v);
    }
  }
  /** Eight bfloat16 elements, with what stands in for bad values. All inputs are bfloat16. */
  __device__ __forceinline__ uint4 fixed_bf16(uint4 raw, int input, int64_t i) const
  {
    if (!look || !ingot_any_nonfinite_bf16(raw)) return raw;
    return ingot_fix_nonfinite_bf16(finite, input, has_base && input > 0 ? in[0] : nullptr, i, raw);
  }
};

template <int CAPACITY>
static void ingot_inputs_set(ingot_inputs<CAPACITY> *a, const ingot_method_tensor *t, const ingot_device_chunk *c)
{
  a->n_input = t->n_input;
  a->has_base = t->has_base;
  a->first = c->first;
  a->n = c->n;
  a->finite.count = reinterpret_cast<unsigned long long *>(c->n_nonfinite);
  a->finite.zero = c->nonfinite == INGOT_NONFINITE_ZERO;
  a->look = a->finite.zero || a->finite.count != nullptr;
  for (int i = 0; i < t->n_input; i++) {
    a->in[i] = c->in[i];
    a->dtype[i] = static_cast<uint8_t>(c->in_dtype[i]);
  }
}

static inline bool ingot_all_bf16(const ingot_method_tensor *t, const ingot_device_chunk *c)
{
  for (int i = 0; i < t->n_input; i++) {
    if (c->in_dtype[i] != INGOT_DTYPE_BF16) return false;
  }
  return true;
}

/** Blocks of INGOT_THREADS threads for one vector a thread; kernels stride over the grid. */
static inline unsigned ingot_vector_grid(int64_t n)
{
  int64_t per_block = static_cast<int64_t>(INGOT_THREADS) * INGOT_VECTOR;
  int64_t blocks = (n + per_block - 1) / per_block, most = INGOT_MAX_GRID;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

/** Status of the launch just made. */
static inline ingot_status ingot_launch_status(const char *kernel)
{
  return ingot_cuda_status(cudaGetLastError(), kernel);
}

/** Whether this thread's vector is whole: the number of its elements, 1 .. INGOT_VECTOR. */
static __device__ __forceinline__ int ingot_vector_count(int64_t i, int64_t n)
{
  return n - i < INGOT_VECTOR ? static_cast<int>(n - i) : INGOT_VECTOR;
}

#endif
