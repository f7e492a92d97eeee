/**
 * Sums over GPUs by NCCL, for statistics and gradients that lie on the devices, and logits from one GPU to another. The
 * library is loaded when it is first needed. Without NCCL at build time nccl_none.c stands in: ingot_nccl_built is
 * false and everything else fails with INGOT_ERR_DEVICE.
 *
 * One rank, one GPU: NCCL refuses two ranks on one device. Rank 0 makes an id and hands it to the others by whatever
 * they have (the communicator's broadcast); then all open together.
 */
#ifndef INGOT_KERNELS_NCCL_H
#define INGOT_KERNELS_NCCL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { INGOT_NCCL_ID_BYTES = 128 };

typedef struct ingot_nccl ingot_nccl;

/** True when the program was built with NCCL. */
bool ingot_nccl_built(void);
/** Whether the library is there: a rank that finds it missing only at ingot_nccl_open would leave the others waiting.
 */
ingot_status ingot_nccl_look(void);
/** A fresh id: on one rank, once for each open. */
ingot_status ingot_nccl_id_make(unsigned char id[INGOT_NCCL_ID_BYTES]);
/** Collective over the `size` ranks that have the id. Binds the calling thread to the device; any thread may then use
 * what it has opened, one at a time. */
ingot_status ingot_nccl_open(int device, int rank, int size, const unsigned char id[INGOT_NCCL_ID_BYTES],
                             ingot_nccl **out);
/** Collective when all ranks are well; NULL is fine. Work on the stream must be over. */
void ingot_nccl_close(ingot_nccl **nccl);
/**
 * data [n] of every rank becomes the sum over ranks, in place; dtype F32 or F64, device memory. Collective; enqueued on
 * `stream` (ingot_nn_cuda_stream). All ranks get the same bits; another number of ranks adds in another order.
 */
ingot_status ingot_nccl_sum(ingot_nccl *nccl, ingot_dtype dtype, int64_t n, void *data, void *stream);

/**
 * Float32 data [size * n] of every rank, slice after slice: the sum over ranks of slice r goes to rank r, in place; the
 * other slices are then of no use. Half the traffic of a whole sum. Collective; enqueued on `stream`.
 */
ingot_status ingot_nccl_sum_slices(ingot_nccl *nccl, int64_t n, float *data, void *stream);
/** Bytes begin[r] .. begin[r + 1] of `data` go from rank r to all others; begin [size + 1]. Collective; enqueued on
 * `stream`. */
ingot_status ingot_nccl_share(ingot_nccl *nccl, void *data, const int64_t *begin, void *stream);

/** Device memory on its way to or from another rank. */
typedef struct ingot_nccl_piece {
  void  *data;
  size_t bytes;
} ingot_nccl_piece;
/**
 * All of out [n_out] to rank dest while all of in [n_in] come from rank src, as one group; enqueued on `stream`. With
 * nothing to send or to receive, a side takes no part. What two ranks swap arrives in order. Neither rank is this one.
 */
ingot_status ingot_nccl_swap(ingot_nccl *nccl, int dest, const ingot_nccl_piece *out, int n_out, int src,
                             const ingot_nccl_piece *in, int n_in, void *stream);

#ifdef __cplusplus
}
#endif
#endif
