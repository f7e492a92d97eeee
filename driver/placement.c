#include "driver/placement.h"

#include "base/process.h"
#include "kernels/device.h"

const char *const ingot_placement_names[] = {"auto", "replicated", "spread", NULL};

ingot_status ingot_rank_memory_find(const ingot_planner *planner, bool on_device, uint64_t memory_limit, ingot_rank_memory *out)
{
  ingot_status st = INGOT_OK;
  size_t       total = 0, free_bytes = 0;
  char         name[128];
  uint64_t     there = 0;
  int          n_rank = planner->options.n_rank_node > 0 ? planner->options.n_rank_node : planner->options.n_rank, n_gpu = 1;
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
  const char *what = on_device ? n_rank > n_gpu ? "a rank's share of the GPU is" : "the GPU has"
                               : n_rank > 1 ? "a rank's share of the machine's memory is" : "the machine has";
  *out = (ingot_rank_memory){there, false, what};
done:
  return st;
}
