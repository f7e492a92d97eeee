/* Selection by histograms (families/select_radix.h), and the GPU side of ties. */
#include "kernels/families/block_sums.cuh"
#include "kernels/families/delta.cuh"
#include "kernels/families/device_ops.h"
#include "kernels/families/select_radix.h"

typedef unsigned long long counter; /* what atomicAdd takes for an int64_t that is never negative */

enum {
  SCAN_THREADS = 512,
  SCAN_VECTORS = 4, /* of a thread: a block's histogram is worth its clearing and adding up */
  SCAN_ELEMENTS = SCAN_THREADS * SCAN_VECTORS * INGOT_VECTOR,
  SCAN_MODELS = 4, /* whose histograms fit shared memory together */
  PLACE_THREADS = INGOT_BLOCK / (2 * INGOT_VECTOR)
};

struct radix_args {
  ingot_inputs<INGOT_LARGE_INPUTS> inputs;
  int                              n_model;
  int                              shift, bits; /* of the digit; COUNT and LOCATE: of the whole key */
  uint32_t                         prefix[INGOT_LARGE_INPUTS];
  bool                             open[INGOT_LARGE_INPUTS];
};

/* Keys of eight elements of one model; base is its eight elements of input 0. */
static __device__ __forceinline__ void keys_of(const radix_args &a, int model, int64_t i, int count,
                                               const float base[INGOT_VECTOR], uint32_t key[INGOT_VECTOR])
{
  ingot_raw_vector<false> raw;
  float                   x[INGOT_VECTOR];
  raw.load(a.inputs.in[1 + model], a.inputs.dtype_of(1 + model), i, count);
  a.inputs.take(raw, 1 + model, i, x);
#pragma unroll
  for (int k = 0; k < INGOT_VECTOR; k++) key[k] = ingot_delta_key(x[k] - base[k]);
}

/* The base's bad values are counted once: by the blocks of the first models, and never `again`. */
static __device__ __forceinline__ void base_of(const radix_args &a, int64_t i, int count, bool again,
                                               float base[INGOT_VECTOR])
{
  ingot_raw_vector<false> raw;
  raw.load(a.inputs.in[0], a.inputs.dtype_of(0), i, count);
  a.inputs.take(raw, 0, i, base, again);
}

/* sums: [n_model][INGOT_RADIX_BUCKETS]. blockIdx.y: which SCAN_MODELS models. */
__global__ void __launch_bounds__(SCAN_THREADS) histogram_kernel(const __grid_constant__ radix_args a, counter *sums)
{
  __shared__ unsigned bucket[SCAN_MODELS][INGOT_RADIX_BUCKETS];
  int                 n_bucket = 1 << a.bits, first_model = static_cast<int>(blockIdx.y) * SCAN_MODELS;
  int                 n_model = a.n_model - first_model < SCAN_MODELS ? a.n_model - first_model : SCAN_MODELS;

  for (int k = static_cast<int>(threadIdx.x); k < n_model * INGOT_RADIX_BUCKETS; k += SCAN_THREADS)
    (&bucket[0][0])[k] = 0;
  __syncthreads();
  for (int v = 0; v < SCAN_VECTORS; v++) {
    int64_t i = static_cast<int64_t>(blockIdx.x) * SCAN_ELEMENTS +
                (static_cast<int64_t>(v) * SCAN_THREADS + threadIdx.x) * INGOT_VECTOR;
    if (i >= a.inputs.n) break;
    int   count = ingot_vector_count(i, a.inputs.n);
    float base[INGOT_VECTOR];
    base_of(a, i, count, blockIdx.y > 0, base);
    for (int m = 0; m < n_model; m++) {
      if (!a.open[first_model + m] && a.inputs.finite.count == nullptr) continue;
      uint32_t key[INGOT_VECTOR];
      keys_of(a, first_model + m, i, count, base, key);
      if (!a.open[first_model + m]) continue;
#pragma unroll
      for (int k = 0; k < INGOT_VECTOR; k++) {
        uint32_t digits = key[k] >> a.shift;
        if (k < count && digits >> a.bits == a.prefix[first_model + m]) {
          atomicAdd(&bucket[m][digits & static_cast<uint32_t>(n_bucket - 1)], 1u);
        }
      }
    }
  }
  __syncthreads();
  for (int m = 0; m < n_model; m++) {
    for (int k = static_cast<int>(threadIdx.x); k < n_bucket; k += SCAN_THREADS) {
      if (bucket[m][k] > 0)
        atomicAdd(&sums[static_cast<int64_t>(first_model + m) * INGOT_RADIX_BUCKETS + k], bucket[m][k]);
    }
  }
}

