#include "io/hdf5_par.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

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

#if INGOT_WITH_MPI
bool ingot_hdf5_is_parallel(ingot_comm *comm)
{
  return ingot_comm_native(comm) != NULL; /* else it is the serial twin */
}

static ingot_status set_hint(MPI_Info info, const char *name, const char *value)
{
  ingot_status st = INGOT_OK;
  /* MPI itself would end the program. */
  INGOT_CHECK(strlen(name) < MPI_MAX_INFO_KEY && strlen(value) < MPI_MAX_INFO_VAL, INGOT_ERR_MPI,
              "MPI-IO hint %s = \"%s\": MPI here holds names of %d and values of %d characters at most", name, value,
              MPI_MAX_INFO_KEY - 1, MPI_MAX_INFO_VAL - 1);
  INGOT_CHECK(MPI_Info_set(info, name, value) == MPI_SUCCESS, INGOT_ERR_MPI,
              "MPI-IO hint %s = \"%s\": MPI_Info_set failed", name, value);
done:
  return st;
}

/* MPI's own name of a hint, and the one by which Open MPI before 5.0 knows it. */
static ingot_status set_number(MPI_Info info, const char *name, const char *other, uint64_t value)
{
  ingot_status st = INGOT_OK;
  char         text[32];
  if (value == 0) return INGOT_OK;
  snprintf(text, sizeof text, "%llu", (unsigned long long)value);
  INGOT_TRY(set_hint(info, name, text));
  INGOT_TRY(set_hint(info, other, text));
done:
  return st;
}

/* *info stays MPI_INFO_NULL when nothing is asked for. */
static ingot_status make_info(const ingot_sink_io *io, MPI_Info *info)
{
  ingot_status st = INGOT_OK;
  if (!ingot_sink_io_given(io)) return INGOT_OK;
  INGOT_CHECK(MPI_Info_create(info) == MPI_SUCCESS, INGOT_ERR_MPI, "MPI_Info_create failed");
  INGOT_TRY(set_number(*info, "striping_factor", "stripe_width", (uint64_t)io->n_stripe));
  INGOT_TRY(set_number(*info, "striping_unit", "stripe_size", io->stripe_bytes));
  for (int i = 0; i < io->n_hint; i++) INGOT_TRY(set_hint(*info, io->hints[i].name, io->hints[i].value));
done:
  return st;
}

/*
 * All ranks make the same calls, and each writes its share of the metadata at the close. Not written collectively:
 * Open MPI 4.1 then gathers pieces into one buffer and writes what happens to lie in the gaps between them.
 */
static hid_t access_mpi(MPI_Comm comm, MPI_Info info)
{
  hid_t list = H5Pcreate(H5P_FILE_ACCESS);
  if (list < 0) return list;
  if (fix_format(list) && H5Pset_fapl_mpio(list, comm, info) >= 0 && H5Pset_all_coll_metadata_ops(list, true) >= 0 &&
      H5Pset_coll_metadata_write(list, false) >= 0)
    return list;
  H5Pclose(list);
  return -1;
}

/* Not ingot_hdf5_access_single: without MPI, HDF5 places the heaps of large groups when they are flushed, so
 * elsewhere. */
hid_t ingot_hdf5_access_alone(ingot_comm *comm)
{
  return ingot_hdf5_is_parallel(comm) ? access_mpi(MPI_COMM_SELF, MPI_INFO_NULL) : ingot_hdf5_access_single();
}

ingot_status ingot_hdf5_access_collective(ingot_comm *comm, const ingot_sink_io *io, hid_t *access)
{
  ingot_status st = INGOT_OK;
  MPI_Info     info = MPI_INFO_NULL;
  *access = -1;
  if (!ingot_hdf5_is_parallel(comm)) {
    *access = ingot_hdf5_access_single();
    return INGOT_OK;
  }
  INGOT_TRY(make_info(io, &info));
  *access = access_mpi(*(MPI_Comm *)ingot_comm_native(comm), info);
done:
  if (info != MPI_INFO_NULL) MPI_Info_free(&info);
  return st;
}

ingot_status ingot_hdf5_hints_remark(hid_t file, hid_t access, const char *path, const ingot_sink_io *io,
                                     ingot_text *text)
{
  ingot_status st = INGOT_OK;
  void        *handle = NULL;
  MPI_Info     info = MPI_INFO_NULL;
  size_t       begin = text->size;
  if (io->n_hint == 0 || H5Fget_vfd_handle(file, access, &handle) < 0 || !handle) return INGOT_OK;
  if (MPI_File_get_info(*(MPI_File *)handle, &info) != MPI_SUCCESS || info == MPI_INFO_NULL) return INGOT_OK;
  for (int i = 0; i < io->n_hint; i++) {
    const ingot_sink_hint *hint = &io->hints[i];
    char                   value[MPI_MAX_INFO_VAL + 1] = "";
    int                    there = 0;
    if (MPI_Info_get(info, hint->name, MPI_MAX_INFO_VAL, value, &there) != MPI_SUCCESS) continue;
    if (there && strcmp(value, hint->value) == 0) continue;
    if (text->size == begin) INGOT_TRY(ingot_text_printf(text, "%s: MPI-IO has not taken", path));
    else INGOT_TRY(ingot_text_printf(text, ","));
    INGOT_TRY(ingot_text_printf(text, " the hint %s = \"%s\"", hint->name, hint->value));
    if (there) INGOT_TRY(ingot_text_printf(text, " (it has \"%s\")", value));
  }
done:
  MPI_Info_free(&info);
  return st;
}
#else
bool ingot_hdf5_is_parallel(ingot_comm *comm)
{
  (void)comm;
  return false;
}

hid_t ingot_hdf5_access_alone(ingot_comm *comm)
{
  (void)comm;
  return ingot_hdf5_access_single();
}

ingot_status ingot_hdf5_access_collective(ingot_comm *comm, const ingot_sink_io *io, hid_t *access)
{
  (void)comm;
  (void)io;
  *access = ingot_hdf5_access_single();
  return INGOT_OK;
}

ingot_status ingot_hdf5_hints_remark(hid_t file, hid_t access, const char *path, const ingot_sink_io *io,
                                     ingot_text *text)
{
  (void)file;
  (void)access;
  (void)path;
  (void)io;
  (void)text;
  return INGOT_OK;
}
#endif
