/** The CPU back end's handle: cpu_linalg.c computes, cpu_transfer.c moves matrices in and out. */
#ifndef INGOT_KERNELS_LINALG_CPU_LINALG_H
#define INGOT_KERNELS_LINALG_CPU_LINALG_H

#include "kernels/blas.h"
#include "kernels/linalg/linalg.h"

typedef struct cpu_linalg {
  ingot_linalg       head;
  int                n_thread;
  ingot_blas         blas;
  void              *room;  /* [INGOT_LINALG_ROOM_BYTES] */
  ingot_linalg_input input; /* on its way */
  double            *to;
  int64_t            taken; /* elements */
  ingot_linalg_found found;
} cpu_linalg;

enum {
  INGOT_CPU_PIECE = 256,      /* rows and columns of a piece of a square matrix */
  INGOT_CPU_VECTOR = 1 << 16, /* elements of a piece of a vector */
};

static inline int64_t ingot_at_most(int64_t n, int64_t most)
{
  return n < most ? n : most;
}

static inline int64_t ingot_pieces(int64_t n, int64_t size)
{
  return (n + size - 1) / size;
}

/** Tasks 0 .. n_task - 1 by the handle's threads, in any order. */
void ingot_cpu_tasks(const cpu_linalg *l, int64_t n_task, void (*task)(void *context, int64_t task), void *context);

/* Operations of cpu_transfer.c (linalg.h). */
ingot_status ingot_cpu_begin(ingot_linalg *l, const ingot_linalg_input *input, ingot_linalg_array *to);
ingot_status ingot_cpu_room(ingot_linalg *l, void **room);
ingot_status ingot_cpu_take(ingot_linalg *l, const void *from, int64_t n);
ingot_status ingot_cpu_end(ingot_linalg *l, ingot_linalg_found *found);
ingot_status ingot_cpu_give(ingot_linalg *l, int64_t m, int64_t n, const ingot_linalg_array *x, ingot_linalg_form form,
                            ingot_linalg_taker taker, void *context);

#endif