/* How many of a thread's 2 * INGOT_VECTOR neighbouring elements from i equal the threshold. */
static __device__ __forceinline__ int count_equal(const radix_args &a, int model, int64_t i)
{
  int equal = 0;
  for (int v = 0; v < 2; v++, i += INGOT_VECTOR) {
    if (i >= a.inputs.n) break;
    int      count = ingot_vector_count(i, a.inputs.n);
    float    base[INGOT_VECTOR];
    uint32_t key[INGOT_VECTOR];
    base_of(a, i, count, true, base);
    keys_of(a, model, i, count, base, key);
#pragma unroll
    for (int k = 0; k < INGOT_VECTOR; k++) equal += k < count && key[k] == a.prefix[model];
  }
  return equal;
}

/* One thread block an INGOT_BLOCK and model. block: [n_model][gridDim.x], how many keys equal the threshold; or added
 * to total. */
__global__ void __launch_bounds__(PLACE_THREADS)
    count_kernel(const __grid_constant__ radix_args a, unsigned *block, counter *total)
{
  __shared__ unsigned sum;
  int                 model = static_cast<int>(blockIdx.y);
  if (!a.open[model]) return;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  int64_t  i = static_cast<int64_t>(blockIdx.x) * INGOT_BLOCK + static_cast<int64_t>(threadIdx.x) * 2 * INGOT_VECTOR;
  unsigned equal = static_cast<unsigned>(count_equal(a, model, i));
  if (equal > 0) atomicAdd(&sum, equal);
  __syncthreads();
  if (threadIdx.x > 0) return;
  if (block != nullptr) block[static_cast<int64_t>(model) * gridDim.x + blockIdx.x] = sum;
  else if (sum > 0) atomicAdd(&total[model], static_cast<counter>(sum));
}

/* Find in part[0 .. n - 1] where the running sum reaches wanted: returns the place, and what is wanted there. */
static __device__ int find_part(const unsigned *part, int n, int64_t *wanted)
{
  int at = 0;
  while (at + 1 < n && part[at] < *wanted) *wanted -= part[at++];
  return at;
}

struct place_args {
  int64_t wanted[INGOT_LARGE_INPUTS]; /* equal keys of the tile that are kept; open models only */
};

/* One thread block a model. block: as count_kernel leaves it. */
__global__ void __launch_bounds__(PLACE_THREADS)
    locate_kernel(const __grid_constant__ radix_args a, const __grid_constant__ place_args p, const unsigned *block,
                  int n_block, ingot_radix_place *place)
{
  __shared__ unsigned part[PLACE_THREADS];
  __shared__ int64_t  rest, chosen;
  int                 model = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (!a.open[model]) return;
  const unsigned *mine = block + static_cast<int64_t>(model) * n_block;

  if (thread == 0) {
    int64_t sum = 0;
    for (int b = 0; b < n_block; b++) sum += mine[b];
    rest = p.wanted[model] - place[model].seen;
    place[model].seen += sum;
    chosen = rest >= 1 && rest <= sum ? find_part(mine, n_block, &rest) : -1;
  }
  __syncthreads();
  if (chosen < 0) return; /* in an earlier or later chunk of the tile */
  int64_t i = chosen * INGOT_BLOCK + static_cast<int64_t>(thread) * 2 * INGOT_VECTOR;
  part[thread] = static_cast<unsigned>(count_equal(a, model, i));
  __syncthreads();
  if (thread == 0) {
    i = chosen * INGOT_BLOCK + static_cast<int64_t>(find_part(part, PLACE_THREADS, &rest)) * 2 * INGOT_VECTOR;
    for (; i < a.inputs.n; i++) {
      float tau = ingot_take_one(a.inputs, 1 + model, i, false) - ingot_take_one(a.inputs, 0, i, false);
      if (ingot_delta_key(tau) == a.prefix[model] && --rest == 0) break;
    }
    place[model].cut = a.inputs.first + i + 1;
  }
}

