#include "driver/version.h"

#include "ingot_build.h" /* made by CMake */

const char *ingot_version_text(void)
{
  return "ingot " INGOT_VERSION " (" INGOT_REVISION ")";
}

const char *ingot_build_text(void)
{
  return "MPI:      " INGOT_BUILD_MPI "\n"
         "CUDA:     " INGOT_BUILD_CUDA "\n"
         "NCCL:     " INGOT_BUILD_NCCL "\n"
         "HDF5:     " INGOT_BUILD_HDF5 "\n"
         "compiler: " INGOT_BUILD_COMPILER "\n";
}
