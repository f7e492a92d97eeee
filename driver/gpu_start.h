/**
 * Starting the GPU's runtime early, for runs that use the GPU and nothing else: it takes a quarter of a second, which
 * passes while the job is planned. (Other runs begin on the CPU: workers/hand_over.h.)
 */
#ifndef INGOT_DRIVER_GPU_START_H
#define INGOT_DRIVER_GPU_START_H

#include <pthread.h>
#include <stdbool.h>

typedef struct ingot_gpu_start {
  pthread_t thread;
  bool      running;
} ingot_gpu_start;

/** Begin on a thread when these are the words of such a run. Does nothing without CUDA. */
void ingot_gpu_start_init(ingot_gpu_start *start, int argc, char **argv);
/** Wait for it: call before the process ends. */
void ingot_gpu_start_release(ingot_gpu_start *start);
/** Whether the words ask for a run on the GPU. */
bool ingot_gpu_start_wanted(int argc, char **argv);
/** Whether this machine has a GPU's driver, without asking the driver, which takes time. */
bool ingot_gpu_may_be_there(void);

#endif
