/** Weights from a checkpoint into a model: for load.c. */
#ifndef INGOT_WORKERS_MODEL_LOAD_FILE_H
#define INGOT_WORKERS_MODEL_LOAD_FILE_H

#include "workers/model/model.h"

/**
 * Fill a model whose weights are allocated; tensor [n_param]: of the source. Read and converted by nn->n_thread threads,
 * while the calling one copies into the back end. INGOT_ERR_NUMERIC for values that are not finite; errors of the source.
 */
ingot_status ingot_model_fill_from_file(ingot_model *model, const ingot_source *src, const int *tensor);

/** out [n_column][n_row] = the transpose of in. */
void ingot_model_transpose(const float *in, int64_t n_row, int64_t n_column, float *out);

#endif
