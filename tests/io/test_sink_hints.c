/*
 * Stripes and hints of an HDF5 output: MPI-IO gets them, from every rank, when it creates the file, and never for a
 * file that is there; the bytes are those of an output without, and so they are where there are no file locks, and no
 * MPI-IO. This program takes the place of MPI's own MPI_File_open and MPI_File_get_info, and of the system's fcntl.
 *   test_sink_hints DIR       on any number of ranks
 */
#define _GNU_SOURCE /* syscall */
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "sink_case.h"

enum { PATH = 512, N_HINT = 6, TEXT = 64 };
static const char *const hint_names[N_HINT] = {"striping_factor", "stripe_width", "striping_unit",
                                               "stripe_size",     "cb_nodes",     "romio_cb_write"};

/* What MPI_File_open was called with, the last time. */
static struct {
  int  n_open, n_create;
  bool was_there, has_info;
  char value[N_HINT][TEXT]; /* "": not among the hints */
} seen;
static const char *cb_nodes_taken; /* NULL: MPI's own answer; "": the hint is unknown */

/* The prototypes are those of mpi.h. */
int MPI_File_open(MPI_Comm comm, const char *filename, int amode, MPI_Info info, MPI_File *fh)
{
  seen.n_open++;
  if (amode & MPI_MODE_CREATE) seen.n_create++;
  PMPI_Barrier(comm); /* nobody has made it yet */
  seen.was_there = access(filename, F_OK) == 0;
  PMPI_Barrier(comm);
  seen.has_info = info != MPI_INFO_NULL;
  for (int i = 0; i < N_HINT; i++) {
    int there = 0;
    if (seen.has_info) PMPI_Info_get(info, hint_names[i], TEXT - 1, seen.value[i], &there);
    if (!there) seen.value[i][0] = '\0';
  }
  return PMPI_File_open(comm, filename, amode, info, fh);
}

int MPI_File_get_info(MPI_File fh, MPI_Info *info_used)
{
  int rc = PMPI_File_get_info(fh, info_used);
  if (rc != MPI_SUCCESS || !cb_nodes_taken) return rc;
  if (cb_nodes_taken[0]) return PMPI_Info_set(*info_used, "cb_nodes", cb_nodes_taken);
  return PMPI_Info_delete(*info_used, "cb_nodes");
}

static bool no_locks;

int fcntl(int fd, int cmd, ...)
{
  va_list arguments;
  va_start(arguments, cmd);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (no_locks && (cmd == F_SETLK || cmd == F_SETLKW)) {
    errno = ENOLCK;
    return -1;
  }
  return (int)syscall(SYS_fcntl, fd, cmd, argument);
}

static ingot_status expect(bool fine, const char *what)
{
  return fine ? INGOT_OK
              : ingot_fail(INGOT_ERR_INTERNAL, "expected: %s; last message: %s", what, ingot_error_message());
}

