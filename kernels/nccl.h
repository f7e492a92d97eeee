/**
 * Sums over GPUs by NCCL, for statistics and gradients that lie on the devices. The library is loaded when it is first
 * needed. Without NCCL at build time nccl_none.c stands in: ingot_nccl_built is false and everything else fails with
 * INGOT_ERR_DEVICE.
 *
 * One rank, one GPU: NCCL refuses two ranks on one device. Rank 0 makes an id and hands it to the others by whatever
 * they have (the communicator's broadcast); then all open together.
 */
#ifndef INGOT_KERNELS_NCCL_H
#define INGOT_KERNELS_NCCL_H

#include <stdbool.h>
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
/** A fresh id: on one rank, once for each open. */
ingot_status ingot_nccl_id_make(unsigned char id[INGOT_NCCL_ID_BYTES]);
/** Collective over the `size` ranks that have the id. Binds the calling thread to the device. */
ingot_status ingot_nccl_open(int device, int rank, int size, const unsigned char id[INGOT_NCCL_ID_BYTES],
                             ingot_nccl **out);
/** Collective when all ranks are well; NULL is fine. Work on the stream must be over. */
void ingot_nccl_close(ingot_nccl **nccl);
/**
 * data [n] of every rank becomes the sum over ranks, in place; dtype F32 or F64, device memory. Collective; enqueued on
 * `stream` (ingot_nn_cuda_stream). All ranks get the same bits; another number of ranks adds in another order.
 */
ingot_status ingot_nccl_sum(ingot_nccl *nccl, ingot_dtype dtype, int64_t n, void *data, void *stream);

#ifdef __cplusplus
}
#endif
#endif
