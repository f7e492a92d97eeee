/** What this program is: version, revision, and what it was built with. */
#ifndef INGOT_DRIVER_VERSION_H
#define INGOT_DRIVER_VERSION_H

/** "ingot 0.1.0 (1a2b3c4)". */
const char *ingot_version_text(void);
/** One line a feature: MPI, CUDA, NCCL, HDF5, compiler. */
const char *ingot_build_text(void);

#endif