/* Create an output with its stderr in DIR/log.RANK; then take it up again, write and commit. */
static ingot_status write_output(ingot_comm *comm, const char *dir, const char *name, const ingot_sink_io *io,
                                 char log[4096])
{
  ingot_status    st = INGOT_OK;
  ingot_sink     *sink = NULL;
  char            path[PATH], log_path[PATH];
  uint64_t        sums[SINK_CASE_TENSORS];
  size_t          rank = (size_t)ingot_comm_rank(comm), size = (size_t)ingot_comm_size(comm);
  ingot_sink_spec spec;
  snprintf(path, sizeof path, "%s/%s", dir, name);
  snprintf(log_path, sizeof log_path, "%s/log.%zu", dir, rank);
  spec = sink_case_spec(path);
  spec.io = *io;
  FILE *file = fopen(log_path, "w+");
  int   kept = dup(2);
  if (!file || kept < 0) return expect(false, "a log file");
  dup2(fileno(file), 2);
  st = ingot_sink_create(comm, &spec, &sink);
  dup2(kept, 2);
  close(kept);
  rewind(file);
  log[fread(log, 1, 4095, file)] = '\0';
  fclose(file);
  remove(log_path);
  if (st != INGOT_OK) return st;
  int n_open = seen.n_open;
  ingot_sink_close(&sink);
  INGOT_TRY(ingot_comm_barrier(comm));
  INGOT_TRY(ingot_sink_reopen(comm, &spec, &sink));
  for (int i = 0; i < spec.n_tensor && st == INGOT_OK; i++) {
    size_t n = sink_case_bytes(&spec.tensors[i]);
    sums[i] = sink_case_checksum(&spec.tensors[i], i);
    st = sink_case_write(sink, spec.tensors, i, n * rank / size, n * (rank + 1) / size);
  }
  INGOT_TRY(ingot_comm_agree(comm, st));
  INGOT_TRY(ingot_sink_commit(comm, &sink, sums));
  st = expect(seen.n_open == n_open, "MPI-IO opens nothing that is there already");
done:
  ingot_sink_close(&sink);
  return st;
}

static ingot_status same_bytes(const char *dir, const char *a, const char *b)
{
  char  path[2][PATH];
  FILE *file[2];
  int   byte[2] = {0, 0};
  long  n = 0;
  for (int i = 0; i < 2; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s", dir, i ? b : a);
    file[i] = fopen(path[i], "rb");
    if (!file[i]) return expect(false, "both outputs");
  }
  for (; byte[0] == byte[1] && byte[0] != EOF; n++)
    for (int i = 0; i < 2; i++) byte[i] = getc(file[i]);
  fclose(file[0]);
  fclose(file[1]);
  return expect(byte[0] == byte[1] && n > 10000, "the same bytes");
}

/* All ranks leave when one finds something else. */
static ingot_status together(ingot_comm *comm, bool fine, const char *what)
{
  return ingot_comm_agree(comm, expect(fine, what));
}

