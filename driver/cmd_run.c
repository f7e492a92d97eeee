/* ingot run JOB. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "driver/cmd_common.h"
#include "driver/gpu_start.h"
#include "driver/run.h"
#include "kernels/device.h"

static const ingot_option options[] = {
    {"--set", "KEY=VALUE", "set a value of the job file, such as steps[0].parameters.lambda=0.5"},
    {"--step", "N", "run step N alone, counted from 1"},
    {"--device", "auto|cpu|cuda", "where to compute (auto: begin on the CPU, go over to a GPU where that is faster)"},
    {"--threads", "N", "threads a rank (default: OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or the usable cores)"},
    {"--dry-run", NULL, "check and print the plan, run nothing"},
    {"--fresh", NULL, "replace existing outputs and begin anew"},
    {"--wait", "[=SECONDS]", "when another run is writing the same output: wait for its end (at most so long)"},
    {"--json", "FILE", "append events as JSON lines"},
    {"--bandwidth", "READ,WRITE", "with --dry-run: GB/s for the estimate, instead of measuring"},
    {"--no-sync", NULL, "do not flush outputs to disk (as durable = false in every step)"},
    {"--quiet", NULL, "warnings and errors only"},
    {NULL, NULL, NULL},
};

static ingot_status read_device(const ingot_command_line *line, ingot_device_choice *out)
{
  static const char *const names[] = {"auto", "cpu", "cuda"};
  const char              *text = ingot_line_value(line, "--device");
  *out = INGOT_DEVICE_AUTO;
  if (!text) return INGOT_OK;
  for (int i = 0; i < 3; i++) {
    if (strcmp(text, names[i]) != 0) continue;
    *out = (ingot_device_choice)i;
    if (*out != INGOT_DEVICE_CUDA || ingot_device_count() > 0) return INGOT_OK;
    return ingot_fail(INGOT_ERR_DEVICE, "--device cuda: %s",
                      ingot_device_built() ? "no usable GPU here" : "this program was built without CUDA");
  }
  return ingot_fail(INGOT_ERR_USAGE, "--device: \"%s\" is not one of auto, cpu, cuda", text);
}

/* What may fail on one rank alone: the values of options. */
static ingot_status read_values(const ingot_command_line *line, ingot_run_context *context, ingot_run_request *request,
                                int *threads, const char ***set)
{
  ingot_status st = INGOT_OK;
  INGOT_TRY(read_device(line, &context->device));
  INGOT_TRY(ingot_line_number(line, "--step", 1, 0, &request->plan.only_step));
  INGOT_TRY(ingot_line_number(line, "--threads", 1, 0, threads));
  INGOT_TRY(ingot_line_number(line, "--wait", 1, 0, &request->wait_s));
  INGOT_TRY(ingot_line_values(line, "--set", set, &request->n_set));
done:
  return st;
}

static ingot_status run_run(const ingot_command_context *command, const ingot_command_line *line)
{
  ingot_status        st = INGOT_OK;
  int                 threads = 0;
  const char        **set = NULL;
  ingot_run_context   context = {.comm = command->comm, .stop = command->stop};
  ingot_run_request   request = {.job_path = line->args[0], .events_path = ingot_line_value(line, "--json")};
  ingot_plan_options *plan = &request.plan;
  st = read_values(line, &context, &request, &threads, &set);
  INGOT_TRY(ingot_comm_agree(command->comm, st));
  request.wait = ingot_line_has(line, "--wait");
  request.set = set;
  context.n_thread = ingot_run_threads(threads, ingot_comm_local_size(command->comm));
  context.fresh = plan->fresh = ingot_line_has(line, "--fresh");
  context.no_sync = plan->no_sync = ingot_line_has(line, "--no-sync");
  context.quiet = ingot_line_has(line, "--quiet");
  plan->n_thread = context.n_thread;
  plan->n_rank = ingot_comm_size(command->comm);
  plan->n_rank_node = ingot_comm_local_size(command->comm);
  plan->on_device =
      context.device == INGOT_DEVICE_CUDA || (context.device == INGOT_DEVICE_AUTO && ingot_gpu_may_be_there());
  ingot_log_set_quiet(context.quiet);
  if (ingot_line_has(line, "--dry-run")) {
    st = ingot_comm_rank(command->comm) == 0 ? ingot_print_plan(line, plan, INGOT_PLAN_PLAIN) : INGOT_OK;
    st = ingot_comm_agree(command->comm, st);
  } else {
    st = ingot_run_job(&context, &request);
  }
done:
  free((void *)set);
  return st;
}

const ingot_command ingot_command_run = {
    .name = "run",
    .arguments = "JOB",
    .summary = "run a job; the same command again continues or skips what is complete",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .collective = true,
    .run = run_run,
};
