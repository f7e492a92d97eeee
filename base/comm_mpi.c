#define _POSIX_C_SOURCE 200809L
/* The MPI twin of base/comm.h. */
#include "base/comm.h"

#include <limits.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/process.h"

enum { NOTICE_TAG = 77, SWAP_TAG = 78, CHUNK_BYTES = 1 << 30, SUM_ELEMENTS = 1 << 20 };

/* A notice on its way; kept until MPI has taken it. */
typedef struct pending_notice {
  struct pending_notice *next;
  MPI_Request            request;
  ingot_notice           notice;
} pending_notice;

struct ingot_comm {
  MPI_Comm        comm;
  int             rank, size;
  int             local_rank, local_size;
  bool            ends_mpi; /* ingot_comm_finalize ends MPI */
  pending_notice *pending;
  int64_t        *sent, *received; /* [size]: notices to and from each rank, ever */
  int64_t        *expected;        /* [size], for ingot_comm_drain: how many have been sent here */
};

static ingot_status mpi_failed(int code, const char *what)
{
  char text[MPI_MAX_ERROR_STRING] = "";
  int  length = 0;
  MPI_Error_string(code, text, &length);
  return ingot_fail(INGOT_ERR_MPI, "%s: %s", what, text);
}

#define TRY_MPI(call)                \
  do {                               \
    int code_ = (call);              \
    if (code_ != MPI_SUCCESS) {      \
      st = mpi_failed(code_, #call); \
      goto done;                     \
    }                                \
  } while (0)

/* Whether the launcher says that all ranks are on one machine. */
static bool is_on_one_node(void)
{
  const char *size = getenv("OMPI_COMM_WORLD_SIZE"), *local = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const char *step_nodes = getenv("SLURM_STEP_NUM_NODES"); /* started by srun itself */
  if (size && local) return strcmp(size, local) == 0;
  return step_nodes && getenv("SLURM_PROCID") && strcmp(step_nodes, "1") == 0;
}

/* Whether no launcher has started this process: it is alone. */
static bool has_no_launcher(void)
{
  static const char *const launched[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_FD"};
  for (size_t i = 0; i < sizeof launched / sizeof *launched; i++)
    if (getenv(launched[i])) return false;
  return true;
}

/*
 * What Open MPI would do at its start and a merge has no use for: hwloc's look at every GPU through the vendor's
 * libraries; where all ranks are on one machine, the opening of fast networks; and, for a process that no launcher has
 * started and so is alone, a daemon, and hwloc's look at all processors, caches and devices (a virtual machine answers
 * each read of a device's registers slowly). That takes from 0.2 to 0.5 seconds. And what lone processes of one user
 * share, so that the first one to end takes it from the others: Open MPI's session folder, which nothing needs where
 * there is no other rank, and the shared file pointers of MPI-IO, which nobody uses. Settings of the user's own stay.
 */
static void prepare_environment(bool is_lone)
{
  setenv("OMPI_MCA_sharedfp", "individual", 0);
  setenv("HWLOC_COMPONENTS", is_lone ? "no_os,stop" : "-cuda,-nvml,-rsmi,-levelzero,-opencl,-gl", 0);
  if (is_on_one_node()) setenv("OMPI_MCA_pml", "ob1", 0); /* shared memory */
  if (!is_lone) return;
  setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
  setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
  setenv("OMPI_MCA_btl", "self", 0);
  setenv("OMPI_MCA_pml", "ob1", 0);
}

ingot_status ingot_comm_init(int *argc, char ***argv, ingot_comm **out)
{
  ingot_status st = INGOT_OK;
  MPI_Comm     node = MPI_COMM_NULL;
  ingot_comm  *comm = NULL;
  int64_t     *counts = NULL;
  int          initialized = 0, provided = MPI_THREAD_SINGLE, size = 0;
  bool         owns_mpi = false, is_lone = has_no_launcher();
  MPI_Initialized(&initialized);
  if (!initialized) {
    prepare_environment(is_lone);
    TRY_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    owns_mpi = true;
    INGOT_CHECK(provided >= MPI_THREAD_FUNNELED, INGOT_ERR_MPI, "this MPI does not allow threads beside its own");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  TRY_MPI(MPI_Comm_size(MPI_COMM_WORLD, &size));
  comm = calloc(1, sizeof *comm);
  if (comm) comm->comm = MPI_COMM_NULL;
  counts = calloc(3 * (size_t)size, sizeof *counts);
  /* A rank that left here alone would keep the others waiting in the calls below. */
  int is_short = !comm || !counts;
  TRY_MPI(MPI_Allreduce(MPI_IN_PLACE, &is_short, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD));
  INGOT_CHECK(!is_short && comm && counts, INGOT_ERR_NOMEM, "no memory for the communicator on this rank or another");
  comm->sent = counts;
  comm->received = counts + size;
  comm->expected = comm->received + size;
  TRY_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm->comm));
  MPI_Comm_set_errhandler(comm->comm, MPI_ERRORS_RETURN);
  TRY_MPI(MPI_Comm_rank(comm->comm, &comm->rank));
  TRY_MPI(MPI_Comm_size(comm->comm, &comm->size));
  TRY_MPI(MPI_Comm_split_type(comm->comm, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node));
  TRY_MPI(MPI_Comm_rank(node, &comm->local_rank));
  TRY_MPI(MPI_Comm_size(node, &comm->local_size));
done:
  if (node != MPI_COMM_NULL) MPI_Comm_free(&node);
  if (st == INGOT_OK) {
    /* A lone process has nobody to take leave of, and once in thousands of times MPI_Finalize waits for ever for the
     * thread that would have talked to a launcher: the wake-up of that thread can be lost (seen with Open MPI 4.1). */
    comm->ends_mpi = owns_mpi && !is_lone;
  } else {
    if (comm && comm->comm != MPI_COMM_NULL) MPI_Comm_free(&comm->comm);
    free(counts);
    free(comm);
    comm = NULL;
    if (owns_mpi) MPI_Finalize();
  }
  *out = comm;
  return st;
}

/* Free the notices that MPI has taken; with `all`, cancel the others. */
static void reap_pending(ingot_comm *comm, bool all)
{
  pending_notice **link = &comm->pending;
  while (*link) {
    pending_notice *p = *link;
    int             sent = 0;
    MPI_Test(&p->request, &sent, MPI_STATUS_IGNORE);
    if (!sent && all) {
      MPI_Cancel(&p->request);
      MPI_Wait(&p->request, MPI_STATUS_IGNORE);
      sent = 1;
    }
    if (sent) {
      *link = p->next;
      free(p);
    } else {
      link = &p->next;
    }
  }
}

void ingot_comm_finalize(ingot_comm **comm)
{
  if (!comm || !*comm) return;
  ingot_comm *c = *comm;
  bool        ends_mpi = c->ends_mpi;
  if (c->comm != MPI_COMM_NULL) {
    reap_pending(c, true);
    MPI_Comm_free(&c->comm);
  }
  free(c->sent);
  free(c);
  *comm = NULL;
  if (ends_mpi) MPI_Finalize();
}

void ingot_comm_abort(ingot_comm *comm, int exit_code)
{
  MPI_Abort(comm->comm, exit_code);
}

int ingot_comm_rank(const ingot_comm *comm)
{
  return comm->rank;
}

int ingot_comm_size(const ingot_comm *comm)
{
  return comm->size;
}

int ingot_comm_local_rank(const ingot_comm *comm)
{
  return comm->local_rank;
}

int ingot_comm_local_size(const ingot_comm *comm)
{
  return comm->local_size;
}

ingot_status ingot_comm_barrier(ingot_comm *comm)
{
  ingot_status st = INGOT_OK;
  TRY_MPI(MPI_Barrier(comm->comm));
done:
  return st;
}

ingot_status ingot_comm_bcast(ingot_comm *comm, void *data, size_t bytes, int root)
{
  ingot_status st = INGOT_OK;
  char        *at = data;
  while (bytes > 0) { /* MPI counts are int */
    int part = bytes < CHUNK_BYTES ? (int)bytes : CHUNK_BYTES;
    TRY_MPI(MPI_Bcast(at, part, MPI_BYTE, root, comm->comm));
    at += part;
    bytes -= (size_t)part;
  }
done:
  return st;
}

static ingot_status reduce_i64(ingot_comm *comm, int64_t *values, int64_t count, MPI_Op op)
{
  ingot_status st = INGOT_OK;
  while (count > 0) {
    int part = count < CHUNK_BYTES / 8 ? (int)count : CHUNK_BYTES / 8;
    TRY_MPI(MPI_Allreduce(MPI_IN_PLACE, values, part, MPI_INT64_T, op, comm->comm));
    values += part;
    count -= part;
  }
done:
  return st;
}

ingot_status ingot_comm_sum_i64(ingot_comm *comm, int64_t *values, int64_t count)
{
  return reduce_i64(comm, values, count, MPI_SUM);
}

ingot_status ingot_comm_max_i64(ingot_comm *comm, int64_t *values, int64_t count)
{
  return reduce_i64(comm, values, count, MPI_MAX);
}

/* Element i of [n][count] arrays of one type, added up in order. */
static void add_in_order(int n, int64_t count, bool is_double, const void *all, void *out)
{
  for (int64_t i = 0; i < count; i++) {
    double sum = 0.0;
    for (int r = 0; r < n; r++)
      sum += is_double ? ((const double *)all)[r * count + i] : (double)((const float *)all)[r * count + i];
    if (is_double) ((double *)out)[i] = sum;
    else ((float *)out)[i] = (float)sum;
  }
}

/*
 * A reduction whose order is ours: every rank gets its own stretch from all ranks, adds it up in rank order, and gives
 * the sums to all. MPI_Allreduce may choose another order from call to call.
 */
static ingot_status sum_real(ingot_comm *comm, void *values, int64_t count, bool is_double)
{
  ingot_status st = INGOT_OK;
  MPI_Datatype type = is_double ? MPI_DOUBLE : MPI_FLOAT;
  size_t       width = is_double ? sizeof(double) : sizeof(float);
  int          n = comm->size;
  char        *all = NULL;
  int         *table = NULL;
  if (n == 1 || count == 0) return INGOT_OK;
  all = malloc(((size_t)SUM_ELEMENTS + (size_t)n) * width);
  table = malloc(4 * (size_t)n * sizeof *table);
  INGOT_TRY(
      ingot_comm_agree(comm, all && table ? INGOT_OK : ingot_fail(INGOT_ERR_NOMEM, "no memory to add up values")));
  int *length = table, *begin = table + n, *mine = table + 2 * n, *place = table + 3 * n;
  for (char *at = values; count > 0;) {
    int part = count < SUM_ELEMENTS ? (int)count : SUM_ELEMENTS;
    for (int r = 0; r < n; r++) begin[r] = (int)((int64_t)part * r / n);
    for (int r = 0; r < n; r++) length[r] = (r + 1 < n ? begin[r + 1] : part) - begin[r];
    for (int r = 0; r < n; r++) mine[r] = length[comm->rank];
    for (int r = 0; r < n; r++) place[r] = r * length[comm->rank];
    TRY_MPI(MPI_Alltoallv(at, length, begin, type, all, mine, place, type, comm->comm));
    add_in_order(n, length[comm->rank], is_double, all, at + (size_t)begin[comm->rank] * width);
    TRY_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, at, length, begin, type, comm->comm));
    at += (size_t)part * width;
    count -= part;
  }
