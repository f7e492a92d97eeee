/**
 * How HDF5 reaches a file: through MPI-IO with collective metadata in builds with MPI, else by plain system calls.
 * The only place in io that knows MPI. For the .c files of io only.
 */
#ifndef INGOT_IO_HDF5_PAR_H
#define INGOT_IO_HDF5_PAR_H

#include <hdf5.h>

#include "base/comm.h"
#include "base/text.h"
#include "io/sink.h"

/**
 * A file access list for creating a file by all ranks together (parallel HDF5, when this build has it and comm is
 * one of MPI), or by this process alone; the caller closes it. io (all zeros: nothing) becomes hints of MPI-IO. *access
 * is negative when HDF5 refuses; a status only for hints that MPI cannot hold.
 */
ingot_status ingot_hdf5_access_collective(ingot_comm *comm, const ingot_sink_io *io, hid_t *access);
/** One for this process alone, without file locks: they fail on some network file systems. Negative on failure. */
hid_t ingot_hdf5_access_single(void);
/** One for creating a file by this process alone that comes out byte for byte as if all ranks made it. Negative on
 * failure. */
hid_t ingot_hdf5_access_alone(ingot_comm *comm);
/** Whether a list of ingot_hdf5_access_collective goes through MPI-IO. */
bool ingot_hdf5_is_parallel(ingot_comm *comm);
/**
 * Append a sentence about hints (not of stripes) that MPI-IO has not taken, as far as it tells, for a file opened with
 * such a list. No communication. Nothing to say: nothing appended. INGOT_ERR_NOMEM.
 */
ingot_status ingot_hdf5_hints_remark(hid_t file, hid_t access, const char *path, const ingot_sink_io *io,
                                     ingot_text *text);

#endif
