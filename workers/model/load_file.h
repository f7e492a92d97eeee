/** What load.c and load_file.c share. */
#ifndef INGOT_WORKERS_MODEL_LOAD_FILE_H
#define INGOT_WORKERS_MODEL_LOAD_FILE_H

#include "workers/model/model.h"

/** out [n_column][n_row] = the transpose of in. */
void ingot_model_transpose(const float *in, int64_t n_row, int64_t n_column, float *out);

#endif
