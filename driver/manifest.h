/**
 * The manifest of an output: "<output>.manifest.json" beside a file, "ingot_manifest.json" inside a directory. It is
 * written last, in one piece: an output with a matching manifest is complete. docs/formats.md lists its members.
 */
#ifndef INGOT_DRIVER_MANIFEST_H
#define INGOT_DRIVER_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/text.h"
#include "driver/job.h"
#include "driver/step.h"

enum { INGOT_MANIFEST_VERSION = 1 };

/** Where the manifest of an output is; appended to text. */
ingot_status ingot_manifest_path(const char *output, ingot_text *text);
/**
 * Whether a plan's output, which exists, has a valid manifest with the plan's fingerprint, and the size and time that
 * the manifest says. Otherwise *why gets the reason, such as "without a manifest", with the settings and inputs that
 * differ. INGOT_ERR_NOMEM only.
 */
ingot_status ingot_manifest_matches(const ingot_step_plan *plan, bool *matches, ingot_text *why);

/** How and when a step ran: the part of a manifest that differs between runs of the same job. */
typedef struct ingot_manifest_run {
  const char               *started; /* "2025-01-31T12:00:00Z" */
  int                       n_rank, n_thread;
  const char               *device; /* "cpu" or "cuda" */
  const ingot_merge_timing *timing; /* [n_rank] */
} ingot_manifest_run;

/** Write it for a finished step; rank 0. INGOT_ERR_IO, INGOT_ERR_NOSPACE, INGOT_ERR_NOMEM. */
ingot_status ingot_manifest_write(const ingot_job *job, const ingot_step_plan *plan, const uint64_t *checksums,
                                  const ingot_manifest_run *run, bool durable);

/** Remove it, if it is there and a file. INGOT_ERR_IO. */
ingot_status ingot_manifest_remove(const char *output);

/** Bytes of an output (all files of a directory but the manifest), and its latest modification, in ns since 1970. */
ingot_status ingot_output_extent(const char *output, uint64_t *bytes, int64_t *modified_ns);
/** Now, as "2025-01-31T12:00:00Z". */
void ingot_time_text(char text[32]);

#endif