done:
  free(all);
  free(table);
  return st;
}

ingot_status ingot_comm_sum_f64(ingot_comm *comm, double *values, int64_t count)
{
  return sum_real(comm, values, count, true);
}

ingot_status ingot_comm_sum_f32(ingot_comm *comm, float *values, int64_t count)
{
  return sum_real(comm, values, count, false);
}

ingot_status ingot_comm_share(ingot_comm *comm, void *data, const int64_t *begin)
{
  for (int r = 0; r < comm->size; r++) {
    ingot_status st = ingot_comm_bcast(comm, (char *)data + begin[r], (size_t)(begin[r + 1] - begin[r]), r);
    if (st != INGOT_OK) return st;
  }
  return INGOT_OK;
}

ingot_status ingot_comm_swap(ingot_comm *comm, int dest, const void *out, size_t out_bytes, int src, void *in,
                             size_t in_bytes)
{
  ingot_status st = INGOT_OK;
  const char  *from = out;
  char        *to = in;
  while (out_bytes > 0 || in_bytes > 0) {
    int n_out = out_bytes < CHUNK_BYTES ? (int)out_bytes : CHUNK_BYTES,
        n_in = in_bytes < CHUNK_BYTES ? (int)in_bytes : CHUNK_BYTES;
    TRY_MPI(MPI_Sendrecv(from, n_out, MPI_BYTE, n_out > 0 ? dest : MPI_PROC_NULL, SWAP_TAG, to, n_in, MPI_BYTE,
                         n_in > 0 ? src : MPI_PROC_NULL, SWAP_TAG, comm->comm, MPI_STATUS_IGNORE));
    from += n_out;
    out_bytes -= (size_t)n_out;
    to += n_in;
    in_bytes -= (size_t)n_in;
  }
done:
  return st;
}

