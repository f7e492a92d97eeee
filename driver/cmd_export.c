/* ingot export CKPT DIR: write a model as a Hugging Face directory or as one .safetensors file. */
#include "driver/cmd_copy.h"
#include "driver/keys.h"
#include "io/sink.h"

static const ingot_option options[] = {
    {"--shard-size", "SIZE", "payload of one weight file at most, such as 5GB (the default) or 512MiB"},
    {"--force", NULL, "replace an existing output"},
    {NULL, NULL, NULL},
};

static ingot_status run_export(const ingot_command_context *context, const ingot_command_line *line)
{
  ingot_status st = INGOT_OK;
  uint64_t     shard_bytes = 0;
  const char  *size = ingot_line_value(line, "--shard-size");
  INGOT_CHECK(!size || (ingot_parse_size(size, &shard_bytes) && shard_bytes > 0), INGOT_ERR_USAGE,
              "--shard-size %s: expected a size above 0, such as 5GB, 512MiB or a number of bytes", size);
  INGOT_CHECK(
      ingot_sink_format_of(line->args[1]) != INGOT_SINK_HDF5, INGOT_ERR_USAGE,
      "%s: `ingot export` writes Hugging Face directories and .safetensors files; for a .h5, use `ingot import`",
      line->args[1]);
  st = ingot_copy_run(context, line, shard_bytes);
done:
  return st;
}

const ingot_command ingot_command_export = {
    .name = "export",
    .arguments = "CKPT DIR",
    .summary = "write a model as a Hugging Face directory or a .safetensors file",
    .options = options,
    .min_args = 2,
    .max_args = 2,
    .collective = true,
    .run = run_export,
};
