#define _POSIX_C_SOURCE 200809L
#include "driver/gpu_start.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "kernels/device.h"

/* The rank's number on its node, before MPI can tell: launchers put it into the environment. */
static int local_rank(void)
{
  static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *text = getenv(names[i]);
    if (text) return atoi(text) > 0 ? atoi(text) : 0;
  }
  return 0;
}

/* A failure is found again, and reported, where the device is used. */
static void *start_device(void *unused)
{
  (void)unused;
  int n = ingot_device_count();
  if (n > 0 && ingot_device_use(local_rank() % n) != INGOT_OK) ingot_error_clear();
  return NULL;
}

bool ingot_gpu_start_wanted(int argc, char **argv)
{
  bool cuda = false;
  if (argc < 2 || strcmp(argv[1], "run") != 0) return false;
  for (int i = 2; i < argc; i++) {
    if (strcmp(argv[i], "--dry-run") == 0 || strcmp(argv[i], "--help") == 0) return false;
    if (strcmp(argv[i], "--device=cuda") == 0) cuda = true;
    if (strcmp(argv[i], "--device") == 0 && i + 1 < argc) cuda = strcmp(argv[++i], "cuda") == 0;
  }
  return cuda;
}

bool ingot_gpu_may_be_there(void)
{
  return ingot_device_built() && (access("/dev/nvidiactl", F_OK) == 0 || access("/dev/dxg", F_OK) == 0);
}

void ingot_gpu_start_init(ingot_gpu_start *start, int argc, char **argv)
{
  start->running = ingot_device_built() && ingot_gpu_start_wanted(argc, argv) &&
                   pthread_create(&start->thread, NULL, start_device, NULL) == 0;
}

void ingot_gpu_start_release(ingot_gpu_start *start)
{
  if (start->running) pthread_join(start->thread, NULL);
  start->running = false;
}
