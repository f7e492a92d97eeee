/** The GPU back end's handle: cuda_linalg.cu computes, cuda_transfer.cu moves matrices in and out. CUDA sources
 * only. */
#ifndef INGOT_KERNELS_LINALG_CUDA_LINALG_CUH
#define INGOT_KERNELS_LINALG_CUDA_LINALG_CUH

#include "kernels/device_error.cuh"
#include "kernels/linalg/linalg.h"

enum { INGOT_CUDA_SLOTS = 4, INGOT_CUDA_LANDINGS = 2, INGOT_CUDA_BLOCKS = 64 };

/** Device memory of an array; kept for the next one when it is freed. */
struct ingot_cuda_block {
  double *at;
  int64_t n;
  bool    used;
};

/** Where an input lands as it is stored, before it is placed in its array: the next one lands while products run. */
struct ingot_cuda_landing {
  void       *at;
  size_t      bytes;
  cudaEvent_t placed; /* on the compute stream: may be overwritten */
};

/** Page-locked memory for a piece of an input or of a result. */
struct ingot_cuda_slot {
  char       *host;  /* [INGOT_LINALG_ROOM_BYTES] */
  cudaEvent_t moved; /* the last copy from or to it */
};

/** What was seen of an input, as kernels count it: all bits set is no position. */
struct ingot_cuda_found {
  unsigned long long first_nonfinite, asymmetric, n_nonfinite;
};

struct ingot_cuda_linalg {
  ingot_linalg       head;
  int                device;
  cudaStream_t       compute; /* everything on arrays */
  cudaStream_t       intake;  /* copies to landings, and looking at them: first where both want the device */
  ingot_cuda_block   blocks[INGOT_CUDA_BLOCKS];
  ingot_cuda_slot    slots[INGOT_CUDA_SLOTS];
  int                slot; /* given last */
  ingot_cuda_landing landings[INGOT_CUDA_LANDINGS];
  int                landing; /* of the input on its way */
  ingot_linalg_input input;
  double            *to;
  int64_t            taken;
  ingot_cuda_found  *found, *found_host; /* device; page-locked */
  float             *single;             /* device: a tile of the result for each slot */
};

enum { INGOT_CUDA_THREADS = 256 };

/** Blocks of a grid-stride loop over n. */
static inline unsigned ingot_cuda_blocks(int64_t n)
{
  int64_t b = (n + INGOT_CUDA_THREADS - 1) / INGOT_CUDA_THREADS;
  return static_cast<unsigned>(b < 1 ? 1 : b < 65535 ? b : 65535);
}

#define INGOT_CUDA_EACH(i, n)                                                   \
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, \
               step_ = static_cast<int64_t>(gridDim.x) * blockDim.x;            \
       i < (n); i += step_)

/** The handle, with the calling thread bound to its device. */
ingot_cuda_linalg *ingot_cuda_linalg_of(ingot_linalg *l);
/** Device memory, at the cost of kept blocks where there is no other. INGOT_ERR_NOMEM. */
ingot_status ingot_cuda_memory(ingot_cuda_linalg *c, size_t bytes, void **out);

/* cuda_transfer.cu: what it needs of a handle, and the operations (linalg.h). */
ingot_status ingot_cuda_transfer_open(ingot_cuda_linalg *c);
void         ingot_cuda_transfer_close(ingot_cuda_linalg *c);
ingot_status ingot_cuda_begin(ingot_linalg *l, const ingot_linalg_input *input, ingot_linalg_array *to);
ingot_status ingot_cuda_room(ingot_linalg *l, void **room);
ingot_status ingot_cuda_take(ingot_linalg *l, const void *from, int64_t n);
ingot_status ingot_cuda_end(ingot_linalg *l, ingot_linalg_found *found);
ingot_status ingot_cuda_give(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *x, ingot_linalg_form form,
                             ingot_linalg_taker taker, void *context);

#endif
