/** What the commands `export` and `import` share. */
#ifndef INGOT_DRIVER_CMD_COPY_H
#define INGOT_DRIVER_CMD_COPY_H

#include <stdint.h>

#include "driver/commands.h"

/**
 * Copy the model line->args[0] to line->args[1]. Collective. INGOT_ERR_EXISTS when there is something and --force was
 * not given; INGOT_ERR_USAGE when the output is the input, or inside it.
 */
ingot_status ingot_copy_run(const ingot_command_context *context, const ingot_command_line *line, uint64_t shard_bytes);

#endif
