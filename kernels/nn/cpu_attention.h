/** What forward and backward attention of the CPU share: the cut into blocks. Private to cpu_attention*.c. */
#ifndef INGOT_KERNELS_NN_CPU_ATTENTION_H
#define INGOT_KERNELS_NN_CPU_ATTENTION_H

#include "kernels/nn/cpu.h"

/*
 * Work is done on blocks of some consecutive queries of all heads that share a key head: their rows stacked, each
 * head's queries together, so one product serves the whole group. Keys are taken INGOT_CPU_KEYS at a time, so that a
 * block of scores stays in the core's cache.
 */
enum { INGOT_CPU_QUERY_ROWS = 128, INGOT_CPU_MIN_QUERIES = 16, INGOT_CPU_KEYS = 512 };

typedef struct ingot_cpu_block {
  const ingot_nn_attention *shape;
  int64_t                   first_token;    /* of the window */
  int                       kv_head, group; /* heads kv_head * group .. */
  int64_t                   query, n_query; /* within the window */
  int64_t                   n_row;          /* group * n_query */
} ingot_cpu_block;

/** Queries of a block. */
int64_t         ingot_cpu_block_queries(const ingot_nn_attention *shape);
ingot_cpu_block ingot_cpu_block_of(const ingot_nn_attention *shape, int64_t batch, int kv_head, int64_t query);
/** First key that the query at `time` (within the window) sees; it sees all from there to itself. */
int64_t ingot_cpu_first_key(const ingot_cpu_block *b, int64_t time);
/** The smallest of the block. */
int64_t ingot_cpu_block_first_key(const ingot_cpu_block *b);
/** Offset of a row of the block in an array of heads. */
int64_t ingot_cpu_row_offset(const ingot_cpu_block *b, int64_t row, int64_t ld);
/** rows [n_row][head_dim] = scale * x. */
void ingot_cpu_gather(const ingot_cpu_block *b, const float *x, int64_t ld, float scale, float *rows);
/** The inverse. */
void ingot_cpu_scatter(const ingot_cpu_block *b, const float *rows, float scale, int64_t ld, float *x);

#endif