ingot_status ingot_comm_gather(ingot_comm *comm, const void *record, size_t bytes, void *all)
{
  ingot_status st = INGOT_OK;
  INGOT_ASSERT(bytes <= CHUNK_BYTES);
  TRY_MPI(MPI_Gather(record, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, comm->comm));
done:
  return st;
}

ingot_status ingot_comm_agree(ingot_comm *comm, ingot_status st)
{
  /* The lowest failing rank speaks for all: it is found first, then it sends its code and its message. */
  int mine = st == INGOT_OK ? comm->size : comm->rank, lowest = comm->size;
  if (MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, comm->comm) != MPI_SUCCESS)
    return st != INGOT_OK ? st : ingot_fail(INGOT_ERR_MPI, "ranks could not agree on their status");
  if (lowest == comm->size) return INGOT_OK;

  struct {
    int  status;
    char message[INGOT_MESSAGE_TEXT];
    char origin[INGOT_ORIGIN_TEXT];
  } shared = {0};
  if (comm->rank == lowest) {
    shared.status = (int)st;
    ingot_process_failed_rank(comm->rank, shared.origin); /* of a message agreed on before: whoever failed first */
    size_t length = strlen(ingot_error_message());
    if (length > INGOT_MESSAGE_TEXT - 1) length = INGOT_MESSAGE_TEXT - 1;
    memcpy(shared.message, ingot_error_message(), length);
  }
  if (MPI_Bcast(&shared, (int)sizeof shared, MPI_BYTE, lowest, comm->comm) != MPI_SUCCESS)
    return st != INGOT_OK ? st : ingot_fail(INGOT_ERR_MPI, "ranks could not agree on their status");
  st = ingot_fail((ingot_status)shared.status, "%s", shared.message);
  ingot_error_set_origin(shared.origin);
  return st;
}

