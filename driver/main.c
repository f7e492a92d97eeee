/*
 * The program: the only place that knows exit codes, signals, and the start and end of MPI.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/comm.h"
#include "base/fault.h"
#include "base/log.h"
#include "driver/commands.h"
#include "driver/gpu_start.h"
#include "driver/version.h"
#include "kernels/device.h"

/* Set by the signal handler, read by workers: the one piece of state that a handler can reach. */
static atomic_int stop_requested;
/* Before the program can take up or leave anything, a stop is the end of it. */
static atomic_bool ready_to_stop;
/* Who asked: a stop that nobody remembers asking for may be a time limit's (timeout, a batch system). */
static atomic_int stop_sender;

/* The first SIGTERM or SIGUSR1 asks for a stop after the tiles in flight; a second one ends the process at once. */
static void on_stop_signal(int number, siginfo_t *info, void *unused)
{
  (void)number, (void)unused;
  if (!atomic_load(&ready_to_stop)) _exit(75); /* nothing is begun: the same command begins it */
  if (atomic_load(&stop_requested) == 0) atomic_store(&stop_sender, (int)info->si_pid);
  if (atomic_fetch_add(&stop_requested, 1) > 0) _exit(75);
}

/* Collective: one of the ranks that were asked knows from whom. */
static void say_who_stopped(ingot_comm *comm)
{
  enum { SELF = 1, OUTSIDE = 2, PROCESS = 4 }; /* added to the sender's number times 8 */
  int64_t sender = atomic_load(&stop_sender), told = 0;
  if (atomic_load(&stop_requested)) told = sender == getpid() ? SELF : sender > 0 ? sender * 8 + PROCESS : OUTSIDE;
  if (ingot_comm_max_i64(comm, &told, 1) != INGOT_OK || told == 0) return;
  if (told == SELF) ingot_log_warning("the signal came from this process");
  else if (told == OUTSIDE) ingot_log_warning("the signal came from outside of this container, or from the kernel");
  else ingot_log_warning("the signal came from process %lld", (long long)(told / 8));
}

static void catch_signals(void)
{
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_stop_signal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN); /* beyond ulimit -f writing fails, and the message says where */
}

/* A file that was opened in the place of a closed stderr would get our messages. What is closed still fails as such. */
static void hold_standard_streams(void)
{
  int fd;
  do fd = open("/dev/null", O_RDONLY);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

static bool wants_help(int argc, char **argv)
{
  for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return true;
  return false;
}

/* Results must reach their reader: a full disk at the end of stdout is a failure; a reader that has seen enough is
 * not. */
static ingot_status flush_output(void)
{
  bool failed = ferror(stdout) != 0;
  if ((fflush(stdout) != 0 || failed) && errno != EPIPE)
    return ingot_fail(INGOT_ERR_IO, "writing to the standard output failed: %s", strerror(errno));
  return INGOT_OK;
}

static ingot_status run_command(ingot_comm *comm, int argc, char **argv)
{
  ingot_status          st = INGOT_OK;
  const ingot_command  *command = NULL;
  ingot_command_line    line = {0};
  ingot_command_context context = {comm, &stop_requested};
  bool                  root = ingot_comm_rank(comm) == 0;
  /* Every rank has the same words, so all of them take the same way here. */
  INGOT_CHECK(argc >= 2, INGOT_ERR_USAGE, "no command; `ingot --help` lists them");
  if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
    if (root) ingot_command_help(NULL);
    goto done;
  }
  if (strcmp(argv[1], "--version") == 0) {
    if (root) printf("%s\n%s", ingot_version_text(), ingot_build_text());
    goto done;
  }
  INGOT_TRY(ingot_command_find(argv[1], &command));
  if (wants_help(argc - 2, argv + 2)) {
    if (root) ingot_command_help(command);
    goto done;
  }
  st = ingot_line_parse(command, argc - 2, argv + 2, &line);
  INGOT_TRY(ingot_comm_agree(comm, st)); /* a rank may lack the memory */
  if (command->collective || root) st = command->run(&context, &line);
done:
  if (st == INGOT_OK && root) st = flush_output();
  ingot_line_release(&line);
  return ingot_comm_agree(comm, st);
}

/*
 * Large buffers go back to the system when they are freed. Left to itself, glibc learns from the first one to keep
 * them: the memory of steps that are over, and of models that were closed, would stay with the process.
 */
static void give_memory_back(void)
{
#ifdef __GLIBC__
  enum { LARGE = 1 << 20 };
  (void)mallopt(M_MMAP_THRESHOLD, LARGE);
  (void)mallopt(M_TRIM_THRESHOLD, LARGE);
#endif
}

int main(int argc, char **argv)
{
  ingot_comm *comm = NULL;
  give_memory_back();
  setenv("OPENBLAS_NUM_THREADS", "1", 1); /* it calls OpenBLAS from threads of its own: kernels/blas.h */
  hold_standard_streams();
  catch_signals();
  ingot_status st = ingot_comm_init(&argc, &argv, &comm);
  if (st != INGOT_OK) {
    ingot_log_error("%s", ingot_error_message());
    return ingot_status_exit_code(st);
  }
  catch_signals(); /* again: MPI has installed its own handlers */
  atomic_store(&ready_to_stop, true);
  ingot_gpu_start gpu;
  ingot_gpu_start_init(&gpu, argc,
                       argv); /* not before: MPI changes the environment while it starts, and CUDA reads it */
  ingot_log_init(ingot_comm_rank(comm), ingot_comm_size(comm));
  st = ingot_comm_agree(comm, ingot_fault_init(getenv("INGOT_FAULT"), ingot_comm_rank(comm)));
  if (st == INGOT_OK) st = run_command(comm, argc, argv);
  if (st != INGOT_OK && ingot_comm_rank(comm) == 0) ingot_log_error("%s", ingot_error_message());
  if (st == INGOT_STOPPED) say_who_stopped(comm);
  ingot_gpu_start_release(&gpu);
  ingot_comm_finalize(&comm);
  if (ingot_device_built()) {
    /* The GPU's runtime would take a tenth of a second to free what the end of the process frees anyway. */
    fflush(NULL);
    _exit(ingot_status_exit_code(st));
  }
  return ingot_status_exit_code(st);
}
