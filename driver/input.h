/**
 * An input of a step as planning sees it: an open source, or the output that an earlier step of the job will have made.
 */
#ifndef INGOT_DRIVER_INPUT_H
#define INGOT_DRIVER_INPUT_H

#include <jansson.h>
#include <stdbool.h>

#include "driver/arena.h"
#include "io/sink.h"
#include "io/source.h"

typedef struct ingot_input {
  const char              *id; /* as the job names it */
  const char              *path;
  ingot_source            *source;  /* owned; NULL: not there yet */
  const ingot_sink_spec   *promise; /* of the earlier step, borrowed; NULL with a source */
  const ingot_sink_tensor *tensors; /* [n_tensor], in file order; names lent by source or promise */
  int                      n_tensor;
  const int               *by_name; /* [n_tensor]: tensors in order of their names */
  json_t                  *config;  /* config.json; NULL when there is none */
} ingot_input;

/** Open a checkpoint. The arena must outlive the input. */
ingot_status ingot_input_open(const char *id, const char *path, ingot_arena *arena, ingot_input *out);
/** From the output that an earlier step will make. */
ingot_status ingot_input_promise(const char *id, const ingot_sink_spec *promise, ingot_arena *arena, ingot_input *out);
void         ingot_input_close(ingot_input *input);

/** Index of a tensor by name, or -1. */
int ingot_input_find(const ingot_input *input, const char *name);
/** Append a side file's contents; *found is false when there is none. */
ingot_status ingot_input_side_file(const ingot_input *input, const char *name, ingot_text *bytes, bool *found);
/** Number of side files, and their names. */
int         ingot_input_n_side_file(const ingot_input *input);
const char *ingot_input_side_file_name(const ingot_input *input, int i);
/** Bytes of all tensors. */
uint64_t ingot_input_bytes(const ingot_input *input);

#endif