ingot_status ingot_comm_notify(ingot_comm *comm, int dest, const ingot_notice *notice)
{
  ingot_status st = INGOT_OK;
  reap_pending(comm, false);
  for (int r = dest < 0 ? 0 : dest; r < (dest < 0 ? comm->size : dest + 1); r++) {
    if (r == comm->rank) continue;
    pending_notice *p = calloc(1, sizeof *p);
    INGOT_CHECK(p, INGOT_ERR_NOMEM, "no memory for a notice to rank %d", r);
    p->notice = *notice;
    int code = MPI_Isend(&p->notice, (int)sizeof p->notice, MPI_BYTE, r, NOTICE_TAG, comm->comm, &p->request);
    if (code != MPI_SUCCESS) {
      free(p);
      st = mpi_failed(code, "MPI_Isend");
      goto done;
    }
    p->next = comm->pending;
    comm->pending = p;
    comm->sent[r]++;
  }
done:
  return st;
}

ingot_status ingot_comm_poll(ingot_comm *comm, ingot_notice *notice, int *source, bool *got)
{
  ingot_status st = INGOT_OK;
  MPI_Status   status;
  int          waiting = 0;
  *got = false;
  TRY_MPI(MPI_Iprobe(MPI_ANY_SOURCE, NOTICE_TAG, comm->comm, &waiting, &status));
  if (!waiting) goto done;
  TRY_MPI(MPI_Recv(notice, (int)sizeof *notice, MPI_BYTE, status.MPI_SOURCE, NOTICE_TAG, comm->comm, &status));
  comm->received[status.MPI_SOURCE]++;
  *source = status.MPI_SOURCE;
  *got = true;
done:
  return st;
}

/* Take notices until as many have come from every rank as `expected` says, or, with NULL, until none is waiting. */
static ingot_status take_notices(ingot_comm *comm, const int64_t *expected)
{
  ingot_status st = INGOT_OK;
  ingot_notice notice;
  int          source;
  bool         got = true;
  if (!expected) {
    while (got) INGOT_TRY(ingot_comm_poll(comm, &notice, &source, &got));
    return INGOT_OK;
  }
  for (int r = 0; r < comm->size; r++)
    while (comm->received[r] < expected[r]) INGOT_TRY(ingot_comm_poll(comm, &notice, &source, &got));
done:
  return st;
}

ingot_status ingot_comm_drain(ingot_comm *comm)
{
  /* A barrier does not push messages along: ranks tell each other how many notices they have sent, and take them
   * all. */
  ingot_status st = INGOT_OK;
  MPI_Request  request;
  int          complete = 0;
  TRY_MPI(MPI_Ialltoall(comm->sent, 1, MPI_INT64_T, comm->expected, 1, MPI_INT64_T, comm->comm, &request));
  while (!complete) {
    INGOT_TRY(take_notices(comm, NULL));
    TRY_MPI(MPI_Test(&request, &complete, MPI_STATUS_IGNORE));
    if (!complete) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* ranks may be minutes apart: no spinning */
  }
  INGOT_TRY(take_notices(comm, comm->expected));
  while (comm->pending) reap_pending(comm, false);
done:
  return st;
}

void *ingot_comm_native(ingot_comm *comm)
{
  return &comm->comm;
}