static ingot_status run(ingot_comm *comm, const char *dir)
{
  static const ingot_sink_hint hints[] = {{"cb_nodes", "2"}, {"romio_cb_write", "enable"}};
  static const ingot_sink_hint long_name[] = {{"a_name_that_is_much_longer_than_those_that_MPI_can_hold_"
                                               "a_name_that_is_much_longer_than_those_that_MPI_can_hold_"
                                               "a_name_that_is_much_longer_than_those_that_MPI_can_hold_"
                                               "a_name_that_is_much_longer_than_those_that_MPI_can_hold_"
                                               "a_name_that_is_much_longer_than_those_that_MPI_can_hold_",
                                               "1"}};
  static const char *const     want[N_HINT] = {"8", "8", "1048576", "1048576", "2", "enable"};
  const ingot_sink_io          none = {0}, stripes = {.n_stripe = 8}, too_long = {0, 0, long_name, 1},
                      all = {8, 1 << 20, hints, 2};
  ingot_status st = INGOT_OK;
  bool         root = ingot_comm_rank(comm) == 0;
  char         log[4096], what[128];
  /* Nothing asked: no hints, and the file is there before MPI-IO opens it. */
  INGOT_TRY(write_output(comm, dir, "none.h5", &none, log));
  INGOT_TRY(together(comm, seen.n_open == 1 && seen.was_there && !seen.has_info && !log[0],
                     "one open without hints, no warning"));
  INGOT_TRY(write_output(comm, dir, "all.h5", &all, log));
  INGOT_TRY(together(comm, seen.n_open == 2 && seen.n_create == 2 && !seen.was_there,
                     "a file created by MPI-IO, in one call"));
  for (int i = 0; i < N_HINT; i++) {
    snprintf(what, sizeof what, "%s = %s instead of \"%s\"", hint_names[i], want[i], seen.value[i]);
    INGOT_TRY(together(comm, strcmp(seen.value[i], want[i]) == 0, what));
  }
  INGOT_TRY(ingot_comm_agree(comm, root ? same_bytes(dir, "none.h5", "all.h5") : INGOT_OK));
  INGOT_TRY(together(comm, root || !log[0], "no warning from other ranks"));
  /* DIR is on a disk without stripes: see the test's script. */
  INGOT_TRY(
      together(comm,
               !root ||
                   strstr(log,
                          "all.h5: striping_factor = 8 and striping_unit = 1048576 had no effect: its file system") !=
                       NULL,
               "a warning of stripes"));
  INGOT_TRY(together(comm, !root || !strstr(log, "has not taken"), "no warning of hints"));
  cb_nodes_taken = "1";
  INGOT_TRY(write_output(comm, dir, "other.h5", &all, log));
  INGOT_TRY(
      together(comm,
               !root ||
                   strstr(log, "other.h5: MPI-IO has not taken the hint cb_nodes = \"2\" (it has \"1\")\n") != NULL,
               "a warning"));
  cb_nodes_taken = "";
  INGOT_TRY(write_output(comm, dir, "unknown.h5", &all, log));
  INGOT_TRY(together(comm, !root || strstr(log, "unknown.h5: MPI-IO has not taken the hint cb_nodes = \"2\"\n") != NULL,
                     "a warning"));
  cb_nodes_taken = NULL;
  INGOT_TRY(write_output(comm, dir, "stripes.h5", &stripes, log));
  INGOT_TRY(together(comm, strcmp(seen.value[0], "8") == 0 && !seen.value[2][0] && !seen.value[4][0],
                     "striping_factor alone"));
  int n_open = seen.n_open;
  st = write_output(comm, dir, "out.safetensors", &all, log);
  INGOT_TRY(together(comm, st == INGOT_OK && seen.n_open == n_open, "no MPI-IO for safetensors"));
  INGOT_TRY(together(comm, !root || strstr(log, "out.safetensors: settings of `io` are for .h5 outputs") != NULL,
                     "a warning"));
  no_locks = true;
  INGOT_TRY(write_output(comm, dir, "no_locks.h5", &none, log));
  INGOT_TRY(together(comm, seen.n_open == n_open + root && !log[0], "one rank makes the file, and no warning"));
  INGOT_TRY(ingot_comm_agree(comm, root ? same_bytes(dir, "none.h5", "no_locks.h5") : INGOT_OK));
  INGOT_TRY(write_output(comm, dir, "no_locks_all.h5", &all, log));
  INGOT_TRY(together(comm, seen.n_open == n_open + 2 * root && !(root && seen.has_info), "one rank makes the file"));
  INGOT_TRY(ingot_comm_agree(comm, root ? same_bytes(dir, "none.h5", "no_locks_all.h5") : INGOT_OK));
  INGOT_TRY(together(comm, !root || strstr(log, "no_locks_all.h5: stripes and hints of `io` had no effect") != NULL,
                     "a warning"));
  no_locks = false;
  st = write_output(comm, dir, "long.h5", &too_long, log);
  INGOT_TRY(together(comm, st == INGOT_ERR_MPI && strstr(ingot_error_message(), "MPI here holds names of"),
                     "a name too long"));
  st = INGOT_OK;
done:
  return st;
}

int main(int argc, char **argv)
{
  ingot_comm  *comm = NULL;
  ingot_status st = ingot_comm_init(&argc, &argv, &comm);
  if (st != INGOT_OK || argc != 2) return 2;
  ingot_log_init(ingot_comm_rank(comm), ingot_comm_size(comm));
  st = ingot_comm_agree(comm, run(comm, argv[1]));
  if (st != INGOT_OK && ingot_comm_rank(comm) == 0) fprintf(stderr, "%s\n", ingot_error_message());
  ingot_comm_finalize(&comm);
  return st != INGOT_OK;
}
