/** What a case is made with; nn_cases*.c only. Memory is the back end's, and goes when the case has been run. */
#ifndef INGOT_TESTS_KERNELS_NN_CASE_RUN_H
#define INGOT_TESTS_KERNELS_NN_CASE_RUN_H

#include "tests/kernels/nn/nn_cases.h"

enum { MAX_MEMORY = 40 };

struct nn_run {
  ingot_nn   *nn;
  nn_outputs *out;
  void       *memory[MAX_MEMORY];
  int         n_memory;
};

void  nn_run_must(ingot_status st);
void *nn_run_host_room(size_t bytes); /* malloc that cannot fail */

/** A copy of host memory. */
void *nn_run_put(nn_run *r, const void *host, size_t bytes);
/** n elements of scale times nn_case_value(seed, i): of the back end's dtype, float32, and 0 .. below - 1. */
void    *nn_run_input(nn_run *r, uint32_t seed, int64_t n, float scale);
float   *nn_run_input_f32(nn_run *r, uint32_t seed, int64_t n, float scale);
int32_t *nn_run_input_index(nn_run *r, uint32_t seed, int64_t n, int below);
/** Room for n elements, NaN. */
void  *nn_run_room(nn_run *r, int64_t n);
float *nn_run_room_f32(nn_run *r, int64_t n);
/** Rows of logits, NaN behind the vocabulary; labels, of which every fifth is none. */
ingot_nn_logits nn_run_logits(nn_run *r, uint32_t seed, int64_t n_row, int64_t n_vocab);
int32_t        *nn_run_labels(nn_run *r, int64_t n_row, int64_t n_vocab);
/** A row distance beyond `width`. */
int64_t nn_run_padded(int64_t width);

/** Outputs: room for one on the host; of the back end's dtype, float32, integers. */
nn_output *nn_run_new_output(nn_run *r, const char *name, int64_t n);
void       nn_run_take(nn_run *r, const char *name, const void *p, int64_t n);
void       nn_run_take_f32(nn_run *r, const char *name, const float *p, int64_t n);
void       nn_run_take_index(nn_run *r, const char *name, const int32_t *p, int64_t n);

/* Cases of nn_cases_training.c. */
void nn_run_mix(nn_run *r, const int64_t *shape);
void nn_run_moments(nn_run *r, const int64_t *shape);
void nn_run_distill(nn_run *r, const int64_t *shape);
void nn_run_distill_top_k(nn_run *r, const int64_t *shape);
void nn_run_adamw(nn_run *r, const int64_t *shape);

#endif
