#include "workers/statistics/regmean_plus.h"

bool ingot_regmean_plus_solves(const ingot_model_layout *layout, const char *name)
{
  (void)layout, (void)name;
  return false;
}

uint64_t ingot_regmean_plus_bytes(const ingot_gather_plan *gather, const ingot_model_spec *spec, const ingot_model_layout *layout)
{
  (void)gather, (void)spec, (void)layout;
  return 0;
}

uint64_t ingot_regmean_plus_host_bytes(const ingot_gather_plan *gather, const ingot_model_layout *layout)
{
  (void)gather, (void)layout;
  return 0;
}

ingot_status ingot_regmean_plus_run(ingot_comm *comm, const ingot_gather_plan *gather, const ingot_gather_options *gather_options,
                                    const ingot_merge_plan *merge, const ingot_merge_options *merge_options,
                                    ingot_merge_result *result, ingot_merge_timing *timing)
{
  (void)comm, (void)gather, (void)gather_options, (void)merge, (void)merge_options, (void)result, (void)timing;
  return ingot_fail(INGOT_ERR_INTERNAL, "not there yet");
}
