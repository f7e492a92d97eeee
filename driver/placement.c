#include "driver/placement.h"

#include "base/process.h"
#include "driver/gather_settings.h"
#include "kernels/device.h"
#include "workers/memory.h"
#include "workers/model/model.h"

const char *const ingot_placement_names[] = {"auto", "replicated", "spread", NULL};

const char *ingot_compute_name(ingot_compute compute)
{
  static const char *const names[] = {"float32", "tf32", "bfloat16"};
  return names[compute];
}

ingot_compute ingot_compute_choose(ingot_planner *planner, const ingot_job_step *step, int choice, bool *on_device)
{
  bool          gpu = *on_device = planner->options.on_device && ingot_device_count() > 0;
  ingot_compute compute = choice == INGOT_DTYPE_TF32                                              ? INGOT_COMPUTE_TF32
                          : choice == INGOT_DTYPE_BFLOAT16 || (choice == INGOT_DTYPE_AUTO && gpu) ? INGOT_COMPUTE_BF16
                                                                                                  : INGOT_COMPUTE_F32;
  if (!gpu && compute != INGOT_COMPUTE_F32)
    ingot_problems_add(&planner->problems, INGOT_ERR_JOB, "%s: dtype = \"%s\" needs a GPU, and this run uses none",
                       ingot_value_place(ingot_value_member(step->value, "dtype")), ingot_compute_name(compute));
  return compute;
}

int64_t ingot_batch_default(bool on_device, int64_t n_token)
{
  enum { TOKENS_GPU = 16384, TOKENS_CPU = 2048, MOST = 64 };
  int64_t n = (on_device ? TOKENS_GPU : TOKENS_CPU) / n_token;
  return n > MOST ? MOST : n > 0 ? n : 1;
}

ingot_status ingot_rank_memory_find(const ingot_planner *planner, bool on_device, uint64_t memory_limit,
                                    ingot_rank_memory *out)
{
  ingot_status st = INGOT_OK;
  size_t       total = 0, free_bytes = 0;
  char         name[128];
  uint64_t     there = 0;
  int n_rank = planner->options.n_rank_node > 0 ? planner->options.n_rank_node : planner->options.n_rank, n_gpu = 1;
  *out = (ingot_rank_memory){memory_limit, true, "memory_limit is"};
  if (planner->options.elsewhere || planner->options.other_host) goto done;
  if (on_device) {
    INGOT_TRY(ingot_device_info(0, name, &total, &free_bytes));
    n_gpu = ingot_device_count();
    there = total / (uint64_t)((n_rank + n_gpu - 1) / n_gpu);
  } else {
    there = ingot_process_memory_bytes() / 10 * 9 / (uint64_t)n_rank;
  }
  if (there == 0 || (memory_limit > 0 && memory_limit <= there)) goto done;
  const char *what = on_device    ? n_rank > n_gpu ? "a rank's share of the GPU is" : "the GPU has"
                     : n_rank > 1 ? "a rank's share of the machine's memory is"
                                  : "the machine has";
  *out = (ingot_rank_memory){there, false, what};
done:
  return st;
}

uint64_t ingot_rank_memory_need(bool on_device, uint64_t model_bytes, uint64_t host_bytes)
{
  return on_device ? model_bytes : INGOT_PROCESS_BYTES + model_bytes + host_bytes;
}

uint64_t ingot_rank_host_need(bool on_device, ingot_compute compute, const ingot_model_spec *specs, int n_model,
                              int n_thread, uint64_t host_bytes)
{
  uint64_t most = host_bytes;
  if (!on_device) return 0;
  for (int i = 0; i < n_model; i++) {
    uint64_t load = ingot_model_load_bytes(&specs[i], ingot_compute_dtype(compute), n_thread);
    if (load > most) most = load;
  }
  return ingot_nn_host_bytes(INGOT_NN_CUDA) + most;
}
