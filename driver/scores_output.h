/** The output of a step that scores: JSON text, or HDF5 tables with the same text as an attribute; and lines for
 * people. */
#ifndef INGOT_DRIVER_SCORES_OUTPUT_H
#define INGOT_DRIVER_SCORES_OUTPUT_H

#include "driver/step.h"

typedef struct ingot_scores_output {
  const char            *path;
  uint64_t               fingerprint;
  const ingot_sink_spec *sink;      /* no tensors: JSON; else tables of 8-byte elements */
  const char            *attribute; /* HDF5: name of the attribute that holds the JSON text */
  const void            *context;   /* of what follows */
  /** Append the JSON text, and the lines; on rank 0. */
  ingot_status (*json)(const void *context, ingot_text *text);
  ingot_status (*lines)(const void *context, ingot_text *text);
  /** Values of sink->tensors[tensor], n of them, zeroed; on every rank. */
  void (*table)(const void *context, int tensor, size_t n, void *values);
} ingot_scores_output;

/**
 * Write the output under its name and print the lines. A run that is killed before the manifest is written makes it
 * again. checksums [sink->n_tensor]. Collective; all ranks return the same status.
 */
ingot_status ingot_scores_output_write(const ingot_run_context *context, const ingot_scores_output *output,
                                       uint64_t *checksums);

#endif