static ingot_status scan_places(const radix_args &a, const ingot_radix_model *models, const ingot_device_chunk *c,
                                void *slot)
{
  ingot_status st = INGOT_OK;
  cudaStream_t stream = static_cast<cudaStream_t>(c->stream);
  int          n_block = static_cast<int>(ingot_block_count(c->n));
  unsigned    *block = static_cast<unsigned *>(c->workspace);
  place_args   p;

  for (int i = 0; i < a.n_model; i++) p.wanted[i] = models[i].wanted;
  count_kernel<<<dim3(static_cast<unsigned>(n_block), static_cast<unsigned>(a.n_model)), PLACE_THREADS, 0, stream>>>(
      a, block, nullptr);
  INGOT_TRY(ingot_launch_status("the counting kernel"));
  locate_kernel<<<static_cast<unsigned>(a.n_model), PLACE_THREADS, 0, stream>>>(a, p, block, n_block,
                                                                                static_cast<ingot_radix_place *>(slot));
  INGOT_TRY(ingot_launch_status("the locating kernel"));
done:
  return st;
}

static ingot_status ties_scan(const ingot_method_tensor *t, const void *state, const ingot_scan_plan *plan,
                              const ingot_device_chunk *c, void *slot, int64_t *sums)
{
  if (plan->pass == INGOT_PASS_L1) return ingot_device_delta_l1_scan(t, state, plan, c, slot, sums);
  const ingot_radix_model *models = ingot_radix_models_const(ingot_radix_of_ties(t, const_cast<void *>(state)));
  cudaStream_t             stream = static_cast<cudaStream_t>(c->stream);
  int64_t                  tile = c->first / INGOT_TILE;
  radix_args               a;

  ingot_inputs_set(&a.inputs, t, c);
  a.n_model = t->n_model;
  a.shift = ingot_radix_shift(plan->pass);
  a.bits = ingot_radix_bits(plan->pass);
  for (int i = 0; i < t->n_model; i++) {
    a.prefix[i] = models[i].prefix;
    a.open[i] = models[i].open && (plan->pass != INGOT_RADIX_LOCATE || models[i].tile == tile);
  }
  if (plan->pass == INGOT_RADIX_LOCATE) return scan_places(a, models, c, slot);
  if (plan->pass == INGOT_RADIX_COUNT) {
    dim3 grid(static_cast<unsigned>(ingot_block_count(c->n)), static_cast<unsigned>(t->n_model));
    count_kernel<<<grid, PLACE_THREADS, 0, stream>>>(a, nullptr, static_cast<counter *>(slot));
    return ingot_launch_status("the counting kernel");
  }
  dim3 grid(static_cast<unsigned>((c->n + SCAN_ELEMENTS - 1) / SCAN_ELEMENTS),
            static_cast<unsigned>((t->n_model + SCAN_MODELS - 1) / SCAN_MODELS));
  histogram_kernel<<<grid, SCAN_THREADS, 0, stream>>>(a, reinterpret_cast<counter *>(sums));
  return ingot_launch_status("the histogram kernel");
}

static size_t ties_workspace_bytes(const ingot_method_tensor *t)
{
  size_t counts = static_cast<size_t>(INGOT_TILE_BLOCKS) * static_cast<size_t>(t->n_model) * sizeof(unsigned);
  size_t l1 = ingot_device_delta_l1_workspace_bytes(t);
  return counts > l1 ? counts : l1;
}

const ingot_device_ops ingot_device_ties = {ingot_radix_ties_next, ties_scan, ingot_device_delta_apply,
                                            ties_workspace_bytes, INGOT_LARGE_INPUTS};
