/**
 * How HDF5 reaches a file: through MPI-IO with collective metadata in builds with MPI, else by plain system calls.
 * The only place in io that knows MPI. For the .c files of io only.
 */
#ifndef INGOT_IO_HDF5_PAR_H
#define INGOT_IO_HDF5_PAR_H

#include <hdf5.h>

#include "base/comm.h"

/**
 * A file access list for creating a file by all ranks together (parallel HDF5, when this build has it and comm is
 * one of MPI), or by this process alone. Negative on failure; the caller closes it.
 */
hid_t ingot_hdf5_access_collective(ingot_comm *comm);
/** One for this process alone, without file locks: they fail on some network file systems. */
hid_t ingot_hdf5_access_single(void);

#endif
