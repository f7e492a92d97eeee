/**
 * AdamW on a model whose gradients lie on several ranks: gradients of all parameters on every rank, the optimiser's
 * state of one slice of the flat array (ZeRO stage 1). Slices are equal but for the last, which may be short or empty.
 */
#ifndef INGOT_WORKERS_DISTILL_OPTIMIZER_H
#define INGOT_WORKERS_DISTILL_OPTIMIZER_H

#include "base/comm.h"
#include "kernels/nccl.h"
#include "workers/distill/distill.h"
#include "workers/model/model.h"

typedef struct ingot_optimizer {
  ingot_comm  *comm;
  ingot_model *model;
  int64_t      begin, end; /* this rank's slice of the flat array */
  float       *gradient;   /* [layout.n_elem, and to the end of the last slice]; padding stays 0 */
  float       *master;     /* [end - begin]: float32 parameters; with a float32 back end the model's own weights */
  float       *m, *v;      /* [end - begin] */
  ingot_nccl  *nccl;       /* NULL: none */
  char        *host;       /* without it: room for weights and gradients on their way between GPUs; NULL on a CPU */
  double       exchange_s; /* spent so far with exchanging them */
} ingot_optimizer;

/** Slice of rank `rank` of `size`. */
void ingot_optimizer_slice(int64_t n_elem, int rank, int size, int64_t *begin, int64_t *end);
/** Bytes of back-end memory of one rank. */
uint64_t ingot_optimizer_bytes(int64_t n_elem, ingot_dtype dtype, int n_rank);

/** Collective in its last part; every rank gets here. Release in any case. */
ingot_status ingot_optimizer_init(ingot_optimizer *o, ingot_comm *comm, ingot_model *model);
void         ingot_optimizer_release(ingot_optimizer *o);
/** The door of ingot_pass_run: gradients are added to o->gradient. */
ingot_gradients ingot_optimizer_door(ingot_optimizer *o);
ingot_status    ingot_optimizer_clear(ingot_optimizer *o);
/** This rank's slice of the gradients, added over ranks, and the norm of the whole sum. Other slices are of no use
 * then. Collective. */
ingot_status ingot_optimizer_sum(ingot_optimizer *o, double *norm);
/** One step on the slice; `step` from 1. Then the weights go to all ranks. Collective. */
ingot_status ingot_optimizer_step(ingot_optimizer *o, const ingot_distill_optimizer *how, double rate,
                                  double gradient_scale, int64_t step);
/** After master was changed from outside: weights of this slice from it, then to all ranks. Collective. */
ingot_status ingot_optimizer_publish(ingot_optimizer *o);

#endif
