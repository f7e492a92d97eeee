/* ingot import DIR CKPT.h5: write a model as an ingot checkpoint. */
#include "driver/cmd_copy.h"
#include "io/sink.h"

static const ingot_option options[] = {
    {"--force", NULL, "replace an existing output"},
    {NULL, NULL, NULL},
};

static ingot_status run_import(const ingot_command_context *context, const ingot_command_line *line)
{
  if (ingot_sink_format_of(line->args[1]) != INGOT_SINK_HDF5)
    return ingot_fail(INGOT_ERR_USAGE,
                      "%s: `ingot import` writes checkpoints whose name ends in .h5 or .hdf5; for other forms, use "
                      "`ingot export`",
                      line->args[1]);
  return ingot_copy_run(context, line, 0);
}

const ingot_command ingot_command_import = {
    .name = "import",
    .arguments = "DIR CKPT.h5",
    .summary = "write a model as an ingot checkpoint, with checksums",
    .options = options,
    .min_args = 2,
    .max_args = 2,
    .collective = true,
    .run = run_import,
};
