/** The group `io` of a job file: stripes of new .h5 outputs on parallel file systems, and hints for MPI-IO. */
#ifndef INGOT_DRIVER_IO_SETTINGS_H
#define INGOT_DRIVER_IO_SETTINGS_H

#include "driver/keys.h"
#include "io/sink.h"

extern const ingot_key ingot_io_keys[];
extern const int       ingot_io_n_key;

/** Read the group into *out, whose strings live in the arena; problems are added. INGOT_ERR_NOMEM only. */
ingot_status ingot_io_settings_read(const ingot_value *group, ingot_arena *arena, ingot_problems *problems,
                                    ingot_sink_io *out);

#endif
