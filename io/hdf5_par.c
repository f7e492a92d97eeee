#include "io/hdf5_par.h"

#include <stdbool.h>

#if INGOT_WITH_MPI
#include <mpi.h>
#endif

/* The objects of HDF5 1.8 whatever the library's version; the file's strategy for free space needs 1.10. */
static bool fix_format(hid_t access)
{
  return H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110) >= 0;
}

hid_t ingot_hdf5_access_single(void)
{
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  if (access < 0) return access;
  bool ok = fix_format(access) && H5Pset_fapl_sec2(access) >= 0;
#if H5_VERSION_GE(1, 10, 7)
  ok = ok && H5Pset_file_locking(access, false, true) >= 0;
#endif
  if (ok) return access;
  H5Pclose(access);
  return -1;
}

hid_t ingot_hdf5_access_collective(ingot_comm *comm)
{
#if INGOT_WITH_MPI
  MPI_Comm *native = ingot_comm_native(comm);
  if (!native) return ingot_hdf5_access_single(); /* the serial twin */
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  if (access < 0) return access;
  /*
   * All ranks make the same calls, and each writes its share of the metadata at the close. Not written collectively:
   * Open MPI 4.1 then gathers pieces into one buffer and writes what happens to lie in the gaps between them.
   */
  if (fix_format(access) && H5Pset_fapl_mpio(access, *native, MPI_INFO_NULL) >= 0 &&
      H5Pset_all_coll_metadata_ops(access, true) >= 0 && H5Pset_coll_metadata_write(access, false) >= 0)
    return access;
  H5Pclose(access);
  return -1;
#else
  (void)comm;
  return ingot_hdf5_access_single();
#endif
}
