/** Rows of logits on the CPU: what the operators on them have in common. Logits may be -inf, but not all of a row. */
#ifndef INGOT_KERNELS_NN_CPU_ROWS_H
#define INGOT_KERNELS_NN_CPU_ROWS_H

#include "kernels/nn/nn.h"

enum { INGOT_CPU_ROW_PIECE = 1024 }; /* logits summed in float32 before they are added in float64 */

/** The largest. */
float ingot_cpu_row_top(int64_t n, const float *z);
/** sum_v exp((z_v - top) factor) */
double ingot_cpu_row_sum(int64_t n, const float *z, float top, float factor);
/** d [z->ld] = scale (softmax(z) - onehot(label)) of a row, given its top and sum (factor 1). d may be the row
 * itself. */
void ingot_cpu_row_gradient(const ingot_nn_logits *z, int64_t row, int32_t label, float scale, float top, double sum,
                            float *d);

#endif
